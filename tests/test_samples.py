"""Every sample of README and docs runs alone, in an empty folder.

Samples marked `py` need published weights or files of the reader's. Of them
the names are checked.
"""

import importlib.util
import re
import sys

import keras
import pytest
from conftest import ROOT, check_names

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# "Save this as `myblock.py`": a file, which later samples import.
SAVED = re.compile(r"Save this as `(\w+\.py)`")
SAMPLE = re.compile(r"```(python|py)\n(.*?)\n```", re.DOTALL)

# Checks after a sample, by its page and number.
HOLDS = {
    "README-1": lambda names: names["features"].shape[-1] == 1024,
    "block-1": lambda names: names["model"].count_params() == 4736,
    "block-2": lambda names: names["model"].count_params() == 4736,
    "index-2": lambda names: names["accuracy"] > 0.8,
    "weights-9": lambda names: (
        names["accuracy"]["tuned"] > names["accuracy"]["scratch"] + 0.02
    ),
}


def _samples(kind):
    """Return the samples of a kind, each with the files saved before it."""
    samples = []
    for page in PAGES:
        text = page.read_text("utf-8")
        files, end = {}, 0
        for number, match in enumerate(SAMPLE.finditer(text), 1):
            saved = SAVED.search(text, end, match.start())
            end = match.end()
            if saved:
                files[saved[1]] = match[2]
            if match[1] == kind:
                marks = () if _backend(match[2]) else pytest.mark.once
                name = f"{page.stem}-{number}"
                values = name, match[2], dict(files)
                samples.append(pytest.param(*values, id=name, marks=marks))
    return samples


def _backend(code):
    """Return the backend that a sample is for, `None` for any."""
    if re.search("^import (torch|openvino|onnxruntime)$", code, re.MULTILINE):
        return "torch"
    return None


@pytest.mark.parametrize(("name", "code", "files"), _samples("python"))
def test_a_sample_runs_alone(name, code, files, tmp_path, monkeypatch):
    if _backend(code) not in (None, keras.backend.backend()):
        pytest.skip("for another backend")
    for package in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE):
        if f"{package}.py" in files:
            continue
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    for file, text in files.items():
        (tmp_path / file).write_text(text, "utf-8")
        monkeypatch.delitem(sys.modules, file.removesuffix(".py"), False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"__name__": "sample"}
    exec(compile(code, name, "exec"), names)
    assert HOLDS.get(name, bool)(names)


@pytest.mark.once
def test_each_check_has_its_sample():
    assert {*HOLDS} <= {sample.id for sample in _samples("python")}


@pytest.mark.once
@pytest.mark.parametrize(("name", "code", "files"), _samples("py"))
def test_the_names_of_a_sample_are_there(name, code, files):
    check_names(code)
