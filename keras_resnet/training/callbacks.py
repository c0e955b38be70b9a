"""Callbacks that Keras does not have."""

import math
import os
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.atomic import replacing
from keras_resnet.backend import profiler
from keras_resnet.devices.engine import undistributed
from keras_resnet.types import Logs, PathLike


def steps_done(model: keras.Model) -> int:
    """Return the number of optimizer steps that a model was trained for."""
    # `int` alone fails on TensorFlow's variables of several devices.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def batches_seen(model: keras.Model) -> int:
    """Return the number of batches that a model was trained on.

    It is the number of steps, unless the optimizer accumulates gradients.
    """
    return steps_done(model) * batches_per_step(model)


def batches_per_step(model: keras.Model) -> int:
    """Return the number of batches whose gradients make one step."""
    return getattr(model.optimizer, "gradient_accumulation_steps", None) or 1


def save_atomically(
    model: keras.Model,
    path: PathLike,
    comment: str = "",
    previous: PathLike | None = None,
) -> None:
    """Save a model so that `path` holds the old file or the new one.

    Keras writes in place, so a process that is killed leaves a broken file.
    `comment`, at most 65,535 bytes, is that of the file as an archive. The
    file that is replaced is kept as `previous`, if that is given.

    Raises:
        DivergenceError: If a weight is not a finite number. The old file
            stays.
    """
    check_finite(model, map(keras.ops.convert_to_numpy, model.variables))
    with replacing(path) as partial, undistributed():
        model.save(partial)
        with zipfile.ZipFile(partial, "a") as file:
            file.comment = comment.encode()
        if previous is not None and os.path.exists(path):
            with replacing(previous) as copy:
                try:
                    os.link(path, copy)
                except OSError:
                    # Some file systems have no links.
                    shutil.copyfile(path, copy)


def check_finite(model: keras.Model, values: Iterable[np.ndarray]) -> None:
    """Raise `DivergenceError` if a weight is not a finite number.

    `values` are those of `model.variables`, in their order.
    """
    broken = [
        variable.path
        for variable, value in zip(model.variables, values, strict=True)
        if not np.isfinite(value).all()
    ]
    if broken:
        raise DivergenceError(
            f"training diverged before step {steps_done(model)}: "
            f"{len(broken)} of {len(model.variables)} weights are not finite "
            f"numbers, the first {broken[0]}. {_reasons(model)}"
        )


def _reasons(model):
    """Say what usually makes a training diverge."""
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    reasons = [
        f"a learning rate that is too high (it is {rate:g})",
        "images or labels that are not finite numbers",
    ]
    if model.dtype_policy.compute_dtype == "float16":
        reasons.append("numbers too large for float16")
    return f"Likely reasons: {', or '.join(reasons)}"


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model, with its optimizer, at the end of epochs.

    Unlike `keras.callbacks.ModelCheckpoint` it never leaves a broken file.

    Args:
        path: Path of the `.keras` file.
        monitor: Name of a value in the logs. The model is saved only when this
            value is lower than ever before. Defaults to `None`, every epoch.
        best: Float, the lowest value so far. Defaults to infinity.
    """

    def __init__(
        self, path: PathLike, monitor: str | None = None, best: float = math.inf
    ) -> None:
        super().__init__()
        self.path = path
        self.monitor = monitor
        self.best: float = best

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._save(logs)

    def _save(self, logs: dict) -> None:
        if self.monitor is not None:
            value = logs[self.monitor]
            # A model whose loss is not a number may have a low error.
            finite = all(math.isfinite(x) for x in logs.values())
            if not (finite and value < self.best):
                return
        save_atomically(self.model, self.path)
        if self.monitor is not None:
            self.best = value


class AverageCheckpoint(Checkpoint):
    """Saves the model with the average of its weights, after validations.

    During a validation `keras.callbacks.SwapEMAWeights` has replaced the
    weights by their average. This callback must come before that one, because
    swapping the weights once more would need all processes of a run.

    Args: see `Checkpoint`.
    """

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Do nothing: the weights are no longer the average."""

    def on_test_end(self, logs: Logs = None) -> None:
        logs = {f"val_{name}": value for name, value in logs.items()}
        _add_errors(logs)
        self._save(logs)


