"""The installed command `keras-resnet`, which runs the recipes."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, check_refused

from keras_resnet_recipes import __main__ as console
from keras_resnet_recipes.experiment import command

pytestmark = pytest.mark.once


def test_every_recipe_has_a_line_of_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["keras-resnet"])
    console.main()
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    recipes = {
        path.stem
        for path in (ROOT / "recipes").glob("[!_]*.py")
        if 'if __name__ == "__main__":' in path.read_text("utf-8")
    }
    assert {line.split()[0] for line in lines[2:-2]} == recipes


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["cifr10"], ["keras-resnet: error", "'cifr10'", "cifar10, imagenet"]),
        (["cifar10", "--depth", "21"], ["keras-resnet cifar10: error", "21"]),
    ],
)
def test_a_mistake_is_named(argv, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["keras-resnet", *argv])
    monkeypatch.setattr(command, "installed", ())
    # Other tests have imported it.
    monkeypatch.delitem(sys.modules, "keras_resnet_recipes.cifar10", False)
    check_refused(console.main, capsys, words)


def test_an_export_computes_on_the_processor(monkeypatch):
    names = "JAX_PLATFORMS", "KERAS_TORCH_DEVICE"
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["keras-resnet", "export", "--help"])
    monkeypatch.setattr(command, "installed", ())
    monkeypatch.delitem(sys.modules, "keras_resnet_recipes.export", False)
    # It ends while flags are parsed, and --block imports the backend later.
    with pytest.raises(SystemExit):
        console.main()
    assert [os.environ[name] for name in names] == ["cpu", "cpu"]


def test_a_run_says_how_it_was_called(tmp_path):
    flags = ["--dataset", "digits", "--depth", "8", "--steps", "1"]
    flags += ["--output", "a run"]
    subprocess.run(
        [sys.executable, "-m", "keras_resnet_recipes", "cifar10", *flags],
        cwd=tmp_path,
        check=True,
    )
    result = json.loads((tmp_path / "a run/result.json").read_text("utf-8"))
    assert result["command"] == (
        "KERAS_BACKEND=tensorflow keras-resnet cifar10 --dataset digits "
        "--depth 8 --steps 1 --output 'a run'"
    )
    assert result["commit"] is None
