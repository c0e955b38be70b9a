"""Networks of any valid arguments, drawn by hypothesis."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import keras_resnet

pytestmark = pytest.mark.once


def examples(number):
    """Return settings of the same examples in every run, of any duration."""
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        # To look for a smaller example takes minutes.
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@st.composite
def arguments(draw):
    """Draw arguments of `ResNet`, and the image data format."""
    # Rising, because zero padding only adds channels.
    widths = sorted(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    data_format = draw(st.sampled_from(["channels_last", "channels_first"]))
    shape = [draw(st.integers(7, 20)), draw(st.integers(7, 20))]
    channels = draw(st.integers(1, 4))
    place = 2 if data_format == "channels_last" else 0
    shape.insert(place, channels)
    return data_format, {
        "depths": [draw(st.integers(1, 2)) for _ in widths],
        "widths": widths,
        "stem": draw(st.sampled_from(["imagenet", "cifar"])),
        "shortcut": draw(st.sampled_from("ABC")),
        "bottleneck": draw(st.booleans()),
        "bottleneck_stride": draw(st.sampled_from([None, "1x1", "3x3"])),
        "residual": draw(st.booleans()),
        "include_top": draw(st.booleans()),
        "pooling": draw(st.sampled_from([None, "avg", "max"])),
        "classes": draw(st.integers(1, 12)),
        "classifier_activation": None,
        "zero_init_residual": draw(st.booleans()),
        "input_shape": tuple(shape),
    }


def count(channels, a):
    """Return the trainable parameters by the paper's table 1, and channels."""

    def normalized(size, inputs, outputs):
        return size**2 * inputs * outputs + 2 * outputs

    x = a["widths"][0]
    total = normalized(7 if a["stem"] == "imagenet" else 3, channels, x)
    for stage, (depth, width) in enumerate(
        zip(a["depths"], a["widths"], strict=True)
    ):
        for i in range(depth):
            if a["bottleneck"]:
                out = 4 * width
                total += normalized(1, x, width) + normalized(3, width, width)
                total += normalized(1, width, out)
            else:
                out = width
                total += normalized(3, x, width) + normalized(3, width, width)
            changed = x != out or (stage > 0 and i == 0)
            projects = a["shortcut"] == "C" or (
                a["shortcut"] == "B" and changed
            )
            if a["residual"] and projects:
                total += normalized(1, x, out)
            x = out
    if a["include_top"]:
        total += (x + 1) * a["classes"]
    return total, x


@examples(25)
@given(arguments())
def test_any_network_counts_predicts_and_is_saved(tmp_path, drawn):
    data_format, a = drawn
    keras.config.set_image_data_format(data_format)
    channels = a["input_shape"][2 if data_format == "channels_last" else 0]
    model = keras_resnet.ResNet(**a)
    parameters, features = count(channels, a)
    trainable = sum(int(keras.ops.size(v)) for v in model.trainable_variables)
    assert trainable == parameters
    assert keras_resnet.complexity(model).trainable_parameters == parameters
    # TensorFlow convolves no image with channels first on a processor.
    keras.config.set_image_data_format("channels_last")
    if data_format == "channels_first":
        assert model.output_shape[1] == (
            a["classes"] if a["include_top"] else features
        )
        return
    x = np.random.default_rng(0).normal(size=(2, *a["input_shape"]))
    y = keras.ops.convert_to_numpy(model(x.astype("float32")))
    assert y.shape == (2, *model.output_shape[1:])
    assert y.shape[-1] == (a["classes"] if a["include_top"] else features)
    assert np.isfinite(y).all()
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(again(x.astype("float32")), y)


WRONG = [
    ("depths", []),
    ("depths", [0]),
    ("depths", [1.5]),
    ("widths", [-8]),
    ("widths", ["8"]),
    ("stem", "mnist"),
    ("shortcut", "D"),
    ("shortcut", None),
    ("bottleneck_stride", "5x5"),
    ("pooling", "min"),
    ("classes", 0),
    ("classes", 2.5),
    ("input_shape", (16, 16)),
    ("input_shape", (16, 16, 0)),
    ("input_shape", (16, "16", 3)),
    ("momentum", 1.5),
    ("momentum", "0.9"),
    ("epsilon", -1e-5),
    ("kernel_initializer", "no such initializer"),
    ("kernel_regularizer", "no such regularizer"),
    ("classifier_activation", "no such activation"),
    ("weights", "no such weights"),
    ("input_tensor", np.zeros((1, 16, 16, 3), "float32")),
    ("block", "ResidualBlock"),
]


@examples(100)
@given(arguments(), st.sampled_from(WRONG))
def test_any_wrong_argument_is_named(drawn, wrong):
    data_format, a = drawn
    name, value = wrong
    a["include_top"] = True
    if name in ("depths", "widths") and value:
        value = [*value, *a[name][1:]]
    if name == "bottleneck_stride":
        a["bottleneck"] = True
    if name == "input_tensor":
        del a["input_shape"]
    keras.config.set_image_data_format(data_format)
    # Keras names only the kind of what it does not know.
    words = f"`{name}`|{name.split('_')[-1]} identifier"
    words += "|activation function identifier"
    with pytest.raises(ValueError, match=words):
        keras_resnet.ResNet(**a | {name: value})


def test_numbers_that_keras_takes_are_taken(tmp_path):
    model = keras_resnet.ResNet(
        [1],
        [2],
        stem="cifar",
        classes=2,
        input_shape=np.array([8, 8, 3]),
        momentum=np.float32(0.5),
        epsilon=np.float32(0),
    )
    # Statistics that stay as they are.
    model.get_layer("stem_bn").momentum = 1.0
    model.save(tmp_path / "net.keras")
    again = keras.models.load_model(tmp_path / "net.keras")
    assert again.get_layer("stem_bn").momentum == 1.0
    assert again.get_layer("stem_bn").epsilon == 0


@examples(100)
@given(st.integers(-10, 200))
def test_a_depth_that_is_none_is_named(depth):
    options = {"input_shape": (32, 32, 3), "weights": None}
    for build, depths in (
        (keras_resnet.ResNetImageNet, {18, 34, 50, 101, 152}),
        (keras_resnet.ResNetCIFAR, {*range(8, 201, 6)}),
    ):
        if depth not in depths:
            with pytest.raises(ValueError, match=f"depth={depth}"):
                build(depth, **options)
