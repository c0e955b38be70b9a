"""Learning curves, errors by depth, and predicted classes."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_resnet.plots.style import (
    OTHERS,
    PLAIN,
    RESIDUAL,
    band,
    finish,
    label_ends,
    look,
    marker,
    shade,
    subplots,
)
from keras_resnet.types import Rows


def _training_and_validation(
    axes: Axes,
    curve: Mapping[str, Any],
    key: str,
    scale: float,
    label: str,
    **kwargs: Any,
) -> None:
    """Draw `key` thin and dashed, `val_key` bold."""
    for name, what, style in (
        (key, "training", {"linewidth": 1, "linestyle": "--"}),
        (f"val_{key}", "validation", {"linewidth": 2}),
    ):
        band(
            axes,
            curve["iterations"],
            scale * np.asarray(curve[name], "float64"),
            label=f"{label}, {what}",
            **style,
            **kwargs,
        )


def learning_curves(
    curves: Rows,
    title: str | None = None,
    caption: str | None = None,
) -> Figure:
    """Draw errors against iterations, as in the paper's figure 6.

    Training error is thin and dashed, validation error bold. Several seeds
    are drawn as their mean with a band of one standard deviation. If every
    curve has a single point, the errors are drawn as bars.

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
    figure, [[axes]] = subplots(6.4, 4.4, caption)
    axes.set_title(title or "", fontsize=10)
    palette = [RESIDUAL, *OTHERS]
    colors = [
        curve.get("color", palette[i % len(palette)])
        for i, curve in enumerate(curves)
    ]
    if all(len(curve["iterations"]) == 1 for curve in curves):
        _error_bars(axes, curves, colors)
        return figure
    for curve, color in zip(curves, colors, strict=True):
        label = curve["label"]
        x = curve["iterations"]
        points = "." if len(x) < 40 else ""
        _training_and_validation(
            axes, curve, "error", 100, label, color=color, marker=points
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
    finish(axes)
    return figure


def _error_bars(axes: Axes, curves: Rows, colors: Sequence[str]) -> None:
    """Draw the errors of nets at a single step as bars with their values."""
    names = []
    for curve, color in zip(curves, colors, strict=True):
        for key, what, share in (
            ("error", "training", 0),
            ("val_error", "validation", 0.5),
            ("test_error", "test", 1),
        ):
            if key in curve:
                error = 100 * float(np.mean(curve[key]))
                axes.barh(len(names), error, 0.6, color=shade(color, share))
                axes.text(
                    error,
                    len(names),
                    f" {error:.1f} %",
                    verticalalignment="center",
                )
                name = f"{curve['label']}, {what}"
                names.append(textwrap.fill(name, 32))
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    steps = curves[0]["iterations"][0]
    axes.set_xlabel(f"error (%) after {steps:,.0f} steps of the optimizer")
    finish(axes, legend=False)
    axes.grid(False, axis="y")


def validation_curves(
    curves: Rows, title: str | None = None, caption: str | None = None
) -> Figure:
    """Draw the validation errors of several nets, to compare them.

    The name and the last error of a net are beside the end of its curve.
    Several seeds are drawn as their mean with a band of one standard deviation.

    Args:
        curves: List of dictionaries with `label`, `color`, `iterations` (`n`)
            and `val_error`, fractions of shape `(n,)` or `(n, seeds)`.
        title: String, optional.
        caption: String, optional.
    """
    figure, [[axes]] = subplots(7.6, 4.4, caption)
    for i, curve in enumerate(curves):
        error = 100 * np.asarray(curve["val_error"], "float64")
        label = f"{curve['label']}  {error[-1].mean():.1f} %"
        style = look(i, curve) | {"label": label, "linewidth": 2}
        if len(error) >= 40:
            style["marker"] = ""
        band(axes, curve["iterations"], error, **style)
    axes.set_xlabel("iterations (optimizer steps)")
    axes.set_ylabel("validation error (%)")
    axes.set_xlim(left=0)
    if title:
        # Above the labels, too, because the axes alone may be too narrow.
        figure.suptitle(title, fontsize=10)
    finish(axes, legend=False)
    label_ends(axes)
    return figure


def step_curves(curves: Rows, caption: str | None = None) -> Figure:
    """Draw loss and accuracy against the step, side by side.

    Training is thin and dashed, validation bold. Several seeds are drawn as
    their mean with a band of one standard deviation. The axis leaves out
    validation losses far above all training losses.

    Args:
        curves: List of dictionaries with `label`, `color`, `iterations`
            (`n`), and `loss`, `val_loss`, `accuracy` and `val_accuracy`, each
            `(n,)` or `(n, seeds)`.
        caption: String, optional.
    """
    figure, [panels] = subplots(9, 4.2, caption, columns=2)
    for axes, key, scale in (
        (panels[0], "loss", 1),
        (panels[1], "accuracy", 100),
    ):
        for i, curve in enumerate(curves):
            _training_and_validation(
                axes,
                curve,
                key,
                scale,
                curve["label"],
                color=curve["color"],
                marker=marker(i),
                markersize=3.5,
            )
        axes.set_xlabel("steps of the optimizer")
        axes.set_xlim(left=0)
        finish(axes)
    panels[0].set_ylabel("cross-entropy (nats)")
    # Early moving statistics are inexact, so a validation may give any loss.
    top = 1.5 * max(np.max(curve["loss"]) for curve in curves)
    most = max(np.max(curve["val_loss"]) for curve in curves)
    if most < top:
        top = None
    else:
        panels[0].set_title(
            f"validation losses up to {most:.3g} are above the axis",
            fontsize=9.5,
        )
    panels[0].set_ylim(0, top)
    panels[1].set_ylabel("accuracy (%)")
    return figure


def predictions(
    images: np.ndarray,
    labels: Sequence[str],
    predicted: dict[str, Sequence[tuple[str, float]]],
    caption: str | None = None,
) -> Figure:
    """Draw images with their class and the classes that networks predict.

    A wrong class is red and in brackets.

    Args:
        images: `(n, rows, columns, channels)` array of pixels, 0 to 255.
        labels: `n` class names.
        predicted: Dictionary from the name of a network to a list of `n`
            pairs of a class name and its probability.
        caption: String, optional.
    """
    columns = 6
    rows = -(-len(images) // columns)
    height = rows * (1.95 + 0.15 * len(predicted)) + 0.4
    figure, grid = subplots(1.7 * columns, height, caption, rows, columns)
    for axes in grid.flat:
        axes.axis("off")
    for i, (axes, image) in enumerate(zip(grid.flat, images, strict=False)):
        axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
        axes.set_title(labels[i], fontsize=8)
        for line, (name, guesses) in enumerate(predicted.items()):
            guess, probability = guesses[i]
            right = guess == labels[i]
            text = f"{name}: {guess}, {100 * probability:.0f} %"
            axes.text(
                0.5,
                -0.03 - 0.11 * line,
                text if right else f"[{text}]",
                color="black" if right else "#B00020",
                fontsize=6.5,
                transform=axes.transAxes,
                horizontalalignment="center",
                verticalalignment="top",
            )
    return figure


def degradation(curves: Rows, caption: str | None = None) -> Figure:
    """Draw training and validation errors, plain beside residual.

    As in the paper's figure 6, training error is thin and dashed and
    validation error bold. Deeper nets are darker. The titles have the last
    training errors.

    Args:
        curves: List of dictionaries with `depth`, `plain` (boolean),
            `iterations` (`n`), `error` and `val_error`, fractions of shape
            `(n,)` or `(n, seeds)`.
        caption: String, optional.

    Reference: He et al. 2015, figures 1 and 6.
    """
    figure, [panels] = subplots(9, 4.4, caption, columns=2, sharey=True)
    depths = sorted({curve["depth"] for curve in curves})
    ends: tuple[list[str], list[str]] = [], []
    for curve in sorted(curves, key=lambda c: c["depth"]):
        plain, depth = curve["plain"], curve["depth"]
        rank = depths.index(depth)
        end = 100 * np.mean(np.asarray(curve["error"])[-1])
        ends[0 if plain else 1].append(f"{end:.1f} % with {depth} layers")
        _training_and_validation(
            panels[0 if plain else 1],
            curve,
            "error",
            100,
            f"{'plain' if plain else 'ResNet'}-{depth}",
            color=shade(PLAIN if plain else RESIDUAL, (rank + 1) / len(depths)),
            marker=marker(rank) if len(curve["iterations"]) < 40 else "",
            markersize=4,
        )
    panels[0].set_ylabel("error (%)")
    kinds = "plain", "residual"
    for axes, kind, end in zip(panels, kinds, ends, strict=True):
        errors = textwrap.fill(", ".join(end), 60)
        axes.set_title(f"{kind}: training error\n{errors}", fontsize=10)
        axes.set_xlabel("iterations (steps of the optimizer)")
        axes.tick_params(labelleft=True)
        finish(axes, legend=bool(axes.lines))
    return figure


def error_by_depth(
    series: Rows,
    ylabel: str = "training error (%)",
    caption: str | None = None,
) -> Figure:
    """Draw errors at the end of training against depth.

    Args:
        series: List of dictionaries with `label`, `color`, `depths` and
            `error`, a list of fractions for each depth, one for each seed.
            Bars are one standard deviation.
        ylabel: String. Defaults to `"training error (%)"`.
        caption: String, optional.

    Reference: He et al. 2015, table 6.
    """
    figure, [[axes]] = subplots(5.6, 4.2, caption)
    for i, one in enumerate(series):
        errors = [100 * np.asarray(e, "float64") for e in one["error"]]
        axes.errorbar(
            one["depths"],
            [e.mean() for e in errors],
            # A single seed has no deviation, so it gets no bar.
            [e.std(ddof=1) if len(e) > 1 else 0 for e in errors]
            if any(len(e) > 1 for e in errors)
            else None,
            capsize=3,
            **look(i, one),
        )
    axes.set_xlabel("depth (weighted layers)")
    axes.set_ylabel(ylabel)
    axes.set_xticks(sorted({d for one in series for d in one["depths"]}))
    axes.set_ylim(bottom=0)
    finish(axes)
    return figure
