"""Tables and texts of results."""

import statistics


def table(head, rows):
    """Return a Markdown table of a head and rows of texts, aligned."""
    rows = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(t.ljust(w) for t, w in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.insert(1, " | ".join("-" * max(3, width) for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def percent(share):
    """Return a share as text, "8.75 %"."""
    return f"{100 * share:.2f} %"


def mean_and_deviation(values, unit=""):
    """Return "mean ± standard deviation unit" of some numbers, as text."""
    digits = 2 if unit else 4
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return f"{text} {unit}".rstrip()


def seeds(numbers):
    """Return "seed 0" or "seeds 0, 1", as text."""
    word = "seed" if len(numbers) == 1 else "seeds"
    return f"{word} {', '.join(map(str, numbers))}"


def origin(line):
    """Return versions, machine and commit of a result line, as text."""
    versions = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
    commit = f"; commit {line['commit']}" if line.get("commit") else ""
    return f"{versions}; {line['device']}{commit}"
