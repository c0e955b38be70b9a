"""Compares the errors of two sets of runs, paired by seed.

    python recipes/compare.py runs/FIRST --to runs/SECOND
    python recipes/compare.py runs/*resnet56*seed? --to runs/*resnet20*seed?

A set is a folder that a recipe made with --seeds, or several folders of runs
that differ only in their seed, or result files of such runs. Runs with the same
seed began with the same random numbers, so their difference varies less than
the errors do. The recipe prints the mean difference, its 95 % confidence
interval, the p-value of a paired t-test, and the number of seeds that show a
difference of this size at the 5 % level in 80 % of experiments.
"""

import dataclasses
import json
import math
from pathlib import Path

from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment import (
    REQUIRED,
    CommandSettings,
    UsageError,
    execute,
    option,
)
from keras_resnet_recipes.experiment.report import (
    mean_and_deviation,
    seeds,
    show,
    table,
)

ERRORS = ("test", "validation", "training")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CommandSettings):
    """Settings of a comparison."""

    runs: tuple[Path, ...] = option(
        REQUIRED, "the first set of runs", metavar="RUN", positional=True
    )
    to: tuple[Path, ...] = option(
        REQUIRED, "the second set, which is subtracted", metavar="RUN"
    )
    error: str = option("test", "error to compare", choices=ERRORS)


def read(paths):
    """Return the result lines of a set of runs by seed.

    Raises:
        UsageError: If a path holds no result, if two results have the same
            seed, or if they differ in more than the seed.
    """
    lines = {}
    for path in paths:
        for line in result_lines(path):
            seed = line["settings"]["seed"]
            if seed in lines:
                raise UsageError(f"{path} is a second run with seed {seed}")
            lines[seed] = line
    if not lines:
        raise UsageError(f"{paths[0]} has no finished run")
    first, *others = lines.values()
    for line in others:
        different = differences(first, line)
        if different:
            raise UsageError(
                "the runs of a set may differ only in their seed, but those "
                f"of {paths[0]} differ in {', '.join(different)}"
            )
    return lines


def result_lines(path):
    """Return the result lines in a folder or a file."""
    if path.is_dir():
        files = [path / "result.json"]
        if not files[0].exists():
            files = sorted(path.glob("seed*/result.json"))
    else:
        files = [path] if path.exists() else []
    if not files:
        raise UsageError(f"{path} has no finished run")
    lines = []
    for file in files:
        try:
            read = json.loads(file.read_text("utf-8"))
            several = [read] if "settings" in read else [*read.values()]
            lines += [line for line in several if line["settings"]["seed"] >= 0]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UsageError(f"{file} is no result line of a run") from None
    return lines


def differences(first, second):
    """Return the settings that differ between two runs, but not the seed."""
    first, second = first["settings"], second["settings"]
    return {
        name: (first[name], second[name])
        for name in first
        # A result line of an earlier version may lack a setting.
        if name in second and name != "seed" and first[name] != second[name]
    }


def is_number(line, error):
    """Return whether a result line has a number as this error."""
    value = line.get(f"{error}_error")
    return isinstance(value, (int, float)) and math.isfinite(value)


def paper(line):
    """Return the paper's test error of a run's net in percent, or `None`."""
    s = line["settings"]
    usual = s.get("dataset"), s.get("shortcut"), s.get("plain")
    if usual != ("cifar10", "A", False) or s.get("block"):
        return None
    return cifar10.PAPER.get(s["depth"])


def main(settings):
    """Print the comparison of two sets."""
    from keras_resnet_recipes.experiment.statistics import paired_difference

    sets = [read(settings.runs), read(settings.to)]
    common = sorted(set(sets[0]) & set(sets[1]))
    if not common:
        raise UsageError(
            "the sets have no seed in common: "
            + " and ".join(", ".join(map(str, sorted(s))) for s in sets)
        )
    every = [line for lines in sets for line in lines.values()]
    there = [e for e in ERRORS if all(is_number(x, e) for x in every)]
    if settings.error not in there:
        raise UsageError(
            f"a run has no {settings.error} error; these all runs have: "
            f"{', '.join(f'--error {e}' for e in there) or 'none'}"
        )
    key = f"{settings.error}_error"
    values = [[100 * lines[seed][key] for seed in common] for lines in sets]
    firsts = [lines[common[0]] for lines in sets]
    changed = differences(*firsts)
    papers = [settings.error == "test" and paper(line) for line in firsts]
    rows = [
        [
            str(paths[0]),
            *(pair[i] for pair in changed.values()),
            mean_and_deviation(values[i], "%"),
            f"{papers[i]} %" if papers[i] else "",
        ]
        for i, paths in enumerate((settings.runs, settings.to))
    ]
    show(table(["set", *changed, f"{settings.error} error", "paper"], rows))
    difference = paired_difference(*values)
    papers = f" (paper: {papers[0] - papers[1]:+.2f})" if all(papers) else ""
    show(
        f"\nDifference: {difference.mean:+.2f} points{papers}, {seeds(common)}."
    )
    left_out = sorted(set(sets[0]) ^ set(sets[1]))
    if left_out:
        show(f"Left out without a partner: {seeds(left_out)}.")
    if difference.p is None:
        show("One pair is too few for a test: train more --seeds.")
        return
    low, high = difference.interval
    show(
        f"95 % confidence interval: {low:+.2f} to {high:+.2f} points; "
        f"p = {difference.p:.2g} (paired t-test)."
    )
    if difference.seeds_needed is None:
        show("No number of seeds up to 10,000 would show it.")
    else:
        show(
            "A difference of this size is shown at the 5 % level in 80 % of "
            f"experiments by {difference.seeds_needed} seeds."
        )


if __name__ == "__main__":
    execute(Settings, main)