class StepCounter(keras.callbacks.Callback):
    """Counts the optimizer steps while a model is trained.

    Keras passes a callback the batch of the epoch, which is not the step: with
    `steps_per_execution` it is the last of several batches, an optimizer that
    accumulates gradients makes one step of several batches, and a resumed
    training has made steps before.

    Attributes:
        batches: Integer, batches so far, those before a resume included.
        step: Integer, optimizer steps so far.
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        self._each = batches_per_step(self.model)
        self.batches: int = batches_seen(self.model)
        self._before = self.batches

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._before = self.batches

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.batches = self._before + batch + 1

    @property
    def step(self) -> int:
        return self.batches // self._each


class StepEvaluation(StepCounter):
    """Evaluates the model every so many steps, within epochs too.

    It evaluates every `every` optimizer steps and after the last step. After
    the last step means before the epoch ends if a callback before this one
    ends training (`StopAt`), else when training ends. The values are:

    - `iterations`: optimizer steps so far;
    - `loss` and the other metrics of the training batches since the last
      evaluation, or since training began, as in the logs of Keras if all
      batches have one size;
    - `val_loss` and so on: the metrics of the validation data;
    - `error` and `val_error`: one minus the accuracies, if there are any.

    It passes them to other callbacks as if an epoch had ended: for example to
    `keras.callbacks.CSVLogger`, for a file of them, and to `Checkpoint` or
    `keras.callbacks.ModelCheckpoint`, for the best model. The epoch is
    `iterations - 1`, so that Keras's `"{epoch}"` in a file name is the step.
    The metrics of the current epoch are not disturbed.

    Args:
        validation_data: A dataset, or a tuple of arrays `(x, y)` or
            `(x, y, sample_weight)`, as `Model.evaluate` takes.
        every: Integer, steps between two evaluations.
        callbacks: List of callbacks that get the values. Defaults to none.
        watching: List of callbacks that see the batches of the evaluations, as
            `callbacks` of `Model.evaluate`. Defaults to none.
        **kwargs: Other arguments of `Model.evaluate`, such as `batch_size`.

    Attributes:
        history: List of the dictionaries of values so far.
    """

    # The attributes that a resumed training takes over.
    STATE = ("evaluated", "sums", "summed", "in_epoch", "epoch_batches")

    def __init__(
        self,
        validation_data: Any,
        every: int,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        watching: Sequence[keras.callbacks.Callback] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(
                f"`every` must be at least 1. Received: every={every}"
            )
        self.validation_data = validation_data
        self.every = every
        self.callbacks: list[keras.callbacks.Callback] = list(callbacks)
        self.kwargs: dict[str, Any] = {
            "verbose": 0,
            "callbacks": [*watching],
            **kwargs,
        }
        self.history: list[dict[str, Any]] = []

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        for callback in self.callbacks:
            callback.set_params(params)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        for callback in self.callbacks:
            callback.set_model(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._evaluated = self.step
        self._sums, self._summed, self._unread = {}, 0, {}
        for callback in self.callbacks:
            callback.on_train_begin(logs)

    def state(self) -> dict[str, Any]:
        """Return what a training that is resumed must know, for JSON."""
        return {name: getattr(self, f"_{name}") for name in self.STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the `state` of a training that was stopped."""
        for name in self.STATE:
            setattr(self, f"_{name}", state[name])

    def on_train_end(self, logs: Logs = None) -> None:
        if self.step > self._evaluated:
            self._evaluate()
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # The sums of the metrics over this epoch when they were last read.
        self._in_epoch: dict[str, float] = {}
        self._epoch_batches = 0

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        seen, before = self.batches, self.step
        super().on_train_batch_end(batch, logs)
        self._summed += self.batches - seen
        self._epoch_batches += self.batches - seen
        # Not read before they are needed, because a GPU would have to wait.
        self._unread = logs
        # The last step is evaluated before the epoch ends, because a run saves
        # its results then. `StopAt`, which comes before, has ended training.
        # `self.model` would make Keras hand JAX's state back.
        last = self._model.stop_training and self.step > self._evaluated
        if last or before // self.every < self.step // self.every:
            self._read()
            self._evaluate()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._read()

    def _read(self) -> None:
        """Add the metrics of the batches since they were last read."""
        # Keras's logs are means over the epoch so far.
        logs, self._unread = self._unread, {}
        for key, mean in logs.items():
            value = self._epoch_batches * mean
            change = value - self._in_epoch.get(key, 0)
            self._sums[key] = self._sums.get(key, 0) + change
            self._in_epoch[key] = value

    def _evaluate(self) -> None:
        logs = {"iterations": self.step}
        logs |= {k: value / self._summed for k, value in self._sums.items()}
        # Evaluation uses the metrics that the epoch is adding to.
        metrics = self.model.metrics_variables
        values = [keras.ops.convert_to_numpy(v).copy() for v in metrics]
        x, y, weights = keras.utils.unpack_x_y_sample_weight(
            self.validation_data
        )
        validation = self.model.evaluate(
            x, y, sample_weight=weights, return_dict=True, **self.kwargs
        )
        for variable, value in zip(metrics, values, strict=True):
            variable.assign(value)
        logs |= {f"val_{key}": value for key, value in validation.items()}
        _add_errors(logs)
        self._evaluated = self.step
        self._sums, self._summed = {}, 0
        self.history.append(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(self.step - 1, dict(logs))


def _add_errors(logs: dict) -> None:
    """Add one minus the accuracies to logs that have any."""
    for prefix in ("", "val_"):
        if f"{prefix}accuracy" in logs:
            logs[f"{prefix}error"] = 1 - logs[f"{prefix}accuracy"]


class StopAt(StepCounter):
    """Ends training after an exact number of steps, within an epoch too.

    Args:
        steps: Integer, batches in all, those before a resume included, a
            multiple of `steps_per_execution`. They are optimizer steps, unless
            the optimizer accumulates gradients.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.batches >= self.steps:
            self.model.stop_training = True


class PlateauDivision(keras.callbacks.ReduceLROnPlateau):
    """`keras.callbacks.ReduceLROnPlateau` that continues after a resume.

    Keras's callback forgets earlier epochs when training begins. The learning
    rate itself belongs to the optimizer and is saved with it.

    Args:
        history: Function that returns the logs of earlier epochs, a
            dictionary of lists with those of `monitor` (see `read_history`).
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
        # The past is replayed on an unused optimizer with an infinite rate. On
        # the current rate, `min_lr` would prevent divisions that took place. A
        # division that it did prevent does not matter: none came after it.
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

    The profiler of the backend makes it. PyTorch's trace is a JSON file, which
    Chrome can show, and TensorBoard with the plugin torch-tb-profiler.

    Args:
        folder: Path of TensorBoard's folder.
        first: Integer, batches before the trace begins. Defaults to `5`,
            because the first batches compile.
        batches: Integer, batches in the trace, fewer if the epoch ends before.
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
        # The end of the previous batch may be the end of the epoch.
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


class DivergenceError(ArithmeticError):
    """The loss or a weight is no longer a finite number."""


class FailOnDivergence(StepCounter):
    """Raises `DivergenceError` with the first step whose loss is not finite.

    It looks every so many batches, when an epoch ends, and before a validation,
    because reading the loss after each batch would make a GPU wait.
    `keras.callbacks.TerminateOnNaN` ends training without an error. This
    callback must come before those that save the model. It may also be one of
    those of a `StepEvaluation`.

    Args:
        every: Integer, batches between two looks. Defaults to `100`.
    """

    def __init__(self, every: int = 100) -> None:
        super().__init__()
        self.every = every

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._unread: list[tuple[int, dict]] = []

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._unread.append((self.step, logs))
        if len(self._unread) >= self.every:
            self._check()

    def on_test_begin(self, logs: Logs = None) -> None:
        self._check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._check()

    def _check(self) -> None:
        unread, self._unread = self._unread, []
        # Keras's mean over the epoch stays without a number from then on.
        if not unread or math.isfinite(unread[-1][1]["loss"]):
            return
        for step, logs in unread:
            if not math.isfinite(logs["loss"]):
                raise DivergenceError(
                    f"training diverged at step {step}: the loss is "
                    f"{logs['loss']}. {_reasons(self.model)}"
                )


class Throughput(keras.callbacks.Callback):
    """Adds step, errors, duration and throughput to the logs of each epoch.

    - `iterations`: optimizer steps so far;
    - `error` and `val_error`: one minus the accuracies;
    - `seconds`: duration of the epoch with its validation;
    - `images_per_second`: throughput of the training steps, evaluations
      between them included, without the first step, which compiles, unless it
      is the only one. In an epoch that was resumed it is that of the steps
      since.

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
        """Return what a training that is resumed must know, for JSON."""
        return {"seconds": self._seconds()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the `state` of a training that was stopped."""
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
        """Count the time until the device has done the last step."""
        begin = time.perf_counter()
        # Reading the logs waits for it.
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
        _add_errors(logs)
        logs["seconds"] = self._seconds()
        logs["images_per_second"] = steps * self.batch_size / elapsed


# What ends a process in good order. Windows has no SIGHUP.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


class Interruptible(keras.callbacks.Callback):
    """Makes Ctrl-C, SIGTERM and SIGHUP end training after the current batch.

    They raise `KeyboardInterrupt`, whose argument is the number of the signal.
    Python raises it anywhere, and ignores it in a destructor, such as
    TensorFlow's: a Ctrl-C would sometimes be lost. A second signal acts at
    once. A signal that the process ignores is left alone. Training must run in
    the main thread, as signal handlers do.

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
        """Give the signals back. Keras does not, where `fit` fails."""
        while self._previous:
            signal.signal(*self._previous.popitem())

    def _check(self, *_: Any, **__: Any) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt(self.signal)

    on_train_batch_end = on_test_batch_end = _check

    def on_train_end(self, logs: Logs = None) -> None:
        self.restore_handlers()
