"""Figures, from plain arrays.

Each analysis of `keras_resnet.analysis` has its twin here. All take a
`caption`, for seeds and settings, and return a `matplotlib.figure.Figure`.
"""

import itertools
import math
import textwrap

import numpy as np
from matplotlib import colormaps, colors, ticker
from matplotlib.figure import Figure

from keras_resnet.training.atomic import replacing

# Okabe and Ito's colours, which the colour-blind can tell apart; residual
# and plain nets have theirs in every figure.
RESIDUAL = "#0072B2"
PLAIN = "#D55E00"
OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# Lines that are told apart without colour, too.
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v")


def shade(color, share):
    """Returns a colour mixed with white: 0 is light, 1 the colour itself."""
    rgb = np.array(colors.to_rgb(color))
    return tuple(1 - (0.35 + 0.65 * share) * (1 - rgb))


def save(figure, path):
    """Saves a figure so that `path` holds the old picture or the new one.

    Args:
        figure: `matplotlib.figure.Figure`.
        path: Path of the file, with the suffix of a picture.
    """
    with replacing(path) as partial:
        figure.savefig(partial)


def _marker(i):
    return MARKERS[i % len(MARKERS)]


def _style(i):
    return STYLES[i % len(STYLES)]


def _figure(width, height, caption, rows=1, columns=1, **kwargs):
    """Returns a figure with a caption below, and its axes."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    _caption(figure, caption)
    return figure, axes


def _caption(figure, caption):
    if caption:
        width = int(figure.get_figwidth() * 15.5)
        figure.supxlabel(
            "\n".join(textwrap.wrap(caption, width)),
            fontsize=7.5,
            x=0.01,
            horizontalalignment="left",
        )


def _finish(axes, legend=True):
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(frameon=False, fontsize=8)


def _band(axes, x, values, color, **kwargs):
    """Draws the mean over the last axis, and a band of one deviation."""
    values = np.asarray(values, "float64")
    if values.ndim == 1:
        values = values[:, None]
    mean = values.mean(axis=-1)
    axes.plot(x, mean, color=color, **kwargs)
    if values.shape[-1] > 1:
        std = values.std(axis=-1, ddof=1)
        axes.fill_between(
            x, mean - std, mean + std, color=color, alpha=0.2, linewidth=0
        )


def learning_curves(curves, title=None, caption=None):
    """Draws errors against iterations, as the paper's figure 6.

    Training error is thin and dashed, validation error bold; with several
    seeds the means of them, with bands of one standard deviation.

    Args:
        curves: List of dictionaries with `label`, `iterations` (`n`), `error`
            and `val_error`, fractions of shape `(n,)` or `(n, seeds)`, and
            optionally `color` and `test_error`, which is drawn as a point at
            the end.
        title: String, optional.
        caption: String, optional.

    Returns:
        A `matplotlib.figure.Figure`.

    Reference: He et al. 2015, figure 6.
    """
    figure, [[axes]] = _figure(6.4, 4.4, caption)
    palette = [RESIDUAL, *OTHERS]
    for i, curve in enumerate(curves):
        color = curve.get("color", palette[i % len(palette)])
        label = curve["label"]
        x = curve["iterations"]
        marker = "." if len(x) < 40 else ""
        for key, style, what in (
            ("error", {"linewidth": 1, "linestyle": "--"}, "training"),
            ("val_error", {"linewidth": 2}, "validation"),
        ):
            _band(
                axes,
                x,
                100 * np.asarray(curve[key], "float64"),
                color,
                marker=marker,
                label=f"{label}, {what}",
                **style,
            )
        if "test_error" in curve:
            error = 100 * curve["test_error"]
            axes.plot(
                x[-1:],
                [error],
                color=color,
                marker="D",
                markeredgecolor="white",
                linestyle="",
                label=f"{label}, test: {error:.2f} %",
                clip_on=False,
                zorder=3,
            )
    axes.set_xlabel("iterations (optimizer steps)")
    axes.set_ylabel("error (%)")
    axes.margins(y=0.15)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    if title:
        axes.set_title(title, fontsize=10)
    return figure


def step_curves(curves, caption=None):
    """Draws loss and accuracy against the step, side by side.

    Training is thin and dashed, validation bold; with several seeds the means
    of them, with bands of one standard deviation.

    Args:
        curves: List of dictionaries with `label`, `color`, `iterations`
            (`n`), and `loss`, `val_loss`, `accuracy` and `val_accuracy`, each
            `(n,)` or `(n, seeds)`.
        caption: String, optional.
    """
    figure, [panels] = _figure(9, 4.2, caption, columns=2)
    for axes, key, scale in (
        (panels[0], "loss", 1),
        (panels[1], "accuracy", 100),
    ):
        for i, curve in enumerate(curves):
            for name, what, style in (
                (key, "training", {"linewidth": 1, "linestyle": "--"}),
                (f"val_{key}", "validation", {"linewidth": 2}),
            ):
                _band(
                    axes,
                    curve["iterations"],
                    scale * np.asarray(curve[name]),
                    curve["color"],
                    marker=_marker(i),
                    markersize=3.5,
                    label=f"{curve['label']}, {what}",
                    **style,
                )
        axes.set_xlabel("steps of the optimizer")
        axes.set_xlim(left=0)
        _finish(axes)
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylabel("accuracy (%)")
    return figure


def predictions(images, labels, predicted, caption=None, columns=6):
    """Draws images with their class and what networks take them for.

    Args:
        images: `(n, rows, columns, channels)` array of pixels, 0 to 255.
        labels: `n` class names.
        predicted: Dictionary from the name of a network to a list of `n`
            pairs of a class name and its probability.
        caption: String, optional.
        columns: Integer, images in a row. Defaults to `6`.
    """
    rows = -(-len(images) // columns)
    height = rows * (1.7 + 0.2 * len(predicted)) + 0.4
    figure, grid = _figure(1.5 * columns, height, caption, rows, columns)
    for axes in grid.flat:
        axes.axis("off")
    for i, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        lines = [f"is {labels[i]}"]
        wrong = False
        for name, found in predicted.items():
            what, probability = found[i]
            right = what == labels[i]
            wrong |= not right
            mark = "" if right else "  WRONG"
            lines.append(f"{name}: {what} ({100 * probability:.0f} %){mark}")
        axes.set_title(
            "\n".join(lines), fontsize=7, fontweight="bold" if wrong else None
        )
    return figure


def degradation(curves, caption=None):
    """Draws training and validation error, plain beside residual.

    As the paper's figure 6: training error is thin and dashed, validation
    error bold; the deeper a net, the darker.

    Args:
        curves: List of dictionaries with `depth`, `plain` (boolean),
            `iterations` (`n`), `error` and `val_error`, fractions of shape
            `(n,)` or `(n, seeds)`.
        caption: String, optional.

    Reference: He et al. 2015, figures 1 and 6.
    """
    figure, [panels] = _figure(9, 4.4, caption, columns=2, sharey=True)
    depths = sorted({curve["depth"] for curve in curves})
    for curve in sorted(curves, key=lambda c: c["depth"]):
        plain = curve["plain"]
        axes = panels[0 if plain else 1]
        rank = depths.index(curve["depth"])
        color = shade(
            PLAIN if plain else RESIDUAL, (rank + 1) / max(1, len(depths))
        )
        label = f"{'plain' if plain else 'ResNet'}-{curve['depth']}"
        for key, what, style in (
            ("error", "training", {"linewidth": 1, "linestyle": "--"}),
            ("val_error", "validation", {"linewidth": 2}),
        ):
            few = len(curve["iterations"]) < 40
            _band(
                axes,
                curve["iterations"],
                100 * np.asarray(curve[key]),
                color,
                marker=_marker(rank) if few else "",
                markersize=4,
                label=f"{label}, {what}",
                **style,
            )
    panels[0].set_title("plain", fontsize=10)
    panels[1].set_title("residual", fontsize=10)
    panels[0].set_ylabel("error (%)")
    for axes in panels:
        axes.set_xlabel("iterations (steps of the optimizer)")
        axes.tick_params(labelleft=True)
        _finish(axes, legend=bool(axes.lines))
    return figure


def error_by_depth(series, ylabel="training error (%)", caption=None):
    """Draws errors at the end of training against depth.

    Args:
        series: List of dictionaries with `label`, `color`, `depths` and
            `error`, one list of fractions over seeds for each depth. Bars
            are one standard deviation.
        ylabel: String. Defaults to `"training error (%)"`.
        caption: String, optional.

    Reference: He et al. 2015, table 6.
    """
    figure, [[axes]] = _figure(5.6, 4.2, caption)
    for i, one in enumerate(series):
        errors = [100 * np.asarray(e, "float64") for e in one["error"]]
        axes.errorbar(
            one["depths"],
            [e.mean() for e in errors],
            [e.std(ddof=1) if len(e) > 1 else 0 for e in errors],
            color=one["color"],
            marker=_marker(i),
            linestyle=_style(i),
            capsize=3,
            label=one["label"],
        )
    axes.set_xlabel("depth (weighted layers)")
    axes.set_ylabel(ylabel)
    axes.set_xticks(sorted({d for one in series for d in one["depths"]}))
    _finish(axes)
    return figure


def layer_responses(series, caption=None):
    """Draws deviations of layer responses, in order and sorted.

    Args:
        series: List of dictionaries with `label`, `color` and `std`, an array
            as of `keras_resnet.analysis.layer_responses`.
        caption: String, optional.

    Reference: He et al. 2015, figure 7.
    """
    figure, panels = _figure(7.5, 6, caption, rows=2)
    for axes, how in ((panels[0, 0], "layer (in order)"), (panels[1, 0], None)):
        for i, one in enumerate(series):
            std = np.asarray(one["std"])
            if how is None:
                std = np.sort(std)[::-1]
            axes.plot(
                np.arange(1, len(std) + 1),
                std,
                color=one["color"],
                linestyle=_style(i),
                marker=_marker(i),
                markersize=3,
                linewidth=1.2,
                label=one["label"],
            )
        axes.set_xlabel(how or "layer (sorted by the deviation)")
        axes.set_ylabel("deviation of the response")
        axes.set_ylim(bottom=0)
        _finish(axes)
    return figure


def gradient_norms(series, caption=None):
    """Draws the gradient norm of each layer, from the stem to the head.

    Args:
        series: List of dictionaries with `label`, `color` and `norms`, an
            array as of `keras_resnet.analysis.gradient_norms`.
        caption: String, optional.
    """
    figure, [[axes]] = _figure(6.4, 4.2, caption)
    for i, one in enumerate(series):
        axes.plot(
            np.arange(1, len(one["norms"]) + 1),
            one["norms"],
            color=one["color"],
            linestyle=_style(i),
            marker=_marker(i),
            markersize=3,
            linewidth=1.2,
            label=one["label"],
        )
    _gradient_axes(axes)
    _finish(axes)
    return figure


def _gradient_axes(axes):
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlabel("layer (1: the stem)")
    axes.set_ylabel("gradient norm of the layer's kernel")


def gradient_flow(series, caption=None):
    """Draws the gradient norm of each layer at several moments of training.

    A panel for each network, all with the same axis. At initialization the
    line is dashed and lightest, at the end of training darkest.

    Args:
        series: List of dictionaries with `label`, `color`, `steps` (`n`) and
            `norms` `(n, layers)`, as of
            `keras_resnet.analysis.read_gradient_flow`.
        caption: String, optional.
    """
    columns = min(2, len(series))
    rows = -(-len(series) // columns)
    figure, grid = _figure(
        4.8 * columns, 3.5 * rows + 0.4, caption, rows, columns, sharey=True
    )
    for axes in grid.flat[len(series) :]:
        axes.axis("off")
    for axes, one in zip(grid.flat, series, strict=False):
        n = len(one["steps"])
        # Five moments at most: more could not be told apart.
        shown = sorted({round(i) for i in np.linspace(0, n - 1, min(n, 5))})
        for rank, i in enumerate(shown):
            axes.plot(
                np.arange(1, len(one["norms"][i]) + 1),
                one["norms"][i],
                color=shade(one["color"], rank / max(1, len(shown) - 1)),
                linestyle="--" if one["steps"][i] == 0 else "-",
                marker=_marker(rank),
                markersize=2.5,
                linewidth=1.2,
                label=f"step {one['steps'][i]:,}",
            )
        _gradient_axes(axes)
        axes.set_title(one["label"], fontsize=10)
        axes.tick_params(labelleft=True)
        _finish(axes)
    return figure


def identity_property(series, caption=None):
    """Draws how much outputs change when a network is grown.

    Args:
        series: List of dictionaries with `label`, `color`, `added`, `zero`
            and `random`, as of `keras_resnet.analysis.identity_property`.
        caption: String, optional.
    """
    figure, [[axes]] = _figure(6, 4.2, caption)
    # What is exactly zero has no place on a logarithmic axis of its own.
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
                marker=_marker(i),
                label=f"{one['label']}, {what}",
            )
    axes.set_xlabel("blocks added")
    axes.set_ylabel("largest change of an output")
    axes.set_ylim(bottom=-1e-9)
    axes.yaxis.set_major_locator(
        ticker.FixedLocator([0, *(10.0**k for k in range(-8, 9, 2))])
    )
    axes.minorticks_off()
    _finish(axes)
    return figure


def deleted_blocks(series, caption=None):
    """Draws the error after deleting each block, one at a time.

    Args:
        series: List of dictionaries with `label`, `color`, `names`, `error`
            and `baseline`, as of `keras_resnet.analysis.delete_each_block`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 3.
    """
    names = sorted(
        {name for one in series for name in one["names"]}, key=_block
    )
    figure, [[axes]] = _figure(max(5.6, 0.24 * len(names) + 2), 4.2, caption)
    for i, one in enumerate(series):
        at = [names.index(name) for name in one["names"]]
        axes.plot(
            at,
            100 * np.asarray(one["error"]),
            color=one["color"],
            linestyle="",
            marker=_marker(i),
            label=f"{one['label']}, a block deleted",
        )
        axes.axhline(
            100 * one["baseline"],
            color=one["color"],
            linestyle=_style(i),
            linewidth=1,
            label=f"{one['label']}, whole",
        )
    axes.set_xticks(
        range(len(names)),
        [f"{stage}.{block}" for stage, block in map(_block, names)],
        rotation=90 if len(names) > 12 else 0,
        fontsize=8,
    )
    axes.set_xlabel("deleted block (stage.block)")
    axes.set_ylabel("test error (%)")
    axes.set_ylim(bottom=0)
    _finish(axes)
    return figure


def _block(name):
    stage, _, block = name.removeprefix("stage").partition("_block")
    return int(stage), int(block)


def lesion_study(series, caption=None):
    """Draws the error against the blocks deleted, and against their order.

    Args:
        series: List of dictionaries with `label`, `color`, `deleted` and
            `swapped`, as of `keras_resnet.analysis.delete_blocks` and
            `swap_blocks`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 5.
    """
    figure, [panels] = _figure(9, 4.2, caption, columns=2, sharey=True)
    for i, one in enumerate(series):
        deleted, swapped = one["deleted"], one["swapped"]
        _band(
            panels[0],
            deleted.counts,
            100 * deleted.error,
            one["color"],
            marker=_marker(i),
            linestyle=_style(i),
            label=one["label"],
        )
        panels[1].plot(
            swapped.correlation.ravel(),
            100 * swapped.error.ravel(),
            color=one["color"],
            marker=_marker(i),
            markersize=4,
            alpha=0.7,
            linestyle="",
            label=one["label"],
        )
    panels[0].set_xlabel("blocks deleted")
    panels[0].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    panels[0].set_ylabel("test error (%)")
    panels[1].set_xlabel("rank correlation of the new order (1: unchanged)")
    panels[1].invert_xaxis()
    for axes in panels:
        axes.tick_params(labelleft=True)
        _finish(axes)
    return figure


def path_lengths(lengths, share, gradients, caption=None):
    """Draws how long paths are, and how much gradient they carry.

    Args:
        lengths, share: As of `keras_resnet.analysis.path_lengths`.
        gradients: `keras_resnet.analysis.PathGradients`.
        caption: String, optional.

    Reference: Veit et al. 2016, figure 6.
    """
    figure, [panels] = _figure(10, 3.6, caption, columns=3)
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
        _finish(axes, legend=False)
    return figure


def landscape_lines(series, caption=None):
    """Draws the loss along one direction, and the error.

    Args:
        series: List of dictionaries with `label`, `color` and `landscape`, a
            `keras_resnet.analysis.Landscape` of one axis.
        caption: String, optional.

    Reference: Li et al. 2018, figure 2.
    """
    figure, [panels] = _figure(9, 4, caption, columns=2)
    for i, one in enumerate(series):
        found = one["landscape"]
        for axes, values in zip(
            panels, (found.loss, 100 * found.error), strict=True
        ):
            axes.plot(
                found.axes[0],
                values,
                color=one["color"],
                linestyle=_style(i),
                label=one["label"],
            )
    panels[0].set_yscale("log")
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[1].set_ylabel("error (%)")
    for axes in panels:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.set_xlabel("along the direction (filter norms)")
        _finish(axes)
    return figure


def _two_digits(value):
    return f"{float(f'{value:.2g}'):,g}"


def landscape_contours(series, caption=None):
    """Draws the loss in a plane as contours, a panel for each network.

    All panels have the same levels, which are logarithmic.

    Args:
        series: List of dictionaries with `label` and `landscape`, a
            `keras_resnet.analysis.Landscape` of two axes.
        caption: String, optional.

    Reference: Li et al. 2018, figure 5.
    """
    figure, [panels] = _figure(
        4.6 * len(series) + 0.6, 4.6, caption, columns=len(series)
    )
    low, high = _limits(series)
    levels = np.geomspace(low, high, 16)
    for axes, one in zip(panels, series, strict=True):
        found = one["landscape"]
        drawn = axes.contour(
            *found.axes,
            np.clip(found.loss, low, high).T,
            levels=levels,
            norm=colors.LogNorm(low, high),
            cmap="viridis",
        )
        axes.clabel(drawn, levels[1::3], fmt=_two_digits, fontsize=7)
        axes.plot(0, 0, marker="+", color="black", markersize=9)
        axes.set_xlabel("first direction (filter norms)")
        axes.set_ylabel("second direction (filter norms)")
        axes.set_title(
            one["label"], fontsize=10, color=one.get("color", "black")
        )
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    return figure


def landscape_surface(series, caption=None):
    """Draws the loss over a plane as a surface, a panel for each network.

    All panels have the same vertical axis, which is logarithmic.

    Args:
        series: List of dictionaries with `label` and `landscape`, a
            `keras_resnet.analysis.Landscape` of two axes.
        caption: String, optional.

    Reference: Li et al. 2018, figure 1.
    """
    figure, [panels] = _figure(
        5 * len(series),
        4.8,
        caption,
        columns=len(series),
        subplot_kw={"projection": "3d"},
    )
    low, high = np.log10(_limits(series))
    for axes, one in zip(panels, series, strict=True):
        found = one["landscape"]
        axes.plot_surface(
            *np.meshgrid(*found.axes, indexing="ij"),
            np.clip(np.log10(found.loss), low, high),
            cmap="viridis",
            vmin=low,
            vmax=high,
            rstride=1,
            cstride=1,
            linewidth=0.2,
            edgecolor="#00000055",
        )
        axes.set_zlim(low, high)
        for direction in (axes.xaxis, axes.yaxis):
            direction.set_major_locator(ticker.MaxNLocator(4))
        axes.zaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.zaxis.set_major_formatter(lambda z, _: f"$10^{{{z:.0f}}}$")
        axes.set_xlabel("first direction", fontsize=8)
        axes.set_ylabel("second direction", fontsize=8)
        axes.set_zlabel("cross-entropy (nats)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_title(
            one["label"], fontsize=10, color=one.get("color", "black")
        )
        axes.set_box_aspect(None, zoom=0.95)
    return figure


def _limits(series):
    """Returns lowest and highest loss of several landscapes, both positive.

    Points where the loss is no number are left out.
    """
    losses = np.concatenate([one["landscape"].loss.ravel() for one in series])
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        raise ValueError(
            "There is nothing to draw: the loss is not a finite number at any "
            "point of the landscapes."
        )
    low = max(losses.min(), 1e-4)
    return low, max(losses.max(), 1.01 * low)


def learning_rate_errors(trials, caption=None):
    """Draws validation error against learning rate, one colour per depth.

    Failed trials are crosses at the upper edge.

    Args:
        trials: List of dictionaries with `learning_rate`, `depth` and
            `val_error` (a fraction, absent or `None` in a failed trial).
        caption: String, optional.
    """
    figure, [[axes]] = _figure(6.4, 4.4, caption)
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
    _finish(axes)
    return figure


def parallel_coordinates(columns, errors, log=(), caption=None):
    """Draws each trial as a line over one axis for each hyperparameter.

    The last axis is the validation error; the darker a line, the lower its
    error. The best trial is drawn bold, in a colour of its own.

    Args:
        columns: Dictionary of lists: names of hyperparameters, and their
            values in each trial. Numbers and strings; strings, and numbers of
            no more than five kinds, are evenly spaced.
        errors: List of floats, the fraction of errors of each trial.
        log: Names of columns whose axes are logarithmic.
        caption: String, optional.
    """
    columns = columns | {"validation error (%)": [100 * e for e in errors]}
    figure, [[axes]] = _figure(1.8 + 1.5 * len(columns), 4.4, caption)
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


def _axis(values, log, continuous):
    """Returns places from 0 to 1 of values, and ticks: places and texts."""
    kinds = sorted(set(values))
    if isinstance(kinds[0], str) or (
        len(kinds) <= 5 and not log and not continuous
    ):
        places = {
            kind: i / (len(kinds) - 1) if len(kinds) > 1 else 0.5
            for i, kind in enumerate(kinds)
        }
        return [places[v] for v in values], [
            (place, str(kind)) for kind, place in places.items()
        ]
    scale = math.log10 if log else float
    low, high = scale(kinds[0]), scale(kinds[-1])
    width = (high - low) or 1.0
    ends = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]
    ticks = [
        ((end - low) / width, f"{10**end if log else end:.3g}")
        for end in (ends if high > low else ends[:1])
    ]
    return [(scale(v) - low) / width for v in values], ticks


def _shades(n):
    """Returns `n` colours from light to dark, to be told apart in grey too."""
    return [
        colormaps["viridis_r"](0.15 + 0.8 * i / max(n - 1, 1)) for i in range(n)
    ]
