"""`recipes/figures.py`: figures from saved runs, trained where missing."""

import json

import keras
import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

import cifar10  # noqa: E402
import cli  # noqa: E402
import figures  # noqa: E402
from conftest import check_wrong_usage  # noqa: E402

FLAGS = ("--dataset", "digits", "--depths", "8", "--steps", "4")


def _work(*flags):
    return figures.Work(figures.make_parser().parse_args(flags))


def test_every_figure_has_a_size_and_a_line_of_help():
    assert set(figures.FIGURES) == set(figures.SIZES)
    for name, function in figures.FIGURES.items():
        assert function.__doc__
        assert f"\n{name} " in figures.__doc__


def test_full_is_the_papers_procedure():
    work = _work("degradation", "--full")
    _, settings = work.settings(56, plain=True)
    assert settings == cifar10.Settings(depth=56, plain=True)
    assert work.size.depths == (20, 32, 44, 56)
    assert work.size.seeds == 3
    assert work.size.images is None
    _, small = _work("degradation").settings(20)
    assert (small.preset, small.steps, small.every) == ("fast", 200, 25)
    assert small.learning_rate == figures.SHORT_RATE


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["portrait"], ["'portrait'", "'landscape'"]),
        ([], ["figure"]),
        (["depths", "--depths", "21"], ["21", "6n+2"]),
        (["lesions", "--seeds", "3"], ["lesions", "--seeds"]),
        (["degradation", "--images", "3"], ["degradation", "--images"]),
        (["depths", "--points", "3"], ["depths", "--points"]),
        (["lesions", "--steps", "0"], ["--steps", "'0'"]),
        (["lesions", "--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_wrong_usage(
        lambda: cli.run(figures.make_parser(), figures.main, flags),
        capsys,
        words,
    )


def test_a_run_is_found_by_its_settings(tmp_path):
    work = _work("responses", "--runs", str(tmp_path), *FLAGS)
    _, settings = work.settings(8)
    folder = tmp_path / "any-name"
    folder.mkdir()
    stored = dict(vars(settings)) | {"backend": "another"}
    line = folder / "result.json"
    line.write_text(json.dumps({"settings": stored}))
    assert work.find(settings, "result.json") == folder
    assert work.find(settings, "gradients.csv") is None
    assert work.find(work.settings(8, seed=1)[1], "result.json") is None
    assert work.find(work.settings(8, plain=True)[1], "result.json") is None
    # One made before there was a setting, which then was the usual one.
    older = {k: v for k, v in stored.items() if k != "label_smoothing"}
    line.write_text(json.dumps({"settings": older}))
    assert work.find(settings, "result.json") == folder
    # Not that of a grown net, which has other settings besides.
    line.write_text(json.dumps({"settings": stored | {"added": 1}}))
    assert work.find(settings, "result.json") is None


def test_names_tell_runs_apart():
    settings = [
        cifar10.settle(cifar10.make_parser().parse_args(flags))
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
    names = [cifar10.name_of(s, "jax") for s in settings]
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
    cli.run(figures.make_parser(), figures.main, [*arguments, *flags])


PICTURES = {
    "degradation": ["degradation", "degradation-depths"],
    "depths": ["depths"],
    "responses": ["responses"],
    "gradients": ["gradients", "gradients-initial"],
    "growth": ["growth", "growth-identity"],
    "lesions": ["lesions-8", "lesions-each-8", "paths-8"],
    "landscape": [
        f"landscape-{kind}-8" for kind in ("lines", "contours", "surface")
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_figures_are_drawn_and_nothing_is_trained_twice(folders, name, capfd):
    # At depth 8, with a block in each stage, nothing could be swapped.
    flags = ("--depths", "14") if name == "lesions" else ()
    small = name in figures.TAKEN_BY["images"]
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
    page = (output / "README.md").read_text()
    line = json.loads((output / f"{name}.json").read_text())
    assert sorted(line["pictures"]) == sorted(pictures)
    assert set(line["runs"]) <= {p.parent.name for p in trained}
    assert line["runs"]
    for shown in (line["command"], *line["runs"]):
        assert shown in page
    for picture in pictures:
        assert f"]({picture}.png)" in page


@pytest.mark.slow
def test_a_failed_training_is_one_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(
        figures.Work,
        "settings",
        lambda *args, **kwargs: (["--depth", "9"], cifar10.Settings()),
    )
    with pytest.raises(SystemExit) as caught:
        _draw((tmp_path, tmp_path), "responses")
    assert caught.value.code == 1
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "exit status 2" in last
