"""Tables and figures from the files that measurements leave."""

import json
import statistics
import textwrap
from pathlib import Path

from comparison.cases import CASES
from comparison.measure import Comparison, spread
from keras_resnet_recipes.experiment.report import origin, table

# Okabe and Ito's colours, as in keras_resnet.plots, of kinds of
# implementations.
STYLES = {
    "ours": ("#0072B2", "o"),
    "Keras": ("#D55E00", "s"),
    "native code": ("#009E73", "D"),
    "torch.compile": ("#000000", "X"),
    "another pipeline": ("#777777", "<"),
}
KINDS = {
    "ours": "ours",
    "stock Keras": "Keras",
    "keras.applications": "Keras",
    "KerasHub": "Keras",
    "Keras alone": "Keras",
    "native": "native code",
    "torch.compile": "torch.compile",
    "tf.data": "another pipeline",
    "tf.data per image": "another pipeline",
    "Pillow": "another pipeline",
    "resident batch": "another pipeline",
}
GROWING = ("depth", "batch")
# Those that docs have a table of, or their own figure.
APART = (*GROWING, "infer20", "models")
BACKENDS = ("tensorflow", "jax", "torch")

HOW = """\
## How it was measured

Made by `python benchmarks/compare.py` (`--table` makes this page again) from
the files NAME.json beside it, which hold every round's value. The flags of a
command are those of the commit that stands with it.

Implementations take turns in random order within each round; rounds before
those that count warm up. Values are the median over rounds with the lowest and
the highest. "ours is better" is the same of the ratio round by round: above 1
ours is faster, sooner or smaller. Implementations of the same network get the
same weights and must give the same logits before they are timed: the last
column is the largest difference. Images are random. On a CPU this package
keeps the memory that it frees (docs/performance.md); the process gives it back
before the turn of an implementation that would not.

Native is plain code of the backend's framework: eager PyTorch in
channels-last memory, a jitted JAX step that donates its state, a
`tf.function` of TensorFlow's kernels (`benchmarks/comparison/native_*.py`).

On TensorFlow the time of Keras's `fit` and `predict` ends with their last
step. They return later, by up to as much again, because they wait for
tf.data's tuning thread, which wakes up after 1.27, 2.55, 5.11, 10.23 s, ...
"""


def read(folder):
    """Return the measurements in a folder by their names, case by case."""
    lines = {}
    for path in Path(folder).glob("*.json"):
        line = json.loads(path.read_text("utf-8"))
        line["comparisons"] = [Comparison(**c) for c in line["comparisons"]]
        lines[path.stem] = line
    return dict(sorted(lines.items(), key=lambda item: order(item[1])))


def order(line):
    """Return the key by which measurements are sorted."""
    case = list(CASES).index(line["case"])
    return case, BACKENDS.index(line["backend"]), line["threads"]


def write(folder):
    """Make the page and the figures of a folder.

    Raises:
        FileNotFoundError: If the folder holds no measurement.
    """
    folder = Path(folder)
    lines = read(folder)
    if not lines:
        raise FileNotFoundError(f"there is no measurement in {folder}")

    from keras_resnet import plots
    from keras_resnet.training import write_atomically

    figures = {"ratios": draw_ratios(lines), "growth": draw_growth(lines)}
    for name, figure in figures.items():
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            plots.save(figure, folder / f"{name}.png")
    drawn = [name for name, figure in figures.items() if figure is not None]
    write_atomically(folder / "README.md", page(lines, drawn))
    print(f"{folder / 'README.md'} has {len(lines)} measurements")


def setting(line):
    """Return backend and cores of a measurement as text."""
    n = line["threads"]
    return f"{line['backend']}, {n} core{'s' if n > 1 else ''}"


def settings(lines):
    """Return all settings of measurements, in their order."""
    titles = {order(line)[1:]: setting(line) for line in lines}
    return [titles[key] for key in sorted(titles)]


def by_name(lines):
    """Return pairs of line and `Comparison` by the name of the comparison."""
    groups = {}
    for line in lines.values():
        for comparison in line["comparisons"]:
            groups.setdefault(comparison.name, []).append((line, comparison))
    return groups


def beside_keras(lines, title):
    """Return the median ratio of each comparison with Keras in a setting."""
    return [
        statistics.median(comparison.ratios(name))
        for line in lines.values()
        if setting(line) == title and line["case"] not in APART
        for comparison in line["comparisons"]
        for name in comparison.others
        if KINDS.get(name) == "Keras"
    ]


def page(lines, figures):
    """Return the page: a table for each comparison, and how it was made."""
    rows = ["# Benchmarks\n"]
    factors = [
        f"{statistics.median(ratios):.1f} ({title})"
        for title in settings(lines.values())
        if (ratios := beside_keras(lines, title))
    ]
    if factors:
        takeaway = (
            "The median over the cases of the first picture: this package is "
            "faster, sooner or smaller than Keras by a factor of "
            f"{', '.join(factors)}."
        )
        rows.append(textwrap.fill(takeaway, 80) + "\n")
    rows += [f"![{name}]({name}.png)\n" for name in figures]
    for name, pairs in by_name(lines).items():
        rows += [f"## {name}", "", comparison_table(pairs)]
        rows += [
            f"\n{key} was left out on {setting(line)}: {reason}."
            for line, comparison in pairs
            for key, reason in comparison.left_out.items()
        ]
        rows.append("")
    rows += [HOW, "## Commands, versions, machines", ""]
    for name, line in lines.items():
        rows += [
            f"- [{name}]({name}.json): `{line['command']}`  ",
            f"  {origin(line)}; {line['threads']} cores used; "
            f"{line['settings']['rounds']} rounds; load before it "
            f"{line['load_before']}",
        ]
    return "\n".join([*rows, ""])


