"""A report of the results in a folder: one file for a browser."""

import base64
import html
from pathlib import Path

import markdown

from keras_resnet.training import write_atomically

from . import report

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 sans-serif; max-width: 60rem; margin: 1rem auto;
  padding: 0 1rem }}
p, table {{ overflow-x: auto }}
img {{ max-width: 100%; min-width: 38rem; background: white }}
table {{ border-collapse: collapse; display: block; margin: 1rem 0 }}
td, th {{ padding: 3px 12px; border-bottom: 1px solid; text-align: left }}
code {{ overflow-wrap: anywhere }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def leave(folder, line):
    """Write `report.html` beside the files of a run, a study or a search.

    The file contains the tables and pictures, so that it can be sent alone.

    Args:
        folder: Path.
        line: Dictionary of command, settings, versions, device and results.
            Results that are neither number nor text are left out.
    """
    folder = Path(folder)
    origin = {"command", "commit", "backend", "versions", "device", "devices"}
    results = {
        name: value
        for name, value in line.items()
        if name not in origin and isinstance(value, (int, float, str))
    }
    # Only the tables are Markdown, which would take signs in names for its own.
    title = html.escape(folder.resolve().name)
    parts = [f"<h1>{title}</h1>"]
    if results:
        parts.append(_table("result", results))
    for path in sorted(folder.glob("*.md")):
        text = path.read_text("utf-8")
        parts.append(markdown.markdown(text, extensions=["tables"]))
    for path in sorted(folder.glob("*.png")):
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        source = f"data:image/png;base64,{data}"
        name = html.escape(path.stem)
        parts.append(f'<p><img alt="{name}" src="{source}"></p>')
    parts.append(_table("setting", line["settings"]))
    parts.append(f"<p><code>{html.escape(line['command'])}</code></p>")
    parts.append(f"<p>{html.escape(report.origin(line))}</p>")
    body = "\n".join(parts)
    write_atomically(
        folder / "report.html", PAGE.format(title=title, body=body)
    )


def _table(head, values):
    """Return an HTML table of names and values, without empty values."""
    rows = [f"<tr><th>{head}</th><th>value</th></tr>"]
    for name, value in values.items():
        if value is None or value == []:
            continue
        if name.endswith(("error", "accuracy")):
            value = report.percent(value)
        elif type(value) is int:
            value = f"{value:,}"
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        cells = html.escape(name.replace("_", " ")), html.escape(str(value))
        rows.append(f"<tr><td>{'</td><td>'.join(cells)}</td></tr>")
    return "\n".join(["<table>", *rows, "</table>"])
