"""fold_batch_norm: the same outputs without the normalizations."""

import functools

import keras
import networks
import numpy as np
import pytest
from keras import layers
from networks import call

import keras_resnet
from keras_resnet import (
    BatchNormalization,
    Convolution,
    ResidualBlock,
    fold_batch_norm,
)

FORMATS = ("channels_last", "channels_first")
# Relative to the size of the outputs.
TOLERANCE = 1e-5


def randomize(model, seed=0):
    """Draw every weight, statistics far from 0 and 1 and a gamma of zero."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.path.split("/")[-1]
        if kind == "kernel":
            value = rng.normal(scale=np.prod(shape[:-1]) ** -0.5, size=shape)
        elif kind == "gamma":
            # Of both signs.
            value = rng.normal(size=shape)
            value[0] = 0
        elif kind == "moving_variance":
            value = rng.uniform(0.01, 4, shape)
        elif kind in ("beta", "bias", "moving_mean"):
            value = rng.normal(scale=0.5, size=shape)
        else:
            continue
        variable.assign(value.astype("float32"))


def images(model, size=3, seed=1):
    shape = (size, *(n or 16 for n in model.input_shape[1:]))
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def normalizations(model):
    return [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, layers.BatchNormalization)
    ]


def check(model, left=()):
    """Folds, compares, and returns the copy; `left` names what must stay."""
    randomize(model)
    before = [w.copy() for w in model.get_weights()]
    layers_before = [layer.name for layer in model._flatten_layers()]
    x = images(model)
    expected = call(model, x, training=False)
    folded = fold_batch_norm(model)
    actual = call(folded, x, training=False)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    scale = np.abs(expected).max()
    assert np.isfinite(scale)
    assert scale > 0
    assert np.abs(actual - expected).max() <= TOLERANCE * scale
    assert [bn.name for bn in normalizations(folded)] == list(left)
    # The original is as it was, and shares nothing with the copy.
    names = [layer.name for layer in model._flatten_layers()]
    assert names == layers_before
    for variable in folded.weights:
        variable.assign(np.zeros(variable.shape, "float32"))
    np.testing.assert_equal(before, model.get_weights())
    return fold_batch_norm(model)


small = functools.partial(
    networks.small, widths=(4, 8), size=(10, 12), classifier_activation=None
)


NETWORKS = {
    "basic-A": {"shortcut": "A"},
    "basic-B": {"shortcut": "B"},
    "basic-C": {"shortcut": "C"},
    "basic-plain": {"residual": False},
    "bottleneck-B": {"bottleneck": True},
    "bottleneck-C-1x1": {
        "bottleneck": True,
        "shortcut": "C",
        "bottleneck_stride": "1x1",
    },
    "imagenet-stem": {"stem": "imagenet"},
    "no-top": {"include_top": False},
    "no-top-max": {"include_top": False, "pooling": "max"},
    "epsilon": {"epsilon": 0.5},
}


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("network", NETWORKS)
def test_outputs_are_equal(network, data_format):
    keras.config.set_image_data_format(data_format)
    model = small(**NETWORKS[network])
    model.compile("adam", "mse")
    folded = check(model)
    assert folded.name == model.name
    assert not folded.compiled
    assert model.compiled
    # One tensor and not a list of one: an exported model takes what this is.
    assert folded.input.name == model.input.name == "image"
    assert folded.output_shape == model.output_shape


def test_complexity():
    model = small(shortcut="C")
    folded = check(model)
    before, after = map(keras_resnet.complexity, (model, folded))
    assert after.macs == before.macs > 0
    # A normalization has four numbers per channel, a bias one.
    channels = sum(bn.gamma.shape[0] for bn in normalizations(model))
    # The stem; three of the first stage's block, six of the second's two.
    assert channels == 4 + 3 * 4 + 6 * 8
    assert before.parameters - after.parameters == 3 * channels
    assert before.trainable_parameters - after.trainable_parameters == channels
    kinds = {layer.kind for layer in after.layers}
    assert not any("Normalization" in kind for kind in kinds)


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = small()
    randomize(model)
    folded = fold_batch_norm(model)
    for layer, other in zip(model.layers[:2], folded.layers[:2], strict=True):
        assert layer.dtype_policy.name == other.dtype_policy.name
    for weight in folded.get_layer("stage1_block1").weights:
        assert weight.dtype == "float32"
    x = images(model)
    expected, actual = (
        call(m, x, training=False).astype("float64") for m in (model, folded)
    )
    assert np.abs(actual - expected).max() < 0.05 * np.abs(expected).max()


@keras.saving.register_keras_serializable(package="test_folding")
class Scale(layers.Layer):
    """A layer of one's own, with a sublayer and a weight."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = layers.Dense(units)

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(self.units,), name="kernel")
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs) * self.kernel

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize("adapted", [True, False])
def test_layers_before_and_after(adapted):
    image = keras.Input((10, 12, 3), name="pixels")
    if adapted:
        before = layers.Normalization(name="preprocessing")
        rng = np.random.default_rng(2)
        before.adapt(rng.normal(5, 3, size=(9, 10, 12, 3)).astype("float32"))
    else:
        before = layers.Normalization(mean=[1, 2, 3], variance=[4, 5, 6])
    base = small(
        input_tensor=before(image),
        input_shape=(10, 12, 3),
        include_top=False,
        pooling="avg",
    )
    x = Scale(6)(base.output)
    x = keras.ops.tanh(x)
    # This one follows a dense layer.
    x = layers.BatchNormalization(name="stays")(x)
    model = keras.Model(base.input, layers.Dropout(0.5)(x))
    check(model, left=["stays"])


