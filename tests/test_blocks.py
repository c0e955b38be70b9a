"""Convolution and ResidualBlock against formulas written in NumPy."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from networks import assert_close, draw_weights, small, to_numpy

import keras_resnet
from keras_resnet import (
    BatchNormalization,
    Convolution,
    PreactivationBlock,
    ResidualBlock,
    StochasticDepthBlock,
)

MOMENTUM = 0.9
EPSILON = 1e-5
FORMATS = ("channels_last", "channels_first")


def run(layer, x, **kwargs):
    """Call a layer on an array in the layer's data format."""
    if layer.data_format == "channels_first":
        x = x.transpose(0, 3, 1, 2)
    y = ops.convert_to_numpy(layer(ops.convert_to_tensor(x), **kwargs))
    return y.transpose(0, 2, 3, 1) if layer.data_format != FORMATS[0] else y


# The reference: channels last, float64, one loop per output position.


def numpy_convolution(x, kernel, stride, dilation=1):
    rows, columns, _, filters = kernel.shape
    padding = [(size // 2 * dilation,) * 2 for size in (rows, columns)]
    x = np.pad(x, [(0, 0), *padding, (0, 0)])
    bottom, right = (rows - 1) * dilation + 1, (columns - 1) * dilation + 1
    tops = range(0, x.shape[1] - bottom + 1, stride)
    lefts = range(0, x.shape[2] - right + 1, stride)
    y = np.empty((len(x), len(tops), len(lefts), filters))
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            patch = x[:, top : top + bottom, left : left + right]
            patch = patch[:, ::dilation, ::dilation].reshape(len(x), -1)
            y[:, i, j] = patch @ kernel.reshape(-1, filters)
    return y


def numpy_normalization(x, weights, training):
    """Return the result and the moving statistics after it."""
    gamma, beta, moving_mean, moving_variance = weights
    mean, variance = moving_mean, moving_variance
    if training:
        mean = x.mean(axis=(0, 1, 2))
        # Keras keeps the biased variance, PyTorch the unbiased one.
        variance = ((x - mean) ** 2).mean(axis=(0, 1, 2))
        moving_mean = MOMENTUM * moving_mean + (1 - MOMENTUM) * mean
        moving_variance = MOMENTUM * moving_variance + (1 - MOMENTUM) * variance
    y = gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta
    return y, (moving_mean, moving_variance)


def numpy_block(x, weights, strides, shortcut_stride, training):
    """Return the block's output and its moving statistics after it.

    `shortcut_stride` is None for a plain block.
    """
    statistics = {}

    def normalized_convolution(x, conv, bn, stride):
        y = numpy_convolution(x, weights[conv], stride)
        y, statistics[bn] = numpy_normalization(y, weights[bn], training)
        return y

    y = x
    for i, stride in enumerate(strides, start=1):
        y = y if i == 1 else np.maximum(y, 0)
        y = normalized_convolution(y, f"conv{i}", f"bn{i}", stride)
    if "shortcut_conv" in weights:
        y += normalized_convolution(
            x, "shortcut_conv", "shortcut_bn", shortcut_stride
        )
    elif shortcut_stride is not None:
        # The missing channels are zero and come last.
        y[..., : x.shape[-1]] += x[:, ::shortcut_stride, ::shortcut_stride]
    return np.maximum(y, 0), statistics


def sublayers(block):
    return {layer.name: layer for layer in block._layers}


def randomize(block):
    """Draw the weights of a block; returns them by the sublayers' names."""
    draw_weights(block, seed=0)
    weights = {}
    for name, layer in sublayers(block).items():
        values = [np.asarray(w, "float64") for w in layer.get_weights()]
        weights[name] = values[0] if "conv" in name else values
    return weights


# Stride, channels of the input, of a basic and of a bottleneck block's
# output: nothing changes, the channels alone, both.
SHAPES = {
    "same": (1, 16, 16, 16),
    "wider": (1, 16, 24, 24),
    "strided": (2, 16, 24, 24),
}
BLOCKS = [
    (kind, option, shape, place)
    for kind in ("basic", "bottleneck")
    for option in ("A", "B", "C", "plain")
    for shape in SHAPES
    for place in ("1x1", "3x3")
    # The placement of a stride matters only where there is one.
    if place == "3x3" or (shape == "strided" and kind == "bottleneck")
]
# Which blocks have a projection.
PROJECTIONS = {
    ("B", "wider"),
    ("B", "strided"),
    ("C", "same"),
    ("C", "wider"),
    ("C", "strided"),
}


def make_block(kind, option, shape, place, data_format, **kwargs):
    stride, channels, *out = SHAPES[shape]
    bottleneck = kind == "bottleneck"
    block = ResidualBlock(
        out[1] // 4 if bottleneck else out[0],
        stride=stride,
        shortcut="B" if option == "plain" else option,
        residual=option != "plain",
        bottleneck=bottleneck,
        bottleneck_stride=place,
        data_format=data_format,
        **kwargs,
    )
    # Odd and unequal sizes show which row is kept first, and an exchange of
    # rows and columns.
    image = (7, 9, channels)
    if data_format == "channels_first":
        image = (channels, 7, 9)
    block.build((2, *image))
    return block


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(("kind", "option", "shape", "place"), BLOCKS)
def test_block_equals_numpy(kind, option, shape, place, data_format):
    block = make_block(kind, option, shape, place, data_format)
    stride, channels, *_ = SHAPES[shape]
    weights = randomize(block)
    assert ("shortcut_conv" in weights) == ((option, shape) in PROJECTIONS)
    x = np.random.default_rng(0).normal(size=(2, 7, 9, channels))
    strides = (stride, 1)
    if kind == "bottleneck":
        strides = (stride, 1, 1) if place == "1x1" else (1, stride, 1)
    along = None if option == "plain" else stride
    for training in (False, True):
        y, statistics = numpy_block(x, weights, strides, along, training)
        actual = run(block, x.astype("float32"), training=training)
        np.testing.assert_allclose(actual, y, atol=2e-5, rtol=1e-5)
        for name, (mean, variance) in statistics.items():
            layer = sublayers(block)[name]
            _, _, actual_mean, actual_variance = layer.get_weights()
            np.testing.assert_allclose(actual_mean, mean, atol=1e-5)
            np.testing.assert_allclose(actual_variance, variance, atol=1e-5)
    first = data_format == "channels_first"
    shape = block.compute_output_shape(
        (2, channels, 7, 9) if first else (2, 7, 9, channels)
    )
    assert tuple(shape) == (
        (2, y.shape[3], *y.shape[1:3]) if first else y.shape
    )


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize(
    ("kernel_size", "stride", "dilation"),
    [(1, 1, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (1, 2, 1), (5, 3, 1)]
    + [(3, 1, 2), ((3, 5), 2, 1), (3, 3, 1)],
)
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_convolution_equals_numpy(
    kernel_size, stride, dilation, size, data_format
):
    layer = Convolution(
        5,
        kernel_size,
        strides=stride,
        dilation_rate=dilation,
        data_format=data_format,
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4))
    first = data_format == "channels_first"
    layer.build((2, 4, *size) if first else x.shape)
    assert len(layer.weights) == 1
    kernel = rng.normal(scale=0.2, size=layer.kernel.shape)
    layer.set_weights([kernel])
    y = numpy_convolution(x, kernel, stride, dilation)
    np.testing.assert_allclose(
        run(layer, x.astype("float32")), y, atol=2e-5, rtol=1e-5
    )
    shape = layer.compute_output_shape((2, 4, *size) if first else x.shape)
    assert tuple(shape) == ((2, 5, *y.shape[1:3]) if first else y.shape)


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_gradient_does_not_depend_on_the_data_format(kind, option):
    # 16 channels and an even batch: TensorFlow on a CPU writes outside its
    # memory in the gradient of smaller strided projections.
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 8, 16)).astype("float32")
    results = []
    for data_format in FORMATS:
        block = make_block(kind, option, "strided", "3x3", data_format)
        randomize(block)
        first = data_format == "channels_first"
        batch = x.transpose(0, 3, 1, 2) if first else x
        model = keras.Sequential(
            [
                keras.Input(batch.shape[1:]),
                block,
                keras.layers.GlobalAveragePooling2D(data_format=data_format),
            ]
        )
        model.compile(keras.optimizers.SGD(0.5), "mse")
        before = block.get_weights()
        model.train_on_batch(batch, np.ones((4, 24), "float32"))
        results.append(block.get_weights())
    for start, last, first in zip(before, *results, strict=True):
        assert np.abs(last - start).max() > 1e-4
        np.testing.assert_allclose(last, first, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "allowed", "seen"),
    [
        ({"shortcut": "a"}, "'A', 'B', 'C'", "shortcut='a'"),
        ({"stride": (2, 2)}, "positive integer", "stride=(2, 2)"),
        ({"filters": 0}, "positive integer", "filters=0"),
        ({"filters": 8.0}, "positive integer", "filters=8.0"),
        (
            {"bottleneck_stride": "7x7", "bottleneck": True},
            "'1x1' (the paper's) or '3x3'",
            "bottleneck_stride='7x7'",
        ),
        ({"data_format": "NCHW"}, "channels_first", "data_format='NCHW'"),
    ],
    ids=str,
)
def test_wrong_argument(arguments, allowed, seen):
    with pytest.raises(ValueError, match=".") as error:
        ResidualBlock(**{"filters": 16, **arguments})
    assert allowed in str(error.value)
    assert seen in str(error.value)


