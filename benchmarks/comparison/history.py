"""Measurements by version in one file, and what got slower."""

import csv
import io
import operator
import re
import statistics
from pathlib import Path

from comparison.measure import spread
from comparison.report import setting
from keras_resnet_recipes.experiment.report import table

NAME = "history.csv"
# Measurements are compared where all of these are the same.
KEY = (
    *("case", "comparison", "unit", "backend", "threads", "implementation"),
    *("settings", "machine"),
)
FIELDS = (*KEY, "versions", "commit", "median", "low", "high", "ratio")


def append(folder, line):
    """Append a row for each implementation of a measurement.

    `ratio` is how many times better ours is than that implementation.
    """
    # Imported here because `--help` loads no Keras.
    from keras_resnet.atomic import write_atomically

    path = Path(folder) / NAME
    text = io.StringIO(path.read_text("utf-8") if path.exists() else "")
    text.seek(0, io.SEEK_END)
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    if not text.tell():
        writer.writeheader()
    writer.writerows(rows(line))
    write_atomically(path, text.getvalue())


def rows(line):
    """Yield a row for each implementation of a measurement."""
    used = {k: v for k, v in line["settings"].items() if v and k != "rounds"}
    of_all = {
        **{k: line[k] for k in ("case", "backend", "threads", "commit")},
        "settings": ", ".join(f"{k} {v}" for k, v in used.items()),
        "machine": line["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in line["versions"].items()),
    }
    for comparison in line["comparisons"]:
        of_each = {"comparison": comparison.name, "unit": comparison.unit}
        for name, values in comparison.values.items():
            numbers = {
                "median": statistics.median(values),
                "low": min(values),
                "high": max(values),
                "ratio": statistics.median(comparison.ratios(name)),
            }
            rounded = {k: f"{v:.6g}" for k, v in numbers.items()}
            yield of_all | of_each | {"implementation": name} | rounded


def slower(folder):
    """Return a table of ours that got slower since the last release.

    Without one, since the last measurement of another commit. The best round
    must be worse than the worst round before. If the others got as much slower,
    which the table shows, the machine is slower.

    Raises:
        FileNotFoundError: If the folder has no history.
    """
    path = Path(folder) / NAME
    if not path.exists():
        raise FileNotFoundError(f"there is no history of measurements: {path}")
    history = {}
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            history.setdefault(tuple(row[k] for k in KEY), []).append(row)
    pairs = [(_before(each), each[-1]) for each in history.values()]
    pairs = [pair for pair in pairs if pair[0]]
    ours = [p for p in pairs if p[1]["implementation"].startswith("ours")]
    lines = []
    for before, now in ours:
        sign = 1 if "/s" in now["unit"] else -1  # more is better, or less
        old, new = (
            [float(row[k]) for k in ("low", "median", "high")]
            for row in (before, now)
        )
        if max(sign * x for x in new) >= min(sign * x for x in old):
            continue
        others = [
            float(b["median"]) / float(a["median"])
            for a, b in pairs
            if not b["implementation"].startswith("ours")
            and all(b[k] == now[k] for k in KEY if k != "implementation")
        ]
        lines.append(
            [
                f"{now['comparison']}: {now['implementation']}",
                setting(now | {"threads": int(now["threads"])}),
                f"{spread(old)} {now['unit']}, {before['commit']}",
                f"{spread(new)} {now['unit']}, {now['commit']}",
                f"{new[1] / old[1]:.2f}",
                f"{statistics.median(others):.2f}" if others else "",
            ]
        )
    counted = f"{len(lines)} of {len(ours)} measured before got slower"
    head = ("measurement", "backend", "before", "now", "ratio", "others' ratio")
    return f"{table(head, lines)}\n\n{counted}" if lines else counted


def _before(each):
    """Return the row to compare the last one with, or `None`."""
    for version in _release, operator.itemgetter("commit"):
        others = [row for row in each if version(row) != version(each[-1])]
        if others:
            return others[-1]
    return None


def _release(row):
    return re.search(r"\bkeras_resnet ([^,]*)", row["versions"])[1]