def convolutions(head):
    """A model of the layers that `head` puts on an image."""
    image = keras.Input((6, 7, 3))
    return keras.Model(image, head(image))


class Twice(Convolution):
    """A convolution that a bias would not fit."""

    def call(self, inputs):
        return 2 * super().call(inputs)


def both(x):
    y = layers.Conv2D(4, 3)(x)
    return layers.Add()([y, BatchNormalization(name="stays")(y)])


def output_too(x):
    y = layers.Conv2D(4, 3)(x)
    return [BatchNormalization(name="stays")(y), y]


def two_sources(x):
    bn = BatchNormalization(name="stays")
    return layers.Add()([bn(layers.Conv2D(3, 1)(x)), bn(x)])


def shared_pair(x):
    conv, bn = layers.Conv2D(3, 1), BatchNormalization()
    return bn(conv(bn(conv(x))))


def separate(x):
    # So that each model has something to fold.
    return BatchNormalization()(Convolution(3, 1)(x))


def after(layer, **kwargs):
    """Put a layer and a normalization on an image."""
    return lambda x: BatchNormalization(**kwargs)(layer(x))


HEADS = {
    "bias": after(layers.Conv2D(4, 3)),
    "no scale": after(Convolution(4, 3), scale=False),
    "no offset": lambda x: layers.BatchNormalization(center=False)(
        layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(x)
    ),
    "groups": after(Convolution(6, 3, groups=3), axis=3),
    "inference": lambda x: BatchNormalization()(
        Convolution(4, 3)(x), training=False
    ),
    "keyword": lambda x: BatchNormalization()(inputs=Convolution(4, 3)(x)),
    "shared": shared_pair,
}
REMAIN = {
    "activation": after(layers.Conv2D(4, 3, activation="relu"), name="stays"),
    "axis": after(Convolution(4, 3), name="stays", axis=1),
    "pooling": after(layers.AveragePooling2D(2), name="stays"),
    "depthwise": after(layers.DepthwiseConv2D(3), name="stays"),
    "input": lambda x: BatchNormalization(name="stays")(x),
    "subclass": after(Twice(4, 3), name="stays"),
    "used twice": both,
    "two sources": two_sources,
}


@pytest.mark.parametrize("head", HEADS)
def test_convolutions_that_fold(head):
    check(convolutions(HEADS[head]))


@pytest.mark.parametrize("head", REMAIN)
def test_normalizations_that_stay(head):
    check(convolutions(lambda x: REMAIN[head](separate(x))), left=["stays"])
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_batch_norm(convolutions(REMAIN[head]))


def test_an_output_of_the_model_stays():
    model = convolutions(lambda x: output_too(separate(x)))
    folded = fold_batch_norm(model)
    assert [bn.name for bn in normalizations(folded)] == ["stays"]


