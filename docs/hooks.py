"""Hook of MkDocs: each notebook can be downloaded."""

from pathlib import Path

import jupytext
from nbformat.v4 import new_code_cell

# A hosted notebook has TensorFlow, and not this package.
INSTALL = '%pip install -q "keras3-resnet[recipes]"'


def on_page_content(html, page, **_):
    """Write a notebook as `.ipynb` beside its page, with a link above it."""
    source = Path(page.file.abs_src_path)
    if source.suffix != ".py":
        return html
    target = Path(page.file.abs_dest_path).with_name(f"{source.stem}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    notebook = jupytext.read(source)
    notebook.cells.insert(1, new_code_cell(INSTALL))
    jupytext.write(notebook, target)
    return (
        f'<p><a href="{target.name}" download>Download this notebook</a>, for '
        "Jupyter, or to upload to Colab or Kaggle. Its first cell installs "
        f"this package (after the first release).</p>\n{html}"
    )
