"""A training shows how far it is, on a terminal and in a file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import keras
import numpy as np
import pytest
from conftest import ROOT

from keras_resnet import training
from keras_resnet_recipes.experiment import terminal

pytest.importorskip("sklearn")


def shown_on_a_terminal(recipe, flags, folder):
    """Return the lines that a recipe writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, ROOT / "recipes" / recipe, *flags],
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
    lines = re.split("[\r\n]+", written.decode("utf-8"))
    assert max(map(len, lines)) <= 80
    return lines


@pytest.mark.once
def test_a_terminal_of_80_columns_has_place_for_a_training(tmp_path):
    flags = ["--dataset", "digits", "--preset", "fast", "--depth", "8"]
    flags += ["--epochs", "2", "--output", "run"]
    lines = shown_on_a_terminal("cifar10.py", flags, tmp_path)
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
    # Tables with cells that go on, and with words that are too long for it.
    for name, heads in (("a " + 15 * "name ", 1), ("a-" + 15 * "name-", 2)):
        (tmp_path / "run").rename(tmp_path / name)
        flags = [name, "--to", name]
        table = shown_on_a_terminal("compare.py", flags, tmp_path)
        (tmp_path / name).rename(tmp_path / "run")
        text = " ".join(table)
        assert text.count("name") == 2 * 15
        assert sum(line.startswith("set") for line in table) == heads


@pytest.mark.once
def test_a_file_gets_lines(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SECONDS", 1e-6)
    bar = terminal.Progress(range(3), desc="deleting", unit="block")
    for done in bar:
        bar.print(f"result {done}")
        if done == 2:
            # No step has been made.
            bar.tick()
            monkeypatch.setattr(bar, "mininterval", 1e6)
            bar.tick()
            monkeypatch.setattr(bar, "mininterval", 0)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "result 0",
        "deleting: 1 of 3 blocks, 00:00 left",
        "result 1",
        "deleting: 2 of 3 blocks, 00:00 left",
        "result 2",
        "deleting: 2 of 3 blocks, 00:00 left",
        "deleting: 3 of 3 blocks, 00:00 left",
    ]


@pytest.mark.once
def test_a_file_gets_no_lines_of_a_quick_task(capsys):
    assert [*terminal.Progress(range(3))] == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.once
def test_a_file_gets_lines_of_a_validation(monkeypatch, capsys):
    """After epochs and within them, also if no step has been made since."""
    monkeypatch.setattr(terminal, "SECONDS", 1e-6)
    x, y = np.zeros((4, 1)), np.zeros(4)
    for every in (None, 1):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(loss="mse")
        bar = terminal.TrainingBar(2)
        lines = terminal.Lines(bar, epochs=1)
        callbacks = [bar, lines]
        if every:
            callbacks[1] = training.StepEvaluation(
                (x, y), every, watching=[lines], batch_size=2
            )
        validation = None if every else (x, y)
        model.fit(
            *(x, y, 2),
            callbacks=callbacks,
            validation_data=validation,
            verbose=0,
        )
        printed = capsys.readouterr().out.splitlines()
        # Two batches after one epoch, or after each of two steps.
        shown = [line for line in printed if "training, validating: " in line]
        assert len(shown) == (4 if every else 2), printed
        bar = terminal.EvaluationBar("testing")
        model.evaluate(x, y, 2, callbacks=[bar], verbose=0)
        model.predict(x, 2, callbacks=[bar], verbose=0)
        printed = capsys.readouterr().out.splitlines()
        assert [line.partition(",")[0] for line in printed] == 2 * [
            *("testing: 1 of 2 steps", "testing: 2 of 2 steps")
        ]
