"""JAX: `keras.distribution.DataParallel`, over `jax.distributed`.

The step is compiled for the whole batch, and the compiler adds the
communication between devices. Therefore normalization always uses the whole
batch.
"""

import os
from contextlib import AbstractContextManager

import jax
import keras
import numpy as np

from keras_resnet.devices.engine import Devices, DevicesError, launched


def start(count: int | None, synchronized: bool) -> Devices:
    """Return the engine. `count` is an integer or `None`, all devices."""
    if not synchronized:
        raise DevicesError(
            "JAX always normalizes over the whole batch: leave out "
            "`synchronized=False`, or set KERAS_BACKEND to tensorflow or torch"
        )
    processes = launched()
    if processes > 1:
        _join()
    names = keras.distribution.list_devices()
    if count is None:
        count = len(names)
    if count > len(names) or (processes > 1 and count != len(names)):
        raise DevicesError(
            f"{count} devices were requested, but JAX has {len(names)} in "
            f"{processes} process{'es' if processes > 1 else ''}: "
            f"{', '.join(names[:16])}"
        )
    return Devices() if count == 1 else JaxDevices(names[:count])


def _join() -> None:
    try:
        if "KERAS_DISTRIBUTION_NUM_PROCESSES" in os.environ:
            keras.distribution.initialize()
        else:
            # JAX gets the addresses from Slurm, Open MPI or a Cloud TPU.
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise DevicesError(
            f"JAX could not join the processes ({error}): start them with srun "
            "or mpirun, or set KERAS_DISTRIBUTION_JOB_ADDRESSES to host:port "
            "of the first process, KERAS_DISTRIBUTION_NUM_PROCESSES, and "
            "KERAS_DISTRIBUTION_PROCESS_ID, from 0"
        ) from error


class JaxDevices(Devices):
    """Devices of one or more processes, as one mesh."""

    def __init__(self, names: list[str]) -> None:
        self.count: int = len(names)
        self.processes: int = jax.process_count()
        self.process: int = jax.process_index()
        # Each process reads only its own shard: see `Devices.shard`.
        self._distribution = keras.distribution.DataParallel(
            devices=names, auto_shard_dataset=False
        )

    def scope(self) -> AbstractContextManager[None]:
        return self._distribution.scope()

    def _broadcast(self, data: bytes) -> bytes:
        from jax.experimental import multihost_utils

        size = multihost_utils.broadcast_one_to_all(np.int32(len(data)))
        # All arrays must have the same shape, so the data are resized.
        array = np.resize(np.frombuffer(data, "uint8"), int(size))
        return multihost_utils.broadcast_one_to_all(array).tobytes()

    def _gather(self, data: bytes) -> list[bytes]:
        from jax.experimental import multihost_utils

        sizes = multihost_utils.process_allgather(np.int32(len(data)))
        padded = np.zeros(max(sizes), "uint8")
        padded[: len(data)] = np.frombuffer(data, "uint8")
        rows = multihost_utils.process_allgather(padded)
        return [row[:n].tobytes() for row, n in zip(rows, sizes, strict=True)]