def test_option_a_cannot_drop_channels():
    block = ResidualBlock(8, shortcut="A")
    with pytest.raises(ValueError, match="24 input and 8 output.*'B' or 'C'"):
        block.build((2, 6, 6, 24))
    assert ResidualBlock(8).compute_output_shape((2, 6, 6, 24)) == (2, 6, 6, 8)


def constructor_arguments(*classes):
    """Name and defaults of what the constructors take."""
    arguments = {}
    for cls in classes:
        for name, parameter in inspect.signature(cls).parameters.items():
            if parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                arguments.setdefault(name, parameter.default)
    return arguments


# One value beside the default for every argument.
INITIALIZER = {
    "class_name": "RandomUniform",
    "config": {"minval": -0.25, "maxval": 0.5, "seed": 3},
}
LAYER_VALUES = {"name": "other", "dtype": "mixed_bfloat16", "trainable": False}
BLOCK_VALUES = {
    "filters": 12,
    "stride": 2,
    "shortcut": "C",
    "bottleneck": True,
    "residual": False,
    "bottleneck_stride": "1x1",
    "dilation": (1, 2),
    "zero_init_residual": True,
    "momentum": 0.75,
    "epsilon": 0.125,
    "kernel_initializer": INITIALIZER,
    "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.5}},
    "data_format": "channels_first",
    "folded": True,
}


