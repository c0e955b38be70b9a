"""PyTorch: a watch for operations that let the host wait for the device.

A CUDA graph cannot record them. A recording that fails on one leaves PyTorch's
allocator as if it went on.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Results that depend on values, or whose shapes do.
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_COPYING = ("_to_copy", "copy_", "_foreach_copy_")


class Watch(TorchDispatchMode):
    """A context that notes the first operation for which the host waits.

    Attributes:
        operation: String, its name, or `None`.
    """

    supports_higher_order_operators = True

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._kind = device.type
        self.operation: str | None = None

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: Sequence = (),
        kwargs: dict | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        if self.operation is None and self._waits(operation, args, result):
            self.operation = operation.name()
        return result

    def _waits(self, operation, args, result):
        name = operation.name().removeprefix("aten::").partition(".")[0]
        if name in _INDEXING:
            # A mask becomes positions, whose number the host needs.
            masks = (torch.bool, torch.uint8)
            if any(index.dtype in masks for index in _tensors(args[1])):
                return True
        elif name == "_linalg_check_errors" or _TAGS & set(
            getattr(operation, "tags", ())
        ):
            return True
        elif name == "lift_fresh":
            # A tensor of Python's numbers, which were sent to this device.
            return result.device.type == self._kind
        # Kernels get a tensor without axes on the CPU as an argument.
        places = {
            tensor.device.type
            for tensor in _tensors((args, result))
            if tensor.ndim or name in _COPYING
        }
        return len(places) > 1


def _tensors(values):
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]
