"""PyTorch: images are looked at in another order of axes, never copied.

Keras permutes a channels-last image into a new tensor before and after each
convolution and pooling, and normalizes by a dozen operations in float32. A
permuted view of it already is what PyTorch calls channels-last memory, which
its kernels take as they are. With this and the replay of `torch.graph` a
training step of ResNet-20 on one core is 1.5 times as fast as with Keras's
layers in batches of 128, and 2.5 times in batches of 2
(docs/results/benchmarks).
"""

import torch
from keras import ops

from keras_resnet.backend import parallel
from keras_resnet.backend.torch_parallel import SynchronizedNormalization


def convolution(x, kernel, bias, strides, margins, dilation_rate, data_format):
    """As `keras_ops.convolution`, without copies of the image."""
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    last = data_format == "channels_last"
    x = channels_first_view(x, last)
    kernel = kernel.permute(3, 2, 0, 1)
    if last and not torch._C._functorch.is_batchedtensor(kernel):
        # No copy either where `lay_out_kernel` has been. A kernel for each
        # place of `vectorized` has no such order.
        kernel = kernel.contiguous(memory_format=torch.channels_last)
    y = torch.nn.functional.conv2d(
        x,
        kernel,
        None if bias is None else ops.convert_to_tensor(bias),
        stride=tuple(strides),
        padding=tuple(margins),
        dilation=tuple(dilation_rate),
        groups=x.shape[1] // kernel.shape[1],
    )
    return y.permute(0, 2, 3, 1) if last else y


def max_pooling(x, size, strides, data_format):
    """As `keras_ops.max_pooling`, without copies of the image."""
    last = data_format == "channels_last"
    y = torch.nn.functional.max_pool2d(
        channels_first_view(x, last),
        tuple(size),
        stride=tuple(strides),
        padding=[k // 2 for k in size],
    )
    return y.permute(0, 2, 3, 1) if last else y


def batch_normalization(x, gamma, beta, epsilon, axis):
    """As `keras_ops.batch_normalization`, in one fused operation."""
    last = axis != 1
    y, mean, inverse_deviation = torch.native_batch_norm(
        channels_first_view(x, last),
        gamma,
        beta,
        None,
        None,
        True,
        0.0,
        epsilon,
    )
    # They are so already, but while they are traced under mixed precision.
    mean = mean.detach().to(gamma.dtype)
    inverse_deviation = inverse_deviation.detach().to(gamma.dtype)
    variance = inverse_deviation**-2 - epsilon
    return y.permute(0, 2, 3, 1) if last else y, mean, variance


def synchronized_batch_normalization(x, gamma, beta, epsilon, axis):
    """As `keras_ops.synchronized_batch_normalization`, on CPUs and GPUs."""
    if parallel.processes == 1:
        return batch_normalization(x, gamma, beta, epsilon, axis)
    last = axis != 1
    y, mean, variance = SynchronizedNormalization.apply(
        channels_first_view(x, last), gamma, beta, epsilon
    )
    return y.permute(0, 2, 3, 1) if last else y, mean, variance


def moving_average(average, value, momentum):
    """As `keras_ops.moving_average`, in one operation."""
    return torch.lerp(average, value, 1 - momentum)


def normalization(x, mean, variance, gamma, beta, epsilon, axis):
    """As `keras_ops.normalization`, in one fused operation."""
    last = axis != 1
    y = torch.nn.functional.batch_norm(
        channels_first_view(x, last), mean, variance, gamma, beta, eps=epsilon
    )
    return y.permute(0, 2, 3, 1) if last else y


def lay_out_kernel(kernel):
    """Lay out a kernel in memory as PyTorch's convolutions read it.

    Its shape and values stay. `convolution` would otherwise copy it at every
    step, and hand the optimizer a gradient in another order than the weight.

    Args:
        kernel: `keras.Variable` of `(rows, columns, in, out)`.
    """
    with torch.no_grad():
        kernel.value.data = (
            kernel.value.data.permute(3, 2, 0, 1)
            .contiguous(memory_format=torch.channels_last)
            .permute(2, 3, 1, 0)
        )


def lay_out_like(variable, reference):
    """Lay out a variable in memory as another one of the same shape."""
    with torch.no_grad():
        variable.value.data = torch.empty_like(reference.value.data).copy_(
            variable.value.data
        )


@torch.no_grad()
def sgd_step(
    values,
    gradients,
    velocities,
    learning_rate,
    momentum,
    nesterov,
    decay,
    correction,
):
    """One step of SGD for all weights at once, see `CoupledSGD`.

    The learning rate stays on the device: to read it a GPU would have to
    finish the step first.
    """
    if decay:
        gradients = torch._foreach_add(gradients, values, alpha=decay)
    # With the correction, velocities are of gradients, without their rate.
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


def channels_first_view(x, last):
    """Return an image with its channels first, without copying it."""
    return x.permute(0, 3, 1, 2) if last else x


def accelerators():
    """Return the names of the GPUs that PyTorch computes on."""
    return [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ]


def compiled(function):
    """Return a pure function of tensors, without a record for gradients."""
    return torch.no_grad()(function)


def value_and_gradients(function):
    """Return a function of a scalar and its gradients by the first list."""

    def run(values, *inputs):
        values = [value.detach().requires_grad_() for value in values]
        with torch.enable_grad():
            value = function(values, *inputs)
        gradients = torch.autograd.grad(
            value, values, allow_unused=True, materialize_grads=True
        )
        return value.detach(), list(gradients)

    return run


def vectorized(function, arguments):
    """Map a function over the first axis of the last of its arguments."""
    return torch.func.vmap(function, in_dims=(None,) * (arguments - 1) + (0,))


def profiler(folder):
    """Return a context whose trace is written for TensorBoard."""
    return torch.profiler.profile(
        on_trace_ready=torch.profiler.tensorboard_trace_handler(folder)
    )
