"""What Keras leaves to its backend: faster operations, and device names.

The only file of the package that names jax, torch or tensorflow, apart from
`keras_resnet.data`, which is tf.data throughout. Each operation here has a
twin in `keras.ops` that gives the same numbers, which the layers use on the
backends that are not named here.
"""

import keras
from keras import ops


def _torch():
    """Returns PyTorch if it is the backend, else `None`."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch


def _knows_channels_last_alone():
    """Whether this is TensorFlow on a CPU.

    Its kernels for images do not know channels first there, except under XLA.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")


def _by_channels_last(operation, x):
    """Applies a channels-last operation to a channels-first image."""
    y = operation(ops.transpose(x, (0, 2, 3, 1)))
    return ops.transpose(y, (0, 3, 1, 2))


def convolution(x, kernel, strides, margins, dilation_rate, data_format):
    """2-D convolution of an image padded alike on both sides.

    On PyTorch, Keras copies a channels-last image twice, and once more to
    pad it. Here the image is only looked at in another order of axes, which
    is what PyTorch calls channels-last memory, and the convolution pads.

    Args:
        x: 4-D tensor, in the order of `data_format`.
        kernel: Tensor `(rows, columns, in_channels / groups, out_channels)`.
        strides: Pair of integers.
        margins: Pair of integers, zeros before and after rows and columns.
        dilation_rate: Pair of integers.
        data_format: `"channels_last"` or `"channels_first"`.

    Returns:
        4-D tensor, in the order of `data_format`.
    """
    last = data_format == "channels_last"
    if torch := _torch():
        x = ops.convert_to_tensor(x)
        kernel = ops.convert_to_tensor(kernel).permute(3, 2, 0, 1)
        channels = x.shape[3 if last else 1]
        if last:
            x = x.permute(0, 3, 1, 2)
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        y = torch.nn.functional.conv2d(
            x,
            kernel,
            stride=tuple(strides),
            padding=tuple(margins),
            dilation=tuple(dilation_rate),
            groups=channels // kernel.shape[1],
        )
        return y.permute(0, 2, 3, 1) if last else y
    if not last and _knows_channels_last_alone():
        return _by_channels_last(
            lambda x: convolution(
                x, kernel, strides, margins, dilation_rate, "channels_last"
            ),
            x,
        )
    padding = "valid"
    if max(strides) == 1:
        # "same" is symmetric here, and spares a copy of the image.
        padding = "same"
    elif max(margins) > 0:
        x = ops.pad(x, _border(margins, last))
    return ops.conv(
        x,
        kernel,
        strides=list(strides),
        padding=padding,
        dilation_rate=dilation_rate,
        data_format=data_format,
    )


def _border(margins, last):
    """Returns what `ops.pad` takes for margins of rows and columns."""
    border = [[margin, margin] for margin in margins]
    zero = [[0, 0]]
    return zero + border + zero if last else 2 * zero + border


def max_pooling(x, size, strides, data_format):
    """2-D max pooling of an image padded alike on both sides.

    On PyTorch without copies, as `convolution`.

    Args:
        x: 4-D tensor, in the order of `data_format`.
        size: Pair of odd integers.
        strides: Pair of integers.
        data_format: `"channels_last"` or `"channels_first"`.

    Returns:
        4-D tensor, in the order of `data_format`.
    """
    last = data_format == "channels_last"
    margins = [k // 2 for k in size]
    if torch := _torch():
        y = torch.nn.functional.max_pool2d(
            x.permute(0, 3, 1, 2) if last else x,
            tuple(size),
            stride=tuple(strides),
            padding=tuple(margins),
        )
        return y.permute(0, 2, 3, 1) if last else y
    if not last and _knows_channels_last_alone():
        return _by_channels_last(
            lambda x: max_pooling(x, size, strides, "channels_last"), x
        )
    return ops.max_pool(
        ops.pad(x, _border(margins, last), constant_values=-float("inf")),
        size,
        strides=strides,
        padding="valid",
        data_format=data_format,
    )


def fuses_batch_normalization():
    """Whether `batch_normalization` is faster than Keras's on this backend."""
    return keras.backend.backend() == "torch"


def batch_normalization(x, gamma, beta, epsilon, axis):
    """Normalizes by the batch's own statistics, in one fused operation.

    Keras computes moments and normalizes by a dozen operations, each of which
    reads the activations and keeps a copy for the gradient.

    Args:
        x: 4-D tensor.
        gamma: Tensor `(channels,)`, the scale.
        beta: Tensor `(channels,)`, the offset.
        epsilon: Float added to the variance.
        axis: Integer, the channels: 1, 3 or -1.

    Returns:
        Tuple of the normalized tensor, in the dtype of `x`, and the mean and
        the biased variance of each channel, in that of `gamma`.
    """
    torch = _torch()
    last = axis != 1
    y, mean, inverse_deviation = torch.native_batch_norm(
        x.permute(0, 3, 1, 2) if last else x,
        gamma,
        beta,
        None,
        None,
        True,
        0.0,
        epsilon,
    )
    variance = inverse_deviation.detach() ** -2 - epsilon
    return y.permute(0, 2, 3, 1) if last else y, mean.detach(), variance


def normalization(x, mean, variance, gamma, beta, epsilon, axis):
    """Normalizes by given statistics, in one fused operation.

    Args:
        x: 4-D tensor.
        mean, variance, gamma, beta: Tensors `(channels,)`.
        epsilon: Float added to the variance.
        axis: Integer, the channels: 1, 3 or -1.

    Returns:
        The normalized tensor, in the dtype of `x`.
    """
    torch = _torch()
    last = axis != 1
    y = torch.nn.functional.batch_norm(
        x.permute(0, 3, 1, 2) if last else x,
        mean,
        variance,
        gamma,
        beta,
        eps=epsilon,
    )
    return y.permute(0, 2, 3, 1) if last else y


def accelerators():
    """Returns the names of the GPUs or TPUs that Keras computes on."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return [d.device_kind for d in jax.devices() if d.platform != "cpu"]
    if backend == "torch":
        import torch

        return [
            torch.cuda.get_device_name(i)
            for i in range(torch.cuda.device_count())
        ]
    import tensorflow as tf

    return [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in tf.config.list_physical_devices("GPU")
    ]
