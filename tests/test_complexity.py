"""Counts of `complexity` against numbers computed by hand."""

import re

import keras
import numpy as np
import pytest
from keras import layers

import keras_resnet
from keras_resnet import Complexity, LayerComplexity, complexity


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


# Model of one layer, and its multiply-adds for one image: positions in the
# output times the products for one position, written as such.
HAND_COMPUTED = {
    "Conv1D": (
        lambda: sequential((10, 3), layers.Conv1D(4, 5)),
        6 * 4 * (5 * 3),
    ),
    "Conv2D": (
        lambda: sequential((8, 9, 3), layers.Conv2D(4, (3, 5))),
        6 * 5 * 4 * (3 * 5 * 3),
    ),
    "Conv2D, same, strided": (
        lambda: sequential(
            (8, 9, 3), layers.Conv2D(4, 3, strides=2, padding="same")
        ),
        4 * 5 * 4 * (9 * 3),
    ),
    "Conv2D, bias does not count": (
        lambda: sequential((8, 9, 3), layers.Conv2D(4, 1, use_bias=False)),
        8 * 9 * 4 * 3,
    ),
    "Conv2D, two groups": (
        lambda: sequential((8, 8, 6), layers.Conv2D(4, 3, groups=2)),
        6 * 6 * 4 * (9 * 3),
    ),
    "Conv2D, dilated": (
        lambda: sequential((8, 8, 3), layers.Conv2D(4, 3, dilation_rate=2)),
        4 * 4 * 4 * (9 * 3),
    ),
    "Conv2D, channels first": (
        lambda: sequential(
            (3, 8, 9), layers.Conv2D(4, 3, data_format="channels_first")
        ),
        6 * 7 * 4 * (9 * 3),
    ),
    "Conv3D": (
        lambda: sequential((4, 5, 6, 2), layers.Conv3D(3, 2)),
        3 * 4 * 5 * 3 * (8 * 2),
    ),
    "Conv1DTranspose": (
        lambda: sequential((7, 3), layers.Conv1DTranspose(4, 2, strides=2)),
        7 * 3 * (2 * 4),
    ),
    # Every input position is multiplied with the whole kernel.
    "Conv2DTranspose": (
        lambda: sequential((4, 5, 3), layers.Conv2DTranspose(6, 2, strides=2)),
        4 * 5 * 3 * (4 * 6),
    ),
    "Conv3DTranspose": (
        lambda: sequential((2, 3, 4, 2), layers.Conv3DTranspose(3, 2)),
        2 * 3 * 4 * 2 * (8 * 3),
    ),
    "DepthwiseConv1D": (
        lambda: sequential((9, 5), layers.DepthwiseConv1D(3)),
        7 * 5 * 3,
    ),
    "DepthwiseConv2D": (
        lambda: sequential(
            (8, 8, 5), layers.DepthwiseConv2D(3, depth_multiplier=2)
        ),
        6 * 6 * (5 * 2) * 9,
    ),
    "SeparableConv1D": (
        lambda: sequential((9, 5), layers.SeparableConv1D(4, 3)),
        7 * (5 * 3 + 5 * 4),
    ),
    "SeparableConv2D": (
        lambda: sequential((8, 8, 5), layers.SeparableConv2D(4, 3)),
        6 * 6 * (5 * 9 + 5 * 4),
    ),
    "Dense": (lambda: sequential((7,), layers.Dense(5)), 7 * 5),
    "Dense of a sequence": (
        lambda: sequential((6, 7), layers.Dense(5)),
        6 * 7 * 5,
    ),
    "Dense of an image": (
        lambda: sequential((4, 6, 7), layers.Dense(5)),
        4 * 6 * 7 * 5,
    ),
    "EinsumDense": (
        lambda: sequential(
            (6, 7), layers.EinsumDense("abc,cd->abd", output_shape=(None, 5))
        ),
        6 * 5 * 7,
    ),
    "EinsumDense, two sums": (
        lambda: sequential(
            (6, 2, 7), layers.EinsumDense("abhc,hcd->abd", output_shape=(6, 5))
        ),
        6 * 5 * (2 * 7),
    ),
    "EinsumDense, ellipsis": (
        lambda: sequential(
            (3, 6, 7), layers.EinsumDense("...x,xy->...y", output_shape=5)
        ),
        3 * 6 * 5 * 7,
    ),
    "no multiply-adds": (
        lambda: sequential(
            (8, 8, 4),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.ReLU(),
            layers.Dropout(0.5),
        ),
        0,
    ),
}


