"""Preprocessing: pure, equal everywhere, and kept with the model."""

import importlib.util
import json
import multiprocessing
import os

import keras
import numpy as np
import pytest
from keras import ops

import keras_resnet
from keras_resnet import Preprocessing, preprocess_input, preprocessing

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
needs_tensorflow = pytest.mark.skipif(
    not HAS_TENSORFLOW, reason="tf.data needs TensorFlow"
)


def pictures(*shape, dtype="uint8", seed=0):
    return np.random.default_rng(seed).integers(256, size=shape).astype(dtype)


def by_hand(x, name):
    x = x.astype("float64")
    if name == "keras":
        return x[..., ::-1] - np.array([103.939, 116.779, 123.68])
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return (x / 255 - np.array(mean)) / np.array(std)


@pytest.mark.parametrize("name", ["imagenet", "keras", "cifar"])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (5, 4, 3)])
def test_values_and_the_argument_is_unchanged(name, dtype, shape):
    x = pictures(*shape, dtype=dtype)
    before = x.copy()
    y = preprocess_input(x, name)
    assert isinstance(y, np.ndarray)
    assert y.dtype == "float32"
    np.testing.assert_allclose(y, by_hand(before, name), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(x, before)
    assert x.dtype == dtype
    assert not np.shares_memory(x, y)


def test_same_as_keras_applications():
    x = pictures(2, 5, 4, 3, dtype="float32")
    expected = keras.applications.resnet.preprocess_input(x.copy())
    np.testing.assert_allclose(
        preprocess_input(x, "keras"), expected, atol=1e-4
    )


@pytest.mark.parametrize("name", ["imagenet", "keras"])
def test_tensors_of_the_backend_and_symbolic_ones(name):
    x = pictures(2, 5, 4, 3)
    tensor = ops.convert_to_tensor(x)
    y = preprocess_input(tensor, name)
    assert ops.is_tensor(y)
    np.testing.assert_allclose(
        ops.convert_to_numpy(y), preprocess_input(x, name), atol=1e-5
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(tensor), x)
    inputs = keras.Input((5, 4, 3))
    model = keras.Model(inputs, preprocess_input(inputs, name))
    computed = model.predict(x.astype("float32"), verbose=0)
    np.testing.assert_allclose(computed, preprocess_input(x, name), atol=1e-5)


@pytest.mark.parametrize("name", ["imagenet", "keras"])
@pytest.mark.parametrize("resize", [False, True])
def test_channels_first(name, resize):
    shape = (2, 40, 50, 3)
    x = pictures(*shape)
    statistics = dict(preprocessing.PREPROCESSINGS[name].get_config())
    p = Preprocessing(**{**statistics, "size": 20, "resize": 24})
    options = {"resize": resize}
    y = preprocess_input(
        x.transpose(0, 3, 1, 2), p, data_format="channels_first", **options
    )
    np.testing.assert_allclose(
        y.transpose(0, 2, 3, 1), preprocess_input(x, p, **options), atol=1e-5
    )


def smooth(rows, columns):
    """A picture whose edges, rows and channels are all unlike each other."""
    r, c = np.mgrid[:rows, :columns]
    waves = [
        128 + 100 * np.sin(r / 9 + k) * np.cos(c / (7 + k)) for k in range(3)
    ]
    return np.stack(waves, axis=-1).round().astype("uint8")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    "size", [(61, 93), (93, 61), (40, 40), (20, 31), (40, 59)]
)
def test_resizing_is_pillows(interpolation, size):
    image = pytest.importorskip("PIL.Image")
    x = smooth(*size)
    p = Preprocessing((0, 0, 0), (1, 1, 1), 1.0, "RGB", 28, 32, interpolation)
    y = preprocess_input(x, p, resize=True)
    assert y.shape == (28, 28, 3)
    short = min(size)
    rows, columns = (int(32 * n / short) for n in size)
    resampling = getattr(image.Resampling, interpolation.upper())
    expected = image.fromarray(x).resize((columns, rows), resampling)
    top, left = round((rows - 28) / 2), round((columns - 28) / 2)
    expected = np.asarray(expected)[top : top + 28, left : left + 28]
    # Pillow rounds twice, after the rows and after the columns, and bicubic
    # weights, some of them negative, make the first error a little larger.
    np.testing.assert_allclose(y, expected.astype("float32"), atol=1.2)
    np.testing.assert_array_equal(x, smooth(*size))


