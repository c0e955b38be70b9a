"""Steps and errors of a training, counted for callbacks."""

import keras

from keras_resnet.devices.engine import batches_per_step
from keras_resnet.types import Logs


def steps_done(model: keras.Model) -> int:
    """Return the number of optimizer steps that a model was trained for."""
    # `int` alone fails on TensorFlow's variables of several devices.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


def batches_seen(model: keras.Model) -> int:
    """Return the number of batches that a model was trained on.

    It is the number of steps, unless the optimizer accumulates gradients.
    """
    return steps_done(model) * batches_per_step(model)


def add_errors(logs: dict) -> None:
    """Add one minus each accuracy to logs that have accuracies."""
    for prefix in ("", "val_"):
        if f"{prefix}accuracy" in logs:
            logs[f"{prefix}error"] = 1 - logs[f"{prefix}accuracy"]


class StepCounter(keras.callbacks.Callback):
    """Counts the optimizer steps while a model is trained.

    Keras passes a callback the batch of the epoch, which is not the step. With
    `steps_per_execution` it is the last of several batches. An optimizer that
    accumulates gradients makes one step of several batches. A resumed training
    has made steps before.

    Attributes:
        batches: Integer, batches so far, including those before a resume.
        step: Integer, optimizer steps so far.
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        self._each = batches_per_step(self.model)
        self.batches: int = batches_seen(self.model)
        self._before = self.batches

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._before = self.batches

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        # Keras counts a last, smaller group of batches like a full one.
        steps = (self.params or {}).get("steps")
        done = min(batch + 1, steps) if steps else batch + 1
        self.batches = self._before + done

    @property
    def step(self) -> int:
        return self.batches // self._each


class StopAt(StepCounter):
    """Ends training after an exact number of steps, within an epoch too.

    Args:
        steps: Integer, batches in all, including those before a resume; a
            multiple of `steps_per_execution`. A batch is an optimizer step,
            unless the optimizer accumulates gradients.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.batches >= self.steps:
            self.model.stop_training = True
