"""Small networks, and weights that are the same on every backend."""

import keras
import numpy as np
import pytest

import keras_resnet

# Changes of a head after which it has other weights, and words of the errors.
ADAPTATIONS = [
    (lambda head: head.quantize("int8"), "'head'.*quantized .int8"),
    (lambda head: head.enable_lora(2), "'head'.*LoRA"),
]


# Arguments of `small` for all kinds of networks.
VARIANTS = {
    "A": {"shortcut": "A"},
    "B": {},
    "C": {"shortcut": "C"},
    "plain": {"residual": False},
    "bottleneck": {"bottleneck": True},
    "the paper's stride": {"bottleneck": True, "bottleneck_stride": "1x1"},
    "ImageNet's stem": {"stem": "imagenet", "size": (33, 30)},
}


def only(*backends):
    """Return the mark of a test that other backends skip."""
    backend = keras.backend.backend()
    reason = f"for {', '.join(backends)}"
    return pytest.mark.skipif(backend not in backends, reason=reason)


def small(depths=(1, 2), widths=(16, 32), size=(16, 16), **options):
    """Return a network with every kind of layer, quick to build and run.

    Args:
        depths: Blocks per stage.
        widths: Channels per stage.
        size: Rows and columns of RGB images in Keras's data format, where
            `options` has no `input_shape`.
        **options: Arguments of `keras_resnet.ResNet`.
    """
    last = keras.config.image_data_format() == "channels_last"
    options = {
        "stem": "cifar",
        "classes": 5,
        "input_shape": (*size, 3) if last else (3, *size),
        **options,
    }
    return keras_resnet.ResNet(depths, widths, **options)


def draw_weights(model, seed):
    """Draw every weight with NumPy, so that the logits are about 1.

    The same seed gives the same weights on every backend.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape = tuple(variable.shape)
        kind = variable.path.split("/")[-1]
        if kind == "kernel":
            fan_in = np.prod(shape[:-1])
            value = rng.normal(scale=(2 / fan_in) ** 0.5, size=shape)
            if variable.path.startswith("head"):
                value *= 0.5
        elif kind == "gamma":
            value = rng.uniform(0.5, 1.0, shape)
            # The branches' ends: sums over many blocks must not grow.
            if variable.path.split("/")[-2] in ("bn2", "bn3"):
                value *= 0.5
        elif kind == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        else:
            # beta, moving_mean, bias
            value = rng.normal(scale=0.1, size=shape)
        variable.assign(value.astype("float32"))


def batch(model, size, seed=1):
    """Return images and labels, equal on every backend."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(model.output_shape[-1], size=size)


def assert_close(actual, expected, **tolerance):
    """Compare two lists of arrays, as `np.testing.assert_allclose` does."""
    for one, two in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, two, **tolerance)


def to_numpy(x):
    return keras.ops.convert_to_numpy(x).copy()


def values(model):
    """Return copies of all variables of a model, as arrays."""
    return [to_numpy(v) for v in model.variables]


def call(model, x, training):
    """Call a model on an array; its statistics may change or not."""
    x = keras.ops.convert_to_tensor(x)
    if keras.backend.backend() != "jax":
        return to_numpy(model(x, training=training))
    # Compiled as a whole: operation by operation takes JAX minutes.
    import jax

    def stateless(trainable, others, x):
        y, _ = model.stateless_call(trainable, others, x, training=training)
        return y

    variables = model.trainable_variables, model.non_trainable_variables
    values = ([v.value for v in group] for group in variables)
    return to_numpy(jax.jit(stateless)(*values, x))