def comparable(value):
    """Values of a configuration, without what serialization adds to them."""
    if isinstance(value, dict) and "class_name" in value:
        if value["class_name"] == "DTypePolicy":
            return value["config"]["name"]
        return value["class_name"], comparable(value["config"])
    if isinstance(value, dict):
        return {key: comparable(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("cls", "bases", "values"),
    [
        (ResidualBlock, [ResidualBlock], BLOCK_VALUES),
        (PreactivationBlock, [ResidualBlock], BLOCK_VALUES),
        (
            StochasticDepthBlock,
            [ResidualBlock, StochasticDepthBlock],
            BLOCK_VALUES | {"drop_rate": 0.25, "place": (2, 3), "seed": 7},
        ),
    ],
)
def test_configuration_keeps_every_argument(cls, bases, values):
    arguments = constructor_arguments(*bases)
    assert set(values) == set(arguments), "an argument without a value here"
    for name, default in arguments.items():
        assert comparable(values[name]) != comparable(default), name
    values = {**values, **LAYER_VALUES}
    config = cls(**values).get_config()
    # A model's file holds it as JSON.
    config = json.loads(json.dumps(config))
    again = cls.from_config(config).get_config()
    for name, value in values.items():
        got = comparable(again[name])
        if name == "dtype":
            assert got in (value, {"name": value})
        elif name.endswith(("initializer", "regularizer")):
            assert got[0] == value["class_name"], name
            for key, item in value["config"].items():
                assert got[1][key] == item, name
        else:
            assert got == value, name
    assert json.loads(json.dumps(again)) == config


def test_configuration_reaches_the_sublayers():
    block = ResidualBlock(
        4,
        bottleneck=True,
        momentum=0.75,
        epsilon=0.125,
        data_format="channels_first",
        dtype="mixed_bfloat16",
    )
    block.build((2, 8, 6, 6))
    for name, layer in sublayers(block).items():
        assert layer.dtype_policy.name == "mixed_bfloat16"
        if "bn" in name:
            assert (layer.momentum, layer.epsilon) == (0.75, 0.125)
            assert layer.axis == 1
        else:
            assert layer.data_format == "channels_first"


def configured(model, tmp_path, way):
    """Return a copy of a model, made in one of Keras's ways."""
    if way == "clone":
        return keras.models.clone_model(model)
    if way == "json":
        return keras.models.model_from_json(model.to_json())
    if way == "configuration":
        return type(model).from_config(model.get_config())
    path = tmp_path / f"model.{way}"
    model.save(path)
    return keras.saving.load_model(path)


WAYS = ("clone", "json", "configuration", "keras", "h5")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:.*HDF5 file:UserWarning")
def test_copies_keep_what_is_set_on_sublayers(way, tmp_path):
    model = small()
    block = model.get_layer("stage2_block1")
    block.conv1.kernel_regularizer = keras.regularizers.L2(0.5)
    block.shortcut_conv.kernel_regularizer = keras.regularizers.L2(0.25)
    block.conv2.kernel_constraint = keras.constraints.MaxNorm(1.0)
    block.bn1.gamma_regularizer = keras.regularizers.L1(0.125)
    block.bn2.momentum = 0.5
    block.bn2.trainable = False
    model.get_layer("stage2_block2").conv1.enable_lora(2, lora_alpha=3)
    # Twice, because a copy must be able to make copies, too.
    copy = configured(configured(model, tmp_path, way), tmp_path, way)
    block = copy.get_layer("stage2_block1")
    kernel, projection, gamma = map(
        to_numpy,
        (block.conv1.kernel, block.shortcut_conv.kernel, block.bn1.gamma),
    )
    expected = [
        0.5 * (kernel**2).sum(),
        0.25 * (projection**2).sum(),
        0.125 * np.abs(gamma).sum(),
    ]
    losses = [to_numpy(x) for x in copy.losses]
    np.testing.assert_allclose(sorted(losses), sorted(expected), rtol=1e-5)
    assert block.conv2.kernel.constraint.max_value == 1.0
    assert (block.bn1.momentum, block.bn2.momentum) == (0.9, 0.5)
    assert block.bn1.trainable
    assert not block.bn2.trainable
    adapted = copy.get_layer("stage2_block2").conv1
    assert (adapted.lora_rank, adapted.lora_alpha) == (2, 3)
    assert adapted.lora_enabled
    assert not copy.get_layer("stage1_block1").get_config().get("sublayers")


@pytest.mark.parametrize("way", WAYS[:3])
def test_kernel_regularizer_reaches_every_kernel(way, tmp_path):
    model = small((1, 1), kernel_regularizer=keras.regularizers.L2(0.5))
    copy = configured(model, tmp_path, way)
    kernels = [v for v in copy.trainable_variables if v.name == "kernel"]
    assert len(kernels) == len(copy.losses) == 7
    np.testing.assert_allclose(
        sum(to_numpy(x) for x in copy.losses),
        sum(0.5 * (to_numpy(v) ** 2).sum() for v in kernels),
        rtol=1e-5,
    )


def test_data_format_is_the_global_setting():
    keras.config.set_image_data_format("channels_first")
    assert ResidualBlock(4).data_format == "channels_first"
    assert ResidualBlock(4, data_format=FORMATS[0]).data_format == FORMATS[0]


def test_initial_values():
    for zero in (False, True):
        block = ResidualBlock(8, shortcut="C", zero_init_residual=zero)
        block.build((2, 8, 8, 8))
        for layer in (block.conv1, block.conv2, block.shortcut_conv):
            # test_initializers.py has its distribution.
            assert type(layer.kernel_initializer) is keras_resnet.HeGaussian
        for layer in (block.bn1, block.bn2, block.shortcut_bn):
            gamma, *others = layer.get_weights()
            # The branch's last scale alone, or the shortcut would be cut too.
            start = 0 if zero and layer is block.bn2 else 1
            np.testing.assert_array_equal(gamma, start)
            np.testing.assert_equal(others, (0, 0, 1))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"renorm": True}, (4, 5, 6, 7)),
        ({"scale": False}, (4, 5, 6, 7)),
        ({"center": False}, (4, 5, 6, 7)),
        ({"axis": 2}, (4, 5, 6, 7)),
        ({}, (6, 5, 16)),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_normalization_has_all_of_keras(options, shape, training):
    # Options that the fused operations lack must still have their effect.
    x = np.random.default_rng(0).normal(2, 3, size=shape).astype("float32")
    ours = BatchNormalization(**options)
    theirs = keras.layers.BatchNormalization(
        momentum=MOMENTUM, epsilon=EPSILON, **options
    )
    for layer in (ours, theirs):
        layer.build(x.shape)
    for _ in range(2):
        y, expected = (
            ops.convert_to_numpy(layer(x, training=training))
            for layer in (ours, theirs)
        )
        np.testing.assert_allclose(y, expected, atol=1e-5)
    assert_close(ours.get_weights(), theirs.get_weights(), atol=1e-5)


@pytest.mark.parametrize("when", ["constructed", "after", "from configuration"])
def test_a_frozen_block_keeps_its_statistics(when):
    block = ResidualBlock(24, trainable=when != "constructed")
    block.build((2, 8, 8, 16))
    if when != "constructed":
        block.trainable = False
    if when == "from configuration":
        block = ResidualBlock.from_config(block.get_config())
        block.build((2, 8, 8, 16))
    assert not block.trainable_variables
    before = block.get_weights()
    block(np.ones((2, 8, 8, 16), "float32"), training=True)
    np.testing.assert_equal(before, block.get_weights())
