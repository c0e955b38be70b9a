"""Searches: errors by learning rate, and all values in parallel."""

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.figure import Figure

from keras_resnet.plots.style import (
    MARKERS,
    OTHERS,
    finish,
    subplots,
)
from keras_resnet.types import Rows


def learning_rate_errors(trials: Rows, caption: str | None = None) -> Figure:
    """Draw validation error against learning rate, one colour per depth.

    Failed trials are crosses at the upper edge.

    Args:
        trials: List of dictionaries with `learning_rate`, `depth` and
            `val_error` (a fraction, absent or `None` in a failed trial).
        caption: String, optional.
    """
    figure, [[axes]] = subplots(6.4, 4.4, caption)
    depths = sorted({trial["depth"] for trial in trials})
    for depth, color, marker in zip(
        depths, _shades(len(depths)), itertools.cycle(MARKERS), strict=False
    ):
        here = [t for t in trials if t["depth"] == depth]
        done = [t for t in here if t.get("val_error") is not None]
        failed = [t for t in here if t.get("val_error") is None]
        points = sorted((t["learning_rate"], t["val_error"]) for t in done)
        axes.plot(
            [rate for rate, _ in points],
            [100 * error for _, error in points],
            color=color,
            marker=marker,
            markeredgecolor="white",
            markersize=8,
            linestyle="",
            label=f"depth {depth}",
        )
        axes.plot(
            [t["learning_rate"] for t in failed],
            [0.97] * len(failed),
            color=color,
            marker="x",
            markersize=8,
            markeredgewidth=2,
            linestyle="",
            transform=axes.get_xaxis_transform(),
            label=f"depth {depth}, failed" if failed else None,
        )
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation error (%)")
    axes.margins(y=0.15)
    finish(axes)
    return figure


def parallel_coordinates(
    columns: Mapping[str, Sequence[float | str]],
    errors: Sequence[float],
    log: Sequence[str] = (),
    caption: str | None = None,
) -> Figure:
    """Draw each trial as a line over one axis for each hyperparameter.

    The last axis is the validation error. Lines with lower errors are darker,
    and the best trial is bold, in another colour.

    Args:
        columns: Dictionary from the names of hyperparameters to lists of their
            values in each trial, numbers or strings. Strings are evenly
            spaced, and so are numbers with at most five different values.
        errors: List of floats, the fraction of errors of each trial.
        log: Names of columns with logarithmic axes. Defaults to none.
        caption: String, optional.
    """
    columns = {**columns, "validation error (%)": [100 * e for e in errors]}
    figure, [[axes]] = subplots(1.8 + 1.5 * len(columns), 4.4, caption)
    heights = []
    for x, (name, values) in enumerate(columns.items()):
        places, ticks = _axis(values, name in log, x == len(columns) - 1)
        heights.append(places)
        axes.axvline(x, color="black", linewidth=0.8)
        for place, text in ticks:
            axes.plot([x - 0.015, x + 0.015], [place] * 2, color="black")
            axes.text(
                x + 0.03,
                place,
                text,
                fontsize=8,
                verticalalignment="center",
                zorder=4,
                bbox={"color": "white", "alpha": 0.7, "pad": 0.5},
            )
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    shades = _shades(len(order))
    for rank, trial in enumerate(order):
        bold = rank == len(order) - 1
        axes.plot(
            range(len(heights)),
            [places[trial] for places in heights],
            color=OTHERS[2] if bold else shades[rank],
            linewidth=3 if bold else 1.3,
            label="lowest error" if bold else None,
        )
    axes.set_xticks(
        range(len(columns)), [name.replace("_", " ") for name in columns]
    )
    axes.set_xlim(-0.15, len(columns) - 0.65)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False)
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1)
    )
    return figure


def _axis(
    values: Sequence, log: bool, continuous: bool
) -> tuple[list[float], list[tuple[float, str]]]:
    """Return places from 0 to 1 of values, and ticks: places and texts."""
    kinds = sorted(set(values))
    n = len(kinds)
    if isinstance(kinds[0], str) or (n <= 5 and not log and not continuous):
        places = {
            kind: i / (n - 1) if n > 1 else 0.5 for i, kind in enumerate(kinds)
        }
        ticks = [(place, str(kind)) for kind, place in places.items()]
        return [places[v] for v in values], ticks
    scale = math.log10 if log else float
    low, high = scale(kinds[0]), scale(kinds[-1])
    width = (high - low) or 1.0
    ticks = []
    for share in (0, 0.25, 0.5, 0.75, 1) if n > 1 else (0,):
        value = low + share * width
        ticks.append((share, f"{10**value if log else value:.3g}"))
    return [(scale(v) - low) / width for v in values], ticks


def _shades(n: int) -> list[tuple[float, ...]]:
    """Return `n` colours from light to dark, distinct in grey too."""
    return [
        colormaps["viridis_r"](0.15 + 0.8 * i / max(n - 1, 1)) for i in range(n)
    ]
