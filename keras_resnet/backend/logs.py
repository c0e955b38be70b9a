"""Logs of a batch that are copied from the device when a callback reads them.

Keras reads all logs after each batch, and waits for the device each time, so a
GPU gets no step before the last one is done. If all callbacks are `async_safe`,
Keras instead reads the logs and calls the callbacks in other threads. That is
in any order, and too late to stop after an exact step.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import keras

# Seconds between two readings for Keras's progress bar.
INTERVAL = 0.05


class UnreadLogs(dict[str, Any]):
    """Dictionary of logs, each copied from the device at its first use.

    As in Keras, nested logs are flattened, and numbers are floats.
    """

    def __init__(self, logs: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._take(logs or {})

    def _take(self, logs):
        for name, value in sorted(logs.items()):
            if isinstance(value, dict):
                self._take(value)
            else:
                # Otherwise logs that a callback keeps would also keep the
                # autograd graph of the whole step.
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

    def setdefault(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        if name in self:
            # Read first.
            self[name]
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        name = next(reversed(self), None)
        return super().popitem() if name is None else (name, self.pop(name))

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

    They are called in order, in the training thread.
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
        """Return the logs, or `{}` for a Keras callback that ignores them."""
        # A subclass may read them.
        if type(callback) is keras.callbacks.ProgbarLogger:
            now = time.monotonic()
            if now - self._shown < INTERVAL:
                return {}
            self._shown = now
        elif type(callback) is keras.callbacks.TensorBoard:
            return {} if callback.update_freq == "epoch" else logs
        return logs
