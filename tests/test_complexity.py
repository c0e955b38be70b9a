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


# Shape of an input, a layer, and its multiply-adds for one image: positions in
# the output times the products for one position, written as such.
HAND_COMPUTED = {
    "Conv1D": ((10, 3), lambda: layers.Conv1D(4, 5), 6 * 4 * (5 * 3)),
    "Conv2D": (
        (8, 9, 3),
        lambda: layers.Conv2D(4, (3, 5)),
        6 * 5 * 4 * (3 * 5 * 3),
    ),
    "same, strided": (
        (8, 9, 3),
        lambda: layers.Conv2D(4, 3, strides=2, padding="same"),
        4 * 5 * 4 * (9 * 3),
    ),
    "two groups": (
        (8, 8, 6),
        lambda: layers.Conv2D(4, 3, groups=2),
        6 * 6 * 4 * (9 * 3),
    ),
    "channels first": (
        (3, 8, 9),
        lambda: layers.Conv2D(4, 3, data_format="channels_first"),
        6 * 7 * 4 * (9 * 3),
    ),
    "Conv3D": (
        (4, 5, 6, 2),
        lambda: layers.Conv3D(3, 2),
        3 * 4 * 5 * 3 * (8 * 2),
    ),
    # Every input position is multiplied with the whole kernel.
    "Conv2DTranspose": (
        (4, 5, 3),
        lambda: layers.Conv2DTranspose(6, 2, strides=2),
        4 * 5 * 3 * (4 * 6),
    ),
    "DepthwiseConv2D": (
        (8, 8, 5),
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        6 * 6 * (5 * 2) * 9,
    ),
    "SeparableConv1D": (
        (9, 5),
        lambda: layers.SeparableConv1D(4, 3),
        7 * (5 * 3 + 5 * 4),
    ),
    "SeparableConv2D": (
        (8, 8, 5),
        lambda: layers.SeparableConv2D(4, 3),
        6 * 6 * (5 * 9 + 5 * 4),
    ),
    "Dense": ((7,), lambda: layers.Dense(5), 7 * 5),
    "Dense of an image": ((4, 6, 7), lambda: layers.Dense(5), 4 * 6 * 7 * 5),
    "EinsumDense": (
        (6, 2, 7),
        lambda: layers.EinsumDense("abhc,hcd->abd", output_shape=(6, 5)),
        6 * 5 * (2 * 7),
    ),
    "ellipsis": (
        (3, 6, 7),
        lambda: layers.EinsumDense("...x,xy->...y", output_shape=5),
        3 * 6 * 5 * 7,
    ),
    "normalization": ((8, 8, 4), layers.BatchNormalization, 0),
    "pooling": ((8, 8, 4), layers.MaxPooling2D, 0),
}


@pytest.mark.parametrize("case", HAND_COMPUTED)
def test_hand_computed(case):
    shape, make, macs = HAND_COMPUTED[case]
    model = sequential(shape, make())
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
    x = shared(layers.MaxPooling2D()(shared(inputs)))
    cost = complexity(keras.Model(inputs, x))
    assert cost.parameters == 4 * 36 + 4
    rows = [row.macs for row in cost.layers if row.kind == "Conv2D"]
    assert rows == [64 * 4 * 36, 16 * 4 * 36]
    check_sums(cost)


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


def test_subclassed_model():
    model = called(Subclassed())
    cost = complexity(model, input_shape=(8, 8, 3))
    assert cost.macs == 36 * 4 * 27 + 36 * 8 * (9 * 4 + 9 * 8 + 4) + 8 * 3
    assert cost.parameters == model.count_params()
    check_sums(cost)


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


def test_input_shape():
    model = keras_resnet.ResNet20(input_shape=(None, None, 3))
    expected = complexity(keras_resnet.ResNet20(input_shape=(64, 64, 3)))
    cost = complexity(model, input_shape=[64, 64, 3])
    assert cost.layers == expected.layers
    assert cost.macs == expected.macs


def called(model):
    model(np.zeros((2, 8, 8, 3), "float32"))
    return model


@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (lambda: Subclassed(), None, "subclassed.*is not built"),
        (lambda: called(Subclassed()), None, "Give `input_shape`"),
        (
            lambda: keras_resnet.ResNet20(input_shape=(None, None, 3)),
            None,
            "is open.*None, None, 3",
        ),
        (
            lambda: keras_resnet.ResNet20(input_shape=(None, None, 3)),
            (None, None, 3),
            "is open.*None, None, 3",
        ),
        (keras_resnet.ResNet20, (64, 64, 3), "32, 32, 3.*64, 64, 3"),
    ],
)
def test_shapes_that_do_not_tell_the_cost(make, shape, words):
    with pytest.raises(ValueError, match=words):
        complexity(make(), shape)


def test_nothing_changes():
    class Failing(keras.layers.Layer):
        def call(self, inputs):
            if fails:
                raise RuntimeError("on purpose")
            return inputs

    fails = False
    dropout = layers.Dropout(0.5, seed=1)
    model = sequential((8, 8, 3), dropout, layers.Conv2D(4, 3), Failing())
    weights = [keras.ops.convert_to_numpy(v) for v in model.variables]
    assert complexity(model).macs == 36 * 4 * 27
    fails = True
    with pytest.raises(RuntimeError, match="on purpose"):
        complexity(model)
    assert not any("call" in vars(x) for x in model._flatten_layers())
    now = [keras.ops.convert_to_numpy(v) for v in model.variables]
    np.testing.assert_equal(now, weights)


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
    columns = ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert lines[0].split() == columns
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
