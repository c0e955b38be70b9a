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


def save(
    figure: Figure, path: PathLike, metadata: dict[str, str] | None = None
) -> None:
    """Save a figure so that `path` holds the old picture or the new one.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: Path of the file, with the suffix of a picture.
        metadata: Dictionary of texts to store in the file. Defaults to none.
    """
    with replacing(path) as partial:
        figure.savefig(partial, metadata=metadata)


def marker(i: int) -> str:
    """Return the marker of series `i`."""
    return MARKERS[i % len(MARKERS)]


def look(i: int, one: Mapping[str, Any]) -> dict[str, Any]:
    """Return the style of series `i`, as arguments of `Axes.plot`."""
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
    """Draw the mean over the last axis and a band of one standard deviation."""
    values = np.asarray(values, "float64").reshape(len(x), -1)
    mean = values.mean(axis=-1)
    axes.plot(x, mean, color=color, **kwargs)
    if values.shape[-1] > 1:
        std = values.std(axis=-1, ddof=1)
        axes.fill_between(
            x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0
        )


def label_ends(axes: Axes, height: float = 0.065) -> None:
    """Write the label of each line beside its right end, without a legend.

    Labels that would overlap are moved apart, and a thin line leads to each.
    Call this function after the limits of the axes are final.

    Args:
        axes: Axes whose lines have labels.
        height: Height of a label, as a share of the height of the axes.
    """
    lines = [x for x in axes.lines if not str(x.get_label()).startswith("_")]
    ends = [np.asarray(line.get_xydata())[-1] for line in lines]
    axes.autoscale_view()
    # From data to shares of the axes, linear or logarithmic.
    to_share = axes.transScale + axes.transLimits
    wanted = np.array([to_share.transform(end)[1] for end in ends])
    order = np.argsort(wanted, kind="stable")
    places = _apart(wanted[order], height)
    for i, place in zip(order, places, strict=True):
        color = lines[i].get_color()
        axes.annotate(
            str(lines[i].get_label()),
            ends[i],
            (1.04, place),
            textcoords="axes fraction",
            color=color,
            fontsize=9,
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6},
            annotation_clip=False,
        )


def _apart(wanted: np.ndarray, height: float) -> np.ndarray:
    """Return places near the wanted ones, ascending, at least `height` apart.

    Neighbours that are too close form a group, centred on their wanted places.
    """
    steps = height * np.arange(len(wanted))
    groups: list[list[float]] = []
    for place in wanted - steps:
        groups.append([place])
        while len(groups) > 1 and np.mean(groups[-2]) > np.mean(groups[-1]):
            last = groups.pop()
            groups[-1] += last
    return steps + np.repeat(
        [np.mean(group) for group in groups], [len(group) for group in groups]
    )
