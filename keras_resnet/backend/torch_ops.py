"""PyTorch: permuted views of images in place of copies.

Keras copies channels-last images into another order of axes before and after
each convolution and pooling, and normalizes by a dozen operations in float32.
A permuted view of the images has PyTorch's memory format channels last, so
PyTorch's kernels need no copy. With this and the replay of `torch.graph`, a
training step of ResNet-20 on one core is 1.9 times as fast as with Keras's
layers in batches of 128, and 2.7 times in batches of 2
(docs/results/benchmarks).
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import keras
import numpy as np
import torch
from keras import ops

from keras_resnet.backend import parallel
from keras_resnet.backend.torch_parallel import SynchronizedNormalization
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
    """As `keras_ops.convolution`, without copies of the image."""
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    last = data_format == "channels_last"
    x = channels_first_view(x, last)
    kernel = kernel.permute(3, 2, 0, 1)
    if last and not torch._C._functorch.is_batchedtensor(kernel):
        # After `lay_out_kernel` this copies nothing. Under `vectorized`,
        # kernels have no memory format.
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    y = torch.nn.functional.conv2d(
        x,
        kernel,
        None if bias is None else ops.convert_to_tensor(bias),
        stride=tuple(strides),
        padding=tuple(padding),
        dilation=tuple(dilation_rate),
        groups=x.shape[1] // kernel.shape[1],
    )
    return y.permute(0, 2, 3, 1) if last else y


def max_pooling(
    x: Tensor, size: Sequence[int], strides: Sequence[int], data_format: str
) -> Tensor:
    """As `keras_ops.max_pooling`, without copies of the image."""
    last = data_format == "channels_last"
    y = torch.nn.functional.max_pool2d(
        channels_first_view(x, last),
        tuple(size),
        stride=tuple(strides),
        padding=[k // 2 for k in size],
    )
    return y.permute(0, 2, 3, 1) if last else y


def batch_normalization(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `keras_ops.batch_normalization`, in one fused operation."""
    last = axis != 1
    # Unlike `torch.native_batch_norm` this uses cuDNN on a GPU, and unlike
    # `torch.nn.functional.batch_norm` it returns the statistics.
    y, mean, inverse_deviation, _, _ = torch._batch_norm_impl_index(
        channels_first_view(x, last),
        gamma,
        beta,
        None,
        None,
        True,
        0.0,
        epsilon,
        torch.backends.cudnn.enabled,
    )
    # The dtype differs only in a trace under mixed precision.
    mean = mean.detach().to(gamma.dtype)
    inverse_deviation = inverse_deviation.detach().to(gamma.dtype)
    variance = inverse_deviation**-2 - epsilon
    return y.permute(0, 2, 3, 1) if last else y, mean, variance


def synchronized_batch_normalization(
    x: Tensor, gamma: Tensor, beta: Tensor, epsilon: float, axis: int
) -> tuple[Tensor, Tensor, Tensor]:
    """As `keras_ops.synchronized_batch_normalization`, on CPUs and GPUs."""
    if parallel.processes == 1:
        return batch_normalization(x, gamma, beta, epsilon, axis)
    last = axis != 1
    y, mean, variance = SynchronizedNormalization.apply(
        channels_first_view(x, last), gamma, beta, epsilon
    )
    return y.permute(0, 2, 3, 1) if last else y, mean, variance


def moving_average(average: Tensor, value: Tensor, momentum: float) -> Tensor:
    """As `keras_ops.moving_average`, in one operation."""
    return torch.lerp(average, value, 1 - momentum)


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
    last = axis != 1
    y = torch.nn.functional.batch_norm(
        channels_first_view(x, last), mean, variance, gamma, beta, eps=epsilon
    )
    return y.permute(0, 2, 3, 1) if last else y


def lay_out_kernel(kernel: keras.Variable) -> None:
    """Store a kernel in the memory format that PyTorch's convolutions use.

    Its shape and values stay the same. Otherwise `convolution` would copy the
    kernel at every step, and kernel and gradient would differ in format.
    """
    with torch.no_grad():
        kernel.value.data = (
            kernel.value.data.permute(3, 2, 0, 1)
            .contiguous(memory_format=torch.channels_last)
            .permute(2, 3, 1, 0)
        )


