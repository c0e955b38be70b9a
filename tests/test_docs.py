"""README and docs are true."""

import re
import runpy

import pytest
from conftest import ROOT, SHALLOW, read_json
from imagenet_files import image_folder

from keras_resnet import table1

pytestmark = pytest.mark.once

README = (ROOT / "README.md").read_text("utf-8")


def test_ci_runs_readmes_second_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert commands[1] in (ROOT / ".ci/run").read_text("utf-8").splitlines()


def test_readme_networks_build():
    (code,) = re.findall(r"```python\n(.*?)\n```", README, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["features"].shape[-1] == 1024


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_fine_tuning_beats_training_from_scratch(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    page = (ROOT / "docs/weights.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    (code,) = [block for block in blocks if "load_digits" in block]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["accuracy"]["tuned"] > names["accuracy"]["scratch"] + 0.02


def test_the_recipe_of_ones_own_trains_and_is_resumed(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("PIL", reason="the images are made by it")
    page = (ROOT / "docs/recipes.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    recipe = tmp_path / "flowers.py"
    recipe.write_text(code, "utf-8")
    image_folder(tmp_path / "images/train", each=4)
    image_folder(tmp_path / "images/val", each=2, first=50)
    monkeypatch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)
    monkeypatch.chdir(tmp_path)
    flags = ["--folder", "images", "--size", "32", "--batch-size", "4"]
    flags += ["--learning-rate", "0.001", "--epochs", "1"]

    def run(*more):
        monkeypatch.setattr("sys.argv", [str(recipe), *flags, *more])
        runpy.run_path(str(recipe), run_name="__main__")

    run()
    (result,) = tmp_path.glob("runs/flowers-*/result.json")
    assert "validation_error" in read_json(result)
    assert (result.parent / "curves.png").exists()
    # As if it had been stopped before its result was written.
    result.unlink()
    capsys.readouterr()
    run("--resume")
    printed = capsys.readouterr().out
    assert "validation error" in printed
    assert "Epoch" not in printed
