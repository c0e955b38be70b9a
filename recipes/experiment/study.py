"""The folder of a study: runs with several seeds, and one table of them."""

import json

import numpy as np

from keras_resnet import plots
from keras_resnet.training import write_atomically

from .files import HISTORIES, read_history, read_result
from .report import mean_and_deviation, percent, show, table


def result_lines(study, nets=("",)):
    """Return the result lines in a study, including earlier commands.

    Args:
        study: `Run`, or path, of the study's folder.
        nets: Names of the folders that each seed has. Defaults to one run for
            each seed, in the folder of the seed itself.

    Returns:
        Dictionary from pairs of seed and net to result lines, in the order of
        the seeds. Seeds that lack a net are left out.
    """
    names = [path.name for path in (study / "").glob("seed*")]
    numbers = [name.removeprefix("seed") for name in names]
    lines = {}
    for seed in sorted(int(number) for number in numbers if number.isdigit()):
        paths = [study / f"seed{seed}" / net / "result.json" for net in nets]
        if all(path.exists() for path in paths):
            for net, path in zip(nets, paths, strict=True):
                lines[seed, net] = read_result(path)
    return lines


def leave(study, lines, text):
    """Write a study's table and its result lines to its folder."""
    write_atomically(study / "table.md", text)
    named = {
        f"seed{seed}-{net}".rstrip("-"): line
        for (seed, net), line in lines.items()
    }
    write_atomically(study / "results.json", json.dumps(named) + "\n")
    show(f"\n{text}Everything is in {study / ''}")


def style(label, plain):
    """Return label and colour of a net, for plots."""
    return {"label": label, "color": plots.PLAIN if plain else plots.RESIDUAL}


def curves_over_seeds(histories, names):
    """Return histories of runs that differ in their seed, for plots.

    Each of the names has an array `(iterations, seeds)`.
    """
    return {"iterations": histories[0]["iterations"]} | {
        name: np.stack([h[name] for h in histories], axis=-1) for name in names
    }


def summarize(settings, study):
    """Write table, result lines and curves of a net's runs to their `Run`."""
    lines = result_lines(study)
    seeds = [seed for seed, _ in lines]
    errors = {
        f"{which} error": [line[f"{which}_error"] for line in lines.values()]
        for which in ("training", "validation", "test")
        if f"{which}_error" in next(iter(lines.values()))
    }
    rows = [
        [seed, *map(percent, row)]
        for seed, *row in zip(seeds, *errors.values(), strict=True)
    ]
    means = [
        mean_and_deviation([100 * error for error in column], "%")
        for column in errors.values()
    ]
    rows.append(["mean ± standard deviation", *means])
    text = table(["seed", *errors], rows)
    caption = f"{settings.label}, {settings.caption(*seeds)}."
    leave(study, lines, f"{text}\n\n{caption}\n")
    name = HISTORIES[bool(settings.every)]
    histories = [read_history(study / f"seed{s}" / name) for s in seeds]
    plots.draw(
        study / "curves.png",
        plots.learning_curves,
        [
            style(settings.label, settings.plain)
            | curves_over_seeds(histories, ("error", "val_error"))
        ],
        caption=f"{caption} Mean and one standard deviation.",
    )
