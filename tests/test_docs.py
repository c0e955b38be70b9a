"""README and docs are true."""

import importlib
import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, SHALLOW, read_json
from imagenet_files import image_folder

import keras_resnet
from keras_resnet import table1

pytestmark = pytest.mark.once

README = (ROOT / "README.md").read_text("utf-8")


def test_ci_runs_readmes_second_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert commands[1] in (ROOT / ".ci/run").read_text("utf-8").splitlines()


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_the_citation_names_the_authors_of_the_package():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    authors = tomllib.loads(text)["project"]["authors"]
    path = ROOT / "CITATION.cff"
    assert authors == yaml.safe_load(path.read_text("utf-8"))["authors"]


def _publish(words, folder, tag):
    """Run a step of the workflow that publishes, and return its status."""
    path = ROOT / ".github/workflows/publish.yml"
    steps = yaml.safe_load(path.read_text("utf-8"))["jobs"]["build"]["steps"]
    (step,) = [s for s in steps if s.get("name", "").startswith(words)]
    env = os.environ | {"REPO": "me/it", "TAG": tag}
    call = ["bash", "-e", "-c", step["run"]]
    return subprocess.run(call, cwd=folder, env=env).returncode


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems' sed differs"
)
def test_links_lead_somewhere_on_pypi(tmp_path):
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    assert _publish("PyPI shows addresses", tmp_path, "v1") == 0
    readme = (tmp_path / "README.md").read_text("utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", readme)
    assert [t for t in targets if "://" not in t] == []
    pictures = [t for t in targets if t.endswith(".png")]
    raw = "https://raw.githubusercontent.com/me/it/v1/docs/results/figures"
    assert pictures == [f"{raw}/degradation.png"]
    assert "https://github.com/me/it/blob/v1/CHANGELOG.md" in targets
    text = (tmp_path / "pyproject.toml").read_text("utf-8")
    urls = tomllib.loads(text)["project"]["urls"]
    assert urls["Issues"] == "https://github.com/me/it/issues"


@pytest.mark.parametrize(
    ("tag", "date", "status"),
    [("v1.2", "2026-12-01", 0), ("v1.2", "unreleased", 1), ("v1.3", "2026", 1)],
)
def test_only_a_version_with_a_date_is_published(tag, date, status, tmp_path):
    (tmp_path / "keras_resnet").mkdir()
    version = tmp_path / "keras_resnet/version.py"
    version.write_text('__version__ = "1.2"\n', "utf-8")
    (tmp_path / "CHANGELOG.md").write_text(f"## 1.2 ({date})\n", "utf-8")
    assert _publish("The tag is the version", tmp_path, tag) == status


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/api").iterdir()]:
        assert f" {page.relative_to(ROOT / 'docs')}\n" in menu, page


def test_the_map_of_the_code_has_its_files():
    text = (ROOT / "docs/design.md").read_text("utf-8")
    folders = ["benchmarks", "docs", "recipes", "recipes/experiment"]
    folders += ["keras_resnet", "keras_resnet/backend", "keras_resnet/weights"]
    for path in (p for f in folders for p in (ROOT / f).glob("[!_]*.py")):
        assert re.search(rf"\b{path.name}\b", text), path


@pytest.mark.parametrize(
    ("module", "page"),
    [
        ("keras_resnet", "*"),
        ("keras_resnet.analysis", "analysis"),
        ("keras_resnet.data", "data"),
        ("keras_resnet.devices", "devices"),
        ("keras_resnet.plots", "plots"),
        ("keras_resnet.training", "training"),
        ("keras_resnet_recipes.experiment", "recipes"),
    ],
)
def test_the_reference_has_every_public_name(module, page):
    module = importlib.import_module(module)
    text = "".join(
        path.read_text("utf-8")
        for path in (ROOT / "docs/api").glob(f"{page}.md")
    )
    documented = {*re.findall(r"^::: [\w.]+\.(\w+)$", text, re.MULTILINE)}
    documented |= {*re.findall(r"`(\w+)`", text)}
    public = {
        name
        for name in module.__all__
        if not inspect.ismodule(getattr(module, name)) and name[0] != "_"
    }
    assert public <= documented


def test_every_name_of_the_reference_has_a_docstring():
    for page in (ROOT / "docs/api").iterdir():
        text = page.read_text("utf-8")
        for path in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE):
            module, _, name = path.rpartition(".")
            value = getattr(importlib.import_module(module), name)
            if not inspect.getdoc(value):
                # A text below the assignment, as the site reads it.
                source = Path(inspect.getsourcefile(value)).read_text("utf-8")
                lines = rf'^{name} = .*\n((    .*\n)+\)\n)?"""'
                assert re.search(lines, source, re.MULTILINE), path


def test_the_table_of_models_is_what_its_command_prints():
    names = runpy.run_path(str(ROOT / "docs/models.py"))
    lines = (ROOT / "docs/models.md").read_text("utf-8").splitlines()
    for depth in (20, 50):
        row = [f"`ResNet{depth}`", *names["size"](depth)]
        cells = [[x.strip() for x in line.split("|")[1:5]] for line in lines]
        assert row in cells
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in lines]
    for each in keras_resnet.list_weights():
        of = [f"`{each.network}`", f'`"{each.weights}"`']
        assert [row[-1] for row in rows if row[:2] == of] == [each.license]


def test_the_start_of_the_site_has_readmes_results():
    rows = [
        [
            line
            for line in text.splitlines()
            if re.match(r"\| (ResNet|plain)-\d+ \|", line)
        ]
        for text in (README, (ROOT / "docs/index.md").read_text("utf-8"))
    ]
    assert rows[0]
    assert rows[0] == rows[1]


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
