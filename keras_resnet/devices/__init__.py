"""Training on several devices, by each backend's own engine.

    devices = keras_resnet.devices.use("all")
    model = devices.model(build)
    with devices.scope():
        model.fit(...)

JAX: `keras.distribution.DataParallel`, on one or several machines.
PyTorch: `torch.nn.parallel.DistributedDataParallel`, started by torchrun, on
one or several machines.
TensorFlow: `tf.distribute.MirroredStrategy`, on one machine.
"""

import importlib

import keras

from keras_resnet import backend
from keras_resnet.devices.engine import Devices, DevicesError, launched

ALL = "all"

__all__ = ["ALL", "Devices", "DevicesError", "use"]


def use(
    devices: int | str | None = None,
    *,
    synchronized: bool = True,
    deterministic: bool = False,
) -> Devices:
    """Make this process train on several devices, or on one.

    Call it before anything is computed. If a run has several processes, each
    must call this, and then do the same as the others. On JAX without a plugin
    for accelerators, all threads of this process then share one memory arena
    (docs/performance.md).

    Args:
        devices: `None` (default) for one device; `"all"`; or an integer, the
            number of devices of all processes together.
        synchronized: Boolean, whether normalization uses statistics of the
            whole batch, so that the numbers equal those of one device.
            Defaults to `True`. `False` normalizes each device's shard of a
            batch separately, without communication; JAX does not support it.
        deterministic: Boolean, whether a GPU uses only kernels that give the
            same bits each time, which are slower. Defaults to `False`: on a
            GPU, two runs with one seed then differ by rounding. On a CPU they
            are always equal. `True` needs a seed on TensorFlow: call
            `keras.utils.set_random_seed`.

    Returns:
        A `Devices`.

    Raises:
        DevicesError: If the devices do not exist or cannot train together.
        ValueError: If `devices` is none of the above.
    """
    number = isinstance(devices, int) and devices >= 1
    if devices not in (None, ALL) and not number:
        # Elsewhere -1 means all devices; here it would be one, or all but one.
        raise ValueError(
            '`devices` must be None, "all" or a positive integer. '
            f"Received: devices={devices!r}"
        )
    if backend.share_memory is not None:
        backend.share_memory()
    if deterministic:
        backend.be_deterministic()
    if devices is None:
        if launched() > 1:
            raise DevicesError(
                f"{launched()} processes were started for one run: let them "
                'train together with `devices="all"`, or start one'
            )
        return Devices()
    name = keras.backend.backend()
    engine = importlib.import_module(f"keras_resnet.devices.{name}_engine")
    return engine.start(None if devices == ALL else devices, synchronized)
