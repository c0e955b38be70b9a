"""The notebooks of the docs have what they need, and run alone."""

import re
import runpy

import pytest
from conftest import ROOT, check_names

from keras_resnet import data

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))
EXAMPLE = FOLDER / "keras_io/block.py"

# Checks after a notebook has run.
HOLDS = {
    "block": lambda names: (
        names["curves"][0]["accuracy"][-1] > 0.9
        and names["curves"][1]["accuracy"][-1] < 0.5
    ),
    "finetune": lambda names: names["accuracies"][0] > names["accuracies"][1],
}


def _name(path):
    return str(path.relative_to(FOLDER))


@pytest.mark.once
@pytest.mark.parametrize("path", NOTEBOOKS, ids=_name)
def test_a_notebook_has_true_names_exercises_and_a_place(path):
    text = path.read_text("utf-8")
    check_names(text)
    assert text.startswith("# %% [markdown]\n# # ")
    assert "\n# %%\n# %matplotlib inline\n" in text or "plots" not in text
    exercises = text.partition("# ## Exercises\n")[2]
    assert len(re.findall(r"^# \d\. ", exercises, re.MULTILINE)) in (2, 3)
    assert f" notebooks/{path.name}\n" in (ROOT / "mkdocs.yml").read_text(
        "utf-8"
    )


@pytest.mark.once
def test_the_example_for_keras_io_is_the_notebook():
    made = runpy.run_path(str(ROOT / "docs/keras_io.py"))["example"]
    notebook = (FOLDER / EXAMPLE.name).read_text("utf-8")
    assert EXAMPLE.read_text("utf-8") == made(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("path", [*NOTEBOOKS, EXAMPLE], ids=_name)
def test_a_notebook_runs_alone(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    try:
        names = runpy.run_path(str(path))
    except data.DataUnavailableError as error:
        pytest.skip(str(error))
    assert not [*tmp_path.iterdir()]
    assert HOLDS.get(path.stem, bool)(names)
