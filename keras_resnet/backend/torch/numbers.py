"""PyTorch: Python numbers that become tensors on an accelerator once.

Keras makes tensors of the constants of the learning rate, the loss and the
metrics at each step. On an accelerator each of them is a copy for which the
host waits until all earlier operations are done.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# A step needs a dozen. Numbers that differ at each step must not add up.
MOST = 256
_tensors: dict[tuple, torch.Tensor] = {}


def kept(device: torch.device) -> AbstractContextManager:
    """Return a context that makes a tensor of each number once.

    On a CPU it does nothing, because there a copy needs no waiting.
    """
    if device.type == "cpu" or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    return _Kept()


def made() -> list[torch.Tensor]:
    """Return the tensors that there are."""
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
        # 0.0 equals -0.0, and 1 equals True, but their texts differ.
        key = (repr(args), *sorted((k, str(v)) for k, v in kwargs.items()))
        tensor = _tensors.get(key)
        if tensor is None:
            tensor = function(*args, **kwargs)
            if type(tensor) is not torch.Tensor:
                # While a graph is traced, a tensor may have no values.
                return tensor
            if len(_tensors) >= MOST:
                _tensors.clear()
            _tensors[key] = tensor
        # Keras adds in place to the zero with which some sums begin.
        return tensor.clone()


def _is_number(value):
    """Return whether a value is a number, or a shape."""
    if isinstance(value, tuple):
        return all(map(_is_number, value))
    return isinstance(value, (bool, int, float))