def lay_out_like(variable: keras.Variable, reference: keras.Variable) -> None:
    """Store a variable in the memory format of `reference`, of equal shape."""
    with torch.no_grad():
        variable.value.data = torch.empty_like(reference.value.data).copy_(
            variable.value.data
        )


@torch.no_grad()
def sgd_step(
    values: list[Tensor],
    gradients: list[Tensor],
    velocities: list[Tensor] | None,
    learning_rate: Tensor,
    momentum: float,
    nesterov: bool,
    decay: float,
    correction: bool,
) -> None:
    """Take a step of SGD for all weights at once: see `CoupledSGD`.

    The learning rate stays on the device, because the host would have to wait
    for the GPU to read it.
    """
    if decay:
        gradients = torch._foreach_add(gradients, values, alpha=decay)
    # With the correction, velocities do not include the learning rate.
    inside, outside = -learning_rate, None
    if correction:
        inside, outside = -1.0, learning_rate
    steps = torch._foreach_mul(gradients, inside)
    if velocities is not None:
        torch._foreach_mul_(velocities, momentum)
        torch._foreach_add_(velocities, steps)
        if nesterov:
            torch._foreach_add_(steps, velocities, alpha=momentum)
        else:
            steps = velocities
    if outside is not None:
        steps = torch._foreach_mul(steps, outside)
    torch._foreach_add_(values, steps)


def to_device(array: np.ndarray, reference: Tensor) -> Tensor:
    """As `keras_ops.to_device`, without waiting for a GPU."""
    tensor = torch.from_numpy(array)
    if reference.device.type != "cuda":
        return tensor.to(reference.device)
    # Only copies from pinned memory run while the host continues. PyTorch
    # keeps that memory until they are done.
    return tensor.pin_memory().to(reference.device, non_blocking=True)


def channels_first_view(x: Tensor, last: bool) -> Tensor:
    """Return a channels-first view of images. `last`: `x` is channels last."""
    return x.permute(0, 3, 1, 2) if last else x


def accelerators() -> list[str]:
    """Return the names of the accelerators that Keras computes on."""
    # The device of `KERAS_TORCH_DEVICE`, else the first kind available.
    kind = ops.zeros(()).device.type
    if kind == "cpu":
        return []
    if kind != "cuda":
        return [kind]
    return [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ]


def tensor_float32() -> bool:
    """Return whether a GPU rounds the inputs of float32 convolutions."""
    return torch.backends.cudnn.conv.fp32_precision == "tf32"


def be_deterministic() -> None:
    """Make a GPU use only kernels that give the same bits each time."""
    # cuBLAS reads this variable at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Return a context in which a GPU does not round float32 inputs."""
    cudnn = torch.backends.cudnn
    kinds = cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul
    before = [kind.fp32_precision for kind in kinds]
    try:
        # PyTorch's compiler reads this older setting, which raises an error
        # if a newer one differs.
        cudnn.allow_tf32 = False
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        cudnn.allow_tf32 = before[0] == "tf32"
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


def compiled(function: Callable) -> Callable:
    """Return a pure function of tensors, without autograd."""
    return torch.no_grad()(function)


def value_and_gradients(function: Callable) -> Callable:
    """Return a function that returns a scalar and its gradients."""

    def run(values, *inputs):
        values = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            value = function(values, *inputs)
        gradients = torch.autograd.grad(
            value, values, allow_unused=True, materialize_grads=True
        )
        return value.detach(), list(gradients)

    return run


def vectorized(function: Callable, arguments: int) -> Callable:
    """Return a function of so many arguments, mapped over the last one."""
    return torch.func.vmap(function, in_dims=(None,) * (arguments - 1) + (0,))


def profiler(folder: str) -> AbstractContextManager[object]:
    """Return a context that writes a profile for TensorBoard."""
    return torch.profiler.profile(
        on_trace_ready=torch.profiler.tensorboard_trace_handler(folder)
    )
