"""A training shows how far it is, on a terminal and in a file."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
import types

import keras
import numpy as np
import pytest
from conftest import ROOT

from keras_resnet import training
from keras_resnet_recipes.experiment import terminal
from keras_resnet_recipes.experiment import training as running

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


def wait_for(words, capsys):
    """Wait until some words are printed."""
    printed, deadline = "", time.monotonic() + 60
    while words not in printed:
        assert time.monotonic() < deadline, printed
        time.sleep(0.001)
        printed += capsys.readouterr().out


def wait_for_threads():
    """Wait until no thread prints lines."""
    for thread in threading.enumerate():
        if "_print_lines" in thread.name:
            thread.join(60)
            assert not thread.is_alive()


class Wait(keras.callbacks.Callback):
    """Makes each batch of a validation last until some words are printed.

    Braces in the words stand for the number of batches.
    """

    def __init__(self, words, capsys):
        super().__init__()
        self.words, self.capsys = words, capsys

    def on_test_batch_end(self, batch, logs=None):
        wait_for(self.words.format(batch + 1), self.capsys)

    on_predict_batch_end = on_test_batch_end


@pytest.mark.once
def test_a_file_gets_lines_also_during_a_step(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SECONDS", 0.01)
    for done in terminal.Progress(range(2), desc="deleting", unit="block"):
        for _ in range(2):
            wait_for(f"deleting: {done} of 2 blocks, ", capsys)
    wait_for_threads()
    # One that nobody closes, as if the task had failed.
    bar = terminal.Progress(desc="failing", total=3, unit="block")
    bar.update(2)
    wait_for("failing: 2 of 3 blocks, ", capsys)
    del bar
    wait_for_threads()
    # One whose reader is gone.
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        bar = terminal.Progress(total=3)
        wait_for_threads()
        bar.close()
        with pytest.raises(BrokenPipeError):
            file.close()


@pytest.mark.once
def test_a_file_gets_no_lines_of_a_quick_task(capsys):
    assert [*terminal.Progress(range(3))] == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.once
def test_a_file_gets_lines_of_a_validation(monkeypatch, capsys):
    """After epochs and within them, also if no step has been made since."""
    monkeypatch.setattr(terminal, "SECONDS", 0.01)
    x, y = np.zeros((4, 1)), np.zeros(4)
    for every in (None, 1):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(loss="mse")
        bar = terminal.TrainingBar(2)
        lines = terminal.Lines(bar, epochs=1)
        validating = [lines, Wait("training, validating: ", capsys)]
        callbacks = [bar, *validating]
        if every:
            callbacks[1:] = [
                training.StepEvaluation(
                    (x, y), every, watching=validating, batch_size=2
                )
            ]
        validation = None if every else (x, y)
        model.fit(
            *(x, y, 2),
            callbacks=callbacks,
            validation_data=validation,
            verbose=0,
        )
        testing = [
            terminal.EvaluationBar("testing"),
            Wait("testing: {} of 2 steps, ", capsys),
        ]
        model.evaluate(x, y, 2, callbacks=testing, verbose=0)
        model.predict(x, 2, callbacks=testing, verbose=0)
        wait_for_threads()


@pytest.mark.once
@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.25, "0.250"), (9999, "9999.000"), (3.4e30, "3.40e+30")],
)
def test_a_large_loss_has_an_exponent(loss, text):
    lines = []
    bar = types.SimpleNamespace(steps=8, write=lines.append)
    terminal.Lines(bar, epochs=1).on_epoch_end(0, {"loss": loss})
    assert lines == [["epoch 1/1", f"loss {text}"]]


@pytest.mark.once
def test_a_long_name_of_a_folder_goes_on_in_the_next_line(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    job = types.SimpleNamespace(
        label="net", steps=1, steps_per_epoch=1, batch_size=1
    )
    run = types.SimpleNamespace(path=60 * "a ")
    running._introduce(run, job, model, 0)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
