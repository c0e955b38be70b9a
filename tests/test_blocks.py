"""Convolution and ResidualBlock against formulas written in NumPy."""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops
from networks import small, to_numpy

import keras_resnet
from keras_resnet import (
    BatchNormalization,
    Convolution,
    PreactivationBlock,
    ResidualBlock,
    StochasticDepthBlock,
    shortcuts,
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
    x = np.pad(
        x,
        [
            (0, 0),
            (rows // 2 * dilation,) * 2,
            (columns // 2 * dilation,) * 2,
            (0, 0),
        ],
    )
    reach = (rows - 1) * dilation, (columns - 1) * dilation
    y = np.empty(
        (
            len(x),
            (x.shape[1] - reach[0] - 1) // stride + 1,
            (x.shape[2] - reach[1] - 1) // stride + 1,
            filters,
        )
    )
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            top, left = i * stride, j * stride
            patch = x[
                :,
                top : top + reach[0] + 1 : dilation,
                left : left + reach[1] + 1 : dilation,
            ]
            y[:, i, j] = patch.reshape(len(x), -1) @ kernel.reshape(-1, filters)
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
        # What is missing of the channels is zero, and comes last.
        y[..., : x.shape[-1]] += x[:, ::shortcut_stride, ::shortcut_stride]
    return np.maximum(y, 0), statistics


def sublayers(block):
    return {layer.name: layer for layer in block._layers}


def randomize(block, rng):
    """Draw the weights of a block; returns them by the sublayers' names."""
    weights = {}
    for name, layer in sublayers(block).items():
        if "conv" in name:
            shape = layer.kernel.shape
            scale = np.prod(shape[:3]) ** -0.5
            values = [rng.normal(scale=scale, size=shape)]
        else:
            n = layer.gamma.shape[0]
            values = [
                rng.uniform(0.5, 1.5, n),
                rng.normal(scale=0.3, size=n),
                rng.normal(scale=0.3, size=n),
                rng.uniform(0.5, 1.5, n),
            ]
        layer.set_weights(values)
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
    # Where nothing strides, the placement is nothing.
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
    # Odd and unequal rows and columns: the first row that is kept, and an
    # exchange of the two, show.
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
    rng = np.random.default_rng(0)
    weights = randomize(block, rng)
    assert ("shortcut_conv" in weights) == ((option, shape) in PROJECTIONS)
    x = rng.normal(size=(2, 7, 9, channels))
    strides = (stride, 1)
    if kind == "bottleneck":
        strides = (stride, 1, 1) if place == "1x1" else (1, stride, 1)
    for training in (False, True):
        y, statistics = numpy_block(
            x,
            weights,
            strides,
            None if option == "plain" else stride,
            training,
        )
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


def test_convolution_equals_keras_at_stride_1():
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 4)).astype("float32")
    ours = Convolution(3, 3)
    theirs = keras.layers.Conv2D(3, 3, padding="same", use_bias=False)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ours(x)), ops.convert_to_numpy(theirs(x))
    )


def test_convolution_differs_from_keras_same_at_stride_2():
    # Why the layer exists: Keras pads after the image only.
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    ours = Convolution(3, 3, strides=2)
    theirs = keras.layers.Conv2D(
        3, 3, strides=2, padding="same", use_bias=False
    )
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    ours, theirs = (ops.convert_to_numpy(layer(x)) for layer in (ours, theirs))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() > 0.1


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
        randomize(block, np.random.default_rng(1))
        first = data_format == "channels_first"
        batch = x.transpose(0, 3, 1, 2) if first else x
        model = keras.Sequential(
            [
                keras.Input(batch.shape[1:]),
                block,
                keras.layers.GlobalAveragePooling2D(data_format=data_format),
            ]
        )
        model.compile(
            keras.optimizers.SGD(0.5),
            "mse",
        )
        before = block.get_weights()
        model.train_on_batch(batch, np.ones((4, 24), "float32"))
        results.append(block.get_weights())
    for start, last, first in zip(before, *results, strict=True):
        assert np.abs(last - start).max() > 1e-4
        np.testing.assert_allclose(last, first, atol=1e-5)


