"""TensorFlow: fused normalization, and padding inside the convolution.

Keras normalizes by `tf.nn.moments` and several operations, and copies images to
pad them for a strided convolution. On one core, with freed memory kept, a
training step of ResNet-20, batch 128, is 1.4 times as fast as with Keras's
layers, and inference of ResNet-50 1.12 times (docs/results/benchmarks).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import tensorflow as tf
from keras import ops
from tensorflow.python.framework import config

from keras_resnet.backend import keras_ops
from keras_resnet.types import Tensor


def convolution(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation_rate: Sequence[int],
    data_format: str,
) -> Tensor:
    """As `keras_ops.convolution`, also with channels first on a CPU."""
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    geometry = strides, padding, dilation_rate
    first = data_format == "channels_first"
    if first and not _has_gpu():
        return _by_channels_last(
            lambda x: convolution(x, kernel, bias, *geometry, "channels_last"),
            x,
        )
    # On a CPU, Keras supports grouped convolutions; `tf.nn.conv2d` does not.
    if first or x.shape[-1] != kernel.shape[-2]:
        return keras_ops.convolution(x, kernel, bias, *geometry, data_format)
    if max(kernel.shape[:2]) == 1 and max(strides) > 1:
        # Subsampled first, because on a CPU the filter gradient of a strided
        # 1x1 convolution writes out of bounds with fewer than 16 channels and
        # an odd number of images (TensorFlow 2.21).
        x = subsample(x, strides, data_format)
        strides = (1, 1)
    # At stride 1, "SAME" pads the same zeros and has faster gradients: oneDNN
    # has none for explicit padding, and other kernels can take 3 times as long.
    same = max(strides) == 1
    y = tf.nn.conv2d(
        x,
        kernel,
        strides=tuple(strides),
        padding="SAME" if same else keras_ops.border(padding, data_format),
        dilations=tuple(dilation_rate),
    )
    return y if bias is None else tf.nn.bias_add(y, ops.convert_to_tensor(bias))


def subsample(x: Tensor, strides: Sequence[int], data_format: str) -> Tensor:
    """As `keras_ops.subsample`, by average pooling of one pixel.

    A strided slice of TensorFlow takes several times as long.
    """
    if data_format == "channels_first":
        return keras_ops.subsample(x, strides, data_format)
    return tf.nn.avg_pool2d(x, 1, strides, "VALID")


def max_pooling(
    x: Tensor, size: Sequence[int], strides: Sequence[int], data_format: str
) -> Tensor:
    """As `keras_ops.max_pooling`, also with channels first on a CPU."""
    if data_format == "channels_first" and not _has_gpu():
        return _by_channels_last(
            lambda x: keras_ops.max_pooling(x, size, strides, "channels_last"),
            x,
        )
    return keras_ops.max_pooling(x, size, strides, data_format)


def batch_normalization(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `keras_ops.batch_normalization`, in one fused operation."""
    if not _is_fused(x, gamma, axis):
        return keras_ops.batch_normalization(x, gamma, beta, epsilon, axis)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=tf.constant([], gamma.dtype),
        variance=tf.constant([], gamma.dtype),
        epsilon=epsilon,
        data_format="NCHW" if axis == 1 else "NHWC",
        is_training=True,
    )
    # The operation returns the unbiased variance, but Keras uses the biased.
    n = tf.cast(tf.size(x) // tf.shape(x)[axis], variance.dtype)
    variance *= tf.maximum(n - 1, 1) / n
    return y, tf.stop_gradient(mean), tf.stop_gradient(variance)


def normalization(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor,
    beta: Tensor,
    epsilon: float,
    axis: int,
) -> Tensor:
    """As `keras_ops.normalization`, in one fused operation."""
    # On a GPU, TensorFlow has no deterministic gradient of the fused operation,
    # and raises an error.
    deterministic = config.is_op_determinism_enabled() and _has_gpu()
    if deterministic or not _is_fused(x, gamma, axis):
        return keras_ops.normalization(
            x, mean, variance, gamma, beta, epsilon, axis
        )
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        data_format="NCHW" if axis == 1 else "NHWC",
        is_training=False,
    ).y


def relu(x: Tensor) -> Tensor:
    """As `keras_ops.relu`, also in graphs on a CPU.

    There TensorFlow 2.21 fuses a ReLU with the normalization or the
    convolution before it, and the fused operation returns 0 for NaN.
    """
    # `ensure_shape` prevents this fusion, and copies nothing.
    return tf.nn.relu(tf.ensure_shape(x, x.shape))


def _is_fused(x, gamma, axis):
    """Return whether TensorFlow has a fused normalization for these images.

    Images may have half precision, but the weights must be float32.
    """
    return (
        x.dtype != tf.float64
        and gamma.dtype == tf.float32
        and (axis != 1 or _has_gpu())
    )


def _has_gpu():
    """Return whether there is a GPU. CPU kernels support only NHWC."""
    return bool(tf.config.list_logical_devices("GPU"))


def _by_channels_last(operation, x):
    """Apply a channels-last operation to a channels-first image."""
    y = operation(ops.transpose(x, (0, 2, 3, 1)))
    return ops.transpose(y, (0, 3, 1, 2))


def accelerators() -> list[str]:
    """Return the names of the GPUs that TensorFlow computes on."""
    return [
        tf.config.experimental.get_device_details(gpu)["device_name"]
        for gpu in tf.config.list_physical_devices("GPU")
    ]


def tensor_float32() -> bool:
    """Return whether a GPU rounds the inputs of float32 convolutions."""
    return tf.config.experimental.tensor_float_32_execution_enabled()


def be_deterministic() -> None:
    """Make a GPU use only kernels that give the same bits each time."""
    tf.config.experimental.enable_op_determinism()


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Return a context in which a GPU does not round float32 inputs."""
    before = tensor_float32()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


def compiled(function: Callable) -> Callable:
    """Return a pure function of tensors, as a graph."""
    return tf.function(function, autograph=False)


def value_and_gradients(function: Callable) -> Callable:
    """Return a function that returns a scalar and its gradients."""

    @tf.function(autograph=False)
    def run(values, *inputs):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            value = function(values, *inputs)
        return value, tape.gradient(
            value, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )

    return run


def profiler(folder: str) -> AbstractContextManager[object]:
    """Return a context that writes a profile for TensorBoard."""
    return tf.profiler.experimental.Profile(folder)
