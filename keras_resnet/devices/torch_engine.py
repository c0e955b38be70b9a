"""PyTorch: `DistributedDataParallel`, in processes started by torchrun.

Each device has one process. Keras's `fit` does not support this, so `Model` of
`keras_resnet.backend.torch.graph` adds the missing steps.
"""

import atexit
import datetime
import os
from contextlib import AbstractContextManager

import torch

from keras_resnet.backend import parallel
from keras_resnet.devices.engine import Devices, DevicesError, launched


def start(count: int | None, synchronized: bool) -> Devices:
    """Return the engine. `count` is an integer or `None`, all devices."""
    here = torch.cuda.device_count()
    if "WORLD_SIZE" not in os.environ:
        if launched() > 1 or (count or here) > 1:
            raise DevicesError(
                "PyTorch needs one process for each of several devices: run "
                "torchrun --standalone "
                f"--nproc-per-node={max(count or here, 2)} SCRIPT ARGUMENTS "
                "instead of python SCRIPT ARGUMENTS"
            )
        return Devices()
    world = int(os.environ["WORLD_SIZE"])
    if count not in (None, world):
        raise DevicesError(
            f"{count} devices were requested, but torchrun started {world} "
            "processes, one for each device: start as many, or take "
            '`devices="all"`'
        )
    if world == 1:
        return Devices()
    local = int(os.environ["LOCAL_RANK"])
    if here:
        if local >= here:
            raise DevicesError(
                f"torchrun started more processes than the {here} GPUs of "
                f"this machine: give it --nproc-per-node={here}"
            )
        # Keras uses the current device for "cuda".
        torch.cuda.set_device(local)
    return TorchDevices(synchronized)


# The first process may prepare a dataset for hours while the others wait, and
# PyTorch's own limit of ten minutes would stop them.
TIMEOUT = datetime.timedelta(days=2)


class TorchDevices(Devices):
    """One device in each of several processes."""

    def __init__(self, synchronized: bool) -> None:
        backend, device = "gloo", None
        if torch.cuda.is_available():
            # Pickled objects are exchanged on the CPU, by Gloo.
            backend = "cpu:gloo,cuda:nccl"
            device = torch.device("cuda", torch.cuda.current_device())
        torch.distributed.init_process_group(
            backend, timeout=TIMEOUT, device_id=device
        )
        atexit.register(torch.distributed.destroy_process_group)
        self.processes: int = torch.distributed.get_world_size()
        self.count: int = self.processes
        self.process: int = torch.distributed.get_rank()
        self.synchronized = synchronized

    def scope(self) -> AbstractContextManager[None]:
        return parallel.setting(
            synchronized=self.synchronized, processes=self.processes
        )

    def alone(self) -> AbstractContextManager[None]:
        return parallel.setting(synchronized=False, processes=1)

    def _broadcast(self, data: bytes) -> bytes:
        box = [data]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def _gather(self, data: bytes) -> list[bytes]:
        gathered = [b""] * self.processes
        torch.distributed.all_gather_object(gathered, data)
        return gathered
