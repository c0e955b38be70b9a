"""The folder of a study: runs with several seeds, and one table of them."""

import json

import numpy as np

from keras_resnet import plots
from keras_resnet.training import write_atomically

from .files import HISTORIES, read_history, read_result
from .report import mean_and_deviation, percent, table

ERRORS = ("training", "validation", "test")


def run_folder(study, seed, net=""):
    """Return the folder of a run in a study."""
    return study / f"seed{seed}" / net


def result_lines(study, nets=("",)):
    """Return the result lines in a study, those of earlier commands too.

    Args:
        study: `Run`, or path, of the study's folder.
        nets: Names of the folders that each seed has. Defaults to one run for
            each seed, in the folder of the seed itself.

    Returns:
        Dictionary from pairs of seed and net to result lines, of the seeds
        that have all nets, in the order of the seeds.
    """
    seeds = sorted(
        int(folder.name.removeprefix("seed"))
        for folder in (study / "").glob("seed*")
        if folder.name.removeprefix("seed").isdigit()
    )
    paths = {
        seed: [run_folder(study, seed, net) / "result.json" for net in nets]
        for seed in seeds
    }
    return {
        (seed, net): read_result(path)
        for seed, files in paths.items()
        if all(path.exists() for path in files)
        for net, path in zip(nets, files, strict=True)
    }


def leave(study, lines, text):
    """Leave a study's table and its result lines in its folder."""
    write_atomically(study / "table.md", text)
    named = {
        f"seed{seed}-{net}".rstrip("-"): line
        for (seed, net), line in lines.items()
    }
    write_atomically(study / "results.json", json.dumps(named) + "\n")
    print(f"\n{text}Everything is in {study / ''}")


def curves_over_seeds(histories, names):
    """Return the histories of runs that differ in their seed, stacked.

    Args:
        histories: List of dictionaries of `read_history`.
        names: Sequence of the names to stack.

    Returns:
        Dictionary with `iterations`, a list, and an array `(iterations,
        seeds)` for each name, as `keras_resnet.plots` takes them.
    """
    return {"iterations": histories[0]["iterations"]} | {
        name: np.stack([h[name] for h in histories], axis=-1) for name in names
    }


def summarize(settings, study):
    """Leave table, result lines and learning curves of one net's runs.

    Args:
        settings: The settings of the command.
        study: `Run` of its folder.
    """
    lines = result_lines(study)
    seeds = [seed for seed, _ in lines]
    known = [e for e in ERRORS if f"{e}_error" in next(iter(lines.values()))]
    rows = [
        [seed, *(percent(line[f"{e}_error"]) for e in known)]
        for (seed, _), line in lines.items()
    ]
    means = [
        mean_and_deviation(
            [100 * line[f"{e}_error"] for line in lines.values()], "%"
        )
        for e in known
    ]
    head = ["seed", *(f"{e} error" for e in known)]
    text = table(head, [*rows, ["mean ± standard deviation", *means]])
    caption = f"{settings.label}, {settings.caption(*seeds)}."
    leave(study, lines, f"{text}\n\n{caption}\n")
    history = HISTORIES[1 if settings.every else 0]
    histories = [read_history(run_folder(study, s) / history) for s in seeds]
    figure = plots.learning_curves(
        [
            {
                "label": settings.label,
                "color": plots.PLAIN if settings.plain else plots.RESIDUAL,
            }
            | curves_over_seeds(histories, ("error", "val_error"))
        ],
        caption=f"{caption} Mean and one standard deviation.",
    )
    plots.save(figure, study / "curves.png")
