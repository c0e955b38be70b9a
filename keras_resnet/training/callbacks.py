"""Callbacks that Keras does not have."""

import math
import os
import signal
import time
from pathlib import Path

import keras


def save_atomically(model, path):
    """Saves a model so that `path` holds the old file or the new one.

    Keras writes in place: a process killed meanwhile leaves a broken file.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{path.name}")
    model.save(partial)
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model, with its optimizer, at the end of epochs.

    Unlike `keras.callbacks.ModelCheckpoint` it never leaves a broken file.

    Args:
        path: Path of the `.keras` file.
        monitor: Name of a value in the logs. The model is then saved only
            when this value is lower than ever before. Defaults to `None`,
            every epoch.
        best: Float, the lowest value so far. Defaults to infinity.
    """

    def __init__(self, path, monitor=None, best=math.inf):
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        if self.monitor is not None:
            value = logs[self.monitor]
            if not value < self.best:
                return
            self.best = value
        save_atomically(self.model, self.path)


class StopAt(keras.callbacks.Callback):
    """Ends training after an exact number of steps, within an epoch too.

    Args:
        steps: Integer, optimizer steps in all, those before a resume
            included.
    """

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_begin(self, logs=None):
        self._done = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        if self._done >= self.steps:
            self.model.stop_training = True


class DivergenceError(ArithmeticError):
    """The loss is no longer a finite number."""


class FailOnDivergence(keras.callbacks.Callback):
    """Raises `DivergenceError` after an epoch whose loss is not finite.

    `keras.callbacks.TerminateOnNaN` ends training as if all were well, and
    asks for the loss at every step, for which an accelerator must wait. Must
    come before the callbacks that save the model.
    """

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise DivergenceError(
                f"training diverged: the loss is {logs['loss']} in epoch "
                f"{epoch + 1}; lower the learning rate"
            )


class Pace(keras.callbacks.Callback):
    """Adds to the logs of each epoch where training is and how fast it goes.

    `iterations`: optimizer steps so far. `error` and `val_error`: one minus
    the accuracies. `seconds`: duration of the epoch with its validation.
    `images_per_second`: of the training steps but the first, which compiles;
    of that one where there is no other. Must come before the callbacks that
    write the logs.

    Args:
        batch_size: Integer, images per step.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()
        self._steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self._last = time.perf_counter()
        if self._steps == 0:
            self._first = self._last
        self._steps += 1

    def on_epoch_end(self, epoch, logs=None):
        elapsed, steps = self._last - self._first, self._steps - 1
        if steps == 0:
            elapsed, steps = self._last - self._begin, 1
        logs["iterations"] = int(self.model.optimizer.iterations)
        for prefix in ("", "val_"):
            if f"{prefix}accuracy" in logs:
                logs[f"{prefix}error"] = 1 - logs[f"{prefix}accuracy"]
        logs["seconds"] = time.perf_counter() - self._begin
        logs["images_per_second"] = steps * self.batch_size / elapsed


class Interruptible(keras.callbacks.Callback):
    """Makes Ctrl-C end training after the batch that runs.

    Python raises `KeyboardInterrupt` wherever it happens to be, and swallows
    it where that is a destructor, as TensorFlow has them: now and then a
    Ctrl-C would be lost. A second Ctrl-C acts at once. Must run in the main
    thread, as signal handlers do.
    """

    def on_train_begin(self, logs=None):
        self._asked = False
        self._previous = signal.signal(signal.SIGINT, self._ask)

    def _ask(self, number, frame):
        self._asked = True
        self._restore()

    def _restore(self):
        signal.signal(signal.SIGINT, self._previous)

    def _check(self, *_, **__):
        if self._asked:
            raise KeyboardInterrupt

    on_train_batch_end = on_test_batch_end = _check

    def on_train_end(self, logs=None):
        self._restore()