@pytest.mark.parametrize("case", HAND_COMPUTED)
def test_hand_computed(case):
    make, macs = HAND_COMPUTED[case]
    model = make()
    cost = complexity(model)
    assert cost.macs == macs
    assert cost.parameters == model.count_params()
    check_sums(cost)


def check_sums(cost):
    for total in ("parameters", "trainable_parameters", "macs"):
        rows = [getattr(layer, total) for layer in cost.layers]
        assert sum(rows) == getattr(cost, total), total


@pytest.mark.parametrize(
    ("make", "macs"),
    [
        (
            lambda: keras_resnet.ResNet20(),
            # Stem, then three stages: the first block of the later ones
            # strides, and option A's shortcuts multiply nothing.
            1024 * 27 * 16
            + 6 * 1024 * 9 * 16 * 16
            + 256 * 9 * 16 * 32
            + 5 * 256 * 9 * 32 * 32
            + 64 * 9 * 32 * 64
            + 5 * 64 * 9 * 64 * 64
            + 64 * 10,
        ),
        (
            lambda: keras_resnet.ResNet(
                [1],
                [8],
                stem="cifar",
                bottleneck=True,
                classes=3,
                input_shape=(4, 6, 2),
            ),
            4 * 6 * (9 * 2 * 8 + 8 * 8 + 9 * 8 * 8 + 8 * 32 + 8 * 32) + 32 * 3,
        ),
    ],
    ids=["basic A", "bottleneck B"],
)
def test_networks_by_hand(make, macs):
    model = make()
    cost = complexity(model)
    assert cost.macs == macs
    assert cost.name == model.name
    check_sums(cost)
    names = [layer.name for layer in cost.layers]
    assert "stage1_block1/conv1" in names
    assert len(names) == len(set(names))


def test_rows_describe_the_layers():
    cost = complexity(keras_resnet.ResNet20(shortcut="B"))
    rows = {layer.name: layer for layer in cost.layers}
    assert isinstance(cost, Complexity)
    assert rows["stage2_block1/shortcut_conv"] == LayerComplexity(
        name="stage2_block1/shortcut_conv",
        kind="Convolution",
        output_shape=(16, 16, 32),
        parameters=16 * 32,
        trainable_parameters=16 * 32,
        macs=256 * 16 * 32,
    )
    assert rows["stage2_block1/shortcut_bn"] == LayerComplexity(
        name="stage2_block1/shortcut_bn",
        kind="BatchNormalization",
        output_shape=(16, 16, 32),
        parameters=4 * 32,
        trainable_parameters=2 * 32,
        macs=0,
    )
    order = [name for name in rows if "conv" in name or name == "head"]
    assert order[0] == "stem_conv"
    assert order[-1] == "head"
    assert order.index("stage1_block3/conv2") < order.index(
        "stage2_block1/conv1"
    )


def test_shared_layer_runs_twice_and_is_held_once():
    shared = layers.Conv2D(4, 3, padding="same")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, shared(shared(inputs)))
    cost = complexity(model)
    assert cost.macs == 2 * 64 * 4 * 36
    assert cost.parameters == 4 * 36 + 4
    assert [row.macs > 0 for row in cost.layers if row.kind == "Conv2D"] == [
        True,
        True,
    ]
    check_sums(cost)


def test_shared_layer_on_maps_of_two_sizes():
    shared = layers.Conv2D(4, 3, padding="same")
    inputs = keras.Input((8, 8, 4))
    x = shared(layers.MaxPooling2D()(shared(inputs)))
    cost = complexity(keras.Model(inputs, x))
    assert cost.macs == (64 + 16) * 4 * 36


def test_nested_models():
    inner = sequential(
        (8, 8, 3), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()
    )
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    outer = sequential((8, 8, 3), model, layers.Dense(5))
    cost = complexity(outer)
    assert cost.macs == 36 * 4 * 27 + 4 * 2 + 2 * 5
    assert cost.parameters == outer.count_params()
    check_sums(cost)
    assert f"{model.name}/{inner.name}/{inner.layers[0].name}" in [
        row.name for row in cost.layers
    ]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.stack = [layers.Conv2D(4, 3), keras_resnet.ResidualBlock(8)]
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(3)

    def call(self, inputs):
        x = inputs
        for layer in self.stack:
            x = layer(x)
        return self.head(self.pool(x))


SUBCLASSED_MACS = 36 * 4 * 27 + 36 * 8 * (9 * 4 + 9 * 8 + 4) + 8 * 3


