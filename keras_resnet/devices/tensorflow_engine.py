"""TensorFlow: `tf.distribute.MirroredStrategy`, all GPUs of one machine.

TensorFlow's engine for several machines, `MultiWorkerMirroredStrategy`, fails
in `fit` of Keras 3 (https://github.com/keras-team/keras/issues/20585).
"""

import contextlib
import json
import os
from collections.abc import Iterator

import tensorflow as tf

from keras_resnet.backend import parallel
from keras_resnet.devices.engine import Devices, DevicesError, launched


def start(count: int | None, synchronized: bool) -> Devices:
    """Return the engine. `count` is an integer or `None`, all devices."""
    _check_processes()
    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    if not names:
        names = [d.name for d in tf.config.list_logical_devices("CPU")]
    if count is None:
        count = len(names)
    if count > len(names):
        raise DevicesError(
            f"{count} devices were requested, but TensorFlow has "
            f"{len(names)}: {', '.join(names)}"
        )
    if count == 1:
        return Devices()
    return TensorFlowDevices(names[:count], synchronized)


def _check_processes() -> None:
    """Raise `DevicesError` if this is one of several processes."""
    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    workers = sum(len(cluster.get(kind, ())) for kind in ("chief", "worker"))
    if max(workers, launched()) > 1:
        raise DevicesError(
            f"{max(workers, launched())} processes were started for one run, "
            "and Keras trains in only one on TensorFlow: its `fit` fails under "
            "MultiWorkerMirroredStrategy (keras-team/keras#20585). Start one "
            "process, or set KERAS_BACKEND to jax or torch"
        )


class TensorFlowDevices(Devices):
    """Devices of one process, each with a copy of all weights."""

    def __init__(self, names: list[str], synchronized: bool) -> None:
        self.count: int = len(names)
        self.synchronized = synchronized
        self._strategy = tf.distribute.MirroredStrategy(names)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        with (
            parallel.setting(synchronized=self.synchronized),
            self._strategy.scope(),
        ):
            yield
