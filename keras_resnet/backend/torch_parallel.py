"""PyTorch: communication between processes that train one model.

`torch.nn.parallel.DistributedDataParallel` exchanges gradients.
`torch.distributed` exchanges the statistics of normalization and metrics.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import torch
from torch import distributed

from keras_resnet.backend import parallel
from keras_resnet.types import Tensor


class SynchronizedNormalization(torch.autograd.Function):
    """Normalization by the statistics of the images of all processes.

    `torch.nn.SyncBatchNorm` needs GPUs, and returns no statistics.
    All processes must have the same number of images.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalized images, and each channel's mean and variance."""
        wide = x.to(gamma.dtype)
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        # A sum of squares would lose precision if the mean is large.
        mine = torch.stack([mean, variance])
        parts = [mine.clone() for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, mine)
        means, variances = torch.stack(parts).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        ctx.save_for_backward(wide, mean, variance, gamma)
        ctx.epsilon = epsilon
        ctx.mark_non_differentiable(mean, variance)
        y = torch.nn.functional.batch_norm(
            wide, mean, variance, gamma, beta, eps=epsilon
        )
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(
        ctx: Any, by_y: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients with respect to the arguments of `forward`.

        The gradient of `x` is for the sum of all processes' losses. Those of
        `gamma` and `beta` are for this process's loss only, because
        `DistributedDataParallel` averages the gradients of all weights.
        """
        wide, mean, variance, gamma = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        scale = torch.rsqrt(variance + ctx.epsilon)
        normalized = (wide - mean.view(shape)) * scale.view(shape)
        by_wide = by_y.to(gamma.dtype)
        products = by_wide, by_wide * normalized
        sums = torch.stack([product.sum((0, 2, 3)) for product in products])
        by_beta, by_gamma = sums.clone()
        distributed.all_reduce(sums)
        pixels = wide.numel() // wide.shape[1] * distributed.get_world_size()
        by_mean, by_scale = (sums / pixels).view(2, *shape)
        by_x = (gamma * scale).view(shape) * (
            by_wide - by_mean - normalized * by_scale
        )
        return by_x.to(by_y.dtype), by_gamma, by_beta, None


class Exchange:
    """Communication between processes in each step of a model's training.

    The model's weights are overwritten by those of the first process.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._trained = [v.value for v in model.trainable_variables]
        self._statistics = [
            statistic
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]
        # It averages gradients, but not the moving statistics.
        self.wrapper: torch.nn.Module = (
            torch.nn.parallel.DistributedDataParallel(model)
        )

    def holds(self) -> bool:
        """Return whether the trainable weights are still the same."""
        trained = [v.value for v in self._model.trainable_variables]
        return len(trained) == len(self._trained) and all(
            a is b for a, b in zip(trained, self._trained, strict=True)
        )

    def average_statistics(self) -> None:
        """Set moving statistics to their mean over all processes.

        Moving averages are linear, so this equals a step with the mean of the
        processes' statistics.
        """
        if parallel.synchronized or not self._statistics:
            return
        values = [v.value for v in self._statistics]
        n = distributed.get_world_size()
        with torch.no_grad():
            for value, total in zip(values, _sums(values), strict=True):
                value.copy_(total / n)


@contextlib.contextmanager
def summed(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Return a context in which variables of metrics are sums over processes.

    After the context they have their previous values.
    """
    others = [v.path for v in variables if v.aggregation != "sum"]
    if others:
        raise ValueError(
            "metrics of several processes must be sums, and these variables "
            f"of metrics have no `aggregation='sum'`: {', '.join(others)}"
        )
    own = [v._value for v in variables]
    for variable, total in zip(variables, _sums(own), strict=True):
        variable._value = total
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable._value = value


def _sums(values):
    """Return the sums of tensors over all processes, in one message."""
    if not values:
        return []
    # Float64 holds counts exactly up to 2 ** 53.
    flat = torch.cat([value.detach().reshape(-1).double() for value in values])
    distributed.all_reduce(flat)
    parts = flat.split([value.numel() for value in values])
    return [
        part.view(value.shape).to(value.dtype)
        for part, value in zip(parts, values, strict=True)
    ]