def test_what_is_called_in_training_mode_stays():
    def head(x):
        x = ResidualBlock(4, name="block")(separate(x), training=True)
        x = BatchNormalization(name="bn")(Convolution(4, 3)(x), training=True)
        inner = keras.Sequential([keras.Input(x.shape[1:]), Convolution(4, 3)])
        inner.add(BatchNormalization(name="inner"))
        return inner(x, training=True)

    model = convolutions(head)
    randomize(model)
    x = images(model)
    folded = fold_batch_norm(model)
    names = {bn.name for bn in normalizations(folded)}
    assert names == {"bn1", "bn2", "shortcut_bn", "bn", "inner"}
    expected, actual = (call(m, x, training=False) for m in (model, folded))
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_nested_models():
    base = small(include_top=False)
    base.compile("sgd", "mse")
    image = keras.Input((10, 12, 3))
    x = base(image, training=False)
    tail = keras.Sequential(
        [layers.Conv2D(4, 3), BatchNormalization(), layers.ReLU()]
    )
    # Twice the same model.
    x = layers.Concatenate()([tail(x), tail(keras.ops.flip(x, axis=1))])
    check(keras.Model(image, x))
    model = keras.Sequential(
        [keras.Input((10, 12, 3)), base, layers.Conv2D(4, 3)]
    )
    model.add(BatchNormalization())
    model.add(layers.GlobalMaxPooling2D())
    check(model)


def test_inputs_and_outputs_by_name():
    image = keras.Input((6, 7, 3), name="image")
    scale = keras.Input((1,), name="scale")
    x = separate(image)
    outputs = {"features": x, "scaled": layers.Multiply()([x, scale])}
    model = keras.Model({"image": image, "scale": scale}, outputs)
    randomize(model)
    folded = fold_batch_norm(model)
    batch = {"image": np.ones((2, 6, 7, 3)), "scale": np.full((2, 1), 3.0)}
    expected, actual = (m.predict(batch, verbose=0) for m in (model, folded))
    assert set(actual) == set(outputs)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, atol=1e-5)


def test_the_original_may_be_used_after_the_copy_is_made():
    # JAX gives a model's own arrays away in `predict`.
    model = small()
    folded = fold_batch_norm(model)
    x = images(model)
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        folded.predict(x, verbose=0), expected, atol=1e-5
    )


def test_part_of_a_network():
    model = small()
    check(keras.Model(model.input, model.get_layer("stage1_block1").output))
    # The output of a convolution that folds elsewhere is as it was.
    check(keras.Model(model.input, model.get_layer("stem_bn").output))
    with pytest.raises(ValueError, match="nothing to fold"):
        fold_batch_norm(
            keras.Model(model.input, model.get_layer("stem_conv").output)
        )


def test_errors_are_one_line():
    dense = layers.Dense(2)
    for model, words in (
        (fold_batch_norm(small()), "'resnet' has nothing to fold"),
        (
            keras.Sequential([keras.Input((4,)), dense], name="mlp"),
            "'mlp' has nothing to fold",
        ),
        (keras.Sequential([dense], name="open"), "Sequential 'open'"),
        (Scale(3, name="scale"), "Scale 'scale'"),
    ):
        with pytest.raises(ValueError, match=rf"^.*{words}.*\Z"):
            fold_batch_norm(model)


def test_lora_is_folded():
    model = small()
    model.get_layer("stem_conv").enable_lora(2)
    model.get_layer("stage2_block1").conv1.enable_lora(2)
    model.get_layer("stage2_block1").shortcut_conv.enable_lora(2)
    randomize(model)
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if variable.name.startswith("lora"):
            value = rng.normal(scale=0.1, size=variable.shape)
            variable.assign(value.astype("float32"))
    x = images(model)
    expected = call(model, x, training=False)
    folded = fold_batch_norm(model)
    actual = call(folded, x, training=False)
    np.testing.assert_allclose(
        actual, expected, atol=TOLERANCE * np.abs(expected).max(), rtol=0
    )
    assert not normalizations(folded)
    assert not any("lora" in variable.path for variable in folded.weights)


def test_a_quantized_head_stays():
    model = small()
    model.get_layer("head").quantize("int8")
    x = images(model)
    expected = call(model, x, training=False)
    actual = call(fold_batch_norm(model), x, training=False)
    np.testing.assert_allclose(actual, expected, atol=0.02)
