"""Progress of a task.

A terminal shows a bar with the remaining time. A file or a log gets a line
every 30 seconds, from a thread, because a step may take longer.
"""

import contextlib
import math
import sys
import threading
import time
import weakref

import keras
from tqdm import tqdm

from keras_resnet.training.counting import StepCounter

from .report import WIDTH

SECONDS = 30
# Losses from here on have an exponent.
LARGE = 1e4


class Progress(tqdm):
    """`tqdm.tqdm` for a terminal of 80 columns, or for a file.

    Args:
        *args, desc, total, initial, unit, disable: As in `tqdm.tqdm`.
    """

    def __init__(self, *args, **kwargs):
        # Standard output may be a pipe to `tee`, which must not get the bar.
        file = sys.stderr if sys.stderr.isatty() else sys.stdout
        if not file.isatty():
            # `tqdm` itself prints nothing.
            kwargs |= {"mininterval": math.inf, "delay": math.inf}
            kwargs["bar_format"] = (
                "{desc}: {n_fmt} of {total_fmt} {unit}s, {remaining} left"
            )
        self._ended = threading.Event()
        super().__init__(
            *args,
            file=file,
            ncols=WIDTH - 1,
            # Some terminals report no rows.
            nrows=20,
            # Check the clock at each step.
            miniters=1,
            leave=False,
            **kwargs,
        )
        if not self.disable and not self.on_terminal:
            # Without a reference to the bar, so that one that nobody closes
            # ends the thread, too.
            arguments = weakref.ref(self), self._ended, SECONDS
            threading.Thread(
                target=_print_lines, args=arguments, daemon=True
            ).start()

    def __iter__(self):
        # `tqdm` counts only when it prints.
        try:
            for element in self.iterable:
                yield element
                self.update()
        finally:
            self.close()

    @staticmethod
    def status_printer(file):
        if file.isatty():
            return tqdm.status_printer(file)

        def print_line(text):
            # The end of a bar is an empty text.
            if text.strip():
                # At once, because another thread may print.
                file.write(f"{text}\n")
                file.flush()

        return print_line

    @property
    def on_terminal(self):
        """Whether there is a bar, instead of lines or nothing."""
        return not self.disable and self.fp.isatty()

    def print(self, text):
        """Print a line of results above the bar."""
        if self.on_terminal:
            self.clear()
        print(text, flush=True)
        if self.on_terminal:
            self.refresh()

    def tick(self):
        """Repeat a bar that has not changed for a while."""
        # A disabled bar has no clock.
        if self.disable:
            return
        now = self._time()
        if now - self.last_print_t >= self.mininterval:
            self.last_print_t = now
            self.refresh()

    def close(self):
        """Remove the bar, or end the lines."""
        self._ended.set()
        super().close()


def _print_lines(reference, ended, seconds):
    """Print a line about a bar from time to time, until it ends."""
    # Whoever reads the lines may be gone, or the file closed.
    with contextlib.suppress(OSError, ValueError):
        while not ended.wait(seconds):
            bar = reference()
            if bar is None:
                return
            # A lock could be held while another thread forks this process.
            bar.refresh(nolock=True)
            del bar


class TrainingBar(StepCounter):
    """Shows the steps of a training, and prints lines about it.

    Args:
        steps: Integer, number of all batches. Defaults to those of `fit`.
        show: Boolean, whether to show anything. Defaults to `True`.
    """

    def __init__(self, steps=None, show=True):
        super().__init__()
        self.steps = steps
        self.show = show
        self._bar = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._first = None
        self.close()
        self._bar = Progress(
            desc="training",
            total=self.steps or self.params["steps"] * self.params["epochs"],
            initial=self.batches,
            unit="step",
            disable=not self.show,
        )

    def on_train_batch_end(self, batch, logs=None):
        before = self.batches
        super().on_train_batch_end(batch, logs)
        self._bar.set_description_str("training", refresh=False)
        self._bar.update(self.batches - before)
        # The first step compiles.
        self._first = self._first or (self.batches, time.monotonic())

    def on_train_end(self, logs=None):
        self.close()

    def validated(self):
        """Show that a batch of a validation has been evaluated."""
        self._bar.set_description_str("training, validating", refresh=False)
        self._bar.tick()

    def close(self):
        """Remove the bar, also after `fit` has failed."""
        if self._bar is not None:
            self._bar.close()

    def write(self, parts):
        """Print a line of some parts and the remaining time."""
        if not self.show:
            return
        first, begun = self._first
        if self.batches > first:
            seconds = (time.monotonic() - begun) / (self.batches - first)
            left = tqdm.format_interval((self.steps - self.batches) * seconds)
            parts = [*parts, f"{left} left"]
        self._bar.print("  ".join(parts))


class Lines(keras.callbacks.Callback):
    """Prints a line of at most 80 columns for each epoch or validation.

    Args:
        bar: The `TrainingBar`.
        epochs: Integer, number of epochs; `None` for lines with steps.
    """

    def __init__(self, bar, epochs=None):
        super().__init__()
        self.bar = bar
        self.epochs = epochs

    def on_test_batch_end(self, batch, logs=None):
        self.bar.validated()

    def on_epoch_end(self, epoch, logs=None):
        parts = [f"step {epoch + 1:,}/{self.bar.steps:,}"]
        if self.epochs is not None:
            parts = [f"epoch {epoch + 1}/{self.epochs}"]
        loss = logs["loss"]
        parts.append(f"loss {loss:.3f}" if loss < LARGE else f"loss {loss:.2e}")
        for name, label in (("error", "error"), ("val_error", "val")):
            if name in logs:
                parts.append(f"{label} {100 * logs[name]:.1f} %")
        if "images_per_second" in logs:
            parts.append(f"{logs['images_per_second']:,.0f} img/s")
        self.bar.write(parts)


class EvaluationBar(keras.callbacks.Callback):
    """Shows the steps of `evaluate` or `predict`.

    Args:
        title: String, name of the task.
        show: Boolean, whether to show anything. Defaults to `True`.
    """

    def __init__(self, title, show=True):
        super().__init__()
        self.title = title
        self.show = show

    def on_test_begin(self, logs=None):
        self._bar = Progress(
            desc=self.title,
            total=self.params["steps"],
            unit="step",
            disable=not self.show,
        )

    def on_test_batch_end(self, batch, logs=None):
        self._bar.update(batch + 1 - self._bar.n)

    def on_test_end(self, logs=None):
        self._bar.close()

    on_predict_begin = on_test_begin
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end
