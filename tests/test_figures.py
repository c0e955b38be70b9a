"""`recipes/figures.py`: figures from saved runs, trained where missing."""

import json
import shutil
import subprocess
import types

import keras
import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

from conftest import check_wrong_usage, run_recipe, settings_of

from keras_resnet_recipes import (
    cifar10,
    figures,
)
from keras_resnet_recipes.experiment import UsageError

pytestmark = pytest.mark.once

FLAGS = ("--dataset", "digits", "--depths", "8", "--steps", "4")


def _settings(*flags):
    return settings_of(figures, flags)


def _trained(*flags):
    return figures.TrainedNets(_settings(*flags))


def test_every_figure_has_a_size_and_a_line_of_help():
    assert set(figures.FIGURES) == set(figures.SIZES)
    for name, function in figures.FIGURES.items():
        assert function.__doc__
        assert f"\n{name} " in figures.__doc__


def test_full_is_the_papers_procedure():
    full = _settings("degradation", "--full")
    net = full.net(56, plain=True)
    assert net == cifar10.Settings(depth=56, plain=True)
    assert full.depths == (20, 32, 44, 56)
    assert full.seeds == 3
    assert _settings("responses", "--full").images is None
    small = _settings("degradation").net(20)
    assert (small.preset, small.steps, small.every) == ("fast", 200, 25)
    assert small.learning_rate == figures.SHORT_RATE


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["portrait"], ["'portrait'", "'landscape'"]),
        ([], ["figure"]),
        (["depths", "--depths", "21"], ["21", "6n+2"]),
        (["lesions", "--seeds", "3"], ["--seeds", "degradation or"]),
        (["degradation", "--images", "3"], ["--images", "responses or"]),
        (["depths", "--points", "3"], ["--points", "landscape"]),
        (["lesions", "--steps", "0"], ["--steps", "'0'"]),
        (["lesions", "--depths", "8", "14"], ["--depths", "14", "one"]),
        (["landscape", "--points", "1"], ["--points", "2", "1"]),
        (["lesions", "--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_wrong_usage(
        lambda: run_recipe(figures, flags),
        capsys,
        words,
    )


def test_a_run_is_found_by_its_settings(tmp_path):
    trained = _trained("responses", "--runs", str(tmp_path), *FLAGS)
    net = trained.settings.net
    folder = tmp_path / "any-name"
    folder.mkdir()
    stored = net(8).stored() | {"backend": "another"}
    line = folder / "result.json"
    line.write_text(json.dumps({"settings": stored}), "utf-8")
    assert trained.find(net(8), "result.json") == folder
    assert trained.find(net(8), "gradients.csv") is None
    assert trained.find(net(8, seed=1), "result.json") is None
    assert trained.find(net(8, plain=True), "result.json") is None
    # Not that of a grown net, which has other settings besides.
    grown = {"grown_from": stored, "added": 1}
    line.write_text(json.dumps({"settings": grown}), "utf-8")
    assert trained.find(net(8), "result.json") is None


def test_gradients_must_begin_at_initialization(tmp_path):
    trained = _trained("gradients", "--runs", str(tmp_path), *FLAGS)
    net = trained.settings.net(8)
    stored = net.stored() | {"backend": "another"}
    line = tmp_path / "result.json"
    line.write_text(json.dumps({"settings": stored}), "utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    line.rename(folder / "result.json")
    gradients = folder / cifar10.GRADIENTS
    for first, found in ((2, None), (0, folder)):
        gradients.write_text(
            f"iterations,stem_conv\n{first},1.0\n4,0.5\n", "utf-8"
        )
        assert trained.find(net, cifar10.GRADIENTS) == found
    assert trained.find(net, "result.json") == folder


def test_only_an_earlier_state_of_a_figure_is_replaced(tmp_path, capsys):
    def page(*flags):
        output = ("--output", str(tmp_path))
        return figures.Page(_settings("degradation", *output, *FLAGS, *flags))

    page().finish("Title", {})
    page().finish("Title", {})
    for flags, words in (
        (("--seeds", "2"), ("degradation.json", "seeds 1", "by 2", "--output")),
        (("--dataset", "mnist"), ("degradation.json", "digits", "mnist")),
    ):
        with pytest.raises(UsageError) as caught:
            page(*flags)
        assert all(word in str(caught.value) for word in words)
    (tmp_path / "degradation.json").unlink()
    (tmp_path / "README.md").write_text("# Somebody else's", "utf-8")
    with pytest.raises(UsageError, match=r"README\.md is no page"):
        page()


def test_names_tell_runs_apart():
    settings = [
        settings_of(cifar10, flags)
        for flags in (
            [],
            ["--preset", "fast"],
            ["--steps", "7"],
            ["--epochs", "7"],
            ["--plain"],
            ["--shortcut", "B"],
            ["--seed", "1"],
            ["--every", "5"],
            ["--weight-decay", "0"],
        )
    ]
    names = [s.name("jax") for s in settings]
    assert names[0] == "cifar10-resnet20A-paper-jax-seed0"
    assert names[2] == "cifar10-resnet20A-paper-steps7-jax-seed0"
    assert names[8] == "cifar10-resnet20A-paper-weightdecay0.0-jax-seed0"
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders in which one pair of twins has been trained once."""
    root = tmp_path_factory.mktemp("figures")
    return root / "runs", root / "figures"


def _draw(folders, name, *flags):
    runs, output = folders
    arguments = [name, *FLAGS, "--runs", str(runs), "--output", str(output)]
    run_recipe(figures, [*arguments, *flags])


PICTURES = {
    "degradation": ["degradation", "degradation-depths"],
    "shortcuts": ["shortcuts-8"],
    "depths": ["depths"],
    "responses": ["responses"],
    "gradients": ["gradients", "gradients-initial"],
    "growth": ["growth", "growth-identity"],
    "lesions": ["lesions-8", "lesions-each-8", "paths-8"],
    "landscape": [
        f"landscape-{kind}-8" for kind in ("lines", "contours", "surface")
    ],
}


def _train_here(command, env):
    """Train in this process, which has loaded its backend, to save time.

    But for one of the runs, which shows that a process trains as well.
    """
    if env["KERAS_BACKEND"] != keras.backend.backend():
        raise AssertionError(env["KERAS_BACKEND"])
    if "--plain" in command:
        return subprocess.run(command, env=env)
    run_recipe(cifar10, command[2:])
    return subprocess.CompletedProcess(command, 0)


def _as_if_trained(runs, **changed):
    """Make a run with another setting from that of ResNet-8, to save time."""
    run = _trained("depths", "--runs", str(runs), *FLAGS)(8)
    (word,) = map(str, changed.values())
    folder = run.path.with_name(f"{run.path.name}-{word}")
    shutil.copytree(run.path, folder, dirs_exist_ok=True)
    line = json.loads((folder / "result.json").read_text("utf-8"))
    line["settings"] |= changed
    (folder / "result.json").write_text(json.dumps(line), "utf-8")


@pytest.mark.parametrize("name", PICTURES)
def test_figures_are_drawn_and_nothing_is_trained_twice(
    folders, name, capfd, monkeypatch
):
    here = types.SimpleNamespace(run=_train_here)
    monkeypatch.setattr(figures, "subprocess", here)
    flags = ()
    if name == "lesions":
        # At depth 8, with a block in each stage, nothing could be swapped.
        flags = ("--depths", "14")
    elif name == "depths":
        flags = ("--seeds", "2")
        _as_if_trained(folders[0], seed=1)
    elif name == "shortcuts":
        for option in "BC":
            _as_if_trained(folders[0], shortcut=option)
    small = name in ("responses", "growth", "lesions", "landscape")
    images = ("--images", "40") if small else ()
    images += ("--points", "3") if name == "landscape" else ()
    pictures = [p.replace("-8", "-14") if flags else p for p in PICTURES[name]]
    runs, output = folders
    _draw(folders, name, *flags, *images)
    for picture in pictures:
        assert (output / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    trained = {p: p.stat().st_mtime_ns for p in runs.glob("*/result.json")}
    capfd.readouterr()
    _draw(folders, name, *flags, *images)
    assert "to be trained" not in capfd.readouterr().out
    assert trained == {
        p: p.stat().st_mtime_ns for p in runs.glob("*/result.json")
    }
    backend = keras.backend.backend()
    assert all(f"-{backend}-seed0" in p.parent.name for p in trained)
    assert not list(output.glob(".partial*"))
    page = (output / "README.md").read_text("utf-8")
    line = json.loads((output / f"{name}.json").read_text("utf-8"))
    assert sorted(line["pictures"]) == sorted(pictures)
    assert set(line["runs"]) <= {p.parent.name for p in trained}
    assert line["runs"]
    for shown in (line["command"], *line["runs"]):
        assert shown in page
    for picture in pictures:
        assert f"]({picture}.png)" in page


def test_a_failed_training_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(
        figures.Settings,
        "net",
        lambda *args, **kwargs: cifar10.Settings(depth=9),
    )
    with pytest.raises(SystemExit) as caught:
        _draw((tmp_path, tmp_path), "responses")
    assert caught.value.code == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "exit status 2" in last
