"""Tables and figures from the files that measurements leave."""

import json
import statistics
from pathlib import Path

from measure import WORKS, Case, spread

# Okabe and Ito's colours, as in keras_resnet.plots.
STYLES = {
    "ours": ("#0072B2", "o"),
    "ours, folded": ("#56B4E9", "P"),
    "stock Keras": ("#D55E00", "s"),
    "keras.applications": ("#E69F00", "^"),
    "KerasHub": ("#CC79A7", "v"),
    "native": ("#009E73", "D"),
    "torch.compile": ("#000000", "X"),
    "tf.data": ("#777777", "<"),
    "tf.data per image": ("#777777", "p"),
    "Pillow": ("#777777", ">"),
    "resident batch": ("#777777", "h"),
    "Keras alone": ("#777777", "d"),
    "ours, on the device": ("#56B4E9", "*"),
}
OTHER = ("#777777", "*")
BACKENDS = ("tensorflow", "jax", "torch")

HEAD = """\
# Benchmarks

Made by `python benchmarks/compare.py` (`--table` makes this page again) from
the files NAME.json beside it, which hold every round's value.

Sides take turns in random order within each round; rounds before those that
count warm up. Values are the median over rounds with the lowest and the
highest. "ours is better" is the same of the ratio round by round: above 1 ours
is faster, sooner or smaller. Before they are timed, sides that compute the
same network get the same weights and must give the same logits: the last
column is the largest difference. Images are random. On a CPU this package
keeps the memory that it frees (docs/performance.md); before the turn of a side
that would not, the process gives it back.

Native is plain code of the backend's framework: eager PyTorch in
channels-last memory, a jitted JAX step that donates its state, a
`tf.function` of TensorFlow's kernels (`benchmarks/sides/native_*.py`).

On TensorFlow the time of Keras's `fit` and `predict` ends with their last
step. They return later, by up to as much again, because they wait for
tf.data's tuning thread, which wakes up after 1.27, 2.55, 5.11, 10.23 s, ...
"""


def read(folder):
    """Returns all measurements in a folder: lines by name, work by work."""
    lines = {}
    for path in Path(folder).glob("*.json"):
        line = json.loads(path.read_text("utf-8"))
        line["cases"] = [Case(**case) for case in line["cases"]]
        lines[path.stem] = line
    return dict(sorted(lines.items(), key=lambda item: order(item[1])))


def order(line):
    """Returns what measurements are sorted by."""
    work = WORKS.index(line["work"])
    return work, BACKENDS.index(line["backend"]), line["threads"]


def write(folder):
    """Makes the page and the figures of a folder.

    Raises:
        FileNotFoundError: If the folder holds no measurement.
    """
    from keras_resnet import plots
    from keras_resnet.training.runs import write_atomically

    folder = Path(folder)
    lines = read(folder)
    if not lines:
        raise FileNotFoundError(f"there is no measurement in {folder}")
    figures = []
    for name, draw in (("ratios", draw_ratios), ("growth", draw_growth)):
        figure = draw(lines)
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
            continue
        plots.save(figure, folder / f"{name}.png")
        figures.append(name)
    write_atomically(folder / "README.md", page(lines, figures))
    print(f"{folder / 'README.md'} has {len(lines)} measurements")


def setting(line):
    """Returns backend and cores of a measurement, for people."""
    n = line["threads"]
    return f"{line['backend']}, {n} core{'s' if n > 1 else ''}"


def settings(lines):
    """Returns all settings of measurements, in their order."""
    found = {order(line)[1:]: setting(line) for line in lines}
    return [found[place] for place in sorted(found)]


def by_case(lines):
    """Returns pairs of line and case for each case's name, in their order."""
    groups = {}
    for line in lines.values():
        for case in line["cases"]:
            groups.setdefault(case.name, []).append((line, case))
    return groups


def page(lines, figures):
    """Returns the page: a table for each case, and how it was measured."""
    rows = [HEAD]
    rows += [f"![{name}]({name}.png)\n" for name in figures]
    for name, pairs in by_case(lines).items():
        rows += [f"## {name}", ""]
        rows += table(pairs)
        rows += left_out(pairs) + [""]
    rows += ["## Commands, versions, machines", ""]
    for name, line in lines.items():
        versions = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
        commit = f"; commit {line['commit']}" if line["commit"] else ""
        rows.append(
            f"- [{name}]({name}.json): `{line['command']}`  \n"
            f"  {versions}; {line['device']}, {line['threads']} used; "
            f"{line['settings']['rounds']} rounds; load before it "
            f"{line['load_before']}{commit}"
        )
    return "\n".join([*rows, ""])