@pytest.mark.parametrize("data_format", FORMATS)
def test_option_a_keeps_even_rows_and_appends_zero_channels(data_format):
    x = np.arange(1.0, 1 + 2 * 5 * 6 * 3).reshape(2, 5, 6, 3).astype("float32")
    first = data_format == "channels_first"
    y = shortcuts.zero_padding_shortcut(
        ops.convert_to_tensor(x.transpose(0, 3, 1, 2) if first else x),
        5,
        2,
        data_format,
    )
    y = ops.convert_to_numpy(y)
    y = y.transpose(0, 2, 3, 1) if first else y
    assert y.shape == (2, 3, 3, 5)
    np.testing.assert_array_equal(y[..., :3], x[:, [0, 2, 4]][:, :, [0, 2, 4]])
    np.testing.assert_array_equal(y[..., 3:], 0)


def test_shortcut_is_the_input_itself_where_nothing_changes():
    x = ops.ones((2, 4, 4, 3))
    assert shortcuts.zero_padding_shortcut(x, 3, 1, "channels_last") is x


@pytest.mark.parametrize(
    ("option", "channels", "stride", "projects"),
    [
        ("A", 8, 1, False),
        ("A", 8, 2, False),
        ("A", 4, 2, False),
        ("B", 8, 1, False),
        ("B", 8, 2, True),
        ("B", 4, 1, True),
        ("C", 8, 1, True),
        ("C", 4, 2, True),
    ],
)
def test_projects(option, channels, stride, projects):
    assert shortcuts.projects(option, channels, 8, stride) is projects


@pytest.mark.parametrize(
    ("arguments", "allowed", "seen"),
    [
        ({"shortcut": "D"}, "'A', 'B', 'C'", "shortcut='D'"),
        ({"shortcut": "a"}, "'A', 'B', 'C'", "shortcut='a'"),
        ({"shortcut": None}, "'A', 'B', 'C'", "shortcut=None"),
        ({"stride": 0}, "positive integer", "stride=0"),
        ({"stride": 1.5}, "positive integer", "stride=1.5"),
        ({"stride": (2, 2)}, "positive integer", "stride=(2, 2)"),
        ({"filters": 0}, "positive integer", "filters=0"),
        ({"filters": -8}, "positive integer", "filters=-8"),
        ({"filters": 8.0}, "positive integer", "filters=8.0"),
        ({"filters": "8"}, "positive integer", "filters='8'"),
        ({"filters": None}, "positive integer", "filters=None"),
        (
            {"bottleneck_stride": "7x7", "bottleneck": True},
            "'1x1' (the paper's) or '3x3'",
            "bottleneck_stride='7x7'",
        ),
        ({"bottleneck_stride": 3}, "'3x3'", "bottleneck_stride=3"),
        ({"data_format": "NCHW"}, "channels_first", "data_format='NCHW'"),
    ],
    ids=str,
)
def test_wrong_argument(arguments, allowed, seen):
    with pytest.raises(ValueError, match=".") as error:
        ResidualBlock(**{"filters": 16, **arguments})
    assert allowed in str(error.value)
    assert seen in str(error.value)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("stride", [1, 2])
def test_option_a_cannot_drop_channels(stride, data_format):
    block = ResidualBlock(
        8, stride=stride, shortcut="A", data_format=data_format
    )
    shape = (2, 24, 6, 6) if data_format == FORMATS[1] else (2, 6, 6, 24)
    with pytest.raises(ValueError, match="gets 24 and outputs 8") as error:
        block.build(shape)
    assert "'B' or 'C'" in str(error.value)


