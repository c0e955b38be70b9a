"""Hook of MkDocs: each notebook can be downloaded."""

from pathlib import Path

import jupytext


def on_page_content(html, page, **_):
    """Write a notebook as `.ipynb` beside its page, with a link above it."""
    source = Path(page.file.abs_src_path)
    if source.suffix != ".py":
        return html
    target = Path(page.file.abs_dest_path).with_name(f"{source.stem}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    jupytext.write(jupytext.read(source), target)
    link = f'<a href="{target.name}" download>Download this notebook</a>'
    return f"<p>{link}</p>\n{html}"
