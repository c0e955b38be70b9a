"""Responses, gradients, growth, lesions and paths."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_resnet.plots.style import (
    RESIDUAL,
    band,
    finish,
    look,
    marker,
    shade,
    subplots,
)
from keras_resnet.table1 import stage_and_block
from keras_resnet.types import Rows

if TYPE_CHECKING:
    from keras_resnet.analysis import PathGradients


def layer_responses(series: Rows, caption: str | None = None) -> Figure:
    """Draw deviations of layer responses, in order and sorted.

    Args:
        series: List of dictionaries with `label`, `color` and `std`, an array
            as of `keras_resnet.analysis.layer_responses`.
        caption: String, optional.

    Reference: He et al. 2015, figure 7.
    """
    figure, panels = subplots(7.5, 6, caption, rows=2)
    for axes, how in ((panels[0, 0], "layer (in order)"), (panels[1, 0], None)):
        for i, one in enumerate(series):
            std = np.asarray(one["std"])
            _by_layer(axes, i, one, std if how else np.sort(std)[::-1])
        axes.set_xlabel(how or "layer (sorted by the deviation)")
        axes.set_ylabel("deviation of the response")
        axes.set_ylim(bottom=0)
        finish(axes)
    return figure


def _by_layer(
    axes: Axes, i: int, one: Mapping[str, Any], values: np.ndarray
) -> None:
    layers = np.arange(1, len(values) + 1)
    axes.plot(layers, values, markersize=3, linewidth=1.2, **look(i, one))


def gradient_norms(series: Rows, caption: str | None = None) -> Figure:
    """Draw the gradient norm of each layer, from the stem to the head.

    Args:
        series: List of dictionaries with `label`, `color` and `norms`, an
            array as of `keras_resnet.analysis.gradient_norms`.
        caption: String, optional.
    """
    figure, [[axes]] = subplots(6.4, 4.2, caption)
    for i, one in enumerate(series):
        _by_layer(axes, i, one, one["norms"])
    _gradient_axes(axes)
    finish(axes)
    return figure


def _gradient_axes(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("layer (1: the stem)")
    axes.set_ylabel("gradient norm of the layer's kernel")


def gradient_flow(series: Rows, caption: str | None = None) -> Figure:
    """Draw the gradient norm of each layer at several moments of training.

    Each network has a panel, and all panels have the same axis. The line at
    initialization is dashed. Lines darken from the first moment to the last.

    Args:
        series: List of dictionaries with `label`, `color`, `steps` (`n`) and
            `norms` `(n, layers)`, as of
            `keras_resnet.analysis.read_gradient_flow`.
        caption: String, optional.
    """
    columns = min(2, len(series))
    rows = -(-len(series) // columns)
    figure, grid = subplots(
        4.8 * columns, 3.5 * rows + 0.4, caption, rows, columns, sharey=True
    )
    for axes in grid.flat[len(series) :]:
        axes.axis("off")
    for axes, one in zip(grid.flat, series, strict=False):
        n = len(one["steps"])
        # Five moments at most, because more could not be told apart.
        shown = sorted({round(i) for i in np.linspace(0, n - 1, min(n, 5))})
        for rank, i in enumerate(shown):
            axes.plot(
                np.arange(1, len(one["norms"][i]) + 1),
                one["norms"][i],
                color=shade(one["color"], rank / max(1, len(shown) - 1)),
                linestyle="--" if one["steps"][i] == 0 else "-",
                marker=marker(rank),
                markersize=2.5,
                linewidth=1.2,
                label=f"step {one['steps'][i]:,}",
            )
        _gradient_axes(axes)
        axes.set_title(one["label"], fontsize=10)
        axes.tick_params(labelleft=True)
        finish(axes)
    return figure


def identity_property(series: Rows, caption: str | None = None) -> Figure:
    """Draw how much outputs change when a network is grown.

    Args:
        series: List of dictionaries with `label`, `color`, `added`, `zero`
            and `random`, as of `keras_resnet.analysis.identity_property`.
        caption: String, optional.
    """
    figure, [[axes]] = subplots(6, 4.2, caption)
    # A purely logarithmic axis has no place for zero.
    axes.set_yscale("symlog", linthresh=1e-8)
    for i, one in enumerate(series):
        for key, what, style in (
            ("zero", "identities", "-"),
            ("random", "random weights", ":"),
        ):
            axes.plot(
                one["added"],
                one[key],
                color=one["color"],
                linestyle=style,
                marker=marker(i),
                label=f"{one['label']}, {what}",
            )
    axes.set_xlabel("blocks added")
    axes.set_ylabel("largest change of an output")
    axes.set_ylim(bottom=-1e-9)
    axes.yaxis.set_major_locator(
        ticker.FixedLocator([0, *(10.0**k for k in range(-8, 9, 2))])
    )
    axes.minorticks_off()
    finish(axes)
    return figure


def deleted_blocks(series: Rows, caption: str | None = None) -> Figure:
    """Draw the error after deleting each block, one at a time.

    Args:
        series: List of dictionaries with `label`, `color`, `names`, `error`
            and `baseline`, as of `keras_resnet.analysis.delete_each_block`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 3.
    """
    names = sorted(
        {name for one in series for name in one["names"]}, key=stage_and_block
    )
    figure, [[axes]] = subplots(max(5.6, 0.24 * len(names) + 2), 4.2, caption)
    for i, one in enumerate(series):
        style = look(i, one)
        axes.plot(
            [names.index(name) for name in one["names"]],
            100 * np.asarray(one["error"]),
            **style
            | {"linestyle": "", "label": f"{one['label']}, a block deleted"},
        )
        axes.axhline(
            100 * one["baseline"],
            linewidth=1,
            **style | {"marker": "", "label": f"{one['label']}, whole"},
        )
    axes.set_xticks(
        range(len(names)),
        [f"{stage}.{block}" for stage, block in map(stage_and_block, names)],
        rotation=90 if len(names) > 12 else 0,
        fontsize=8,
    )
    axes.set_xlabel("deleted block (stage.block)")
    axes.set_ylabel("test error (%)")
    axes.set_ylim(bottom=0)
    finish(axes)
    return figure


def lesion_study(series: Rows, caption: str | None = None) -> Figure:
    """Draw the error against the blocks deleted, and against their order.

    Args:
        series: List of dictionaries with `label`, `color`, `deleted` and
            `swapped`, as of `keras_resnet.analysis.delete_blocks` and
            `swap_blocks`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 5.
    """
    figure, [panels] = subplots(9, 4.2, caption, columns=2, sharey=True)
    for i, one in enumerate(series):
        deleted, swapped = one["deleted"], one["swapped"]
        style = look(i, one)
        band(panels[0], deleted.counts, 100 * deleted.error, **style)
        panels[1].plot(
            swapped.correlation.ravel(),
            100 * swapped.error.ravel(),
            markersize=4,
            alpha=0.7,
            **style | {"linestyle": ""},
        )
    panels[0].set_xlabel("blocks deleted")
    panels[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panels[0].set_ylabel("test error (%)")
    panels[1].set_xlabel("rank correlation of the new order (1: unchanged)")
    panels[1].invert_xaxis()
    for axes in panels:
        axes.tick_params(labelleft=True)
        finish(axes)
    return figure


def path_lengths(
    lengths: np.ndarray,
    share: np.ndarray,
    gradients: "PathGradients",
    caption: str | None = None,
) -> Figure:
    """Draw how long paths are, and how much gradient they carry.

    Args:
        lengths: Array of path lengths, as of
            `keras_resnet.analysis.path_lengths`.
        share: Array of the share of the paths with each length, likewise.
        gradients: `keras_resnet.analysis.PathGradients`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 6.
    """
    figure, [panels] = subplots(10, 3.6, caption, columns=3)
    mean = gradients.norms.mean(axis=-1)
    panels[0].bar(lengths, 100 * share, color=RESIDUAL)
    panels[0].set_ylabel("paths of this length (%)")
    panels[1].plot(gradients.lengths, mean, color=RESIDUAL, marker="o")
    panels[1].fill_between(
        gradients.lengths,
        gradients.norms.min(axis=-1),
        gradients.norms.max(axis=-1),
        color=RESIDUAL,
        alpha=0.2,
        linewidth=0,
    )
    panels[1].set_yscale("log")
    panels[1].set_ylabel("gradient norm of one path")
    total = share[gradients.lengths] * mean
    total = 100 * total / total.sum()
    panels[2].bar(gradients.lengths, total, color=RESIDUAL)
    panels[2].set_ylabel("share of the gradient's magnitude (%)")
    for axes in panels:
        axes.set_xlabel("path length (blocks)")
        axes.set_xlim(-0.7, len(lengths) - 0.3)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        finish(axes, legend=False)
    return figure
