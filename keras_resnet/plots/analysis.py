"""Responses, gradients, growth, lesions, paths and explanations."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_resnet.plots.style import (
    RESIDUAL,
    finish,
    label_ends,
    look,
    marker,
    subplots,
)
from keras_resnet.table1 import stage_and_block
from keras_resnet.types import Rows

if TYPE_CHECKING:
    from keras_resnet.analysis import PathGradients


def layer_responses(series: Rows, caption: str | None = None) -> Figure:
    """Draw deviations of layer responses, in order and sorted.

    The means are dotted. The title compares the lowest mean with the highest.

    Args:
        series: List of dictionaries with `label`, `color` and `std`, an array
            from `keras_resnet.analysis.layer_responses`.
        caption: String, optional.

    Reference: He et al. 2015, figure 7.
    """
    figure, panels = subplots(8, 6, caption, rows=2)
    means = [float(np.mean(one["std"])) for one in series]
    for axes, how in ((panels[0, 0], "layer (in order)"), (panels[1, 0], None)):
        for i, (one, mean) in enumerate(zip(series, means, strict=True)):
            std = np.asarray(one["std"])
            _by_layer(axes, i, one, std if how else np.sort(std)[::-1])
            axes.hlines(
                mean, 1, len(std), color=one["color"], linestyle=":", zorder=1
            )
        for line, mean in zip(axes.lines, means, strict=True):
            line.set_label(f"{line.get_label()}, mean {mean:.2f}")
        axes.set_xlabel(how or "layer (sorted by the deviation)")
        axes.set_ylabel("deviation of the response")
        axes.set_ylim(bottom=0)
        finish(axes)
    if len(series) > 1:
        low, high = int(np.argmin(means)), int(np.argmax(means))
        less = 100 * (1 - means[low] / means[high])
        figure.suptitle(
            f"mean response of {series[low]['label']}: {less:.0f} % below that "
            f"of {series[high]['label']}",
            fontsize=11,
        )
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
            array from `keras_resnet.analysis.gradient_norms`.
        caption: String, optional.
    """
    figure, [[axes]] = subplots(7, 4.2, caption)
    for i, one in enumerate(series):
        _by_layer(axes, i, one, one["norms"])
    _gradient_axes(axes)
    finish(axes)
    widest = max(series, key=lambda one: _spread(one["norms"]))
    axes.set_title(
        f"{widest['label']}: gradient norms differ "
        f"{_spread(widest['norms']):,.0f}-fold between layers",
        fontsize=10,
    )
    return figure


def _spread(norms: np.ndarray) -> float:
    """Return the largest norm of a layer divided by the smallest."""
    return float(np.max(norms) / np.min(norms))