def test_subclassed_model():
    model = Subclassed()
    model(np.zeros((2, 8, 8, 3), "float32"))
    cost = complexity(model, input_shape=(8, 8, 3))
    assert cost.macs == SUBCLASSED_MACS
    assert cost.parameters == model.count_params()
    check_sums(cost)


def test_subclassed_model_does_not_know_its_shape():
    model = Subclassed()
    model(np.zeros((2, 8, 8, 3), "float32"))
    with pytest.raises(ValueError, match="Give `input_shape`"):
        complexity(model)


def test_two_inputs():
    a, b = keras.Input((4,)), keras.Input((8, 3))
    x = layers.Dense(5)(a)
    y = layers.Dense(2)(b)
    cost = complexity(keras.Model([a, b], [x, y]))
    assert cost.macs == 4 * 5 + 8 * 3 * 2
    open_model = keras.Model([a, b], [x, y])
    assert complexity(open_model, [(4,), (8, 3)]).macs == cost.macs


def test_single_layer():
    block = keras_resnet.ResidualBlock(8)
    block.build((None, 8, 8, 8))
    cost = complexity(block, (8, 8, 8))
    assert cost.macs == 2 * 64 * 9 * 8 * 8
    check_sums(cost)


def test_not_built():
    for model in (Subclassed(), keras.Sequential([layers.Dense(3)])):
        with pytest.raises(ValueError, match=f"{model.name}.*is not built"):
            complexity(model)


@pytest.mark.parametrize("explicit", [False, True])
def test_open_input_shape(explicit):
    model = keras_resnet.ResNet20(input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="is open.*None, None, 3"):
        complexity(model, (None, None, 3) if explicit else None)


@pytest.mark.parametrize("size", [32, 64])
def test_input_shape(size):
    model = keras_resnet.ResNet20(input_shape=(None, None, 3))
    expected = complexity(keras_resnet.ResNet20(input_shape=(size, size, 3)))
    for shape in ((size, size, 3), [size, size, 3]):
        cost = complexity(model, input_shape=shape)
        assert cost.macs == expected.macs
        assert [row.output_shape for row in cost.layers] == [
            row.output_shape for row in expected.layers
        ]


def test_input_shape_that_the_model_does_not_take():
    with pytest.raises(ValueError, match="32, 32, 3.*64, 64, 3"):
        complexity(keras_resnet.ResNet20(), (64, 64, 3))


def own_calls(model):
    """Layers whose `call` is not their class's."""
    return [layer for layer in model._flatten_layers() if "call" in vars(layer)]


def test_nothing_changes():
    model = sequential(
        (8, 8, 3),
        keras_resnet.ResidualBlock(8),
        layers.Dropout(0.5, seed=1),
        layers.Conv2D(4, 3),
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    weights = [keras.ops.convert_to_numpy(v) for v in model.variables]
    y = model.predict(x, verbose=0)
    complexity(model)
    assert not own_calls(model)
    for old, new in zip(weights, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    np.testing.assert_array_equal(model.predict(x, verbose=0), y)


class Failing(keras.layers.Layer):
    fails = False

    def call(self, inputs):
        if self.fails:
            raise RuntimeError("on purpose")
        return inputs


def test_layers_are_restored_after_an_exception():
    model = sequential((8, 8, 3), layers.Conv2D(4, 3), Failing())
    model.layers[-1].fails = True
    with pytest.raises(RuntimeError, match="on purpose"):
        complexity(model)
    assert not own_calls(model)
    model.layers[-1].fails = False
    assert complexity(model).macs == 36 * 4 * 27


def test_frozen_weights_are_not_trainable():
    model = keras_resnet.ResNet20()
    parameters = complexity(model).parameters
    model.get_layer("stem_conv").trainable = False
    cost = complexity(model)
    assert cost.parameters == parameters
    assert cost.trainable_parameters == 269_722 - 27 * 16
    check_sums(cost)


def test_table():
    cost = complexity(keras_resnet.ResNet20())
    lines = str(cost).splitlines()
    assert lines[0].split() == [
        "layer",
        "kind",
        "output",
        "parameters",
        "multiply-adds",
    ]
    assert re.fullmatch(
        r"stem_conv\s+StemConvolution\s+32x32x16\s+432\s+442,368", lines[2]
    )
    assert re.fullmatch(r"resnet20\s+271,098\s+40,551,040", lines[-2])
    assert lines[-1] == (
        "trainable parameters: 269,722; multiply-adds of one image: 0.04055 G"
    )
    # One row for each layer that costs something, between two rules.
    costly = [row for row in cost.layers if row.parameters or row.macs]
    assert len(lines) == len(costly) + 5
    assert not any(line.endswith(" ") for line in lines)
