"""`recipes/compare.py`, and the statistics of paired runs."""

import json

import pytest

pytestmark = pytest.mark.once

from conftest import check_refused, run_recipe

from keras_resnet_recipes import cifar10, compare
from keras_resnet_recipes.experiment.statistics import (
    paired_difference,
    rank_correlation,
    seeds_needed,
)


def test_a_difference_with_a_known_answer():
    # Differences 1, 2, 3, 4: mean 2.5, standard error sqrt(5 / 3) / 2, and
    # Student's t at 97.5 % with 3 degrees of freedom is 3.182446.
    actual = paired_difference([5.0, 7.0, 9.0, 11.0], [4.0, 5.0, 6.0, 7.0])
    half = 3.182446 * (5 / 3) ** 0.5 / 2
    assert actual.mean == 2.5
    assert actual.interval == pytest.approx((2.5 - half, 2.5 + half), 1e-6)
    assert actual.p == pytest.approx(0.030466, 1e-4)


def test_differences_that_do_not_vary():
    one = paired_difference([1.5], [1.0])
    assert (one.mean, one.interval, one.p) == (0.5, None, None)
    same = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (same.mean, same.p, same.seeds_needed) == (0.0, 1.0, None)
    shifted = paired_difference([1.5, 2.5], [1.0, 2.0])
    assert (shifted.interval, shifted.p) == ((0.5, 0.5), 0.0)
    # Equal but for rounding.
    assert paired_difference([0.3, 0.7], [0.1, 0.5]).p < 1e-10
    with pytest.raises(ValueError, match="2 and 1 values"):
        paired_difference([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("effect", "seeds"),
    # Of a paired t-test at 5 % with a power of 80 %, as tables have them.
    [(0.2, 199), (0.5, 34), (-0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)],
)
def test_seeds_that_a_difference_needs(effect, seeds):
    assert seeds_needed(effect) == seeds


def test_no_number_of_seeds_shows_nothing():
    assert seeds_needed(0.0) is None
    assert seeds_needed(1e-4) is None


def test_rank_correlation():
    assert rank_correlation([1, 2, 3], [0.1, 0.2, 9.0]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3.0, 2.0, -5.0]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [0.5, 0.5, 0.5]) == 0


def _line(seed, error, **changes):
    settings = {"dataset": "cifar10", "depth": 20, "plain": False}
    settings |= {"shortcut": "A", "seed": seed} | changes
    return {"settings": settings, "test_error": error}


def _write(folder, *lines):
    for line in lines:
        path = folder / f"seed{line['settings']['seed']}"
        path.mkdir(parents=True)
        (path / "result.json").write_text(json.dumps(line), "utf-8")
    return folder


@pytest.fixture
def sets(tmp_path):
    """Folders of two sets: four seeds of a net, five of another."""
    errors = (0.05, 0.07, 0.09, 0.11)
    deep = [_line(i, e, depth=56) for i, e in enumerate(errors)]
    errors = (0.04, 0.05, 0.06, 0.07, 0.5)
    shallow = [_line(i, e) for i, e in enumerate(errors)]
    return _write(tmp_path / "56", *deep), _write(tmp_path / "20", *shallow)


def test_a_comparison_says_all(sets, capsys):
    run_recipe(compare, [sets[0], "--to", sets[1]])
    printed = capsys.readouterr().out
    for words in (
        "| depth |",
        "8.00 ± 2.58 % | 6.97 %",
        "5.50 ± 1.29 % | 8.75 %",
        "Difference: +2.50 points (paper: -1.78), seeds 0, 1, 2, 3.",
        "without a partner: seed 4",
        "+0.45 to +4.55 points; p = 0.03 (",
        "by 5 seeds",
    ):
        assert words in printed
    # The same of single folders and of lines.
    runs = [f"{sets[0]}/seed{i}" for i in (3, 1)]
    lines = [f"{sets[1]}/seed{i}/result.json" for i in (1, 3)]
    run_recipe(compare, [*runs, "--to", *lines])
    printed = capsys.readouterr().out
    assert "Difference: +3.00 points (paper: -1.78), seeds 1, 3." in printed
    run_recipe(compare, [runs[0], "--to", lines[1]])
    assert "One pair is too few" in capsys.readouterr().out


def test_only_what_the_paper_trained_stands_beside_it():
    assert compare.paper(_line(0, 0.1, depth=110)) == cifar10.PAPER[110]
    for changes in ({"plain": True}, {"shortcut": "B"}, {"dataset": "mnist"}):
        assert compare.paper(_line(0, 0.1, **changes)) is None


def test_wrong_usage_is_one_line_and_status_2(sets, tmp_path, capsys):
    first, second = map(str, sets)
    broken = tmp_path / "broken.json"
    broken.write_text('{"settings": {}}', "utf-8")
    plain = _write(tmp_path / "plain", _line(7, 0.1, plain=True))
    hurt = _write(tmp_path / "hurt", _line(0, float("nan")))
    study = tmp_path / "empty.json"
    study.write_text("{}", "utf-8")
    for flags, words in (
        ([first], ["--to"]),
        (["--to", first], ["RUN"]),
        ([str(tmp_path), "--to", first], ["no finished run"]),
        ([f"{first}/seed9", "--to", second], ["seed9", "no finished run"]),
        ([str(broken), "--to", first], ["broken.json", "no result line"]),
        ([first, f"{second}/seed0", "--to", second], ["second run", "seed 0"]),
        ([first, str(plain), "--to", second], ["depth, plain", "only in"]),
        ([str(plain), "--to", second], ["no seed in common", "7 and 0, 1"]),
        ([str(study), "--to", first], ["empty.json", "no finished run"]),
        (
            [first, "--to", second, "--error", "training"],
            ["no training error", "--error test"],
        ),
        ([str(hurt), "--to", second], ["no test error", "none"]),
    ):
        check_refused(
            lambda flags=flags: run_recipe(compare, flags), capsys, words
        )