def comparison_table(pairs):
    """Return the table of one comparison, on every backend."""
    unit = pairs[0][1].unit
    rows = []
    for line, comparison in pairs:
        for name, values in comparison.values.items():
            ratio = difference = ""
            if name != "ours":
                ratio = spread(comparison.ratios(name))
            if name in comparison.differences:
                difference = f"{comparison.differences[name]:.1e}"
            rows.append(
                [setting(line), name, spread(values), ratio, difference]
            )
    head = ["backend", "implementation", unit]
    return table([*head, "ours is better", "logits differ by"], rows)


def draw_ratios(lines):
    """Draw how many times better ours is, one panel for each backend.

    Return `None` without values. Other forms of ours stand in the tables alone.
    """
    from keras_resnet.plots import style

    lines = {k: x for k, x in lines.items() if x["case"] not in APART}
    if not lines:
        return None
    titles = settings(lines.values())
    groups = by_name(lines)
    width, height = 4 + 2.8 * len(titles), 1.8 + 0.45 * len(groups)
    figure, [panels] = style.subplots(
        width, height, None, columns=len(titles), sharey=True
    )
    handles = {}
    for panel, title in zip(panels, titles, strict=True):
        for y, pairs in enumerate(groups.values()):
            for comparison in (c for x, c in pairs if setting(x) == title):
                others = [
                    name
                    for name in comparison.others
                    if not name.startswith("ours")
                ]
                for i, name in enumerate(others):
                    kind = KINDS[name]
                    color, marker = STYLES[kind]
                    ratios = comparison.ratios(name)
                    middle = statistics.median(ratios)
                    low, high = min(ratios), max(ratios)
                    handles[kind] = panel.errorbar(
                        middle,
                        # Beside each other, or else they would hide.
                        y + 0.7 * ((i + 0.5) / len(others) - 0.5),
                        xerr=[[middle - low], [high - middle]],
                        color=color,
                        fmt=marker,
                        markersize=7,
                    )
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xscale("log")
        label_numbers(panel.xaxis, "{x:g}")
        if factors := beside_keras(lines, title):
            title += f"\n{statistics.median(factors):.1f} times Keras"
            title += " (median)"
        panel.set_title(title, fontsize=11)
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, 0.48), max(high, 2.1))
        style.finish(panel, legend=False)
        panel.grid(False, axis="y")
        for y in range(len(groups)):
            if y % 2:
                panel.axhspan(y - 0.5, y + 0.5, color="#f0f0f0", zorder=0)
    panels[0].set_yticks(range(len(groups)), groups, fontsize=10)
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    figure.supxlabel(
        "right of the line ours is better, by this factor", fontsize=11
    )
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=11,
    )
    return figure


def label_numbers(axis, text):
    """Label 1, 2, 5, 10, ... on a logarithmic axis."""
    from matplotlib.ticker import LogLocator

    axis.set_major_formatter(text)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(LogLocator(subs=()))


def draw_growth(lines):
    """Draw growth with depth and batch size; return `None` without values."""
    from keras_resnet.plots import style

    growing = [x for x in lines.values() if x["case"] in GROWING]
    if not growing:
        return None
    columns = min(2, len(growing))
    rows = -(-len(growing) // columns)
    figure, panels = style.subplots(
        4.2 * columns, 0.4 + 3 * rows, None, rows, columns
    )
    for panel in panels.flat[len(growing) :]:
        panel.axis("off")
    for panel, line in zip(panels.flat, growing, strict=False):
        draw_lines(panel, line["case"], line["comparisons"])
        panel.set_title(setting(line), fontsize=11)
        style.finish(panel)
    return figure


def draw_lines(panel, case, comparisons):
    """Draw one panel of growth: a line for each implementation."""
    # Depth or batch size, with which the name begins.
    numbers = [int(c.name.split(",")[0].split()[-1]) for c in comparisons]
    for name in dict.fromkeys(n for c in comparisons for n in c.values):
        if name.startswith("ours, "):
            continue
        color, marker = STYLES[KINDS[name]]
        x, values = zip(
            *(
                (number, c.values[name])
                for number, c in zip(numbers, comparisons, strict=True)
                if name in c.values
            ),
            strict=True,
        )
        middles = list(map(statistics.median, values))
        panel.plot(x, middles, color=color, marker=marker, label=name)
        low, high = list(map(min, values)), list(map(max, values))
        panel.fill_between(x, low, high, color=color, alpha=0.2)
    panel.set_xscale("log")
    panel.set_xticks(numbers, map(str, numbers))
    panel.set_xticks([], minor=True)
    if case == "depth":
        panel.set_yscale("log")
        label_numbers(panel.yaxis, "{x:,.0f}")
        panel.set_xlabel("depth (batch 32)")
    else:
        panel.set_ylim(bottom=0)
        panel.set_xlabel("batch size (ResNet-20)")
    panel.set_ylabel(f"training, {comparisons[0].unit}")
