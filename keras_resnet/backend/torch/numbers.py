"""PyTorch: a cache of tensors of Python numbers on an accelerator.

At each step, Keras creates tensors from the constants of the learning rate, the
loss and the metrics. On an accelerator, each of these needs a copy, and the
host waits for it until all earlier operations are done.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# A step needs a dozen. The limit is for numbers that differ at each step.
MOST = 256
_tensors: dict[tuple, torch.Tensor] = {}


def kept(device: torch.device) -> AbstractContextManager:
    """Return a context that creates the tensor of each number only once.

    On a CPU it does nothing, because a copy there does not wait.
    """
    if device.type == "cpu" or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return _Kept()


def made() -> list[torch.Tensor]:
    """Return the tensors in the cache."""
    return list(_tensors.values())


class _Kept(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: dict | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is not torch.as_tensor or not _is_number(args[0]):
            return function(*args, **kwargs)
        # Keys are strings, because 0.0 equals -0.0 and 1 equals True.
        key = (repr(args), *sorted((k, str(v)) for k, v in kwargs.items()))
        tensor = _tensors.get(key)
        if tensor is None:
            tensor = function(*args, **kwargs)
            if type(tensor) is not torch.Tensor:
                # During tracing, a tensor may have no values.
                return tensor
            if len(_tensors) >= MOST:
                _tensors.clear()
            _tensors[key] = tensor
        # Cloned, because Keras adds in place to the initial zero of some sums.
        return tensor.clone()


def _is_number(value):
    """Return whether a value is a number, or a shape."""
    if isinstance(value, tuple):
        return all(map(_is_number, value))
    return isinstance(value, (bool, int, float))
