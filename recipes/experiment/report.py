"""Tables and texts of results."""

import itertools
import statistics
import sys
import textwrap

WIDTH = 80


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


def folded(title, text):
    """Return Markdown that a browser unfolds at a click on its title."""
    title = f"<summary>{title}</summary>"
    return f"<details markdown>\n{title}\n\n{text}\n\n</details>"


def show(text):
    """Print a text that may have Markdown tables.

    On a terminal lines and tables are wrapped at 80 columns. A file gets the
    text as it is.
    """
    if not sys.stdout.isatty():
        print(text, flush=True)
        return
    for is_table, lines in itertools.groupby(
        text.split("\n"), lambda line: line.startswith("| ")
    ):
        if is_table:
            head, _, *rows = (
                [cell.strip() for cell in line[1:-1].split(" | ")]
                for line in lines
            )
            _show_table(head, rows)
            continue
        for line in lines:
            print(_fill(line))
    sys.stdout.flush()


def _fill(line, **options):
    """Return a line wrapped between words."""
    return textwrap.fill(
        line, WIDTH, break_long_words=False, break_on_hyphens=False, **options
    )


def _show_table(head, rows):
    """Print a table, or its rows as sentences if its words are too long."""
    columns = [*zip(head, *rows, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    longest = [max(map(len, " ".join(c).split())) for c in columns]
    # Two spaces separate columns.
    room = WIDTH - 2 * (len(head) - 1)
    if sum(longest) > room:
        for row in rows:
            pairs = zip(head, row, strict=True)
            text = ", ".join(f"{name} {cell}" for name, cell in pairs if cell)
            print(_fill(text, subsequent_indent="  "))
        return
    while sum(widths) > room:
        spare = [w - least for w, least in zip(widths, longest, strict=True)]
        widths[spare.index(max(spare))] -= 1
    rule = ["-" * width for width in widths]
    for row in (head, rule, *rows):
        cells = [
            textwrap.wrap(cell, width, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            texts = [t.ljust(w) for t, w in zip(line, widths, strict=True)]
            print("  ".join(texts).rstrip())
        if row is not head and max(map(len, cells)) > 1:
            print()


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
