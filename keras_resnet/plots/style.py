"""Style of all figures: colours, lines, captions, files."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_resnet.atomic import replacing
from keras_resnet.types import PathLike

# Okabe and Ito's colours, which colour-blind readers can tell apart. Residual
# and plain nets have the same colours in every figure.
RESIDUAL = "#0072B2"
PLAIN = "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines differ by more than colour.
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")


def shade(color: str, share: float) -> tuple[float, ...]:
    """Return a colour mixed with white: 0 is light, 1 the colour itself."""
    rgb = np.array(colors.to_rgb(color))
    return tuple(1 - (0.35 + 0.65 * share) * (1 - rgb))


def save(figure: Figure, path: PathLike) -> None:
    """Save a figure so that `path` holds the old picture or the new one.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: Path of the file, with the suffix of a picture.
    """
    with replacing(path) as partial:
        figure.savefig(partial)


def marker(i: int) -> str:
    """Return the marker of series `i`."""
    return MARKERS[i % len(MARKERS)]


def look(i: int, one: Mapping[str, Any]) -> dict[str, Any]:
    """Return how series `i` is drawn, as arguments of `Axes.plot`."""
    return {
        "color": one["color"],
        "linestyle": STYLES[i % len(STYLES)],
        "marker": marker(i),
        "label": one["label"],
    }


def subplots(
    width: float,
    height: float,
    caption: str | None,
    rows: int = 1,
    columns: int = 1,
    **kwargs: Any,
) -> tuple[Figure, np.ndarray]:
    """Return a figure with a caption below it, and its array of axes."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    if caption:
        figure.supxlabel(
            "\n".join(textwrap.wrap(caption, int(15.5 * width))),
            fontsize=7.5,
            x=0.01,
            horizontalalignment="left",
        )
    return figure, axes


def finish(axes: Axes, legend: bool = True) -> None:
    """Give axes a grid, two spines and a legend."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    values: np.ndarray,
    color: str | tuple[float, ...],
    **kwargs: Any,
) -> None:
    """Draw the mean over the last axis and a band of one deviation."""
    values = np.asarray(values, "float64").reshape(len(x), -1)
    mean = values.mean(axis=-1)
    axes.plot(x, mean, color=color, **kwargs)
    if values.shape[-1] > 1:
        std = values.std(axis=-1, ddof=1)
        axes.fill_between(
            x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0
        )
