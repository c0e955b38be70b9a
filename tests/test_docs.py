"""README and docs are true."""

import re

import pytest
from conftest import ROOT

import keras_resnet

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


def test_every_public_name_has_a_docstring():
    for name in keras_resnet.__all__:
        if not name.startswith("__"):
            assert getattr(keras_resnet, name).__doc__.strip(), name


def test_fine_tuning_beats_training_from_scratch(tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    page = (ROOT / "docs/weights.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)\n```", page, re.DOTALL)
    (code,) = [block for block in blocks if "load_digits" in block]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert names["accuracy"]["tuned"] > names["accuracy"]["scratch"] + 0.02
