"""Settings, which flags, help, names of folders and commands follow from."""

import dataclasses

import pytest

pytestmark = pytest.mark.once

import cifar10  # noqa: E402
import cli  # noqa: E402
import imagenet  # noqa: E402
import mnist  # noqa: E402
import settings  # noqa: E402
from conftest import check_wrong_usage  # noqa: E402


@dataclasses.dataclass(frozen=True)
class _Settings:
    hidden: int = 3
    steps: int = settings.setting(10, "steps in all", type=cli.positive_int)
    rate: float | None = settings.setting(None, "rate", type=float)
    kind: str = settings.setting("a", "a or b", choices=("a", "b"))
    fast: bool = settings.setting(False, "be fast")
    color: bool = settings.setting(True, "in colour")
    sizes: tuple = settings.setting((1, 2), "sizes", type=int, nargs="+")


def _parser(presets=()):
    parser = cli.Parser(prog="x")
    settings.add_flags(parser, _Settings, presets)
    return parser


def test_flags_follow_from_the_fields():
    parsed = _parser().parse_args(
        [
            "--steps",
            "5",
            "--rate",
            "0.5",
            "--kind",
            "b",
            "--fast",
            "--no-color",
            "--sizes",
            "3",
            "4",
        ]
    )
    assert settings.given(parsed, _Settings) == {
        "steps": 5,
        "rate": 0.5,
        "kind": "b",
        "fast": True,
        "color": False,
        "sizes": [3, 4],
    }
    assert settings.given(_parser().parse_args([]), _Settings) == {}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], ["--steps", "positive whole number", "'0'"]),
        (["--kind", "c"], ["--kind", "'c'", "'a', 'b'"]),
        (["--hidden", "1"], ["--hidden"]),
        (["--no-fast"], ["--no-fast"]),
    ],
)
def test_what_cannot_be_is_refused(flags, words, capsys):
    check_wrong_usage(lambda: _parser().parse_args(flags), capsys, words)


def test_help_tells_defaults_and_presets(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    presets = {"short": {"steps": 3, "color": False}, "none": {"steps": None}}
    with pytest.raises(SystemExit):
        _parser(presets).parse_args(["--help"])
    text = capsys.readouterr().out
    for line in (
        "steps in all (default: 10; short: 3; none: none)",
        "rate (default: none)",
        "be fast (default: no)",
        "in colour (default: yes; short: no)",
        "sizes (default: 1 2)",
    ):
        assert line in text


def test_names_tell_what_differs():
    one = _Settings(steps=7, rate=None, sizes=(3, 4), hidden=5)
    values = settings.differences(one, _Settings(rate=2.0), named=("hidden",))
    assert values == {"steps": 7, "sizes": (3, 4)}
    assert settings.name_parts(values) == ["steps7", "sizes3_4"]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--preset", "fast"],
        ["--preset", "fast", "--dataset", "digits", "--depth", "8"],
        ["--plain", "--steps", "7", "--every", "3"],
        ["--shortcut", "C", "--label-smoothing", "0.1", "--seed", "4"],
    ],
)
def test_settings_become_flags_again(flags):
    parser = cifar10.make_parser()
    expected = cifar10.settle(parser.parse_args(flags))
    words = cifar10.flags_of(expected)
    assert cifar10.settle(parser.parse_args(words)) == expected


@pytest.mark.parametrize("recipe", [cifar10, imagenet, mnist])
def test_presets_name_only_settings(recipe):
    fields = {field.name for field in dataclasses.fields(recipe.Settings)}
    presets = [*recipe.PRESETS.values()]
    presets += getattr(recipe, "PRESETS_BY_DATASET", {}).values()
    assert all(set(preset) <= fields for preset in presets)
