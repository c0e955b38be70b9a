"""Callbacks that Keras does not have."""

import math
import signal
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.backend import profiler
from keras_resnet.training.counting import add_errors, steps_done
from keras_resnet.types import Logs, PathLike


class PlateauDivision(keras.callbacks.ReduceLROnPlateau):
    """`keras.callbacks.ReduceLROnPlateau` that continues after a resume.

    Keras's callback forgets earlier epochs when training begins. The learning
    rate itself belongs to the optimizer and is saved with it.

    Args:
        history: Function that returns the logs of earlier epochs: a
            dictionary of lists that contains `monitor` (see `read_history`).
        **kwargs: Arguments of `keras.callbacks.ReduceLROnPlateau`.
    """

    def __init__(
        self, history: Callable[[], dict[str, list[float]]], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._history = history

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        model, verbose = self.model, self.verbose
        past = self._history().get(self.monitor, [])
        # Earlier epochs are replayed on an unused optimizer of infinite rate,
        # because from the current rate `min_lr` would prevent divisions. If it
        # did prevent one, replaying it is harmless: no division followed.
        stand_in = keras.Sequential()
        stand_in.optimizer = keras.optimizers.SGD(math.inf)
        self.verbose: int = 0
        self._set_monitor_op()
        self.set_model(stand_in)
        for epoch, value in enumerate(past):
            self.on_epoch_end(epoch, {self.monitor: value})
        self.set_model(model)
        self.verbose = verbose


class Profile(keras.callbacks.Callback):
    """Writes a trace of some batches, for TensorBoard's profiler.

    The profiler of the backend makes it. PyTorch's trace is a JSON file.
    Chrome shows it, and so does TensorBoard with the plugin torch-tb-profiler.

    Args:
        folder: Path of TensorBoard's folder.
        first: Integer, batches before the trace begins. Defaults to `5`,
            because the first batches compile.
        batches: Integer, batches in the trace, fewer if the epoch ends first.
            Defaults to `5`.
    """

    def __init__(
        self, folder: PathLike, first: int = 5, batches: int = 5
    ) -> None:
        super().__init__()
        self.folder: str = str(folder)
        self.first = first
        self.batches = batches
        self._seen = 0
        self._trace: Any = None  # `False` when it is over

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._before = self._seen

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # Not after the previous batch, which may be the last of its epoch.
        if self._trace is None and self._seen >= self.first:
            self._trace = profiler(self.folder)
            self._trace.__enter__()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._seen = self._before + batch + 1
        if self._seen >= self.first + self.batches:
            self._stop()

    def _stop(self) -> None:
        if self._trace:
            self._trace.__exit__(None, None, None)
            self._trace = False

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        # The trace must not contain a validation.
        self._stop()


class Throughput(keras.callbacks.Callback):
    """Adds step, errors, duration and throughput to the logs of each epoch.

    - `iterations`: optimizer steps so far;
    - `error` and `val_error`: one minus the accuracies;
    - `seconds`: duration of the epoch with its validation;
    - `images_per_second`: throughput of the training steps, including
      evaluations between them. The first step does not count, because it
      compiles, unless it is the only one. In a resumed epoch only the steps
      after the resume count.

    This callback must come before those that write the logs.

    Args:
        batch_size: Integer, images per step.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._begin = time.perf_counter()
        self._before = self._last = 0.0
        self._steps = 0
        self._unread: dict[str, float] = {}

    def state(self) -> dict[str, Any]:
        """Return the values that a resumed training needs, for JSON."""
        return {"seconds": self._seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the `state` of a stopped training."""
        self._before = state["seconds"]

    def _seconds(self):
        return self._before + time.perf_counter() - self._begin

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._last = time.perf_counter()
        if self._steps == 0:
            self._first, self._compiled = self._last, batch + 1
        self._steps = batch + 1
        self._unread = logs or {}

    def on_test_begin(self, logs: Logs = None) -> None:
        self._wait()

    def _wait(self) -> None:
        """Add the time until the device has finished the last step."""
        begin = time.perf_counter()
        # Reading the logs waits for the device.
        dict(self._unread)
        self._unread = {}
        self._last += time.perf_counter() - begin

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._wait()
        elapsed = self._last - self._first
        steps = self._steps - self._compiled
        if steps == 0:
            elapsed, steps = self._last - self._begin, self._steps
        logs["iterations"] = steps_done(self.model)
        add_errors(logs)
        logs["seconds"] = self._seconds()
        logs["images_per_second"] = steps * self.batch_size / elapsed


# Signals that ask a process to end. Windows has no SIGHUP.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


class Interruptible(keras.callbacks.Callback):
    """Makes Ctrl-C, SIGTERM and SIGHUP end training after the current batch.

    They raise `KeyboardInterrupt`, whose argument is the number of the signal.
    Without this callback Python may raise it in a destructor, such as
    TensorFlow's, and ignore it there: a Ctrl-C would sometimes be lost. A
    second signal acts at once. Signals that the process ignores stay ignored.
    Training must run in the main thread, because Python handles signals there.

    Attributes:
        signal: Number of the signal that has come, or `None`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def on_train_begin(self, logs: Logs = None) -> None:
        self.signal = None
        self._previous = {
            number: signal.signal(number, self._ask)
            for number in SIGNALS
            # Handlers that are not Python's could not be restored.
            if signal.getsignal(number) not in (signal.SIG_IGN, None)
        }

    def _ask(self, number: int, frame: Any) -> None:
        self.signal = number
        self.restore_handlers()

    def restore_handlers(self) -> None:
        """Restore the old handlers. Keras does not do it if `fit` fails."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _check(self, *_: Any, **__: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)

    on_train_batch_end = on_test_batch_end = _check

    def on_train_end(self, logs: Logs = None) -> None:
        self.restore_handlers()
