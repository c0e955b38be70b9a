"""Logs of a batch that callbacks read when they look at them.

Keras reads all logs of each batch, and each reading waits for the device: no
step is sent to a GPU before the last one is done. If all callbacks are
`async_safe`, Keras reads in threads of its own instead, and calls the callbacks
there: too late to stop after an exact step, and in any order.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras

# Seconds between two readings for Keras's progress bar.
INTERVAL = 0.05


class UnreadLogs(dict[str, Any]):
    """A dictionary of logs, each read from the device at its first use.

    As in Keras, logs within logs are flattened, and numbers are floats.
    """

    def __init__(self, logs: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._take(logs or {})

    def _take(self, logs):
        for name, value in sorted(logs.items()):
            if isinstance(value, dict):
                self._take(value)
            else:
                # A callback may keep the logs, but not what autograd has
                # recorded of a whole step.
                if getattr(value, "requires_grad", False):
                    value = value.detach()
                self[name] = value

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if keras.ops.is_tensor(value):
            value = keras.ops.convert_to_numpy(value)
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
        self[name] = value
        return value

    # `dict(logs)` copies the values unread, unless this method is overridden.
    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            return self[name]
        return default

    def items(self) -> Any:
        return dict(self).items()

    def values(self) -> Any:
        return dict(self).values()

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    def __repr__(self) -> str:
        return repr(dict(self))


class Callbacks(keras.callbacks.CallbackList):
    """Callbacks that get `UnreadLogs` after each batch of `fit` and `evaluate`.

    They are called in order, in the thread that trains.
    """

    _shown = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        # Each epoch has a progress bar of its own.
        self._shown = 0.0
        super().on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        unread = UnreadLogs(logs)
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs=self._of(callback, unread))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        unread = UnreadLogs(logs)
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs=self._of(callback, unread))

    def _of(self, callback, logs):
        """Return no logs for a callback of Keras that would not show them."""
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            now = time.monotonic()
            if now - self._shown < INTERVAL:
                return {}
            self._shown = now
        elif isinstance(callback, keras.callbacks.TensorBoard):
            return {} if callback.update_freq == "epoch" else logs
        return logs
