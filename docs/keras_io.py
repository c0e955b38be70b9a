"""Writes a notebook as a single file in the layout of keras.io's examples.

python docs/keras_io.py
"""

import re
from pathlib import Path

NOTEBOOKS = Path(__file__).parent / "notebooks"
HEADER = '''"""
Title: {}
Author: The keras_resnet authors
Date created: 2026/11/27
Last modified: 2026/11/27
Description: Train 56 layers with and without shortcuts.
Accelerator: None
"""
'''


def example(text):
    """Return the text of a notebook in keras.io's layout."""
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    title, _, rest = _uncommented(cells[0]).partition("\n\n")
    parts = [
        HEADER.format(title.removeprefix("# ")),
        _quoted(f"## Introduction\n\n{rest}"),
    ]
    for cell in cells[1:]:
        if cell.startswith(" [markdown]"):
            parts.append(_quoted(_uncommented(cell)))
        else:
            parts.append(cell.replace("\n# %matplotlib inline", "")[1:])
    # Two blank lines before a function, as in any formatted file.
    return "\n".join(parts).replace('"""\n\ndef ', '"""\n\n\ndef ')


def _uncommented(cell):
    return re.sub("^# ?", "", cell.partition("\n")[2], flags=re.M).strip()


def _quoted(markdown):
    return f'"""\n{markdown}\n"""\n'


if __name__ == "__main__":
    source = (NOTEBOOKS / "block.py").read_text("utf-8")
    (NOTEBOOKS / "keras_io/block.py").write_text(example(source), "utf-8")
