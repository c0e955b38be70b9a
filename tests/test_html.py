"""The report of a folder."""

import html.parser
import os
import re
import shutil
import subprocess

import pytest

from keras_resnet import plots
from keras_resnet_recipes.experiment import html as report

LINE = {
    "command": "KERAS_BACKEND=jax python cifar10.py --output 'a<b`c` _d_'",
    "commit": None,
    "backend": "jax",
    "versions": {"keras": "3.15.1"},
    "device": "a processor",
    "settings": {
        "depth": 20,
        "block": "<script>",
        "data_dir": "a|*b*",
        "learning_rate": 0.1,
    },
    "parameters": 269722,
    "test_error": 0.0875,
    "unreadable": ["a.jpg"],
}
# Elements without an end.
VOID = {"meta", "img"}


class Parser(html.parser.HTMLParser):
    """Checks that elements are nested, and keeps cells and sources."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.sources = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "_a_ __b__ `c` #"
    folder.mkdir()
    curve = {"label": "net", "color": plots.RESIDUAL, "iterations": [1, 2]}
    curve |= {"error": [0.5, 0.2], "val_error": [0.6, 0.3]}
    plots.save(plots.learning_curves([curve]), folder / "curves.png")
    table = "| seed | test error |\n| --- | --- |\n| 0 | 8.75 % |\n"
    (folder / "table.md").write_text(table, "utf-8")
    report.leave(folder, LINE)
    return folder


@pytest.mark.once
def test_a_report_is_one_file(folder):
    parser = Parser()
    parser.feed((folder / "report.html").read_text("utf-8"))
    assert not parser.open
    (picture,) = parser.sources
    assert picture.startswith("data:image/png;base64,")
    cells = [text for text in parser.text if text.strip()]
    for pair in (
        ("parameters", "269,722"),
        ("test error", "8.75 %"),
        ("0", "8.75 %"),
        ("block", "<script>"),
        ("data dir", "a|*b*"),
        ("learning rate", "0.1"),
    ):
        assert pair in zip(cells, cells[1:], strict=False)
    assert LINE["command"] in cells
    # The title of the page, and its heading.
    assert cells.count(folder.name) == 2
    assert "keras 3.15.1; a processor" in "".join(cells)
    assert "unreadable" not in cells


def test_a_path_need_not_be_utf_8(folder):
    command = os.fsdecode(b"python recipes/imagenet.py --folder caf\xe9")
    report.leave(folder, LINE | {"command": command})
    assert "--folder caf" in (folder / "report.html").read_text("utf-8")


@pytest.mark.once
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_a_browser_shows_a_report(folder):
    shown = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
        + ["--dump-dom", f"--user-data-dir={folder / 'profile'}"]
        + [(folder / "report.html").as_uri()],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    ).stdout
    assert re.search(r"<td[^>]*>8.75 %</td>", shown)
    assert "<script>" not in shown
