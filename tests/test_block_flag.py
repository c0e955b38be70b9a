"""`--block MODULE:CLASS` of the recipes."""

import sys

import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

from conftest import check_refused, read_json, run_recipe, settings_of

from keras_resnet import PreactivationBlock
from keras_resnet_recipes import (
    cifar10,
    compare,
    evaluate,
    figures,
    imagenet,
    mnist,
    results,
    tune,
)
from keras_resnet_recipes.experiment import block

pytestmark = pytest.mark.once

FLAG = ("--block", "flagblock:OwnBlock")
MODULE = """
import keras, keras_resnet

@keras.saving.register_keras_serializable("flagblock")
class OwnBlock(keras_resnet.ResidualBlock):
    def activation(self, x):
        return keras.ops.silu(x)

class Unregistered(keras_resnet.ResidualBlock):
    pass

other = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder, with a file of blocks that imports well, and one not."""
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "flagblock.py").write_text(MODULE, "utf-8")
    (folder / "brokenblock.py").write_text("1 / 0", "utf-8")
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("OwnBlock", "'OwnBlock' is not MODULE:CLASS"),
        ("flagblock:", "'flagblock:' is not MODULE:CLASS"),
        ("missing:OwnBlock", "No module named 'missing'"),
        (
            "brokenblock:OwnBlock",
            "brokenblock cannot be imported: ZeroDivision",
        ),
        ("flagblock:Missing", "flagblock has no class Missing"),
        ("flagblock:other", "flagblock has no class other"),
        ("keras.layers:Dense", "subclass of keras_resnet.ResidualBlock"),
        ("flagblock:Unregistered", "register_keras_serializable('flagblock')"),
    ],
)
@pytest.mark.parametrize("recipe", [cifar10, evaluate])
def test_what_is_no_block_is_wrong_usage(recipe, name, words, capsys):
    flags = ["--block", name]
    flags += ["--weights", "x.keras"] if recipe is evaluate else []
    check_refused(
        lambda: run_recipe(recipe, flags), capsys, ["argument --block", words]
    )


def test_a_wrong_backend_is_named_before_a_block_loads_it(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "pytorch")
    words = ["argument --block: KERAS_BACKEND is 'pytorch': set it to tensor"]
    check_refused(lambda: run_recipe(cifar10, FLAG), capsys, words)


def test_it_is_a_part_of_settings_and_names():
    for recipe, name in (
        (mnist, "mnist-resnet18-batch64-blockflagblock.OwnBlock-jax"),
        (cifar10, "cifar10-resnet20A-flagblock.OwnBlock-paper-jax-seed0"),
        (imagenet, "imagenet2012-resnet50B-flagblock.OwnBlock-paper-jax-seed0"),
        (tune, "tune-cifar10-random-blockflagblock.OwnBlock-jax-seed0"),
    ):
        s = settings_of(recipe, FLAG)
        assert s.name("jax") == name
        assert s.stored()["block"] == "flagblock:OwnBlock"
        assert " ".join(FLAG) in " ".join(s.flags())
    assert s.block in tune.command(s, {"depth": 8}, "jax", Devices())
    s = settings_of(cifar10, ["--block", "keras_resnet:PreactivationBlock"])
    assert block.load(s.block) is PreactivationBlock
    assert s.label == "ResNet-20 (A), keras_resnet:PreactivationBlock"
    assert settings_of(cifar10).name("jax") == (
        "cifar10-resnet20A-paper-jax-seed0"
    )


class Devices:
    def settings(self):
        return {}


def test_it_is_trained_resumed_evaluated_drawn_and_compared(folder, capsys):
    wanted = settings_of(
        figures,
        ["responses", "--dataset", "digits", "--depths", "8", "--steps", "4"]
        + [*FLAG],
    )
    for plain in (False, True):
        net = wanted.net(8, plain=plain)
        assert net.block == FLAG[1]
        run_recipe(cifar10, [*net.flags(), "--output", f"runs/own{plain}"])
    run = folder / "runs/ownFalse"
    line = read_json(run / "result.json")
    assert line["settings"]["block"] == FLAG[1]
    # As if it had been stopped before its result was written.
    (run / "result.json").unlink()
    flags = wanted.net(8).flags()
    capsys.readouterr()
    run_recipe(cifar10, [*flags, "--output", run, "--resume"])
    assert "Epoch" not in capsys.readouterr().out
    weights = ["--weights", run / "final.keras", "--dataset", "digits"]
    run_recipe(evaluate, [*weights, *FLAG])
    printed = capsys.readouterr().out
    assert f"{100 * (1 - line['test_error']):.2f} %" in printed
    run_recipe(
        figures,
        ["responses", "--dataset", "digits", "--depths", "8", "--steps", "4"]
        + ["--images", "20", *FLAG],
    )
    assert "to be trained" not in capsys.readouterr().out
    assert (folder / "figures/README.md").exists()
    run_recipe(results, [run, "--output", "collected"])
    assert FLAG[1] in (folder / "collected/README.md").read_text("utf-8")
    usual = [f for f in flags if f not in FLAG]
    run_recipe(cifar10, [*usual, "--output", "runs/usual"])
    capsys.readouterr()
    run_recipe(compare, [run, "--to", "runs/usual"])
    printed = capsys.readouterr().out
    assert "block" in printed
    assert FLAG[1] in printed
