"""Loading, splitting, augmenting and batching of images."""

import importlib
import os
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")

from keras_resnet import data  # noqa: E402


def _split(n=20, rows=6, columns=5, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, rows, columns, channels), "uint8")
    return data.Split(images, np.arange(n))


def _take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def test_windows_cover_every_shift_equally_and_mirror_half():
    n, margin = 20_000, 2
    offsets, mirrored = data.random_windows(n, margin, True, seed=(3, 4))
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(offsets.numpy().T), 1)
    # Each of the 25 shifts is binomial, with standard deviation 28.
    assert abs(counts - n / 25).max() < 5 * np.sqrt(n / 25)
    assert abs(mirrored.numpy().mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    # Rows, columns and mirroring are independent of each other.
    draws = np.c_[offsets.numpy(), mirrored.numpy()].astype(float)
    correlation = np.corrcoef(draws.T) - np.eye(3)
    assert abs(correlation).max() < 5 / np.sqrt(n)
    _, mirrored = data.random_windows(100, margin, False, seed=(3, 4))
    assert not mirrored.numpy().any()


def test_windows_depend_on_the_seed_alone():
    first = data.random_windows(50, 4, True, seed=(1, 2))
    again = data.random_windows(50, 4, True, seed=(1, 2))
    other = data.random_windows(50, 4, True, seed=(1, 3))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0].numpy() != other[0].numpy()).any()


def test_crop_and_mirror_is_slicing():
    images = _split(rows=8, columns=9).images
    rng = np.random.default_rng(1)
    offsets = rng.integers(0, 3, (20, 2)).astype("int32")
    mirrored = rng.integers(0, 2, 20).astype(bool)
    found = data.crop_and_mirror(images, offsets, mirrored, (6, 7)).numpy()
    assert found.dtype == np.uint8
    for i, (row, column) in enumerate(offsets):
        window = images[i, row : row + 6, column : column + 7]
        expected = window[:, ::-1] if mirrored[i] else window
        np.testing.assert_array_equal(found[i], expected)


def test_one_image_gives_all_windows():
    image = _split(rows=8, columns=9).images[:1]
    offsets = np.array([[0, 0], [2, 1]], "int32")
    mirrored = np.array([False, True])
    found = data.crop_and_mirror(image, offsets, mirrored, (6, 7)).numpy()
    np.testing.assert_array_equal(found[0], image[0, :6, :7])
    np.testing.assert_array_equal(found[1], image[0, 2:, 1:8][:, ::-1])


def test_augmented_batch_is_the_papers():
    """Mean subtracted, zeros padded, cropped, mirrored: section 4.2."""
    split = _split()
    mean = split.images.mean(axis=0)
    batches = _take(
        data.training_batches(
            split, 8, mean=mean, margin=2, mirror=True, seed=5
        ),
        3,
    )
    for step, (images, labels) in enumerate(batches):
        _check_augmented(split, mean, images, labels, seed=(~5, step))


def _check_augmented(split, mean, images, labels, seed):
    offsets, mirrored = data.random_windows(8, 2, True, seed=seed)
    for i, label in enumerate(labels):
        centered = split.images[label] - mean
        padded = np.pad(centered, ((2, 2), (2, 2), (0, 0)))
        row, column = offsets[i].numpy()
        window = padded[row : row + 6, column : column + 5]
        window = window[:, ::-1] if mirrored[i] else window
        # What the model sees once it has subtracted the mean itself.
        np.testing.assert_allclose(images[i] - mean, window, atol=1e-3)


def test_without_augmentation_pixels_are_untouched():
    split = _split()
    for images, labels in _take(data.training_batches(split, 7), 6):
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images, split.images[labels])


def test_every_image_once_a_pass_in_a_new_order():
    split = _split(n=20)
    # 15 batches of 8 are exactly 6 passes; batches straddle them.
    labels = np.concatenate(
        [y for _, y in _take(data.training_batches(split, 8, seed=1), 15)]
    )
    passes = labels.reshape(6, 20)
    np.testing.assert_array_equal(np.sort(passes), [np.arange(20)] * 6)
    assert len({tuple(order) for order in passes}) == 6


@pytest.mark.parametrize("start", [1, 2, 3, 7, 25])
def test_a_stream_entered_at_a_step_goes_on_as_if_never_left(start):
    split = _split()
    arguments = {"mean": np.ones((6, 5, 3)), "margin": 2, "mirror": True}
    whole = _take(
        data.training_batches(split, 8, seed=9, **arguments), start + 4
    )
    rest = _take(
        data.training_batches(split, 8, seed=9, start=start, **arguments), 4
    )
    for (x1, y1), (x2, y2) in zip(whole[start:], rest, strict=True):
        np.testing.assert_array_equal(x1, x2)
        np.testing.assert_array_equal(y1, y2)


def test_seeds_give_different_streams():
    split = _split()
    (first,) = _take(data.training_batches(split, 20, seed=1), 1)
    (other,) = _take(data.training_batches(split, 20, seed=2), 1)
    assert (first[1] != other[1]).any()


def test_evaluation_sees_every_image_once_in_order():
    split = _split(n=20)
    batches = list(data.evaluation_batches(split, 8).as_numpy_iterator())
    assert [len(y) for _, y in batches] == [8, 8, 4]
    np.testing.assert_array_equal(
        np.concatenate([x for x, _ in batches]), split.images
    )
    np.testing.assert_array_equal(
        np.concatenate([y for _, y in batches]), split.labels
    )


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


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"cifar10, digits, mnist.*'svhn'"):
        data.load("svhn")


def _prepared(name):
    folder = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return (Path(folder).expanduser() / name).is_dir()


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
        images.mean(axis=(0, 1, 2)) / 255,
        [0.4914, 0.4822, 0.4465],
        atol=5e-5,
    )
    np.testing.assert_allclose(
        cifar10.mean, cifar10.train.images.mean(axis=0), atol=1e-3
    )
    assert cifar10.mean.shape == (32, 32, 3)


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


def test_missing_data_are_reported_within_seconds(tmp_path, monkeypatch):
    """No address is reachable here, whatever the machine."""
    monkeypatch.setattr(
        "urllib.request.urlopen",
        lambda *_, **__: (_ for _ in ()).throw(OSError("no network")),
    )
    begin = time.monotonic()
    with pytest.raises(data.DataUnavailableError) as caught:
        data.load("cifar10", tmp_path)
    assert time.monotonic() - begin < 20
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path), "no network", "--data-dir", "digits"):
        assert part in message