def table(pairs):
    """Returns the rows of one case's table."""
    rows = [
        f"| backend | side | {pairs[0][1].unit} | ours is better | "
        "logits differ by |",
        "|---|---|---|---|---|",
    ]
    for line, case in pairs:
        for side, values in case.values.items():
            ratio = ""
            if side != case.reference:
                ratio = f"{spread(case.ratios(side))}"
            difference = ""
            if side in case.differences:
                difference = f"{case.differences[side]:.1e}"
            cells = (setting(line), side, spread(values), ratio, difference)
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def left_out(pairs):
    """Returns a line for each side that is missing, with the reason."""
    return [
        f"\n{side} was left out on {setting(line)}: {reason}."
        for line, case in pairs
        for side, reason in case.left_out.items()
    ]


def draw_ratios(lines):
    """Draws how many times ours is better, one panel per backend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    titles = settings(lines.values())
    groups = by_case(lines)
    figure = Figure(
        figsize=(2.2 + 3.4 * len(titles), 1.6 + 0.42 * len(groups)),
        dpi=150,
        layout="constrained",
    )
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    handles = {}
    for panel, title in zip(panels, titles, strict=True):
        for y, pairs in enumerate(groups.values()):
            for case in (c for x, c in pairs if setting(x) == title):
                others = [s for s in case.values if s != case.reference]
                for i, side in enumerate(others):
                    color, marker = STYLES.get(side, OTHER)
                    ratios = case.ratios(side)
                    middle = statistics.median(ratios)
                    low, high = min(ratios), max(ratios)
                    handles[side] = panel.errorbar(
                        [middle],
                        # Beside each other, or else they would hide.
                        [y + 0.7 * ((i + 0.5) / len(others) - 0.5)],
                        xerr=[[middle - low], [high - middle]],
                        color=color,
                        marker=marker,
                        markersize=5,
                        linestyle="",
                    )
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_title(title, fontsize=10)
        low, high = panel.get_xlim()
        low, high = min(low, 0.48), max(high, 2.1)
        panel.set_xlim(low, high)
        panel.set_xticks([tick for tick in TICKS if low <= tick <= high])
        for y in range(1, len(groups)):
            panel.axhline(y - 0.5, color="#dddddd", linewidth=0.8)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(groups)), groups, fontsize=8)
    panels[0].set_ylim(len(groups) - 0.5, -0.5)
    figure.supxlabel(
        "ours is this many times better than the other side", fontsize=10
    )
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside upper center",
        ncols=min(len(handles), 2 * len(titles)),
        frameon=False,
        fontsize=8,
    )
    return figure


# Ratios that people read at a glance.
TICKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


def draw_growth(lines):
    """Draws growth with depth and batch size, `None` if not measured."""
    from matplotlib.figure import Figure

    grown = [x for x in lines.values() if x["work"] in ("depth", "batch")]
    if not grown:
        return None
    rows = {title: {} for title in settings(grown)}
    for line in grown:
        rows[setting(line)][line["work"]] = line["cases"]
    figure = Figure(
        figsize=(8, 0.6 + 2.7 * len(rows)), dpi=150, layout="constrained"
    )
    panels = figure.subplots(len(rows), 2, squeeze=False)
    for (title, measured), row in zip(rows.items(), panels, strict=True):
        for panel, work in zip(row, ("depth", "batch"), strict=True):
            if work not in measured:
                panel.axis("off")
                continue
            draw_lines(panel, work, measured[work])
            panel.set_title(title, fontsize=10)
    return figure


def draw_lines(panel, work, cases):
    """Draws one panel of growth: a line for each side."""
    from matplotlib.ticker import LogLocator, NullLocator

    sides = dict.fromkeys(side for case in cases for side in case.values)
    for side in sides:
        color, marker = STYLES.get(side, OTHER)
        points = [
            (growing_number(case), sorted(case.values[side]))
            for case in cases
            if side in case.values
        ]
        x = [n for n, _ in points]
        panel.plot(
            x,
            [statistics.median(values) for _, values in points],
            color=color,
            marker=marker,
            label=side,
        )
        panel.fill_between(
            x,
            [values[0] for _, values in points],
            [values[-1] for _, values in points],
            color=color,
            alpha=0.2,
        )
    panel.set_xscale("log")
    x = [growing_number(case) for case in cases]
    panel.set_xticks(x, [f"{n}" for n in x], minor=False)
    panel.set_xticks([], minor=True)
    if work == "depth":
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("depth (batch 32)")
    else:
        panel.set_ylim(bottom=0)
        panel.set_xlabel("batch size (ResNet-20)")
    panel.set_ylabel(f"training, {cases[0].unit}")
    panel.legend(frameon=False, fontsize=8)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def growing_number(case):
    """Returns the depth or batch size, which its name begins with."""
    return int(case.name.split(",")[0].split()[-1])
