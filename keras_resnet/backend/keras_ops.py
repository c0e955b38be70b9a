"""The layers' operations in terms of `keras.ops`, for every backend.

Images `x` are 4-D tensors in the order of `data_format`. Kernels are `(rows,
columns, in_channels / groups, out_channels)`. Statistics, scales `gamma` and
offsets `beta` and `bias` are `(channels,)`. The `axis` of the channels is 1, 3
or -1. Strides, sizes, padding and dilation rates are pairs (rows, columns).
"""

import functools
from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_resnet.types import Tensor


def channel_axis(data_format: str) -> int:
    """Return the axis of the channels: -1, or 1 for channels first."""
    return -1 if data_format == "channels_last" else 1


def convolution(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation_rate: Sequence[int],
    data_format: str,
) -> Tensor:
    """Convolve images with `padding` zeros on both sides."""
    mode = "valid"
    if max(strides) == 1:
        # At stride 1, "same" pads both sides equally and copies no image.
        mode = "same"
    elif max(padding) > 0:
        x = ops.pad(x, border(padding, data_format))
    y = ops.conv(
        x,
        kernel,
        strides=list(strides),
        padding=mode,
        dilation_rate=dilation_rate,
        data_format=data_format,
    )
    return add_bias(y, bias, data_format)


def add_bias(x: Tensor, bias: Tensor | None, data_format: str) -> Tensor:
    """Add an offset to each channel of images. `None` adds nothing."""
    if bias is None:
        return x
    if data_format == "channels_first":
        bias = ops.reshape(bias, (-1, 1, 1))
    return ops.add(x, bias)


def subsample(x: Tensor, strides: Sequence[int], data_format: str) -> Tensor:
    """Keep every `strides`-th row and column, beginning with the first."""
    rows, columns = (slice(None, None, stride) for stride in strides)
    if data_format == "channels_last":
        return x[:, rows, columns, :]
    return x[:, :, rows, columns]


def max_pooling(
    x: Tensor, size: Sequence[int], strides: Sequence[int], data_format: str
) -> Tensor:
    """Return the maxima in odd windows of images, padded on both sides."""
    padding = [k // 2 for k in size]
    dtype = keras.backend.standardize_dtype(x.dtype)
    lowest = np.iinfo(dtype).min if "int" in dtype else -float("inf")
    return ops.max_pool(
        ops.pad(x, border(padding, data_format), constant_values=lowest),
        size,
        strides=strides,
        padding="valid",
        data_format=data_format,
    )


def batch_normalization(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    axis: int,
    synchronized: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize by the statistics of the batch, or of all devices' batches.

    Returns:
        Tuple of the normalized images, in the dtype of `x`, and the mean and
        the biased variance of each channel, in the dtype of `gamma`.
    """
    axes = (0, 2, 3) if axis == 1 else (0, 1, 2)
    wide = ops.cast(x, gamma.dtype)
    mean, variance = ops.moments(wide, axes, synchronized=synchronized)
    y = normalization(wide, mean, variance, gamma, beta, epsilon, axis)
    return ops.cast(y, x.dtype), mean, variance


synchronized_batch_normalization: Callable = functools.partial(
    batch_normalization, synchronized=True
)


def moving_average(average: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Return `momentum * average + (1 - momentum) * value`."""
    return average * momentum + value * (1 - momentum)


def normalization(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    axis: int,
) -> Tensor:
    """Normalize by given statistics. The images keep their dtype."""
    y = ops.batch_normalization(
        ops.cast(x, gamma.dtype), mean, variance, axis, beta, gamma, epsilon
    )
    return ops.cast(y, x.dtype)


def relu(x: Tensor) -> Tensor:
    """Return the positive part of a tensor, and NaN for NaN."""
    return ops.relu(x)


def to_device(array: np.ndarray, reference: Tensor) -> Tensor:
    """Return an array as a tensor on the device of `reference`."""
    return ops.convert_to_tensor(array)


def border(padding: Sequence[int], data_format: str) -> list[list[int]]:
    """Return the `pad_width` of `ops.pad` for this padding."""
    rows, columns = ([n, n] for n in padding)
    if data_format == "channels_last":
        return [[0, 0], rows, columns, [0, 0]]
    return [[0, 0], [0, 0], rows, columns]
