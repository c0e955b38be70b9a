"""Searches: errors by learning rate, and parallel coordinates."""

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib import colormaps, ticker
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

    The last axis is the validation error. Lines with lower errors are darker.
    The best trial is bold and in another colour, and the title has its values.

    Args:
        columns: Dictionary from the names of hyperparameters to lists of their
            values in each trial, numbers or strings. Strings are evenly
            spaced, and so are numbers with at most five different values.
        errors: List of floats, the fraction of errors of each trial.
        log: Names of columns with logarithmic axes. Defaults to none.
        caption: String, optional.
    """
    columns = {**columns, "validation error (%)": [100 * e for e in errors]}
    figure, [[axes]] = subplots(2.4 + 1.9 * len(columns), 4.4, caption)
    last = len(columns) - 1
    heights = []
    for x, (name, values) in enumerate(columns.items()):
        places, ticks = _axis(values, name in log, x == last)
        heights.append(places)
        axes.axvline(x, color="black", linewidth=0.8)
        # Texts are outside the first and last axis, and over the lines between.
        side = 1 if x == last else -1
        for place, text in ticks:
            axes.plot([x, x + 0.02 * side], [place] * 2, color="black")
            axes.text(
                x + 0.035 * side,
                place,
                text,
                fontsize=9,
                verticalalignment="center",
                horizontalalignment="left" if side > 0 else "right",
                zorder=4,
                bbox={"color": "white", "pad": 1},
            )
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    shades = _shades(len(order))
    for rank, trial in enumerate(order):
        style = {"color": shades[rank], "linewidth": 1.3, "label": None}
        if rank in (0, len(order) // 2):
            style["label"] = f"error {100 * errors[trial]:.1f} %"
        if rank == len(order) - 1:
            style = {"color": OTHERS[2], "linewidth": 3.5, "marker": "o"}
            style["label"] = f"lowest error, {100 * errors[trial]:.1f} %"
        y = [places[trial] for places in heights]
        axes.plot(range(len(heights)), y, **style)
    axes.set_xticks(
        range(len(columns)), [name.replace("_", " ") for name in columns]
    )
    axes.set_xlim(-0.25, last + 0.25)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False)
    best = ", ".join(
        f"{name.replace('_', ' ')} {_text(values[order[-1]])}"
        for name, values in [*columns.items()][:last]
    )
    figure.suptitle(f"the lowest error has {best}", fontsize=10)
    axes.legend(
        frameon=False,
        fontsize=8.5,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=3,
    )
    return figure


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _axis(
    values: Sequence, log: bool, continuous: bool
) -> tuple[list[float], list[tuple[float, str]]]:
    """Return places from 0 to 1 of values, and ticks: places and texts.

    An axis ends at its lowest and its highest value. Ticks are round numbers.
    """
    kinds = sorted(set(values))
    n = len(kinds)
    if isinstance(kinds[0], str) or (n <= 5 and not log and not continuous):
        places = {
            kind: i / (n - 1) if n > 1 else 0.5 for i, kind in enumerate(kinds)
        }
        ticks = [(place, _text(kind)) for kind, place in places.items()]
        return [places[v] for v in values], ticks
    scale = math.log10 if log else float
    low, high = scale(kinds[0]), scale(kinds[-1])
    width = (high - low) or 1.0
    if n == 1:
        return [0.0 for _ in values], [(0, _text(kinds[0]))]
    rounds = (
        ticker.LogLocator(subs=(1, 2, 5))
        if log
        else ticker.MaxNLocator(6, steps=[1, 2, 5, 10])
    )
    ticks = [
        ((scale(value) - low) / width, _text(value))
        for value in rounds.tick_values(kinds[0], kinds[-1])
        if kinds[0] <= value <= kinds[-1]
    ]
    if len(ticks) < 2:
        ticks = [(0, _text(kinds[0])), (1, _text(kinds[-1]))]
    return [(scale(v) - low) / width for v in values], ticks


def _shades(n: int) -> list[tuple[float, ...]]:
    """Return `n` colours from light to dark, distinct in grey too."""
    return [
        colormaps["viridis_r"](0.15 + 0.8 * i / max(n - 1, 1)) for i in range(n)
    ]
