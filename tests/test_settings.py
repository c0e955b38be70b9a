"""Settings, which flags, help, names of folders and commands follow from."""

import dataclasses
import typing

import pytest

pytestmark = pytest.mark.once

import compare as benchmark
from conftest import check_refused, settings_of

from keras_resnet_recipes import (
    cifar10,
    compare,
    evaluate,
    export,
    figures,
    imagenet,
    mnist,
    results,
    tune,
)
from keras_resnet_recipes.experiment import (
    REQUIRED,
    CommandSettings,
    UsageError,
    option,
    seed_setting,
    setting,
)

COMMANDS = [benchmark, cifar10, compare, evaluate, export, figures, imagenet]
COMMANDS += [mnist, results, tune]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CommandSettings):
    PRESETS = {
        "short": {"epochs": 3, "color": False},
        "none": {"rate": 0.5, "kind": "b"},
    }
    DATASETS = {"small": {"rate": 2.0}}

    preset: str = setting("long", "how long", choices=("long", "short"))
    empty: bool = option(False, "nothing", preset="none")
    dataset: str = setting("large", "images", choices=("large", "small"))
    steps: int | None = setting(10, "steps in all")
    epochs: int | None = setting(None, "epochs", instead_of="steps")
    rate: float | None = setting(None, "rate of 10 %")
    kind: str = setting("a", "a or b", choices=("a", "b"))
    fast: bool = setting(
        False, "be fast", needs=("--kind a", lambda s: s.kind == "a")
    )
    color: bool = setting(True, "in colour")
    sizes: tuple[int, ...] = setting((1, 2), "sizes")
    ends: tuple[float, float] = setting((), "from, to", metavar=("A", "B"))
    folder: str = option("here", "folder", metavar="DIR")


def _settle(*flags):
    parser = Settings.parser()
    return Settings.settle(vars(parser.parse_args(flags)))


def test_flags_follow_from_the_fields():
    flags = "--steps 5 --rate 0.5 --fast --no-color --sizes 3 4 --ends 1 2.5"
    s = _settle(*flags.split())
    assert (s.steps, s.rate, s.fast, s.color) == (5, 0.5, True, False)
    assert (s.sizes, s.ends) == ((3, 4), (1.0, 2.5))
    assert _settle() == Settings()


def test_flags_win_over_datasets_and_these_over_presets():
    s = _settle("--preset", "short")
    assert (s.steps, s.epochs, s.color, s.rate) == (None, 3, False, None)
    s = _settle("--preset", "short", "--steps", "4", "--dataset", "small")
    assert (s.steps, s.epochs, s.rate) == (4, None, 2.0)
    s = _settle("--empty", "--dataset", "small")
    assert (s.preset, s.rate, s.kind) == ("none", 2.0, "b")
    assert _settle("--empty", "--rate", "3").rate == 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], ["--steps", "positive whole number", "'0'"]),
        (["--rate", "inf"], ["--rate", "positive number", "'inf'"]),
        (["--kind", "c"], ["--kind", "'c'", "'a', 'b'"]),
        (["--ends", "1"], ["--ends", "2"]),
        (["--preset", "none"], ["--preset", "'none'", "'short'"]),
        (["--hidden", "1"], ["--hidden"]),
        (["--no-fast"], ["--no-fast"]),
        (["--step", "1"], ["--step"]),
    ],
)
def test_impossible_values_are_refused(flags, words, capsys):
    check_refused(lambda: _settle(*flags), capsys, words)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--steps 1 --epochs 1", "give --steps or --epochs, not both"),
        ("--preset short --empty", "give --preset or --empty, not both"),
        ("--kind b --fast", "--fast needs --kind a"),
    ],
)
def test_flags_that_exclude_each_other_are_refused(flags, words):
    with pytest.raises(UsageError, match=words):
        _settle(*flags.split())


def test_a_setting_without_effect_has_its_default():
    s = Settings(fast=True, kind="a")
    assert s.changes() == {"fast": True}
    s = dataclasses.replace(s, kind="b")
    assert not s.applies("fast")
    assert s.changes() == {"kind": "b"}
    assert not _settle("--empty").fast


