"""Loss landscapes: lines, contours, surface."""

import numpy as np
from matplotlib import colors, ticker
from matplotlib.figure import Figure

from keras_resnet.plots.style import (
    finish,
    look,
    subplots,
)
from keras_resnet.types import Rows


def landscape_lines(series: Rows, caption: str | None = None) -> Figure:
    """Draw the loss along one direction, and the error.

    Args:
        series: List of dictionaries with `label`, `color` and `landscape`, a
            `keras_resnet.analysis.Landscape` of one axis.
        caption: String, optional.

    Reference: Li et al. 2018, figure 2.
    """
    figure, [panels] = subplots(9, 4, caption, columns=2)
    for i, one in enumerate(series):
        landscape = one["landscape"]
        for axes, values in zip(
            panels, (landscape.loss, 100 * landscape.error), strict=True
        ):
            axes.plot(
                landscape.axes[0], values, **look(i, one) | {"marker": ""}
            )
    panels[0].set_yscale("log")
    panels[0].set_ylabel("cross-entropy (nats)")
    panels[1].set_ylabel("error (%)")
    for axes in panels:
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
        axes.set_xlabel("along the direction (filter norms)")
        finish(axes)
    return figure


def landscape_contours(series: Rows, caption: str | None = None) -> Figure:
    """Draw the loss in a plane as contours, a panel for each network.

    All panels have the same levels, which are logarithmic.

    Args:
        series: List of dictionaries with `label` and `landscape`, a
            `keras_resnet.analysis.Landscape` of two axes.
        caption: String, optional.

    Reference: Li et al. 2018, figure 5.
    """
    figure, [panels] = subplots(
        4.6 * len(series) + 0.6, 4.6, caption, columns=len(series)
    )
    low, high = _limits(series)
    levels = np.geomspace(low, high, 16)
    for axes, one in zip(panels, series, strict=True):
        landscape = one["landscape"]
        drawn = axes.contour(
            *landscape.axes,
            np.clip(landscape.loss, low, high).T,
            levels=levels,
            norm=colors.LogNorm(low, high),
            cmap="viridis",
        )
        axes.plot(0, 0, marker="+", color="black", markersize=9)
        axes.set_xlabel("first direction (filter norms)")
        axes.set_ylabel("second direction (filter norms)")
        axes.set_title(
            one["label"], fontsize=10, color=one.get("color", "black")
        )
        axes.set_aspect("equal")
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5))
    bar = figure.colorbar(
        drawn, ax=[*panels], label="cross-entropy (nats)", shrink=0.8
    )
    bar.lines[0].set_linewidth(4)
    decades = ticker.LogLocator().tick_values(low, high)
    bar.set_ticks([z for z in decades if low <= z <= high], minor=False)
    bar.ax.minorticks_off()
    return figure


def landscape_surface(series: Rows, caption: str | None = None) -> Figure:
    """Draw the loss over a plane as a surface, a panel for each network.

    All panels have the same vertical axis, which is logarithmic.

    Args:
        series: List of dictionaries with `label` and `landscape`, a
            `keras_resnet.analysis.Landscape` of two axes.
        caption: String, optional.

    Reference: Li et al. 2018, figure 1.
    """
    figure, [panels] = subplots(
        5 * len(series),
        4.8,
        caption,
        columns=len(series),
        subplot_kw={"projection": "3d"},
    )
    low, high = np.log10(_limits(series))
    for axes, one in zip(panels, series, strict=True):
        landscape = one["landscape"]
        axes.plot_surface(
            *np.meshgrid(*landscape.axes, indexing="ij"),
            np.clip(np.log10(landscape.loss), low, high),
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


def _limits(series: Rows) -> tuple[float, float]:
    """Return lowest and highest loss of several landscapes, both positive.

    Points without a finite loss are left out.
    """
    losses = np.concatenate([one["landscape"].loss.ravel() for one in series])
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        raise ValueError(
            "There is nothing to draw: the landscapes have no point with a "
            "finite loss."
        )
    low = max(losses.min(), 1e-4)
    return low, max(losses.max(), 1.01 * low)
