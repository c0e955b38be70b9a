"""JAX: convolution and max pooling in a form that XLA computes fast on a CPU.

JAX computes the kernel's gradient as a convolution of the image with a kernel
as large as the output, which is slow in XLA. Other operations gain nothing: a
normalization with a gradient written by hand was no faster than `keras_ops`,
and needed more memory.
"""

import functools
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from keras import ops

from keras_resnet.backend import keras_ops, memory
from keras_resnet.types import Tensor

IMAGES_AT_A_TIME = 8


# JAX traces a compiled function once for each shape, not for each layer.
batch_normalization: Callable = jax.jit(
    keras_ops.batch_normalization, static_argnames=("epsilon", "axis")
)
# A compiled step has the whole batch, also on several devices.
synchronized_batch_normalization = batch_normalization


def relu(x: Tensor) -> Tensor:
    """As `keras_ops.relu`, also on a CPU.

    On a CPU, XLA's maximum of NaN and 0 may be 0.
    """
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


def convolution(
    x: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation_rate: Sequence[int],
    data_format: str,
) -> Tensor:
    """As `keras_ops.convolution`, with a kernel gradient of matrix products.

    On one core, with freed memory kept, a training step of ResNet-20, batch
    128, is 1.6 times as fast as with Keras's layers
    (docs/results/benchmarks).
    """
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    dtype = jnp.promote_types(x.dtype, kernel.dtype)
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    if (
        jax.default_backend() != "cpu"
        or 0 in x.shape
        or data_format != "channels_last"
        or x.shape[-1] != kernel.shape[-2]
        # An export has symbolic sizes.
        or not all(isinstance(size, int) for size in x.shape)
    ):
        return keras_ops.convolution(
            x, kernel, bias, strides, padding, dilation_rate, data_format
        )
    y = _traced_once(
        x, kernel, tuple(strides), tuple(padding), tuple(dilation_rate)
    )
    return keras_ops.add_bias(y, bias, data_format)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _convolution(x, kernel, strides, padding, dilation_rate):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        [(n, n) for n in padding],
        rhs_dilation=dilation_rate,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@functools.partial(_convolution.defjvp, symbolic_zeros=True)
def _convolution_tangent(strides, padding, dilation_rate, primals, tangents):
    geometry = strides, padding, dilation_rate
    (x, kernel), (by_x, by_kernel) = primals, tangents
    y = _convolution(x, kernel, *geometry)
    tangent = jnp.zeros_like(y)
    if not isinstance(by_x, SymbolicZero):
        tangent += _convolution.fun(by_x, kernel, *geometry)
    if not isinstance(by_kernel, SymbolicZero):
        tangent += _tangent_by_kernel(x, by_kernel, y.shape, *geometry)
    return y, tangent


_traced_once = jax.jit(_convolution, static_argnums=(2, 3, 4))


def _tangent_by_kernel(x, kernel, shape, strides, padding, dilation_rate):
    """Return the convolution of images with the tangent of a kernel.

    The convolution is a sum of matrix products, one for each row of the
    kernel: the input pixels under the row times its weights. In the backward
    pass, JAX multiplies these pixels, channels first, by the output gradient.
    This product has a long inner dimension, so it is fast. One product per
    weight position, or a single one, is slower. A few images are processed at
    a time, so that they stay in the processor's cache.
    """
    rows, columns, in_channels, _ = kernel.shape
    n, *size, out_channels = shape
    extent = [
        (n - 1) * stride + 1 for n, stride in zip(size, strides, strict=True)
    ]
    border = [(n, n) for n in padding]
    # The sum of many products needs float32 at least.
    dtype = jnp.promote_types(x.dtype, "float32")
    weights = kernel.astype(dtype).reshape(rows, -1, out_channels)
    tops, lefts = (
        [place * dilation for place in range(size)]
        for size, dilation in zip((rows, columns), dilation_rate, strict=True)
    )

    # Otherwise JAX would store all these pixels for the backward pass.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def some(_, x):
        x = jnp.pad(jnp.transpose(x, (3, 0, 1, 2)), [(0, 0), (0, 0), *border])
        # Otherwise XLA would pad and transpose again for each slice.
        x = lax.optimization_barrier(x)
        total = 0
        for row, top in enumerate(tops):
            band = x[:, :, top : top + extent[0] : strides[0]]
            met = [
                band[..., left : left + extent[1] : strides[1]]
                for left in lefts
            ]
            met = jnp.concatenate(met).reshape(columns * in_channels, -1)
            total += lax.dot_general(
                met.astype(dtype), weights[row], (((0,), (0,)), ((), ()))
            )
        return None, total

    few = max(d for d in range(1, min(n, IMAGES_AT_A_TIME) + 1) if n % d == 0)
    _, tangent = lax.scan(some, None, x.reshape(-1, few, *x.shape[1:]))
    return tangent.reshape(shape).astype(kernel.dtype)


def max_pooling(
    x: Tensor, size: Sequence[int], strides: Sequence[int], data_format: str
) -> Tensor:
    """As `keras_ops.max_pooling`, first over the rows, then over the columns.

    At stride 2 this takes 6 comparisons for a 3x3 window instead of 8. The
    windows have three dimensions, because jax2onnx exports every dimension as a
    pooled one, even images and channels, and onnxruntime pools at most three.
    """
    if jax.default_backend() != "cpu":
        return keras_ops.max_pooling(x, size, strides, data_format)
    x = ops.convert_to_tensor(x)
    floats = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = -jnp.inf if floats else jnp.iinfo(x.dtype).min
    rows = 1 if data_format == "channels_last" else 2
    for axis, window, stride in zip(
        (rows, rows + 1), size, strides, strict=True
    ):
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        x = lax.reduce_window(
            x.reshape(math.prod(before), x.shape[axis], math.prod(after)),
            np.array(lowest, x.dtype),
            lax.max,
            (1, window, 1),
            (1, stride, 1),
            [(0, 0), (window // 2, window // 2), (0, 0)],
        )
        x = x.reshape(*before, x.shape[1], *after)
    return x


def accelerators() -> list[str]:
    """Return the names of the GPUs or TPUs that JAX computes on."""
    return [d.device_kind for d in jax.devices() if d.platform != "cpu"]


def tensor_float32() -> bool:
    """Return whether a GPU rounds the inputs of float32 convolutions."""
    precision = jax.config.jax_default_matmul_precision
    return precision in (None, "default", "tensorfloat32")


def be_deterministic() -> None:
    """Make a GPU use only kernels that give the same bits each time."""
    # XLA reads its flags once.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true"


def full_float32() -> AbstractContextManager[object]:
    """Return a context in which a GPU does not round float32 inputs."""
    return jax.default_matmul_precision("highest")


def share_memory() -> None:
    """Let XLA's threads share the memory that the process keeps on a CPU.

    Call this before JAX computes anything, because running threads keep their
    own memory. With a plugin for accelerators this does nothing.
    """
    # `jax.devices()` would start JAX's threads.
    if not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        memory.share()


def compiled(function: Callable) -> Callable:
    """Return a pure function of tensors, compiled."""
    return jax.jit(function)


def value_and_gradients(function: Callable) -> Callable:
    """Return a function that returns a scalar and its gradients."""
    return jax.jit(jax.value_and_grad(function))


def vectorized(function: Callable, arguments: int) -> Callable:
    """Return a function of so many arguments, mapped over the last one."""
    return jax.vmap(function, in_axes=(None,) * (arguments - 1) + (0,))


def profiler(folder: str) -> AbstractContextManager[object]:
    """Return a context that writes a profile for TensorBoard."""
    return jax.profiler.trace(folder)
