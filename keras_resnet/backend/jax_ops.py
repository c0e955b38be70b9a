"""JAX: gradients in a form that XLA computes fast on a CPU.

XLA compiles what JAX derives. On a CPU two of the derived forms are slow: the
gradient of a convolution by its kernel, for which XLA has a convolution with
a kernel as large as the image, and that of normalization.
"""

import ctypes
import functools
import sys

import jax
import jax.numpy as jnp
import keras
from jax import lax
from keras import ops

from keras_resnet.backend import keras_ops


class Model(keras.Model):
    """`keras.Model` whose training steps use the same memory again."""

    def make_train_function(self, force=False):
        if jax.default_backend() == "cpu":
            keep_memory()
        super().make_train_function(force)


def keep_memory():
    """Makes this process keep freed memory for its next use, where it can.

    XLA asks for a step's memory anew at each step, some hundred MB that the
    GNU C library gets from the system and gives back. The system then hands
    it out page by page: a fifth of a ResNet-20 step. From here on the process
    stays as large as it has ever been. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mmap_max, trim_threshold, arena_max = -4, -1, -8
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(arena_max, 1)


def convolution(x, kernel, strides, margins, dilation_rate, data_format):
    """As `keras_ops.convolution`, with a kernel gradient of matrix products.

    XLA's own form reaches 12-45 GFLOP/s on a core, where its products reach
    60, and 5 to 8 for the 1x1 convolutions of bottlenecks.
    """
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    if (
        jax.default_backend() != "cpu"
        or data_format != "channels_last"
        or x.shape[-1] != kernel.shape[-2]
    ):
        return keras_ops.convolution(
            x, kernel, strides, margins, dilation_rate, data_format
        )
    return _convolution(
        x, kernel, tuple(strides), tuple(margins), tuple(dilation_rate)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _convolution(x, kernel, strides, margins, dilation_rate):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(margin, margin) for margin in margins],
        rhs_dilation=dilation_rate,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolution_forward(x, kernel, *geometry):
    return _convolution(x, kernel, *geometry), (x, kernel)


def _convolution_backward(strides, margins, dilation_rate, residuals, gradient):
    x, kernel = residuals
    geometry = strides, margins, dilation_rate
    (by_x,) = jax.linear_transpose(
        lambda x: _convolution.fun(x, kernel, *geometry), x
    )(gradient)
    return by_x, _gradient_by_kernel(x, kernel, gradient, *geometry)


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _gradient_by_kernel(x, kernel, gradient, strides, margins, dilation_rate):
    """Returns the gradient of a convolution by its kernel.

    For each place in the kernel, the pixels that it meets, channels first,
    times the gradient's pixels: a product with a long inner dimension.
    """
    rows, columns, in_channels, out_channels = kernel.shape
    pixels = gradient.reshape(-1, out_channels)
    # Padded and transposed once, not again within each slice.
    x = jnp.transpose(x, (3, 0, 1, 2))
    x = lax.optimization_barrier(
        jnp.pad(x, ((0, 0), (0, 0), *((margin, margin) for margin in margins)))
    )
    images, *size = gradient.shape[:3]
    extent = [
        (n - 1) * stride + 1 for n, stride in zip(size, strides, strict=True)
    ]

    def at(place):
        row, column = place
        met = lax.dynamic_slice(
            x, (0, 0, row, column), (in_channels, images, *extent)
        )
        met = met[:, :, :: strides[0], :: strides[1]]
        return met.reshape(in_channels, -1) @ pixels

    if rows == columns == 1:
        return at((0, 0)).reshape(kernel.shape)
    places = jnp.indices((rows, columns)).reshape(2, -1)
    places *= jnp.asarray(dilation_rate)[:, None]
    # A loop, so that one slice after the other lies in the same memory: side
    # by side they need many times that of the whole step, and a process pays
    # for fresh memory page by page.
    return lax.map(at, tuple(places)).reshape(kernel.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_normalization(x, gamma, beta, epsilon, axis):
    return _batch_normalization_forward(x, gamma, beta, epsilon, axis)[0]


def _batch_normalization_forward(x, gamma, beta, epsilon, axis):
    axes, shape = _layout(x, axis)
    wide = x.astype(gamma.dtype)
    mean = jnp.mean(wide, axes)
    variance = jnp.mean(lax.square(wide - mean.reshape(shape)), axes)
    inverse_deviation = lax.rsqrt(variance + epsilon)
    y = _affine(x, gamma * inverse_deviation, mean, beta, shape)
    return (y, mean, variance), (x, mean, inverse_deviation, gamma)


def _batch_normalization_backward(epsilon, axis, residuals, gradients):
    x, mean, inverse_deviation, gamma = residuals
    gradient = gradients[0].astype(gamma.dtype)
    axes, shape = _layout(x, axis)
    centered = x.astype(gamma.dtype) - mean.reshape(shape)
    n = x.size // gamma.size
    by_beta = jnp.sum(gradient, axes)
    by_gamma = jnp.sum(gradient * centered, axes) * inverse_deviation
    slope = by_gamma * inverse_deviation / n
    by_x = (gamma * inverse_deviation).reshape(shape) * (
        gradient
        - (by_beta / n).reshape(shape)
        - centered * slope.reshape(shape)
    )
    return by_x.astype(x.dtype), by_gamma, by_beta


_batch_normalization.defvjp(
    _batch_normalization_forward, _batch_normalization_backward
)


def batch_normalization(x, gamma, beta, epsilon, axis):
    """As `keras_ops.batch_normalization`, with a gradient of two passes."""
    y, mean, variance = _batch_normalization(x, gamma, beta, epsilon, axis)
    return y, lax.stop_gradient(mean), lax.stop_gradient(variance)


def normalization(x, mean, variance, gamma, beta, epsilon, axis):
    """As `keras_ops.normalization`, without a copy of `x` in float32."""
    shape = _layout(x, axis)[1]
    scale = gamma * lax.rsqrt(variance + epsilon)
    return _affine(x, scale, mean, beta, shape)


def _affine(x, scale, mean, beta, shape):
    y = x * scale.reshape(shape) + (beta - mean * scale).reshape(shape)
    return y.astype(x.dtype)


def _layout(x, axis):
    """Returns the axes to sum over, and a channel's shape for broadcasting."""
    axis %= x.ndim
    axes = tuple(i for i in range(x.ndim) if i != axis)
    return axes, [-1 if i == axis else 1 for i in range(x.ndim)]


def accelerators():
    """Returns the names of the GPUs or TPUs that JAX computes on."""
    return [d.device_kind for d in jax.devices() if d.platform != "cpu"]
