"""Loading, splitting, augmenting and batching of images."""

import importlib
import itertools
import os
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from networks import only

pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")

from keras_resnet import data
from keras_resnet_recipes import experiment


def _split(n=20, rows=6, columns=5, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, rows, columns, channels), "uint8")
    return data.Split(images, np.arange(n))


def _take(batches, count):
    return [
        tuple(map(ops.convert_to_numpy, batch))
        for batch in itertools.islice(batches, count)
    ]


@pytest.fixture(params=data.INPUTS)
def batches(request):
    """Each input that the backend knows."""
    if request.param == "device" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow reads tf.data alone")
    return data.INPUTS[request.param]


@pytest.mark.once
def test_windows_cover_every_shift_equally_and_flip_half():
    n, padding = 20_000, 2
    windows = data.random_windows(n, padding, True, np.random.default_rng(3))
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(windows[:, :2].T), 1)
    # Each of the 25 shifts is binomial, with standard deviation 28.
    assert abs(counts - n / 25).max() < 5 * np.sqrt(n / 25)
    assert abs(windows[:, 2].mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    # Rows, columns and flips are independent of each other.
    correlation = np.corrcoef(windows.T.astype(float)) - np.eye(3)
    assert abs(correlation).max() < 5 / np.sqrt(n)
    windows = data.random_windows(100, padding, False, np.random.default_rng(3))
    assert not windows[:, 2].any()


@pytest.mark.once
def test_an_epoch_depends_on_seed_and_number_alone():
    def draw(seed, number):
        return data.draw_epoch(
            50, number, padding=4, horizontal_flip=True, seed=seed
        )

    np.testing.assert_array_equal(draw(1, 2), draw(1, 2))
    others = [draw(*pair) for pair in ((1, 3), (2, 1), (3, 0), (0, 3))]
    for i, other in enumerate(others):
        assert (other != draw(1, 2)).any()
        for another in others[:i]:
            assert (other != another).any()


def test_cutting_is_slicing_and_flipping():
    images = _split(rows=8, columns=9).images
    windows = np.random.default_rng(1).integers(0, [3, 3, 2], (20, 3), "int32")
    expected = []
    for image, (row, column, flipped) in zip(images, windows, strict=True):
        window = image[row : row + 6, column : column + 7]
        expected.append(np.fliplr(window) if flipped else window)
    actual = [
        data.cut(x, w, (6, 7)) for x, w in zip(images, windows, strict=True)
    ]
    np.testing.assert_equal(actual, expected)
    tensors = map(ops.convert_to_tensor, (images, windows))
    on_device = ops.convert_to_numpy(data.cut_on_device(*tensors, (6, 7)))
    assert on_device.dtype == np.uint8
    np.testing.assert_array_equal(on_device, expected)


def test_augmented_batch_is_the_papers(batches):
    """Mean subtracted, zeros padded, cropped, flipped: section 4.2."""
    split = _split(n=20)
    mean = split.images.mean(axis=0)
    kwargs = {"padding": 2, "horizontal_flip": True, "seed": 5}
    actual = _take(batches.training_batches(split, 8, mean=mean, **kwargs), 5)
    drawn = np.concatenate([data.draw_epoch(20, i, **kwargs) for i in range(2)])
    images, labels = map(np.concatenate, zip(*actual, strict=True))
    assert (images.dtype, labels.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(labels, split.labels[drawn[:, 0]])
    for image, (index, row, column, flipped) in zip(images, drawn, strict=True):
        centered = split.images[index] - mean
        padded = np.pad(centered, ((2, 2), (2, 2), (0, 0)))
        window = padded[row : row + 6, column : column + 5]
        window = window[:, ::-1] if flipped else window
        # The input of the first layer, after the model subtracted the mean.
        np.testing.assert_allclose(image - mean, window, atol=1e-3)


@only("tensorflow")
def test_tensorflow_says_that_it_reads_tf_data_alone():
    with pytest.raises(RuntimeError, match="pipeline"):
        data.resident.training_batches(_split(), 8)
    with pytest.raises(RuntimeError, match="pipeline"):
        data.resident.evaluation_batches(_split(), 8)


def test_every_image_once_an_epoch_in_a_new_order(batches):
    split = _split(n=20)
    # 15 batches of 8 are exactly 6 epochs; batches straddle them.
    actual = _take(batches.training_batches(split, 8, seed=1), 15)
    images, labels = map(np.concatenate, zip(*actual, strict=True))
    np.testing.assert_array_equal(images, split.images[labels])
    epochs = labels.reshape(6, 20)
    np.testing.assert_array_equal(np.sort(epochs), [np.arange(20)] * 6)
    assert len({tuple(order) for order in epochs}) == 6
    ((_, other),) = _take(batches.training_batches(split, 20, seed=2), 1)
    assert (other != epochs[0]).any()


@pytest.mark.parametrize("start", [1, 2, 3, 7, 25])
def test_a_stream_entered_at_a_step_goes_on_as_if_never_left(start, batches):
    split = _split()
    kwargs = {"mean": np.ones((6, 5, 3)), "padding": 2, "seed": 9}
    kwargs["horizontal_flip"] = True
    whole = _take(batches.training_batches(split, 8, **kwargs), start + 4)
    rest = batches.training_batches(split, 8, start=start, **kwargs)
    rest = _take(rest, 4)
    np.testing.assert_equal(rest, whole[start:])
    # And on every input as on the first one.
    usual = data.training_batches(split, 8, start=start, **kwargs)
    np.testing.assert_equal(rest, _take(usual, 4))


def test_evaluation_sees_every_image_once_in_order(batches):
    split = _split(n=20)
    actual = _take(batches.evaluation_batches(split, 8), 3)
    assert [len(y) for _, y in actual] == [8, 8, 4]
    images, labels = map(np.concatenate, zip(*actual, strict=True))
    np.testing.assert_array_equal(images, split.images)
    np.testing.assert_array_equal(labels, split.labels)


@pytest.mark.once
def test_digits_are_all_there_and_apart():
    digits = data.load("digits")
    parts = (digits.train, digits.validation, digits.test)
    assert [len(part) for part in parts] == [1257, 180, 360]
    images = np.concatenate([part.images for part in parts])
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 255)
    from sklearn.datasets import load_digits

    source = np.round(load_digits().images * (255 / 16)).astype("uint8")
    assert sorted(map(bytes, images[..., 0])) == sorted(map(bytes, source))
    labels = np.concatenate([part.labels for part in parts])
    assert sorted(labels) == sorted(load_digits().target)
    again = data.load("digits")
    np.testing.assert_array_equal(again.test.images, digits.test.images)


@pytest.mark.once
def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(
        ValueError, match=r"cifar10, cifar100, digits, mnist.*'svhn'"
    ):
        data.load("svhn")
    assert experiment.IMAGE_DATASETS == data.datasets.NAMES


def _prepared(name):
    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return (Path(folder).expanduser() / name).is_dir()


@pytest.mark.once
@pytest.mark.skipif(
    not _prepared("cifar10"), reason="CIFAR-10 is not prepared here"
)
def test_cifar10():
    cifar10 = data.load("cifar10")
    parts = (cifar10.train, cifar10.validation, cifar10.test)
    assert [len(part) for part in parts] == [45_000, 5_000, 10_000]
    assert cifar10.train.images.shape[1:] == (32, 32, 3)
    assert cifar10.class_names[3] == "cat"
    labels = np.concatenate([part.labels for part in parts[:2]])
    assert (np.bincount(labels) == 5_000).all()
    assert (np.bincount(cifar10.test.labels) == 1_000).all()
    # Published means of the 50,000 training images, divided by 255.
    images = np.concatenate([part.images for part in parts[:2]])
    np.testing.assert_allclose(
        images.mean(axis=(0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=5e-5
    )
    np.testing.assert_allclose(
        cifar10.mean, cifar10.train.images.mean(axis=0), atol=1e-3
    )
    assert cifar10.mean.shape == (32, 32, 3)


@pytest.mark.once
@pytest.mark.skipif(not _prepared("mnist"), reason="MNIST is not prepared here")
def test_mnist():
    mnist = data.load("mnist")
    parts = (mnist.train, mnist.validation, mnist.test)
    assert [len(part) for part in parts] == [55_000, 5_000, 10_000]
    assert mnist.test.images.shape[1:] == (28, 28, 1)
    # The published mean of the 60,000 training images, divided by 255.
    images = np.concatenate([part.images for part in parts[:2]])
    assert abs(images.mean() / 255 - 0.1307) < 5e-5


def test_tensorflow_gets_no_gpu_beside_another_backend(monkeypatch):
    calls = []
    monkeypatch.setattr(
        "tensorflow.config.set_visible_devices",
        lambda *arguments: calls.append(arguments),
    )
    importlib.reload(data)
    trains = keras.backend.backend() == "tensorflow"
    assert calls == ([] if trains else [([], "GPU")])


def test_backend_is_untouched():
    """Keras's layers go back from TensorFlow to the backend that trains."""
    images = np.zeros((2, 8, 8, 3), "float32")
    labels = np.eye(2, dtype="float32")
    data.imagenet.sampling.mixer(mixup=1.0)(images, labels, (0, 1))
    mixup = keras.layers.MixUp(0.5)
    assert mixup.backend._backend == keras.backend.backend()


@pytest.mark.once
def test_missing_data_are_reported_before_a_download(tmp_path, monkeypatch):
    """TensorFlow Datasets would try for minutes. One request comes first."""
    asked = []

    def unreachable(request, timeout):
        asked.append(timeout)
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(data.DataUnavailableError) as caught:
        data.load("cifar10", tmp_path)
    assert asked == [5]
    message = str(caught.value)
    assert "\n" not in message
    for words in (str(tmp_path), "no network", "`data_dir`", "digits"):
        assert words in message


@pytest.mark.once
def test_damaged_data_are_named_with_a_remedy(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Damaged:
        data_path = "data/cifar10/3.0.2"

        def is_prepared(self):
            return True

        def as_dataset(self, **_):
            import tensorflow as tf

            raise tf.errors.DataLossError(None, None, "truncated record at 7")

    monkeypatch.setattr(tfds, "builder", lambda *_, **__: Damaged())
    with pytest.raises(data.DataUnavailableError) as caught:
        data.load("cifar10")
    for words in ("data/cifar10/3.0.2", "truncated record at 7", "again"):
        assert words in str(caught.value)


@pytest.mark.once
def test_tensorflow_that_has_a_gpu_already_is_a_warning(monkeypatch):
    def fail(*_):
        raise RuntimeError("Visible devices cannot be modified")

    monkeypatch.setattr("tensorflow.config.set_visible_devices", fail)
    with pytest.warns(UserWarning, match="`keras_resnet.data` first"):
        data._hide_gpus()