@pytest.mark.parametrize("options", [{"shortcut": "B"}, {"residual": False}])
def test_other_blocks_may_drop_channels(options):
    block = ResidualBlock(16, **{"shortcut": "A", **options})
    assert block(np.ones((2, 6, 6, 24), "float32")).shape == (2, 6, 6, 16)


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ({"kernel_size": 2}, "kernel_size=(2, 2)"),
        ({"kernel_size": (3, 4)}, "kernel_size=(3, 4)"),
        ({"kernel_size": 3, "padding": "valid"}, "padding='valid'"),
    ],
    ids=str,
)
def test_convolution_wrong_argument(arguments, seen):
    with pytest.raises(
        ValueError, match="kernel_size // 2 on each side"
    ) as error:
        Convolution(4, **arguments)
    assert seen in str(error.value)


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
    "zero_init_residual": True,
    "momentum": 0.75,
    "epsilon": 0.125,
    "kernel_initializer": INITIALIZER,
    "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.5}},
    "data_format": "channels_first",
    "folded": True,
}
CONVOLUTION_VALUES = {
    "filters": 12,
    "kernel_size": (3, 5),
    "strides": (2, 3),
    "use_bias": True,
    "kernel_initializer": INITIALIZER,
    "data_format": "channels_first",
    "dilation_rate": (2, 1),
    "groups": 3,
    "activation": "relu",
    "bias_initializer": INITIALIZER,
    "kernel_regularizer": {"class_name": "L2", "config": {"l2": 0.5}},
    "bias_regularizer": {"class_name": "L1", "config": {"l1": 0.5}},
    "activity_regularizer": {"class_name": "L1", "config": {"l1": 0.25}},
    "kernel_constraint": {"class_name": "NonNeg", "config": {}},
    "bias_constraint": {"class_name": "UnitNorm", "config": {"axis": 0}},
}


NORMALIZATION_VALUES = {
    "axis": 1,
    "momentum": 0.75,
    "epsilon": 0.125,
    "center": False,
    "scale": False,
    "beta_initializer": INITIALIZER,
    "gamma_initializer": INITIALIZER,
    "moving_mean_initializer": INITIALIZER,
    "moving_variance_initializer": INITIALIZER,
    "beta_regularizer": {"class_name": "L1", "config": {"l1": 0.5}},
    "gamma_regularizer": {"class_name": "L2", "config": {"l2": 0.5}},
    "beta_constraint": {"class_name": "NonNeg", "config": {}},
    "gamma_constraint": {"class_name": "UnitNorm", "config": {"axis": 0}},
    "renorm": True,
    "renorm_clipping": {"rmax": 2.0},
    "renorm_momentum": 0.5,
    "synchronized": True,
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
        (Convolution, [Convolution, keras.layers.Conv2D], CONVOLUTION_VALUES),
        (
            BatchNormalization,
            [BatchNormalization, keras.layers.BatchNormalization],
            NORMALIZATION_VALUES,
        ),
    ],
)
def test_configuration_keeps_every_argument(cls, bases, values):
    arguments = constructor_arguments(*bases)
    # The padding is the layer's own affair.
    arguments.pop("padding", None)
    assert set(values) == set(arguments), "an argument without a value here"
    for name, default in arguments.items():
        assert comparable(values[name]) != comparable(default), name
    values = {**values, **LAYER_VALUES}
    if cls is Convolution:
        # A convolution that strides cannot be dilated.
        for name, value in (("strides", (1, 1)), ("dilation_rate", (1, 1))):
            check_round_trip(cls, {**values, name: value})
    else:
        check_round_trip(cls, values)


