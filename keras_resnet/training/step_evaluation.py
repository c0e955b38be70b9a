"""Evaluation every so many steps, within epochs too."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_resnet.training.counting import StepCounter, add_errors
from keras_resnet.types import Logs


class StepEvaluation(StepCounter):
    """Evaluates the model every so many steps, within epochs too.

    It evaluates every `every` optimizer steps and after the last step: before
    the end of the epoch if a callback before this one ends training (`StopAt`),
    else at the end of training. The values are:

    - `iterations`: optimizer steps so far;
    - `loss` and the other metrics of the training batches since the last
      evaluation, or since training began, as in the logs of Keras if all
      batches have one size;
    - `val_loss` and so on: the metrics of the validation data;
    - `error` and `val_error`: one minus the accuracies, if there are any.

    It passes them to other callbacks as if an epoch had ended: for example to
    `keras.callbacks.CSVLogger`, which writes them, and to `Checkpoint` or
    `ModelCheckpoint`, which save the best model. The epoch is `iterations - 1`,
    so that Keras's `"{epoch}"` in a file name is the step. The metrics of the
    current epoch do not change.

    Args:
        validation_data: A dataset, or a tuple of arrays `(x, y)` or
            `(x, y, sample_weight)`, as `Model.evaluate` takes.
        every: Integer, steps between two evaluations.
        callbacks: List of callbacks that get the values. Defaults to none.
        watching: List of callbacks for the batches of the evaluations, passed
            to `Model.evaluate` as `callbacks`. Defaults to none.
        **kwargs: Other arguments of `Model.evaluate`, such as `batch_size`.

    Attributes:
        history: List of the dictionaries of values so far.
    """

    # The attributes that a resumed training restores.
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
        """Return the values that a resumed training needs, for JSON."""
        return {name: getattr(self, f"_{name}") for name in self.STATE}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the `state` of a stopped training."""
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
        # Read only when they are needed, because reading makes a GPU wait.
        self._unread = logs
        # The last step is evaluated before the epoch ends, because a run saves
        # its results then. `StopAt` comes before and has ended training.
        # Reading `self.model` would make Keras copy JAX's state back.
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
        # Evaluation changes the metrics of the current epoch.
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
        add_errors(logs)
        self._evaluated = self.step
        self._sums, self._summed = {}, 0
        self.history.append(logs)
        for callback in self.callbacks:
            callback.on_epoch_end(self.step - 1, dict(logs))
