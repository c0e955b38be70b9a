"""Errors that end a training that diverges and name the step."""

import math
from collections.abc import Iterable

import keras
import numpy as np

from keras_resnet.training.counting import StepCounter, steps_done
from keras_resnet.types import Logs


class DivergenceError(ArithmeticError):
    """The loss or a weight is no longer a finite number."""


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


class FailOnDivergence(StepCounter):
    """Raises `DivergenceError` with the first step whose loss is not finite.

    It checks the losses every `every` batches, at the end of an epoch and
    before a validation, because reading the loss after each batch would make a
    GPU wait. `keras.callbacks.TerminateOnNaN` ends training without an error.
    This callback must come before those that save the model. It may also be
    one of the `callbacks` of a `StepEvaluation`.

    Args:
        every: Integer, batches between two checks. Defaults to `100`.
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
        # Keras logs the mean of the epoch, not finite if one loss is not.
        if not unread or math.isfinite(unread[-1][1]["loss"]):
            return
        for step, logs in unread:
            if not math.isfinite(logs["loss"]):
                raise DivergenceError(
                    f"training diverged at step {step}: the loss is "
                    f"{logs['loss']}. {_reasons(self.model)}"
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