def _gradient_axes(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("layer (1: the stem)")
    axes.set_ylabel("gradient norm of the layer's kernel")


def gradient_flow(series: Rows, caption: str | None = None) -> Figure:
    """Draw the gradient norm of each layer in the course of a training.

    Each network has a panel, and all panels have the same vertical axis. The
    first step is dashed, the middle one dotted, and the last one bold.

    Args:
        series: List of dictionaries with `label`, `color`, `steps` (`n`) and
            `norms` `(n, layers)`, from
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
        last = len(one["steps"]) - 1
        styles = {
            0: {"color": "black", "linestyle": "--", "linewidth": 1.3},
            last // 2: {"color": "#777777", "linestyle": ":", "linewidth": 1.6},
            last: {"color": one["color"], "linestyle": "-", "linewidth": 2.4},
        }
        for i, style in styles.items():
            axes.plot(
                np.arange(1, len(one["norms"][i]) + 1),
                one["norms"][i],
                label=f"step {one['steps'][i]:,}",
                **style,
            )
        _gradient_axes(axes)
        spreads = (_spread(one["norms"][i]) for i in (0, last))
        first, end = (f"{x:,.{int(x < 10)}f}" for x in spreads)
        axes.set_title(
            f"{one['label']}: {first}-fold between layers at first,\n"
            f"{end}-fold at the end",
            fontsize=9.5,
        )
        axes.tick_params(labelleft=True)
        finish(axes)
    return figure


def identity_property(series: Rows, caption: str | None = None) -> Figure:
    """Draw how much outputs change when a network is grown.

    Lines of the first networks are wider, so that equal lines stay visible.

    Args:
        series: List of dictionaries with `label`, `color`, `added`, `zero`
            and `random`, from `keras_resnet.analysis.identity_property`.
        caption: String, optional.
    """
    figure, [[axes]] = subplots(7, 4.2, caption)
    # A purely logarithmic axis has no place for zero.
    axes.set_yscale("symlog", linthresh=1e-8)
    for i, one in enumerate(series):
        above = len(series) - 1 - i
        for key, what, style in (
            ("zero", "identities", "-"),
            ("random", "random weights", ":"),
        ):
            axes.plot(
                one["added"],
                one[key],
                color=one["color"],
                linestyle=style,
                linewidth=1.8 + 3.5 * above,
                marker=marker(i),
                markersize=6 + 5 * above,
                label=f"{one['label']}, {what}",
            )
    axes.set_xlabel("blocks added")
    axes.set_xticks(sorted({n for one in series for n in one["added"]}))
    axes.set_ylabel("largest change of an output")
    axes.set_ylim(bottom=-4e-9)
    axes.yaxis.set_major_locator(
        ticker.FixedLocator([0, *(10.0**k for k in range(-8, 9, 2))])
    )
    axes.minorticks_off()
    finish(axes, legend=False)
    label_ends(axes)
    zero, random = (
        max(float(np.max(one[key])) for one in series)
        for key in ("zero", "random")
    )
    axes.set_title(
        f"Added identities change outputs by at most {zero:.1g}, random "
        f"weights by up to {random:,.0f}",
        fontsize=10,
    )
    return figure


RESHAPING = {"markerfacecolor": "white", "markeredgewidth": 1.5}
CHANGES_SHAPE = "a block that changes the shape"


def deleted_blocks(series: Rows, caption: str | None = None) -> Figure:
    """Draw the error after deleting each block, one at a time.

    Blocks that change the shape are hollow.

    Args:
        series: List of dictionaries with `label`, `color`, `names`, `error`,
            `baseline` and `reshaping`, from
            `keras_resnet.analysis.delete_each_block`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 3.
    """
    names = sorted(
        {name for one in series for name in one["names"]}, key=stage_and_block
    )
    figure, [[axes]] = subplots(max(6.4, 0.24 * len(names) + 2), 4.2, caption)
    titles = []
    for i, one in enumerate(series):
        style = look(i, one)
        label = one["label"]
        error = 100 * np.asarray(one["error"])
        places = np.array([names.index(name) for name in one["names"]])
        reshaping = np.asarray(one["reshaping"], bool)
        for chosen, what, more in (
            (~reshaping, "a block", {}),
            (reshaping, CHANGES_SHAPE, RESHAPING),
        ):
            if chosen.any():
                axes.plot(
                    places[chosen],
                    error[chosen],
                    **style
                    | {"linestyle": "", "label": f"{label} without {what}"}
                    | more,
                )
        axes.axhline(
            100 * one["baseline"],
            linewidth=1,
            **style | {"marker": "", "label": f"{label}, whole"},
        )
        titles.append(
            f"{label}: {100 * one['baseline']:.1f} % wrong; without one block "
            f"{np.median(error):.1f} % (median)"
        )
    axes.set_title("\n".join(titles), fontsize=10)
    axes.set_xticks(
        range(len(names)),
        [f"{stage}.{block}" for stage, block in map(stage_and_block, names)],
        rotation=90 if len(names) > 12 else 0,
        fontsize=8,
    )
    axes.set_xlabel("deleted block (stage.block)")
    axes.set_ylabel("test error (%)")
    # Leave room for the legend.
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    finish(axes)
    return figure


def lesion_study(series: Rows, caption: str | None = None) -> Figure:
    """Draw the error against the blocks deleted, and against their order.

    A point is a random choice of blocks. It is hollow if a deleted block
    changes the shape. The line is the mean of the points.

    Args:
        series: List of dictionaries with `label`, `color`, `deleted` and
            `swapped`, from `keras_resnet.analysis.delete_blocks` and
            `swap_blocks`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 5.
    """
    figure, [panels] = subplots(9, 4.2, caption, columns=2, sharey=True)
    titles = []
    for i, one in enumerate(series):
        deleted, swapped = one["deleted"], one["swapped"]
        style = look(i, one) | {"label": None}
        points = style | {"linestyle": "", "markersize": 4.5}
        error = 100 * deleted.error
        mean = error.mean(axis=-1)
        title = f"{one['label']}: {mean[0]:.0f} % wrong"
        if mean.max() >= 50:
            enough = deleted.counts[np.argmax(mean >= 50)]
            title += f", over 50 % with {enough} blocks deleted"
        titles.append(title)
        panels[0].plot(
            deleted.counts,
            mean,
            **style | {"marker": "", "label": f"{one['label']}, mean"},
        )
        counts = np.broadcast_to(deleted.counts[:, None], error.shape)
        for chosen, label, more in (
            (~deleted.reshaping, "a choice of blocks", {}),
            (deleted.reshaping, f"with {CHANGES_SHAPE}", RESHAPING),
        ):
            panels[0].plot(
                counts[chosen],
                error[chosen],
                **points | {"label": label} | more,
            )
        panels[1].plot(
            swapped.correlation.ravel(),
            100 * swapped.error.ravel(),
            alpha=0.7,
            **points | {"label": one["label"]},
        )
    panels[0].set_title("\n".join(titles), fontsize=10)
    panels[0].set_xlabel("blocks deleted")
    panels[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panels[0].set_ylabel("test error (%)")
    panels[1].set_title("blocks swapped with equal ones", fontsize=10)
    panels[1].set_xlabel("rank correlation of the new order (1: unchanged)")
    panels[1].invert_xaxis()
    for axes in panels:
        axes.tick_params(labelleft=True)
        axes.set_ylim(bottom=0)
        # The dot of a lone entry would look like one of the points.
        finish(axes, legend=axes is panels[0] or len(series) > 1)
    return figure


def path_lengths(
    lengths: np.ndarray,
    share: np.ndarray,
    gradients: "PathGradients",
    caption: str | None = None,
) -> Figure:
    """Draw the lengths of paths, and the gradients that they carry.

    Args:
        lengths: Array of path lengths, from
            `keras_resnet.analysis.path_lengths`.
        share: Array of the share of paths with each length, from the same.
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


def explanation(
    image: np.ndarray,
    places: np.ndarray,
    attributions: np.ndarray,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw an image, and the parts of it that support a class.

    Args:
        image: `(rows, columns, channels)` array of pixels, 0 to 255.
        places: `(rows, columns)` array, from `keras_resnet.analysis.grad_cam`.
        attributions: `(rows, columns, channels)` array, from
            `keras_resnet.analysis.integrated_gradients`.
        title: String, optional.
        caption: String, optional.
    """
    figure, [panels] = subplots(9, 3.4, caption, columns=3)
    pixels = np.clip(np.asarray(image), 0, 255).astype("uint8").squeeze()
    sums = np.asarray(attributions).sum(axis=-1)
    # A few extreme pixels at edges would make all others grey.
    most = np.quantile(np.abs(sums), 0.99) or 1
    for axes, name in zip(
        panels,
        ("image", "Grad-CAM", "integrated gradients (blue: for, red: against)"),
        strict=True,
    ):
        axes.set_title(name, fontsize=9)
        axes.axis("off")
        if name == "image":
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    panels[1].imshow(pixels, cmap="gray", vmin=0, vmax=255)
    heat = np.asarray(places) / (np.max(places) or 1)
    panels[1].imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
    panels[2].imshow(sums, cmap="RdBu", vmin=-most, vmax=most)
    if title:
        # A "$" in the name of a class begins no formula.
        figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def deletion_curves(
    shares: np.ndarray, series: Rows, caption: str | None = None
) -> Figure:
    """Draw a class's probability as an image's pixels are removed.

    The legend has the mean probability of each curve.

    Args:
        shares: `(n,)` array, the shares of the pixels that are removed.
        series: List of dictionaries with `label`, `color` and `probability`,
            `(images, n)` from `keras_resnet.analysis.deletion_curve`.
        caption: String, optional.

    Reference: Petsiuk et al. 2018, "RISE", section 4.3.
    """
    figure, [[axes]] = subplots(7, 4, caption)
    for i, one in enumerate(series):
        mean = 100 * np.asarray(one["probability"]).mean(axis=0)
        axes.plot(100 * np.asarray(shares), mean, **look(i, one))
        axes.lines[-1].set_label(f"{one['label']}, mean {mean.mean():.0f} %")
    axes.set_xlabel("pixels replaced, the most important first (%)")
    axes.set_ylabel("probability of the class (%)")
    axes.set_ylim(0, 100)
    finish(axes)
    return figure