@needs_tensorflow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
def test_inside_tf_data(interpolation):
    import tensorflow as tf

    statistics = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)
    options = {"size": 28, "resize": 32, "interpolation": interpolation}
    p = Preprocessing(*statistics, **options)
    shapes = [(61, 93), (93, 61), (40, 40), (20, 31)]
    data = tf.data.Dataset.from_generator(
        lambda: (smooth(*shape) for shape in shapes),
        output_signature=tf.TensorSpec((None, None, 3), tf.uint8),
    )
    data = data.map(lambda x: preprocess_input(x, p, resize=True)).batch(4)
    (computed,) = data.as_numpy_iterator()
    assert data.element_spec.shape == (None, 28, 28, 3)
    for image, shape in zip(computed, shapes, strict=True):
        expected = preprocess_input(smooth(*shape), p, resize=True)
        # Where two pixels are equally near, frameworks choose differently.
        tolerance = 1e-3 if interpolation != "nearest" else 0.5
        np.testing.assert_allclose(image, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preprocess_input(pictures(4, 4)), "rank 3 or 4"),
        (lambda: preprocess_input(pictures(4, 4, 1)), "3 channels.*have 1"),
        (lambda: preprocess_input(pictures(4, 4, 3), "tf"), "'cifar'.*'tf'"),
        (
            lambda: preprocess_input(
                pictures(4, 4, 3), keras_resnet.ResNetCIFAR(8)
            ),
            "set its `preprocessing`",
        ),
        (
            lambda: preprocess_input(keras.Input((None, None, 3)), resize=True),
            "size is known",
        ),
        (lambda: Preprocessing((0, 0), (1,)), "one entry per channel"),
        (lambda: Preprocessing((0,), (0,)), "positive"),
        (lambda: Preprocessing((np.nan,), (1,)), "finite"),
        (lambda: Preprocessing((0,), (1,), channels="GRB"), "'GRB'"),
        (lambda: Preprocessing((0,), (1,), channels="BGR"), "three channels"),
        (lambda: Preprocessing((0,), (1,), size=300), "size=300, resize=256"),
        (lambda: Preprocessing((0,), (1,), interpolation="x"), "'x'"),
        (
            lambda: preprocess_input(pictures(4, 4, 3), data_format="last"),
            "'last'",
        ),
        (
            lambda: keras_resnet.decode_predictions(np.zeros((1, 7))),
            r"\(images, 1000\).*\(1, 7\)",
        ),
        (lambda: keras_resnet.decode_predictions(np.zeros((1, 7)), 0), "top=0"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("interpolation", preprocessing.INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(37, 50, 3), (2, 20, 31, 1)])
@pytest.mark.parametrize("side", [24, 64])
def test_numpy_is_resized_as_tensors_are(interpolation, shape, side):
    x = pictures(*shape)
    actual, expected = (
        preprocessing.resize_shorter_side(images, side, interpolation)
        for images in (x, ops.convert_to_tensor(x))
    )
    assert isinstance(actual, np.ndarray)
    assert actual.dtype == "float32"
    np.testing.assert_allclose(
        actual, ops.convert_to_numpy(expected), atol=1e-2
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_numpy_needs_no_backend_in_a_forked_worker():
    x = pictures(40, 50, 3)
    # The backend has threads by now, which a fork does not copy.
    expected = ops.convert_to_numpy(
        preprocess_input(ops.convert_to_tensor(x), "cifar", resize=True)
    )
    with multiprocessing.get_context("fork").Pool(1) as pool:
        result = pool.apply_async(
            preprocess_input, (x, "cifar"), {"resize": True}
        ).get(timeout=120)
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_kept_by_files_and_copies(tmp_path):
    model = keras_resnet.ResNetCIFAR(8)
    assert model.preprocessing is None
    model.preprocessing = "keras"
    expected = preprocessing.PREPROCESSINGS["keras"]
    assert model.preprocessing == expected
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.preprocessing == expected
    assert type(again) is keras_resnet.ResidualNetwork
    assert keras_resnet.fold_batch_norm(model).preprocessing == expected
    clone = keras.models.clone_model(model)
    assert type(clone) is keras_resnet.ResidualNetwork
    assert clone.preprocessing == expected
    twin = keras_resnet.ResidualNetwork.from_config(model.get_config())
    assert twin.preprocessing == expected
    x = pictures(1, 32, 32, 3)
    np.testing.assert_array_equal(
        preprocess_input(x, again), preprocess_input(x, "keras")
    )
    with pytest.raises(ValueError, match="'mnist'"):
        model.preprocessing = "mnist"
    assert model.preprocessing == expected
    model.preprocessing = None
    assert model.preprocessing is None


def test_for_channels():
    p = preprocessing.PREPROCESSINGS["imagenet"]
    assert p.for_channels(3) is p
    assert p.for_channels(1).mean == (pytest.approx(np.mean(p.mean)),)
    assert p.for_channels(4).std == (*p.std, p.std[0])
    # Images are RGB whatever the statistics are.
    p = preprocessing.PREPROCESSINGS["keras"]
    assert p.for_channels(2).mean == (p.mean[2], p.mean[1])
    assert p.for_channels(2).channels == "RGB"


def test_decode_names_the_best_classes():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], "float32")
    before = scores.copy()
    names = ["cat", "dog", "hen"]
    expected = [
        [(1, "dog", pytest.approx(0.7)), (2, "hen", pytest.approx(0.2))],
        [(0, "cat", pytest.approx(0.5)), (2, "hen", pytest.approx(0.3))],
    ]
    for given in (scores, ops.convert_to_tensor(scores)):
        computed = keras_resnet.decode_predictions(given, 2, names)
        assert computed == expected
    np.testing.assert_array_equal(scores, before)


def test_decode_imagenet(tmp_path, monkeypatch):
    path = tmp_path / "index.json"
    index = {str(i): [f"n{i:08}", f"class {i}"] for i in range(1000)}
    path.write_text(json.dumps(index), "utf-8")
    asked = []

    def get_file(name, url, **options):
        asked.append((url, options))
        return str(path)

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    scores = np.zeros((1, 1000))
    scores[0, 417] = 1
    ((first, second),) = keras_resnet.decode_predictions(scores, top=2)
    assert first == ("n00000417", "class 417", 1.0)
    # Of equals the first.
    assert second == ("n00000000", "class 0", 0.0)
    ((url, options),) = asked
    assert url.endswith("/imagenet_class_index.json")
    # The same file as keras.applications, verified.
    from keras.src.applications import imagenet_utils

    assert url == imagenet_utils.CLASS_INDEX_PATH
    assert options["file_hash"] == preprocessing.CLASS_INDEX_MD5
