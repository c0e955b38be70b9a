"""Callbacks that save whole models during training."""

import math
import os
import shutil
import zipfile

import keras

from keras_resnet.atomic import replacing
from keras_resnet.devices.engine import undistributed
from keras_resnet.training.counting import add_errors
from keras_resnet.training.divergence import check_finite
from keras_resnet.types import Logs, PathLike


def save_atomically(
    model: keras.Model,
    path: PathLike,
    comment: str = "",
    previous: PathLike | None = None,
) -> None:
    """Save a model so that `path` holds the old file or the new one.

    Keras writes in place, so a process that is killed leaves a broken file.
    `comment`, at most 65,535 bytes, becomes the ZIP comment of the file. If
    `previous` is given, the replaced file is kept under that name.

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
                    # Some file systems have no hard links.
                    shutil.copyfile(path, copy)


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
            # A model whose loss is NaN may still have a low error.
            finite = all(math.isfinite(x) for x in logs.values())
            if not (finite and value < self.best):
                return
        save_atomically(self.model, self.path)
        if self.monitor is not None:
            self.best = value


class AverageCheckpoint(Checkpoint):
    """Saves the model with the average of its weights, after validations.

    `keras.callbacks.SwapEMAWeights` replaces the weights by their average
    during a validation. This callback must come before it, because swapping
    the weights again for the save would need all processes of a run.

    Args: see `Checkpoint`.
    """

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Do nothing: the weights are no longer the average."""

    def on_test_end(self, logs: Logs = None) -> None:
        logs = {f"val_{name}": value for name, value in logs.items()}
        add_errors(logs)
        self._save(logs)
