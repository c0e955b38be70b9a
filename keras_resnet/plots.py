"""Figures, from plain arrays."""

from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; residual
# and plain nets have theirs in every figure.
RESIDUAL = "#0072B2"
PLAIN = "#D55E00"


def learning_curves(curves, title=None):
    """Draws errors against iterations, as the paper's figure 6.

    Training error is thin and dashed, validation error bold.

    Args:
        curves: List of dictionaries with `label`, `iterations`, `error`,
            `val_error` (fractions), and optionally `color` and `test_error`,
            which is drawn as a point at the end.
        title: String, optional.

    Returns:
        A `matplotlib.figure.Figure`.

    Reference: He et al. 2015, figure 6.
    """
    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    palette = [RESIDUAL, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
    for i, curve in enumerate(curves):
        color = curve.get("color", palette[i % len(palette)])
        label = curve["label"]
        x = curve["iterations"]
        marker = "." if len(x) < 40 else ""
        for key, style, what in (
            ("error", {"linewidth": 1, "linestyle": "--"}, "training"),
            ("val_error", {"linewidth": 2}, "validation"),
        ):
            axes.plot(
                x,
                [100 * value for value in curve[key]],
                color=color,
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
