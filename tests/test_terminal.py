"""A training shows how far it is, on a terminal and in a file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from conftest import ROOT

from keras_resnet_recipes.experiment import terminal

pytest.importorskip("sklearn")


def shown_on_a_terminal(flags, folder):
    """Return what a recipe writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, ROOT / "recipes/cifar10.py", *flags],
        cwd=folder,
        stdout=theirs,
        stderr=theirs,
        # Other packages do not state their encodings.
        env=os.environ | {"PYTHONWARNDEFAULTENCODING": ""},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            written += os.read(ours, 4096)
        except OSError:
            # The process has ended.
            break
    os.close(ours)
    assert process.wait() == 0, written
    return written.decode("utf-8")


@pytest.mark.once
def test_a_terminal_of_80_columns_has_place_for_a_training(tmp_path):
    flags = ["--dataset", "digits", "--preset", "fast", "--depth", "8"]
    flags += ["--epochs", "2", "--output", "run"]
    lines = re.split("[\r\n]+", shown_on_a_terminal(flags, tmp_path))
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [
        "ResNet-8 (A), 75,002 parameters",
        "78 steps of 32 images, 2 epochs",
    ]
    assert lines[2].startswith("tensorflow on ")
    assert "folder run" in lines
    bars = [line for line in lines if line.startswith("training: ")]
    assert any(re.search(r"\| \d+/78 \[\d\d:\d\d<\d\d:\d\d,", x) for x in bars)
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2
    for number, line in enumerate(epochs, 1):
        assert re.fullmatch(
            rf"epoch {number}/2  loss \d\.\d+  error \d+\.\d %  val \d+\.\d %"
            r"  [\d,]+ img/s  \d\d:\d\d left",
            line,
        )
    assert "everything is in run" in lines


@pytest.mark.once
def test_a_file_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SECONDS", 1e-6)
    bar = terminal.Progress(range(3), desc="deleting", unit="block")
    for done in bar:
        bar.print(f"result {done}")
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "result 0",
        "deleting: 1 of 3 blocks, 00:00 left",
        "result 1",
        "deleting: 2 of 3 blocks, 00:00 left",
        "result 2",
        "deleting: 3 of 3 blocks, 00:00 left",
    ]


@pytest.mark.once
def test_a_file_gets_no_lines_of_a_quick_task(capsys):
    assert [*terminal.Progress(range(3))] == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