def check_round_trip(cls, values):
    config = cls(**values).get_config()
    # A model's file holds it as JSON.
    config = json.loads(json.dumps(config))
    again = cls.from_config(config).get_config()
    for name, value in values.items():
        got = comparable(again[name])
        if name == "dtype":
            assert got in (value, {"name": value})
        elif name.endswith(("initializer", "regularizer", "constraint")):
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
    # Twice, because a copy must tell its own copies.
    copy = configured(configured(model, tmp_path, way), tmp_path, way)
    block = copy.get_layer("stage2_block1")
    kernel, projection, gamma = (
        ops.convert_to_numpy(ops.convert_to_tensor(x))
        for x in (
            block.conv1.kernel,
            block.shortcut_conv.kernel,
            block.bn1.gamma,
        )
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
    model = keras_resnet.ResNet(
        [1, 1],
        [16, 32],
        stem="cifar",
        input_shape=(8, 8, 3),
        classes=10,
        kernel_regularizer=keras.regularizers.L2(0.5),
    )
    copy = configured(model, tmp_path, way)
    kernels = [v for v in copy.trainable_variables if v.name == "kernel"]
    assert len(kernels) == len(copy.losses) == 7
    np.testing.assert_allclose(
        sum(to_numpy(x) for x in copy.losses),
        sum(0.5 * (to_numpy(v) ** 2).sum() for v in kernels),
        rtol=1e-5,
    )


def test_sublayers_have_the_documented_names():
    block = ResidualBlock(16, bottleneck=True)
    block.build((2, 8, 8, 16))
    names = [f"{kind}{i}" for i in (1, 2, 3) for kind in ("conv", "bn")]
    names += ["shortcut_conv", "shortcut_bn"]
    assert set(sublayers(block)) == set(names)
    for name in names:
        assert getattr(block, name).name == name


def test_data_format_is_the_global_setting():
    keras.config.set_image_data_format("channels_first")
    assert ResidualBlock(4).data_format == "channels_first"
    assert ResidualBlock(4, data_format=FORMATS[0]).data_format == FORMATS[0]


def test_initial_weights_are_gaussian_with_variance_2_over_fan_in():
    block = ResidualBlock(64, stride=2, shortcut="B")
    block.build((2, 8, 8, 48))
    for conv, fan_in in (
        (block.conv1, 9 * 48),
        (block.conv2, 9 * 64),
        (block.shortcut_conv, 48),
    ):
        (kernel,) = conv.get_weights()
        deviation = (2 / fan_in) ** 0.5
        # Six standard errors of a sample of this size.
        error = 6 / kernel.size**0.5
        assert abs(kernel.mean()) < error * deviation
        assert kernel.std() == pytest.approx(deviation, rel=error)
        # Keras's "he_normal" ends at 2.27 standard deviations, where a
        # Gaussian has 2.3 % of its values beyond.
        beyond = np.mean(np.abs(kernel) > 2.3 * deviation)
        assert beyond == pytest.approx(0.0214, rel=0.5)


def test_initial_normalization():
    for zero in (False, True):
        block = ResidualBlock(8, shortcut="C", zero_init_residual=zero)
        block.build((2, 8, 8, 8))
        for layer in (block.bn1, block.bn2, block.shortcut_bn):
            gamma, *others = layer.get_weights()
            # The branch's last scale alone, or the shortcut would be cut too.
            start = 0 if zero and layer is block.bn2 else 1
            np.testing.assert_array_equal(gamma, start)
            for values, start in zip(others, (0, 0, 1), strict=True):
                np.testing.assert_array_equal(values, start)


@pytest.mark.parametrize(
    "initializer", [None, "he_normal", keras.initializers.RandomNormal()]
)
def test_no_two_convolutions_start_alike(initializer):
    options = {} if initializer is None else {"kernel_initializer": initializer}
    blocks = [ResidualBlock(16, **options) for _ in range(2)]
    kernels = []
    for block in blocks:
        block.build((2, 8, 8, 16))
        kernels += [block.conv1.get_weights()[0], block.conv2.get_weights()[0]]
    for i, kernel in enumerate(kernels):
        for other in kernels[:i]:
            assert not np.array_equal(kernel, other)


@pytest.mark.parametrize(
    "options",
    [{"renorm": True}, {"scale": False}, {"center": False}, {"axis": 2}],
    ids=str,
)
@pytest.mark.parametrize("training", [False, True])
def test_normalization_has_all_of_keras(options, training):
    # What the fused operations do not know must not be lost by them.
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(4, 5, 6, 7)).astype("float32")
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
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def frozen_by_constructor():
    block = ResidualBlock(24, trainable=False)
    block.build((2, 8, 8, 16))
    return block


def frozen_after():
    block = ResidualBlock(24)
    block.build((2, 8, 8, 16))
    block.trainable = False
    return block


def frozen_and_read_from_its_configuration():
    block = ResidualBlock.from_config(frozen_after().get_config())
    block.build((2, 8, 8, 16))
    return block


@pytest.mark.parametrize(
    "make",
    [
        frozen_by_constructor,
        frozen_after,
        frozen_and_read_from_its_configuration,
    ],
)
def test_a_frozen_block_keeps_its_statistics(make):
    block = make()
    assert not block.trainable_variables
    before = block.get_weights()
    block(np.ones((2, 8, 8, 16), "float32"), training=True)
    for old, new in zip(before, block.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
