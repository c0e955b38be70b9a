"""`PreactivationBlock`: networks of He et al. 2016, "Identity Mappings"."""

import json

import keras
import numpy as np
import pytest
from networks import VARIANTS, batch, call, draw_weights, small, to_numpy
from numpy_network import arrays, convolution, normalization

import keras_resnet
from keras_resnet import PreactivationBlock, analysis
from keras_resnet.weights import loading


def preactivated(**options):
    options = {"classifier_activation": None, **options}
    return small(block=PreactivationBlock, **options)


class Reference:
    """Forward pass in NumPy, from KerasHub's ResNetBackbone and the paper."""

    def __init__(self, model, training):
        self.model = model
        self.training = training

    def weights(self, name):
        layer, _, part = name.partition("/")
        layer = self.model.get_layer(layer)
        return arrays(getattr(layer, part) if part else layer)

    def conv(self, x, name, stride=1):
        return convolution(x, self.weights(name)["kernel"], stride)

    def bn_relu(self, x, name):
        x = normalization(x, self.weights(name), 1e-5, self.training)
        return np.maximum(x, 0)

    def block(self, x, layer):
        strides = [layer.stride, 1]
        if layer.bottleneck:
            strides = [1, layer.stride, 1]
            if layer.bottleneck_stride == "1x1":
                strides = [layer.stride, 1, 1]
        activated = self.bn_relu(x, f"{layer.name}/preact_bn")
        y = activated
        for i, stride in enumerate(strides, start=1):
            y = self.conv(y, f"{layer.name}/conv{i}", stride)
            if i < len(strides):
                y = self.bn_relu(y, f"{layer.name}/bn{i}")
        if not layer.residual:
            return y
        if layer.shortcut_conv is not None:
            shortcut = f"{layer.name}/shortcut_conv"
            return y + self.conv(activated, shortcut, layer.stride)
        x = x[:, :: layer.stride, :: layer.stride]
        missing = y.shape[-1] - x.shape[-1]
        return y + np.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))

    def __call__(self, x):
        x = np.asarray(x, "float64")
        imagenet = any(x.name == "stem_pool" for x in self.model.layers)
        x = self.conv(x, "stem_conv", 2 if imagenet else 1)
        if imagenet:
            x = np.pad(
                x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf
            )
            windows = np.lib.stride_tricks.sliding_window_view(
                x, (3, 3), axis=(1, 2)
            )
            x = windows[:, ::2, ::2].max((-2, -1))
        for layer in keras_resnet.blocks.residual_blocks(self.model):
            x = self.block(x, layer)
        x = self.bn_relu(x, "end_bn").mean((1, 2))
        head = self.weights("head")
        return x @ head["kernel"] + head["bias"]


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_the_formula(name):
    model = preactivated(**VARIANTS[name])
    draw_weights(model, seed=0)
    x, _ = batch(model, 4)
    for training in (False, True):
        # Before ours, which updates the moving statistics.
        expected = Reference(model, training)(x)
        logits = call(model, x, training=training)
        assert 0.1 < expected.std() < 10
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_network_normalizes_before_each_convolution_but_the_stem(
    bottleneck,
):
    model = preactivated(bottleneck=bottleneck)
    names = [layer.name for layer in model.layers]
    assert names[:3] == ["image", "stem_conv", "stage1_block1"]
    assert names[-4:] == ["end_bn", "end_relu", "avg_pool", "head"]
    block = model.get_layer("stage2_block1")
    parts = ["conv1", "bn1", "conv2"]
    parts += ["bn2", "conv3"] if bottleneck else []
    assert {x.name for x in block._layers} == {
        *parts,
        "preact_bn",
        "shortcut_conv",
    }


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_initialization_is_the_identity_and_can_be_trained(bottleneck):
    # Of a few channels, an unlucky draw leaves some without a gradient.
    keras.utils.set_random_seed(0)
    model = preactivated(zero_init_residual=True, bottleneck=bottleneck)
    block = model.get_layer("stage2_block2")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, block.out_channels))
    x = x.astype("float32")
    np.testing.assert_array_equal(to_numpy(block(x)), x)
    images, labels = batch(model, 8)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    # The first step moves the zeros, the second all that is before them.
    before = [to_numpy(v) for v in model.trainable_variables]
    for _ in range(2):
        model.train_on_batch(images, labels)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert (to_numpy(variable) != old).any(), variable.path


def test_what_is_set_on_the_first_normalization_is_kept():
    block = PreactivationBlock(8)
    block.preact_bn.momentum = 0.5
    block.build((None, 8, 8, 8))
    config = json.loads(json.dumps(block.get_config()))
    assert PreactivationBlock.from_config(config).preact_bn.momentum == 0.5


def test_a_subclass_makes_every_normalization():
    class Grouped(PreactivationBlock):
        def make_normalization(self, name, gamma_initializer="ones"):
            return keras.layers.GroupNormalization(4, name=name)

    block = Grouped(8)
    block.build((None, 8, 8, 8))
    assert isinstance(block.preact_bn, keras.layers.GroupNormalization)


@pytest.mark.parametrize("name", ["A", "C", "plain", "bottleneck"])
def test_the_normalizations_between_convolutions_are_folded(name):
    model = preactivated(**VARIANTS[name])
    draw_weights(model, seed=1)
    x, _ = batch(model, 4)
    folded = keras_resnet.fold_batch_norm(model)
    np.testing.assert_allclose(
        call(folded, x, training=False),
        call(model, x, training=False),
        atol=1e-5,
    )
    left = [
        layer.name
        for layer in folded._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert left == ["preact_bn"] * 3 + ["end_bn"]
    with pytest.raises(ValueError, match="nothing to fold"):
        keras_resnet.fold_batch_norm(folded)
    with pytest.raises(keras_resnet.WeightsError, match="folded"):
        loading.targets(folded)


def test_a_grown_network_computes_the_same():
    model = preactivated()
    draw_weights(model, seed=1)
    x, _ = batch(model, 4)
    for grown, equal in (
        (analysis.grow(model, 2), True),
        (analysis.grow(model, 2, zero=False), False),
    ):
        difference = call(grown, x, training=False) - call(
            model, x, training=False
        )
        assert (np.abs(difference).max() < 1e-5) == equal


def test_analyses_see_the_stem_and_every_convolution():
    model = preactivated()
    x, labels = batch(model, 8)
    seen = []
    outputs = analysis.network.forward(
        model, x, observe=lambda name, *_: seen.append(name)
    )
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(model(x)), atol=1e-6)
    names = analysis.gradient_norms(model, x, labels).names
    assert seen == list(names[:-1])
    assert len(seen) == 7
    lesions = analysis.delete_each_block(model, x, labels)
    assert len(lesions.error) == 3
