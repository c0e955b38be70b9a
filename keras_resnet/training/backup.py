"""Checkpoints from which a training continues as if it had never stopped."""

import json
import math
import os
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_resnet.devices.engine import Devices
from keras_resnet.training.background import BackgroundSaver
from keras_resnet.training.callbacks import Interruptible
from keras_resnet.training.checkpoints import save_atomically
from keras_resnet.training.counting import StepCounter
from keras_resnet.types import Logs, PathLike

# Number of batches after which several processes agree whether to save or to
# end. They do not agree at each batch, because that makes the devices wait.
AGREE_EVERY = 10
# A validation after an epoch may take long, and it cannot be interrupted by a
# save. So a save is due before the last step if this many seconds have passed.
BEFORE_VALIDATION = 60.0


class Backup(StepCounter):
    """Saves the state of a training at the end of epochs and within them.

    The state is the model with its optimizer, the metrics of the epoch so
    far, the states of other callbacks, and the length of the histories. One
    `.keras` file holds all of it: its ZIP comment holds all but the model.

    To resume, load the model, call `read_state`, cut the histories, and call
    `fit` with `initial_epoch=batches_seen(model) // steps_per_epoch` and the
    batches from `batches_seen(model)` on. The training continues within the
    epoch, and every later number is the same as without the stop.

    Ctrl-C, SIGTERM and SIGHUP save the state after the current batch and then
    raise `KeyboardInterrupt`, whose argument is the number of the signal.
    Nothing can be saved in the last batch of an epoch and in validations. The
    saved state is then that of the last save.

    A save within an epoch is written in a thread, while the training goes on.
    If it fails, its error is raised after a later batch. The other saves are
    written before anything else happens.

    This callback must come after all callbacks whose state it saves.

    Args:
        path: Path of the `.keras` file, or `None` for a process that does
            not write.
        steps_per_epoch: Integer, batches of an epoch.
        steps: Integer, optimizer steps between two saves within an epoch.
            Defaults to `None`.
        seconds: Float, seconds between two saves within an epoch. Defaults
            to `None`.
        previous: Path at which a save keeps the file that it replaces.
            Defaults to `None`: the old file is not kept.
        stateful: Dictionary from names to callbacks that have methods `state`
            and `restore`. Defaults to none.
        histories: Sequence of paths of text files that other callbacks append
            to. Defaults to none.
        state: Dictionary that `read_state` returned. Defaults to `None`: the
            training is new.
        devices: `keras_resnet.devices.Devices`. Defaults to one device.

    Attributes:
        saved: Integer, the optimizer step of the last save, or of the start
            of this training.
    """

    def __init__(
        self,
        path: PathLike | None,
        steps_per_epoch: int,
        *,
        steps: int | None = None,
        seconds: float | None = None,
        previous: PathLike | None = None,
        stateful: Mapping[str, Any] | None = None,
        histories: Sequence[PathLike] = (),
        state: dict[str, Any] | None = None,
        devices: Devices | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps
        self.seconds = seconds
        self.previous = previous
        self.stateful: Mapping[str, Any] = stateful or {}
        self.histories = histories
        self.devices: Devices = devices or Devices()
        self.saved: int = 0
        self._saved_at = -math.inf
        self._state = state
        self._interrupts = Interruptible()
        self._saver = BackgroundSaver()

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._interrupts.on_train_begin()
        self._note_save()
        # Not later, because `on_epoch_begin` resets the values of an epoch.
        if self._state is not None and self._state["metrics"] is None:
            self._restore()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self._state is not None:
            self._restore()

    def _restore(self):
        state, self._state = self._state, None
        for name, callback in self.stateful.items():
            callback.restore(state["callbacks"][name])
        if state["metrics"] is None:
            return
        for variable, value in zip(
            self.model.metrics_variables,
            self._of_this_process(state["metrics"]),
            strict=True,
        ):
            variable.assign(np.asarray(value, variable.dtype))

    def _of_this_process(self, values):
        """Return the metrics of this process, or values of the same sum."""
        if len(values) == self.devices.processes:
            return values[self.devices.process]
        sums = [np.sum(each, axis=0) for each in zip(*values, strict=True)]
        if self.devices.is_first or keras.backend.backend() != "torch":
            return sums
        return [np.zeros_like(value) for value in sums]

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._saver.poll()
        place = self.batches % self.steps_per_epoch
        if place == 0:
            resumed = batch + 1 < self.steps_per_epoch
            if resumed and not self.model.stop_training:
                # Keras ends the epoch; `on_epoch_end` allows the next one.
                self.model.stop_training = "epoch"
            return
        each = self._each * (AGREE_EVERY if self.devices.processes > 1 else 1)
        if self.batches % each:
            return
        votes = self.devices.gather((self._interrupts.signal, self._due(place)))
        signal = next((s for s, _ in votes if s is not None), None)
        # `self.model` is read last, because it makes JAX wait. If training has
        # ended, the state is saved at the end of the epoch.
        if (signal is None and not votes[0][1]) or self.model.stop_training:
            return
        self._save(within_epoch=True, wait=signal is not None)
        if signal is not None:
            raise KeyboardInterrupt(signal)

    def _due(self, place):
        """Return whether a save is due at this place in the epoch."""
        if self.steps is not None and self.step - self.saved >= self.steps:
            return True
        if self.seconds is None:
            return False
        wait = self.seconds
        if place + self._each == self.steps_per_epoch:
            wait = min(wait, BEFORE_VALIDATION)
        return time.monotonic() - self._saved_at >= wait

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._interrupts.on_test_batch_end(batch)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self.model.stop_training == "epoch":
            self.model.stop_training = False
        self._save(within_epoch=False, wait=True)
        signals = self.devices.gather(self._interrupts.signal)
        signal = next((s for s in signals if s is not None), None)
        if signal is not None:
            raise KeyboardInterrupt(signal)

    def on_train_end(self, logs: Logs = None) -> None:
        self._interrupts.on_train_end()
        self._saver.wait()

    def close(self) -> None:
        """Restore the signal handlers, and wait for the current save.

        If `fit` fails, Keras does not call `on_train_end`, which does both.
        """
        self._interrupts.restore_handlers()
        self._saver.close()

    def _save(self, within_epoch, wait):
        metrics = None
        if within_epoch:
            metrics = [
                keras.ops.convert_to_numpy(v).tolist()
                for v in self.model.metrics_variables
            ]
            # On PyTorch each process has metrics of its own.
            local = keras.backend.backend() == "torch"
            metrics = self.devices.gather(metrics) if local else [metrics]
        if self.path is not None:
            state = {
                "metrics": metrics,
                "callbacks": {k: c.state() for k, c in self.stateful.items()},
                "histories": {
                    os.path.basename(path): _length_and_checksum(path)
                    for path in self.histories
                },
            }
            arguments = self.model, self.path, json.dumps(state), self.previous
            if wait:
                self._saver.wait()
                save_atomically(*arguments)
            else:
                self._saver.save(*arguments)
        self._note_save()

    def _note_save(self):
        self.saved, self._saved_at = self.step, time.monotonic()


def read_state(path: PathLike) -> dict[str, Any]:
    """Return the state that a `Backup` saved in addition to the model.

    Its entry `"histories"` maps each file name to the length and the checksum
    that `cut_history` takes.

    Raises:
        ValueError: If the file is not a backup.
    """
    with zipfile.ZipFile(path) as file:
        comment = file.comment
    if not comment:
        raise ValueError(f"{path} holds a model but no training state")
    return json.loads(comment)


def _length_and_checksum(path):
    """Return length and CRC-32 of a history, and flush it to the disk."""
    if not os.path.exists(path):
        return 0, 0
    # Windows flushes only files that are open for writing.
    with open(path, "r+b") as file:
        contents = file.read()
        os.fsync(file.fileno())
    return len(contents), zlib.crc32(contents)


def cut_history(path: PathLike, length: int, checksum: int) -> None:
    """Remove the lines of a history that were written after a backup.

    The backup has seen `length` bytes, whose CRC-32 is `checksum`.

    Raises:
        ValueError: If the file does not begin with these bytes.
    """
    path = Path(path)
    contents = path.read_bytes() if path.exists() else b""
    seen = contents[:length]
    if len(seen) < length or zlib.crc32(seen) != checksum:
        raise ValueError(
            f"it does not begin with the {length} bytes that it had at the "
            "last save of the model"
        )
    if len(contents) > length:
        os.truncate(path, length)
