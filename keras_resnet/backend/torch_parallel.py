"""PyTorch: what several processes that train one model tell each other.

Gradients by `torch.nn.parallel.DistributedDataParallel`. Statistics of
normalization and of metrics by `torch.distributed`.
"""

import contextlib

import keras
import torch
from torch import distributed

from keras_resnet.backend import parallel


class SynchronizedNormalization(torch.autograd.Function):
    """Normalize an image by the statistics of the images of all processes.

    `torch.nn.SyncBatchNorm` does so on GPUs alone, and returns no statistics.
    All processes must have equally many images.
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, epsilon):
        """Return the image, and mean and biased variance by channel."""
        wide = x.to(gamma.dtype)
        variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        # A sum of squares would lose digits where the mean is large.
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
    def backward(ctx, by_y, *_):
        """Return the gradients of the sum of all processes' losses by `x`.

        Those by `gamma` and `beta` are of this process's loss, as those of
        other weights: to exchange them is left to what exchanges all.
        """
        wide, mean, variance, gamma = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        scale = torch.rsqrt(variance + ctx.epsilon)
        normalized = (wide - mean.view(shape)) * scale.view(shape)
        by_wide = by_y.to(gamma.dtype)
        sums = torch.stack(
            [
                by_wide.sum((0, 2, 3)),
                (by_wide * normalized).sum((0, 2, 3)),
            ]
        )
        by_beta, by_gamma = sums.clone()
        distributed.all_reduce(sums)
        pixels = wide.numel() // wide.shape[1] * distributed.get_world_size()
        by_mean, by_scale = (sums / pixels).view(2, *shape)
        by_x = (gamma * scale).view(shape) * (
            by_wide - by_mean - normalized * by_scale
        )
        return by_x.to(by_y.dtype), by_gamma, by_beta, None


class Exchange:
    """Exchange between processes in each step of a model's training.

    Args:
        model: Built `keras.Model`. Its weights become those of the first
            process.
    """

    def __init__(self, model):
        self._model = model
        self._trained = [v.value for v in model.trainable_variables]
        self._statistics = [
            statistic
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
            and layer.trainable
            for statistic in (layer.moving_mean, layer.moving_variance)
        ]
        # Gradients arrive averaged. Statistics are not its buffers.
        self.wrapper = torch.nn.parallel.DistributedDataParallel(model)

    def holds(self):
        """Whether the same weights are still trained."""
        trained = [v.value for v in self._model.trainable_variables]
        return len(trained) == len(self._trained) and all(
            a is b for a, b in zip(trained, self._trained, strict=True)
        )

    def average_statistics(self):
        """Make moving statistics the mean of those of all processes.

        Moving averages are linear: it is as if each step had moved them by
        the mean of the processes' statistics.
        """
        if parallel.synchronized or not self._statistics:
            return
        values = [v.value for v in self._statistics]
        n = distributed.get_world_size()
        with torch.no_grad():
            for value, total in zip(values, _sums(values), strict=True):
                value.copy_(total / n)


@contextlib.contextmanager
def summed(variables):
    """Context in which metrics' variables are the sums of all processes'.

    Args:
        variables: List of `keras.Variable`. After it they are again what this
            process has counted.

    Raises:
        ValueError: If Keras says of one that it is no sum.
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
    # Counts are exact in it up to 2 ** 53.
    flat = torch.cat([value.detach().reshape(-1).double() for value in values])
    distributed.all_reduce(flat)
    parts = flat.split([value.numel() for value in values])
    return [
        part.view(value.shape).to(value.dtype)
        for part, value in zip(parts, values, strict=True)
    ]
