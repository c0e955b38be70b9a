"""Plain JAX: one jitted training step on a dictionary of weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from comparison.implementation import Implementation
from comparison.network import DECAY, LEARNING_RATE, MOMENTUM


class Operations:
    """The network's operations on arrays of JAX.

    In training they normalize by the batch, and `statistics` holds the new
    moving statistics afterwards.
    """

    def __init__(self, network, weights, training):
        self.network = network
        self.weights = weights
        self.training = training
        self.statistics = {}

    def conv_norm(self, x, conv):
        precision = self.network.precision
        x = lax.conv_general_dilated(
            x.astype(precision),
            self.weights[f"{conv.name}/kernel"].astype(precision),
            window_strides=(conv.stride,) * 2,
            padding=((conv.padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        ).astype("float32")
        gamma, beta, moving_mean, moving_variance = (
            self.weights[f"{conv.norm}/{kind}"]
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        mean, variance = moving_mean, moving_variance
        if self.training:
            # By two means that one pass can compute, as Flax does.
            mean = x.mean((0, 1, 2))
            variance = jnp.maximum((x * x).mean((0, 1, 2)) - mean * mean, 0)
            for kind, old, new in (
                ("moving_mean", moving_mean, mean),
                ("moving_variance", moving_variance, variance),
            ):
                average = MOMENTUM * old + (1 - MOMENTUM) * new
                self.statistics[f"{conv.norm}/{kind}"] = average
        scale = gamma * lax.rsqrt(variance + self.network.epsilon)
        return ((x - mean) * scale + beta).astype(precision)

    def relu(self, x):
        return jax.nn.relu(x)

    def max_pool(self, x):
        return lax.reduce_window(
            x,
            -jnp.inf,
            lax.max,
            window_dimensions=(1, 3, 3, 1),
            window_strides=(1, 2, 2, 1),
            padding=((0, 0), (1, 1), (1, 1), (0, 0)),
        )

    def zero_padding(self, x, stride, channels):
        x = x[:, ::stride, ::stride]
        return jnp.pad(x, ((0, 0),) * 3 + ((0, channels),))

    def head(self, x):
        x = x.mean((1, 2), dtype="float32")
        return x @ self.weights["head/kernel"] + self.weights["head/bias"]


@functools.partial(jax.jit, static_argnums=0)
def infer(network, weights, images):
    """Return the logits in inference."""
    return network.forward(Operations(network, weights, False), images)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2, 3))
def train_step(network, trained, statistics, velocities, images, labels):
    """Take a step of SGD with momentum and coupled weight decay."""

    def loss(trained):
        operations = Operations(network, trained | statistics, True)
        logits = network.forward(operations, images)
        by_class = jax.nn.log_softmax(logits)
        right = jnp.take_along_axis(by_class, labels[:, None], axis=1)
        return -right.mean(), operations.statistics

    def velocity(v, g, w):
        return MOMENTUM * v + g + DECAY * w

    def moved(w, v):
        return w - LEARNING_RATE * v

    gradients, statistics = jax.grad(loss, has_aux=True)(trained)
    velocities = jax.tree.map(velocity, velocities, gradients, trained)
    return jax.tree.map(moved, trained, velocities), statistics, velocities


class Native(Implementation):
    """Jitted JAX with donated state."""

    def __init__(self, network, weights):
        self.network = network
        self.trained, self.statistics = {}, {}
        for name, value in weights.items():
            moving = "/moving_" in name
            group = self.statistics if moving else self.trained
            group[name] = jnp.array(value)
        self.velocities = jax.tree.map(jnp.zeros_like, self.trained)

    def train_step(self, images, labels):
        state = self.trained, self.statistics, self.velocities
        self.trained, self.statistics, self.velocities = train_step(
            self.network, *state, images, labels
        )

    def infer(self, images):
        return infer(self.network, self.trained | self.statistics, images)

    def wait(self):
        jax.block_until_ready(self.trained)

    def weights(self):
        return jax.tree.map(np.asarray, self.trained | self.statistics)
