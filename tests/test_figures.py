"""`recipes/figures.py`: figures from saved runs, trained where missing."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import types
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

from conftest import check_refused, read_json, run_recipe, settings_of
from safetensors.numpy import save_file

import keras_resnet
from keras_resnet import data
from keras_resnet_recipes import cifar10, figures, nets
from keras_resnet_recipes.experiment import UsageError, command
from keras_resnet_recipes.experiment.page import Claim, Page

pytestmark = pytest.mark.once

FLAGS = ("--dataset", "digits", "--depths", "8", "--steps", "4")


def _settings(*flags):
    return settings_of(figures, flags)


def _nets(*flags):
    return nets.Nets(_settings(*flags))


def test_every_figure_has_a_size_and_a_line_of_help():
    assert set(figures.FIGURES) == set(figures.DEPTHS)
    for name, function in figures.FIGURES.items():
        assert function.__doc__
        assert f"\n{name} " in figures.__doc__


def test_presets():
    paper = _settings("degradation", "--preset", "paper")
    net = paper.net(56, plain=True)
    assert net == cifar10.Settings(depth=56, plain=True)
    assert paper.depths == (20, 32, 44, 56)
    assert paper.seeds == 3
    assert _settings("responses", "--preset", "paper").images is None
    small = _settings("degradation").net(20)
    assert (small.preset, small.steps, small.every) == ("fast", 200, 25)
    assert small.learning_rate == figures.SHORT_RATE
    fast = _settings("degradation", "--preset", "fast")
    assert fast.depths == (20, 56)
    assert fast.net(20) == settings_of(cifar10, ["--preset", "fast"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["portrait"], ["'portrait'", "'landscape'"]),
        (["depths", "--depths", "21"], ["21", "6n+2"]),
        (["lesions", "--seeds", "3"], ["--seeds", "degradation or"]),
        (["degradation", "--images", "3"], ["--images", "responses or"]),
        (["depths", "--points", "3"], ["--points", "landscape"]),
        (["lesions", "--depths", "8", "14"], ["--depths", "14", "one"]),
        (["landscape", "--points", "1"], ["--points", "2", "1"]),
        (["depths", "--weights", "x.th"], ["--weights", "responses or"]),
        (["lesions", "--weights", "x.th"], ["--depths", "1 files", "are 0"]),
        (["lesions", "--preprocessing", "cifar"], ["--weights"]),
        (["explanations"], ["--weights", "any size"]),
        (
            ["lesions", "--weights", "x.th", "--depths", "20", "--steps", "1"],
            ["--steps", "no --weights"],
        ),
        (
            ["lesions", "--weights", "x.th", "y.th", "--depths", "20", "20"],
            ["a depth is given twice"],
        ),
        (["lesions", "--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_refused(lambda: run_recipe(figures, flags), capsys, words)


def _store_result(folder, settings):
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"settings": settings})
    (folder / "result.json").write_text(line, "utf-8")


def test_a_run_is_found_by_its_settings(tmp_path):
    trained = _nets("responses", "--runs", str(tmp_path), *FLAGS)
    net, find = trained.settings.net, trained.find
    stored = net(8).stored() | {"backend": "another"}
    folder = tmp_path / "any-name"
    _store_result(folder, stored)
    assert find(net(8)) == folder
    assert find(net(8), gradients=True) is None
    assert find(net(8, seed=1)) is None
    assert find(net(8, plain=True)) is None
    # Not a grown net, which has further settings.
    _store_result(folder, {"grown_from": stored, "added": 1})
    assert find(net(8)) is None
    # One of several seeds, too.
    _store_result(tmp_path / "study/seed1", stored | {"seed": 1})
    actual = find(net(8, seed=1))
    assert actual == tmp_path / "study/seed1"


def test_gradients_must_begin_at_initialization(tmp_path):
    trained = _nets("gradients", "--runs", str(tmp_path), *FLAGS)
    net, find = trained.settings.net(8), trained.find
    folder = tmp_path / "run"
    _store_result(folder, net.stored() | {"backend": "another"})
    gradients = folder / cifar10.GRADIENTS
    for first, expected in ((2, None), (0, folder)):
        gradients.write_text(
            f"iterations,stem_conv\n{first},1.0\n4,0.5\n", "utf-8"
        )
        assert find(net, gradients=True) == expected
    assert find(net) == folder


def test_only_an_earlier_state_of_a_figure_is_replaced(tmp_path):
    def page(*flags):
        settings = _settings("degradation", *FLAGS, *flags).stored()
        return Page(tmp_path, "degradation", settings, ("degradation",))

    page().finish("Title", {})
    page().finish("Title", {})
    for flags, words in (
        (
            ("--seeds", "2"),
            ("degradation.json", "seeds 1", "with 2", "--output"),
        ),
        (("--dataset", "mnist"), ("degradation.json", "digits", "mnist")),
    ):
        with pytest.raises(UsageError) as caught:
            page(*flags)
        assert all(word in str(caught.value) for word in words)
    (tmp_path / "degradation.json").unlink()
    (tmp_path / "README.md").write_text("# Somebody else's", "utf-8")
    with pytest.raises(UsageError, match=r"README\.md is no page"):
        page()


def test_a_claim_says_whether_it_holds(tmp_path, capsys):
    page = Page(tmp_path, "depths", {}, ("depths",))
    page.claim("error", "paper, 1", -1.5, "<", 0, "points", "one seed")
    page.claim("share", "paper, 2", 0.25, "at least", 0.9)
    page.finish("Title", {})
    shown = capsys.readouterr().out
    written = (tmp_path / "README.md").read_text("utf-8")
    assert written.startswith("# Figures\n\n1 of 2 claims hold.\n\nEach claim")
    for row in (
        "| error | paper, 1 | < 0 points   | -1.5 points (one seed) | yes   |",
        "| share | paper, 2 | at least 0.9 | 0.25                   | no    |",
    ):
        assert row in shown
        assert row in written
    line = read_json(tmp_path / "depths.json")
    assert [claim["holds"] for claim in line["claims"]] == [True, False]
    equal = Claim("x", "y", 1.0, "at most", 1.0)
    assert equal.holds
    assert not dataclasses.replace(equal, relation="<").holds


def test_errors_of_several_seeds_are_compared_by_seed():
    page = Page(Path("nowhere"), "depths", {}, ())

    def runs(*errors):
        return [types.SimpleNamespace(result={"test_error": e}) for e in errors]

    first = "ResNet-56", runs(0.05, 0.07, 0.09, 0.11)
    second = "ResNet-20", runs(0.04, 0.05, 0.06, 0.07)
    figures.claim_difference(page, "paper", "test", first, second, "<")
    (claim,) = page.claims
    assert claim.text == "test error of ResNet-56 minus ResNet-20"
    assert claim.value == pytest.approx(2.5)
    assert claim.remark == "95 % interval 0.45 to 4.55, p = 0.03"
    assert not claim.holds


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
    run = _nets("depths", "--runs", str(runs), *FLAGS).run(8)
    (word,) = map(str, changed.values())
    folder = run.path.with_name(f"{run.path.name}-{word}")
    shutil.copytree(run.path, folder, dirs_exist_ok=True)
    line = read_json(folder / "result.json")
    line["settings"] |= changed
    (folder / "result.json").write_text(json.dumps(line), "utf-8")


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.usefixtures("no_text_is_cut")
def test_figures_are_drawn_and_nothing_is_trained_twice(
    folders, name, capfd, monkeypatch
):
    here = types.SimpleNamespace(run=_train_here)
    monkeypatch.setattr(nets, "subprocess", here)
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
    line = read_json(output / f"{name}.json")
    assert sorted(line["pictures"]) == sorted(pictures)
    assert set(line["nets"]) <= {p.parent.name for p in trained}
    assert line["nets"]
    # That the error falls with depth needs two depths.
    assert bool(line["claims"]) == (name != "depths")
    for shown in (line["command"], *line["nets"]):
        assert shown in page
    for claim in line["claims"]:
        assert claim["text"] in page
    for picture in pictures:
        assert f"]({picture}.png)" in page


@pytest.mark.parametrize(
    "name", ["responses", "lesions", "landscape", "explanations"]
)
def test_published_weights_need_no_training(tmp_path, name, monkeypatch):
    """A net in a file of PyTorch, and for responses in one of Keras, too."""
    keras.utils.set_random_seed(3)
    net = keras_resnet.ResNetCIFAR(14, classifier_activation=None)
    file = tmp_path / "resnet14.safetensors"
    save_file(keras_resnet.weights.loading.to_arrays(net, "akamaster"), file)
    whole = tmp_path / "resnet14.weights.h5"
    net.save_weights(whole)
    digits = data.load("digits")
    # As many colours and pixels as CIFAR-10's images have.
    images = digits.test.images.repeat(4, 1).repeat(4, 2).repeat(3, 3)
    test = data.Split(images, digits.test.labels)
    coloured = dataclasses.replace(digits, train=test, test=test)
    monkeypatch.setattr(figures, "data_of", lambda settings: coloured)
    files = [file, whole] if name == "responses" else [file]
    flags = ["--weights", *files, "--depths", *["14"] * len(files)]
    flags += ["--preprocessing", "cifar", "--images", "8"]
    flags += ["--points", "3"] if name == "landscape" else []
    run_recipe(figures, [name, *flags, "--output", tmp_path / "out"])
    line = read_json(tmp_path / f"out/{name}.json")
    assert set(line["nets"]) == {path.name for path in files}
    assert line["claims"]
    page = (tmp_path / "out/README.md").read_text("utf-8")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest[:16] in page
    if name == "responses":
        # The same net, by both files.
        (claim,) = line["claims"]
        assert claim["value"] == pytest.approx(1)


def test_files_of_one_name_are_different_nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = []
    for folder in ("a", "b"):
        Path(folder).mkdir()
        files.append(Path(folder, "model.safetensors"))
        files[-1].write_bytes(folder.encode())
    settings = figures.Settings.settle(
        {
            "figure": "responses",
            "weights": files,
            "depths": [14, 20],
            "preprocessing": "cifar",
        }
    )
    each = nets.Nets(settings)
    names = [net.name for (net,) in each.by_depth()]
    assert names == ["a.model.safetensors", "b.model.safetensors"]
    assert list(each.used) == names


def test_mosaics_are_of_four_classes():
    images = data.load("digits").test
    mosaics, classes = figures.mosaics_of(images, 3)
    assert mosaics.shape == (3, 16, 16, 1)
    first, second = mosaics[0, :8, 8:], mosaics[2, 8:, :8]
    for quarter, label in ((first, classes[0, 1]), (second, classes[2, 2])):
        same = (images.images == quarter).all(axis=(1, 2, 3))
        assert images.labels[same].tolist() == [label]
    assert all(len(set(four)) == 4 for four in classes.tolist())


def test_failures_are_one_line(tmp_path, capfd, monkeypatch):
    flags = ["lesions", "--weights", "missing.th", "--depths", "20"]
    check_refused(
        lambda: run_recipe(figures, [*flags, "--output", tmp_path]),
        capfd,
        ["error: There is no file 'missing.th'"],
        status=1,
    )
    # A training that fails.
    wrong = cifar10.Settings(depth=9)
    monkeypatch.setattr(figures.Settings, "net", lambda *_, **__: wrong)
    for installed, called in (
        ((), "cifar10.py: error"),
        (("keras-resnet", "figures"), "keras-resnet cifar10: error"),
    ):
        monkeypatch.setattr(command, "installed", installed)
        with pytest.raises(SystemExit, match="1"):
            _draw((tmp_path, tmp_path), "responses")
        shown, error = capfd.readouterr()
        assert f"trained: {' '.join(command.call('cifar10'))} " in shown
        assert called in error
        assert "exit status 2" in error.strip().splitlines()[-1]


def test_half_of_nine_blocks_are_at_most_four():
    lengths, share = np.arange(10), np.full(10, 0.1)
    short = figures.share_of_short_paths(lengths, share, np.ones([10, 3]))
    assert short == pytest.approx(0.5)