def test_help_tells_defaults_and_presets(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        Settings.parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for line in (
        "steps in all (default: 10)",
        "epochs (default: none; short: 3)",
        "rate of 10 % (default: none; none: 0.5; small: 2.0)",
        "be fast (default: no)",
        "in colour (default: yes; short: no)",
        "sizes (default: 1 2)",
        "--ends A B",
        "--folder DIR",
    ):
        assert line in text


def test_required_and_positional_values(capsys):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Needy(CommandSettings):
        files: tuple[str, ...] = option((), "files", positional=True)
        weights: str = option(REQUIRED, "weights")
        size: int = setting(REQUIRED, "size")
        seed: int = seed_setting()

    parser = Needy.parser()
    given = vars(parser.parse_args(["a", "--weights", "w", "--size", "3"]))
    needy = Needy.settle(given)
    assert needy == Needy(files=("a",), weights="w", size=3)
    assert needy.flags() == ["--weights", "w", "--size", "3"]
    assert needy.name("jax") == "needy-size3-jax-seed0"
    given = vars(parser.parse_args(["--weights", "w", "--size", "3"]))
    assert Needy.settle(given).files == ()
    check_refused(lambda: parser.parse_args([]), capsys, ["--weights"])


def test_names_tell_changes():
    s = _settle("--steps", "7", "--sizes", "3", "4", "--folder", "x")
    assert s.changes() == {"steps": 7, "sizes": (3, 4)}
    assert s.name("jax") == "settings-steps7-sizes3_4-jax"
    # One folder, also for paths, and for repositories of the hub.
    flags = ["--preset", "finetune", "--folder", "x"]
    flags += ["--weights", "../y/a:b.keras"]
    name = settings_of(imagenet, flags).name("jax")
    assert name == "folder-resnet50B-finetune-weights...y.a.b.keras-jax-seed0"
    stored = {"preset": "long", "dataset": "large", "steps": 7, "epochs": None}
    stored |= {"rate": None, "kind": "a", "fast": False, "color": True}
    assert s.stored() == stored | {"sizes": [3, 4], "ends": []}
    assert _settle("--preset", "short").changes() == {}


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--preset", "fast"],
        ["--preset", "fast", "--dataset", "digits", "--depth", "8"],
        ["--plain", "--steps", "7", "--every", "3", "--no-horizontal-flip"],
        ["--shortcut", "C", "--label-smoothing", "0.1", "--seed", "4"],
    ],
)
def test_settings_become_flags_again(flags):
    expected = settings_of(cifar10, flags)
    assert settings_of(cifar10, expected.flags()) == expected


@pytest.mark.parametrize("recipe", [cifar10, imagenet, mnist, tune])
def test_presets_name_only_settings(recipe):
    kind = recipe.Settings
    for changes in (kind.PRESETS | kind.DATASETS).values():
        assert set(changes) <= set(kind.fields())


def test_a_tilde_is_the_home_folder_in_every_path(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = settings_of(cifar10, ["--output=~/x", "--data-dir=~/y"])
    assert settings.output == tmp_path / "x"
    assert settings.data_dir == tmp_path / "y"
    settings = settings_of(evaluate, ["~/a.png", "--weights=~/w.keras"])
    assert settings.images == (tmp_path / "a.png",)
    assert settings.weights == str(tmp_path / "w.keras")
    for command in COMMANDS:
        for action in command.Settings.parser()._actions:
            if action.metavar in ("DIR", "FILE", "RUN", "IMAGE", "W"):
                assert str(action.type("~/x")) == str(tmp_path / "x")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_help_explains_every_flag(command, capsys):
    parser = command.Settings.parser()
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for action in parser._actions:
        assert action.help
        assert all(flag in text for flag in action.option_strings[-1:])


def test_help_does_not_wait_for_keras(run_python):
    names = [c.__name__ for c in COMMANDS]
    code = "import importlib, sys; sys.path.insert(0, 'benchmarks')\n"
    code += f"for name in {names}:\n"
    code += (
        "    importlib.import_module(name).Settings.parser().format_help()\n"
    )
    code += (
        "assert not {'keras', 'tensorflow', 'jax', 'torch'} & {*sys.modules}"
    )
    run_python("-c", code)
    assert "--max-trials" in run_python("recipes/tune.py", "--help").stdout


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_a_default_is_of_the_type_of_its_setting(command):
    """A flag's text is converted, and a default is taken as it is."""
    hints = typing.get_type_hints(command.Settings)
    for field in dataclasses.fields(command.Settings):
        if field.default in (REQUIRED, None, dataclasses.MISSING):
            continue
        kinds = typing.get_args(hints[field.name]) or (hints[field.name],)
        if typing.get_origin(hints[field.name]) is tuple:
            kinds = (tuple,)
        allowed = (*kinds, int) if float in kinds else kinds
        assert isinstance(field.default, allowed), field.name
