"""ImageNet's input: sources, decoding, augmentation, order."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="images come by tf.data")
pytest.importorskip("PIL", reason="the files are written with Pillow")

from conftest import IMAGENET_SAMPLE, read_json
from imagenet_files import (
    CMYK,
    PNG,
    encoded,
    image_folder,
    imagenet_tars,
    jpeg,
    picture,
    write,
)

from keras_resnet import data, preprocessing
from keras_resnet.data import cache, imagenet, randaugment, sampling

pytestmark = pytest.mark.once

SMALL = {"image_size": 32}


def _take(dataset, n):
    return list(dataset.take(n).as_numpy_iterator())


def _seed(i, j=0):
    return tf.constant([j, i], tf.int64)


def _drawn(draw, n, dtype):
    """Return the draws of a function from `n` seeds, as an array."""

    @tf.function
    def all_of_them():
        return tf.map_fn(
            lambda i: draw(tf.stack([tf.zeros((), tf.int64), i])),
            tf.range(n, dtype=tf.int64),
            fn_output_signature=dtype,
        )

    return all_of_them().numpy()


def _order(n, epoch, seed):
    drawn = {"padding": 0, "horizontal_flip": False, "seed": seed}
    return data.draw_epoch(n, epoch, **drawn)[:, 0]


def _evaluate(source, resize=36, share=0.5):
    """Return all images and labels to evaluate, and what cannot be read."""
    unreadable = data.Unreadable(source, share=share)
    batches = imagenet.evaluation_batches(
        source, 6, image_size=32, resize=resize, unreadable=unreadable
    )
    images, labels = map(np.concatenate, zip(*_take(batches, -1), strict=True))
    return images, labels, unreadable


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """20 images of 4 classes."""
    folder = tmp_path_factory.mktemp("images") / "train"
    return data.Folder(image_folder(folder))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB")],
)
def test_a_part_is_that_of_the_whole_image(kind, mode):
    image = picture(3)
    contents = encoded(image, kind, mode)
    actual = imagenet.decode(
        tf.constant(contents), lambda size: (9, 20, 33, 40)
    )
    actual = np.asarray(actual).astype(int)
    if mode == "L":
        grey = image @ [0.299, 0.587, 0.114]
        image = np.repeat(grey[..., None], 3, axis=-1)
    expected = image[9:42, 20:60].astype(int)
    assert actual.shape == (33, 40, 3)
    # The loss of JPEG at quality 95 in a smooth image.
    assert abs(actual - expected).mean() < (0.01 if kind == "PNG" else 2)
    # And exactly what the whole image has there, but for its edges, where
    # the colours of neighbours take part.
    whole = tf.io.decode_image(contents, 3).numpy().astype(int)
    inside = actual - whole[9:42, 20:60]
    assert not inside[2:-2, 2:-2].any()


def test_paper_box_draws_sides_and_corners_evenly():
    size = np.array([300, 500], "int32")
    boxes = _drawn(lambda seed: sampling.paper_box(size, seed), 2000, tf.int32)
    assert (boxes[:, 2] == boxes[:, 3]).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
    # The shorter side at which a box of 224 has this share of 300 rows.
    shorter = 300 * 224 / boxes[:, 2]
    assert 478 < shorter.max() < 482
    assert 255 < shorter.min() < 257
    error = 65 / np.sqrt(len(boxes))
    assert abs(shorter.mean() - 368) < 5 * error
    places = boxes[:, :2] / (size - boxes[:, 2:])
    assert abs(places.mean(axis=0) - 0.5).max() < 5 * 0.29 / np.sqrt(2000)
    assert places.min() == 0
    assert places.max() == 1
    # The smallest of images.
    assert list(sampling.paper_box(np.array([1, 1]), _seed(1))) == [0, 0, 1, 1]


def test_inception_box_keeps_area_and_proportions():
    size = np.array([300, 400], "int32")
    boxes = _drawn(
        lambda seed: sampling.inception_box(size, seed), 300, tf.int32
    )
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
    area = boxes[:, 2] * boxes[:, 3] / 120_000
    assert 0.07 < area.min() < 0.15
    assert 0.85 < area.max() <= 1
    ratio = boxes[:, 3] / boxes[:, 2]
    assert 0.73 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.36


def test_colors_shift_along_principal_components():
    shifts = _drawn(sampling.color_shift, 3000, tf.float32)
    vectors = np.array(sampling.EIGENVECTORS)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=2e-3)
    deviations = 255 * 0.1 * np.array(sampling.EIGENVALUES)
    expected = vectors @ np.diag(deviations**2) @ vectors.T
    np.testing.assert_allclose(np.cov(shifts.T), expected, rtol=0.1)
    assert abs(shifts.mean(axis=0)).max() < 5 * 3.3 / np.sqrt(3000)


def test_batches_are_a_function_of_their_step(source):
    kwargs = SMALL | {"box": "paper", "color": True, "magnitude": 5}
    kwargs |= {"mixup": 0.2, "cutmix": 1.0, "seed": 3}
    batches = _take(imagenet.training_batches(source, 6, **kwargs), 5)
    again = _take(imagenet.training_batches(source, 6, start=3, **kwargs), 2)
    for one, two in zip(batches[3:], again, strict=True):
        np.testing.assert_equal(one, two)
    other = _take(
        imagenet.training_batches(source, 6, **kwargs | {"seed": 4}), 1
    )
    assert (other[0][0] != batches[0][0]).any()
    images, labels = batches[0]
    assert images.shape == (6, 32, 32, 3)
    assert images.dtype == np.float32
    assert labels.shape == (6, 4)


@pytest.mark.once
def test_a_share_of_each_class_is_put_aside(tmp_path):
    whole = data.Folder(image_folder(tmp_path, classes=3, each=10))
    train, validation = whole.split(0.2)
    assert np.bincount(train.labels).tolist() == [8] * 3
    assert np.bincount(validation.labels).tolist() == [2] * 3
    assert train.class_names == validation.class_names == whole.class_names
    assert sorted(train.paths + validation.paths) == whole.paths
    for part in (train, validation):
        for path, label in zip(part.paths, part.labels, strict=True):
            assert f"/class{label}/" in path
    # The same each time, and not the first of each class.
    assert whole.split(0.2)[1].paths == validation.paths
    assert whole.split(0.2, seed=1)[1].paths != validation.paths
    # At least one of each.
    assert [len(part) for part in whole.split(0.01)] == [27, 3]
    assert [len(part) for part in whole.split(0.99)] == [3, 27]
    for path in (tmp_path / "class1").iterdir():
        path.unlink()
    with pytest.raises(
        data.DataUnavailableError, match="'class1' has 0 images"
    ):
        data.Folder(tmp_path).split(0.2)


def test_every_image_once_an_epoch_in_the_order_drawn(tmp_path):
    # A class for each image, so that labels tell images.
    source = data.Folder(image_folder(tmp_path, classes=7, each=1))
    labels = [y for _, y in _take(imagenet.training_batches(source, 3), 7)]
    actual = np.concatenate(labels).argmax(axis=1)
    expected = [_order(7, number, seed=0) for number in range(3)]
    np.testing.assert_array_equal(actual, np.concatenate(expected))


def test_images_are_boxes_resized_and_flipped(source):
    """Against NumPy and the whole image, for whole-image boxes."""
    batches = imagenet.training_batches(
        source, 20, box="paper", seed=5, **SMALL
    )
    ((images, labels),) = _take(batches, 1)
    flips = 0
    for place, i in enumerate(_order(20, 0, seed=5)):
        image = images[place]
        assert labels[place][source.label(i)] == 1
        whole = np.asarray(data.read_image_of(source, i)).astype("float32")
        seed = tf.constant([5, 4 * place], tf.int64)
        row, column, rows, columns = np.asarray(
            sampling.paper_box(np.array(whole.shape[:2], "int32"), seed)
        )
        part = whole[row : row + rows, column : column + columns]
        expected = np.asarray(tf.image.resize(part, (32, 32), antialias=True))
        straight = abs(image - expected).mean()
        flipped = abs(image[:, ::-1] - expected).mean()
        assert min(straight, flipped) < 0.5
        assert max(straight, flipped) > 1
        flips += flipped < straight
    assert 3 <= flips <= 17


def test_sizes_grow_with_the_steps(source):
    kwargs = {"image_size": (16, 24, 32), "steps_per_size": 2}
    batches = imagenet.training_batches(source, 4, **kwargs)
    assert [len(x[0]) for x, _ in _take(batches, 7)] == [
        *(16, 16, 24, 24, 32, 32, 32)
    ]
    kwargs |= {"mixup": 0.5, "cutmix": 1.0}
    resumed = imagenet.training_batches(source, 4, start=3, **kwargs)
    assert [len(x[0]) for x, _ in _take(resumed, 2)] == [24, 32]
    with pytest.raises(ValueError, match="steps_per_size"):
        imagenet.training_batches(source, 4, image_size=(16, 24))


def test_shards_of_processes_are_the_batch(source):
    kwargs = SMALL | {"box": "paper", "color": True, "seed": 3, "start": 2}
    whole = _take(imagenet.training_batches(source, 6, **kwargs), 3)
    parts = [
        _take(imagenet.training_batches(source, 6, shard=(i, 2), **kwargs), 3)
        for i in range(2)
    ]
    for step, expected in enumerate(whole):
        for i, array in enumerate(expected):
            actual = np.concatenate([part[step][i] for part in parts])
            np.testing.assert_array_equal(actual, array)
    # Each process mixes the images that it has, by a seed of its own.
    kwargs["mixup"] = 1.0
    shares = []
    for i in range(2):
        parts = imagenet.training_batches(source, 6, shard=(i, 2), **kwargs)
        ((_, y),) = _take(parts, 1)
        shares.append(y[y > 0].min())
    assert shares[0] != shares[1]


@pytest.mark.parametrize(
    ("batch", "processes", "multiple"), [(6, 1, 4), (6, 2, 4), (20, 2, None)]
)
def test_several_devices_validate_each_image_once(
    tmp_path, batch, processes, multiple
):
    source = data.Folder(image_folder(tmp_path, classes=19, each=1, corrupt=0))
    broken = tmp_path / "class3" / "0.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    counted, places, sizes = np.zeros(19), 0, set()
    for i in range(processes):
        unreadable = data.Unreadable(source, share=0.1)
        batches = imagenet.evaluation_batches(
            source,
            batch,
            image_size=32,
            resize=40,
            shard=(i, processes),
            pad_to_multiple_of=multiple,
            unreadable=unreadable,
        )
        for images, labels, weights in _take(batches, 9):
            np.add.at(counted, labels.argmax(axis=1), weights * labels.any(1))
            places += len(images)
            sizes.add(len(images))
            assert np.isfinite(images).all()
        assert set(unreadable) <= {str(broken)}
    assert len(sizes) == 1
    # Means over all places are those of the images.
    expected = np.full(19, places / 19)
    expected[source.paths.index(str(broken))] = 0
    np.testing.assert_allclose(counted, expected, rtol=1e-6)


def test_a_corrupt_file_is_replaced_named_and_counted(tmp_path, capsys):
    for i in range(10):
        write(tmp_path / f"class{i}" / "x.JPEG", jpeg(i))
    broken = tmp_path / "class4" / "x.JPEG"
    source = data.Folder(tmp_path)
    kwargs = SMALL | {"seed": 1}
    intact = _take(imagenet.training_batches(source, 4, **kwargs), 6)
    broken.write_bytes(jpeg(4)[:200])
    unreadable = data.Unreadable(source, share=0.1)
    actual = _take(
        imagenet.training_batches(source, 4, unreadable=unreadable, **kwargs), 6
    )
    order = np.concatenate([_order(10, number, seed=1) for number in range(4)])
    expected = np.where(order == 4, np.roll(order, -1), order)[:24]
    images, labels = map(np.concatenate, zip(*actual, strict=True))
    np.testing.assert_array_equal(labels.argmax(axis=1), expected)
    # All others are what they would have been.
    others = order[:24] != 4
    assert 1 < (~others).sum() < 4
    images_before = np.concatenate([x for x, _ in intact])
    np.testing.assert_array_equal(images[others], images_before[others])
    assert list(unreadable.reasons) == [str(broken)]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"skipped: {broken}: ")

    strict = data.Unreadable(source, share=0.09)
    with pytest.raises(tf.errors.OpError):
        _take(
            imagenet.training_batches(source, 4, unreadable=strict, **kwargs), 6
        )
    assert isinstance(strict.error, data.TooManyUnreadableError)
    assert "1 of 10" in str(strict.error)
    assert "0.09" in str(strict.error)


def _refused(batches):
    """Return the error that reading some batches ends with."""
    with pytest.raises(tf.errors.OpError) as raised:
        _take(batches, 20)
    return str(raised.value)


def test_every_iterator_is_told_of_too_many_unreadable_images(tmp_path):
    """Keras makes one and throws it away, before it trains on another."""
    source = data.Folder(image_folder(tmp_path, corrupt=2))
    unreadable = data.Unreadable(source, share=0.05)
    batches = imagenet.training_batches(
        source, 4, unreadable=unreadable, **SMALL
    )
    for _ in range(2):
        assert "2 of 20 images cannot be decoded" in _refused(batches)


def test_without_a_readable_image_there_is_an_end(tmp_path, capsys):
    root = image_folder(tmp_path, classes=2, each=3)
    source = data.Folder(root)
    for path in source.paths:
        Path(path).write_bytes(b"no image")
    for make in (imagenet.training_batches, imagenet.evaluation_batches):
        unreadable = data.Unreadable(source, share=1.0)
        kwargs = SMALL if make is imagenet.training_batches else {}
        error = _refused(make(source, 4, unreadable=unreadable, **kwargs))
        assert "6 of 6 images cannot be decoded" in error
        assert error.partition("(")[0].rpartition(" last ")[2].strip() in (
            source.paths
        )
    # Some images of a source, none of which can be decoded.
    unreadable = data.Unreadable(source, share=1.0)
    Path(source.paths[0]).unlink()
    rest = data.Folder(root)
    error = _refused(
        imagenet.training_batches(rest, 4, unreadable=unreadable, **SMALL)
    )
    assert "no other image can replace it" in error


def test_an_image_far_longer_than_wide_is_named(tmp_path, capsys):
    root = image_folder(tmp_path, classes=2, each=2)
    long = write(
        root / "class0/long.png",
        encoded(np.zeros((20000, 1, 3), "uint8"), "PNG"),
    )
    write(
        root / "class1/just.png", encoded(np.zeros((1, 100, 3), "uint8"), "PNG")
    )
    with pytest.raises(data.UnreadableImageError, match="20000 x 1 pixels"):
        data.read_image(long)
    images, _, unreadable = _evaluate(data.Folder(root), resize=640)
    assert len(images) == 5
    assert [*unreadable] == [str(long)]
    assert "at most 100 times" in capsys.readouterr().err


@pytest.mark.parametrize("target", [".", "..", "../..", "../class1/loop"])
def test_links_to_a_folder_above_are_named(tmp_path, target):
    root = image_folder(tmp_path / "images", classes=2, each=2)
    (root / "class1/loop").symlink_to("../class0")
    (root / "class0/up").symlink_to(target)
    with pytest.raises(data.DataUnavailableError, match="up is a link|loop is"):
        data.Folder(root)


def test_links_to_other_folders_are_followed(tmp_path):
    root = image_folder(tmp_path / "images", classes=2, each=2)
    other = image_folder(tmp_path / "other", classes=1, each=3)
    (root / "class1/more").symlink_to(other / "class0")
    (root / "class2").symlink_to(other / "class0")
    # A link to nothing is an image that cannot be read.
    (root / "class2/nothing.jpg").symlink_to(tmp_path / "nothing.jpg")
    by_class = data.class_folders(root)
    assert [len(paths) for paths in by_class.values()] == [2, 2 + 4, 4]


def test_pipes_and_devices_are_not_read(tmp_path):
    root = image_folder(tmp_path / "images", classes=2, each=2)
    pipe = root / "class0/pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(data.DataUnavailableError, match="pipe.jpg is a named"):
        data.Folder(root)
    large = root / "class1/large.jpg"
    with open(large, "wb") as file:
        file.truncate(2**40)
    for path, words in (
        (pipe, "named pipe"),
        ("/dev/zero", "device"),
        (root, "folder"),
        (large, "bytes"),
    ):
        with pytest.raises(data.UnreadableImageError, match=words) as raised:
            data.read_image(path)
        assert str(path) in str(raised.value)


def test_evaluation_has_the_centre_of_every_readable_image(tmp_path):
    source = data.Folder(image_folder(tmp_path, corrupt=1))
    batches = imagenet.evaluation_batches(
        source, 6, unreadable=data.Unreadable(source, share=0.1)
    )
    # Four batches of 5, not three of 6 and one of 2. One image is corrupt.
    assert [len(x) for x, _ in batches] == [4, 5, 5, 5]
    images, labels, unreadable = _evaluate(source, resize=40)
    readable = [i for i in range(20) if i != 4]
    np.testing.assert_array_equal(
        labels.argmax(axis=1), [source.label(i) for i in readable]
    )
    assert list(unreadable.reasons) == [source.name(4)]
    for image, i in zip(images, readable, strict=True):
        whole = np.asarray(data.read_image_of(source, i))
        whole = preprocessing.resize_shorter_side(whole, 40)
        expected = preprocessing.center_crop(whole, 32)
        np.testing.assert_allclose(image, expected, atol=0.01)


def watched(shown):
    """Return a function that keeps what it iterates over."""

    def progress(items):
        for item in items:
            shown.append(item)
            yield item

    return progress


def test_mean_image(source, tmp_path, monkeypatch):
    images, _, _ = _evaluate(source, resize=32)
    shown = []
    actual = imagenet.mean_image(
        source, image_size=32, resize=32, progress=watched(shown)
    )
    # Two batches, of at most 16 images.
    assert shown == [0, 1]
    np.testing.assert_allclose(actual, np.mean(images, axis=0), atol=1e-3)
    monkeypatch.setattr(imagenet, "MEAN_IMAGES", 2)
    actual = imagenet.mean_image(source, image_size=32, resize=32)
    np.testing.assert_allclose(actual, (images[0] + images[-1]) / 2, atol=1e-3)
    # Of the images looked at, 0 and 9 and 19, one is named as what it is.
    broken = data.Folder(image_folder(tmp_path / "broken"))
    Path(broken.paths[9]).write_bytes(jpeg(9)[:100])
    monkeypatch.setattr(imagenet, "MEAN_IMAGES", 3)
    unreadable = data.Unreadable(broken, share=0.1)
    imagenet.mean_image(broken, image_size=32, resize=32, unreadable=unreadable)
    assert list(unreadable) == [broken.name(9)]
    assert "fit" not in unreadable.reasons[broken.name(9)]
    monkeypatch.setattr(imagenet, "MEAN_IMAGES", 2)
    corrupt = data.Folder(image_folder(tmp_path / "corrupt", corrupt=5))
    with pytest.raises(data.TooManyUnreadableError, match="1 of 20"):
        imagenet.mean_image(corrupt, image_size=32)


# RandAugment, mixup, cutmix.

SHADE = picture(8, 40, 40) // 2 + np.random.default_rng(0).integers(
    60, size=(40, 40, 3), dtype="uint8"
)


def _pillow(name, level, sign):
    """Return an image as Pillow changes it, or `None` for other rules."""
    from PIL import Image, ImageEnhance, ImageOps

    image = Image.fromarray(SHADE)
    factor = max(0.1, 1 + sign * level * 0.9)
    if name in ("color", "contrast", "brightness", "sharpness"):
        return getattr(ImageEnhance, name.title())(image).enhance(factor)

    def affine(*places):
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            places,
            Image.Resampling.BILINEAR,
            fillcolor=tuple(map(int, randaugment.FILL)),
        )

    return {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "posterize": lambda: ImageOps.posterize(image, 4 - int(level * 4)),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256)),
        "solarize_add": lambda: Image.fromarray(
            np.where(
                SHADE < 128, np.minimum(SHADE + int(level * 110), 255), SHADE
            ).astype("uint8")
        ),
        "rotate": lambda: image.rotate(
            # Clockwise is positive here.
            sign * level * 30,
            Image.Resampling.BILINEAR,
            fillcolor=tuple(map(int, randaugment.FILL)),
        ),
        "shear_x": lambda: affine(1, sign * level * 0.3, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, sign * level * 0.3, 1, 0),
        "translate_x": lambda: affine(1, 0, sign * level * 18, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, sign * level * 18),
    }[name]()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    "change", randaugment.CHANGES, ids=lambda f: f.__name__
)
def test_changes_are_pillows(change, sign):
    image = tf.constant(SHADE.astype("float32"))
    actual = change(image, tf.constant(0.6), tf.constant(float(sign))).numpy()
    expected = np.asarray(_pillow(change.__name__, 0.6, sign)).astype(float)
    assert actual.shape == expected.shape
    moved = change.__name__.startswith(("rotate", "shear", "translate"))
    # Pillow has other edges; and it rounds.
    inside = (slice(2, -2),) * 2
    difference = abs(actual - expected)[inside if moved else ...]
    assert np.median(difference) <= 1
    assert difference.mean() < (3 if moved else 1.1)
    assert abs(actual - SHADE).mean() > 1


def test_rand_augment_is_mild_or_strong_and_sometimes_nothing():
    image = tf.constant(SHADE.astype("float32"))

    def changes(magnitude):
        return _drawn(
            lambda seed: abs(
                randaugment.rand_augment(image, seed, magnitude) - image
            ),
            60,
            tf.float32,
        )

    none = (changes(6).max(axis=(1, 2, 3)) < 1e-3).mean()
    # Each of two operations has a chance of 1/2.
    assert 0.05 < none < 0.5
    assert changes(2).mean() < changes(9).mean()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_gives_labels_the_share_of_their_image(kind):
    # The policy of the network is not that of its images.
    keras.config.set_dtype_policy("mixed_bfloat16")
    n = 8
    # Images of one value each, so that the mean of a mixture tells shares.
    values = np.linspace(10, 240, n, dtype="float32")
    images = np.tile(values[:, None, None, None], (1, 64, 64, 3))
    labels = np.eye(n, dtype="float32")
    mix = sampling.mixer(**{kind: 1.0})
    mixed, shares = map(np.asarray, mix(images, labels, _seed(4)))
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    assert ((shares > 0).sum(axis=1) <= 2).all()
    assert ((shares > 0.05) & (shares < 0.95)).any()
    # A box of whole pixels is up to one row and column larger or smaller.
    tolerance = 230 * 2 * 65 / 64**2 if kind == "cutmix" else 0.1
    np.testing.assert_allclose(
        mixed.mean(axis=(1, 2, 3)), shares @ values, atol=tolerance
    )

    def boxes(images):
        return max(len(np.unique(image.round(2))) for image in images)

    assert boxes(mixed) == (2 if kind == "cutmix" else 1)
    again = mix(images, labels, _seed(4))
    np.testing.assert_array_equal(again[0], mixed)
    other = mix(images, labels, _seed(5))
    assert (np.asarray(other[0]) != mixed).any()
    # Both take turns.
    mix = sampling.mixer(mixup=1.0, cutmix=1.0)
    mixed = [mix(images, labels, _seed(i))[0] for i in range(12)]
    assert {boxes(np.asarray(x)) for x in mixed} == {1, 2}


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Tar files in ImageNet's format, of 7 and 3 images."""
    pytest.importorskip("tensorflow_datasets")
    images = {
        "n01440764": {f"n01440764_{i}.JPEG": jpeg(i) for i in range(5)},
        "n01739381": {CMYK: encoded(picture(11), mode="CMYK")},
        "n02105855": {PNG: encoded(picture(12), "PNG")},
    }
    return imagenet_tars(tmp_path_factory.mktemp("tars"), images, 3)


def test_imagenet_is_prepared_from_its_tar_files(tars, tmp_path):
    source = data.from_tfds("imagenet2012", "train", tmp_path, tars)
    assert len(source) == 7
    assert len(source.class_names) == 1000
    assert source.class_names[0] == "n01440764"
    by_name = {source.name(i): i for i in range(7)}
    assert {CMYK, PNG, "n01440764_3.JPEG"} <= {*by_name}
    for name, seed in ((CMYK, 11), (PNG, 12), ("n01440764_3.JPEG", 3)):
        i = by_name[name]
        assert source.class_names[source.label(i)] == name.partition("_")[0]
        image = np.asarray(data.read_image_of(source, i)).astype(int)
        grey = data.read_image_of(source, i, channels=1)
        assert grey.shape == (*image.shape[:2], 1)
        assert abs(image - picture(seed)).mean() < 4
        contents, label = source.read(tf.constant(i, tf.int64))
        assert contents.numpy() == source.contents(i)
        assert label.numpy() == source.label(i)
    # Now it is prepared: no tar file is asked for.
    validation = data.from_tfds("imagenet2012", "validation", tmp_path)
    images, labels, _ = _evaluate(validation)
    assert images.shape == (3, 32, 32, 3)
    assert labels.shape == (3, 1000)


def test_missing_tar_files_are_named(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(data.DataUnavailableError) as caught:
        data.from_tfds("imagenet2012", "train", tmp_path)
    for words in ("img_train.tar", "img_val.tar", "`manual_dir`", "`data_dir`"):
        assert words in str(caught.value)


def test_a_broken_record_file_is_noticed(tmp_path):
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(3):
            writer.write(cache._example(jpeg(i), i, f"{i}.JPEG"))
    source = data.Records([path], "abc")
    assert [source.name(i) for i in range(3)] == [f"{i}.JPEG" for i in range(3)]
    for length in (1, 100):
        path.write_bytes(path.read_bytes()[:-length])
        with pytest.raises(data.DataUnavailableError, match="middle of record"):
            data.Records([path], "abc")
    with pytest.raises(data.DataUnavailableError, match="No such file"):
        data.Records([tmp_path / "none"], "abc")


def test_a_damaged_record_is_an_unreadable_image(tmp_path, capsys):
    path = tmp_path / "x.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for i in range(20):
            writer.write(cache._example(jpeg(i), i % 3, f"{i}.JPEG"))
    source = data.Records([path], "abc")
    intact = path.read_bytes()
    # One bit in the middle of a picture, and one in a label.
    for i, distance in ((4, 500), (7, None)):
        offset, length = map(int, source._places[i])
        place = offset + (
            distance or intact[offset : offset + length].index(b"label") + 10
        )
        damaged = bytearray(path.read_bytes())
        damaged[place] ^= 1
        path.write_bytes(damaged)
    images, labels, unreadable = _evaluate(source)
    assert (len(images), labels.shape) == (18, (18, 3))
    assert sorted(unreadable.reasons) == [
        "record 4, in x.tfrecord",
        "record 7, in x.tfrecord",
    ]
    assert "do not match its checksum" in capsys.readouterr().err
    # One bit of a length.
    damaged = bytearray(intact)
    damaged[0] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(data.DataUnavailableError, match="checksum"):
        data.Records([path], "abc")
    path.unlink()
    with pytest.raises(data.UnreadableImageError, match="record 2, .*No such"):
        data.read_image_of(source, 2)


def test_a_bmp_with_a_palette_is_refused(tmp_path):
    pictures = pytest.importorskip("PIL.Image")
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    red = pictures.new("RGB", (40, 40), (255, 0, 0))
    red.convert("P").save(folder / "palette.bmp")
    red.save(folder / "colours.bmp")
    red.convert("L").save(folder / "grey.bmp")
    with pytest.raises(data.UnreadableImageError, match="palette.bmp.*PNG"):
        data.read_image(folder / "palette.bmp")
    for name, expected in (("colours", [255, 0, 0]), ("grey", [76, 76, 76])):
        image = data.read_image(folder / f"{name}.bmp")
        assert np.asarray(image)[3, 5].tolist() == expected
    images, _, unreadable = _evaluate(data.Folder(tmp_path / "train"))
    assert len(images) == 2
    assert list(unreadable.reasons) == [str(folder / "palette.bmp")]
    assert "convert it to PNG" in next(iter(unreadable.reasons.values()))


def test_names_need_not_be_utf_8(tmp_path, capsys):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    name = os.fsdecode(b"\xff\xe9.jpg")
    try:
        (folder / name).write_bytes(jpeg(0))
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (folder / ("broken" + name)).write_bytes(b"no image")
    source = data.Folder(tmp_path / "train")
    assert "2 images" in source.describe()
    images, _, unreadable = _evaluate(source)
    assert len(images) == 1
    broken = f"{folder}/broken\\xff\\xe9.jpg"
    assert list(unreadable.reasons) == [broken]
    assert f"skipped: {broken}: " in capsys.readouterr().err
    small = data.cached(source, tmp_path / "cache", 20, unreadable)
    assert small.name(0) == f"{folder}/\\xff\\xe9.jpg"
    with pytest.raises(data.UnreadableImageError, match=r"\\xff\\xe9.jpg: "):
        data.read_image(folder / ("broken" + name))


def test_a_cache_removes_what_a_killed_preparation_left(tmp_path):
    source = data.Folder(image_folder(tmp_path / "train"))
    write(tmp_path / ".partial-cache/00000.tfrecord", b"half of a file")
    small = data.cached(source, tmp_path / "cache", 68, data.Unreadable(source))
    assert len(small) == len(source)
    assert not list(tmp_path.glob(".partial*"))


def test_a_cache_has_smaller_images_once(tmp_path):
    source = data.Folder(image_folder(tmp_path / "train", corrupt=1))
    unreadable = data.Unreadable(source, share=0.1)
    shown = []
    small = data.cached(
        *(source, tmp_path / "cache", 68, unreadable), progress=watched(shown)
    )
    assert shown == [*range(20)]
    assert len(small) == 19
    assert list(unreadable.reasons) == [source.name(4)]
    readable = [i for i in range(20) if i != 4]
    for i, j in enumerate(readable):
        assert small.name(i) == source.name(j)
        assert small.label(i) == source.label(j)
        image = np.asarray(data.read_image_of(small, i))
        if min(np.asarray(data.read_image_of(source, j)).shape[:2]) < 68:
            assert small.contents(i) == source.contents(j)
        else:
            assert image.shape == (68, 83, 3)
    assert len(list((tmp_path / "cache").glob("*.tfrecord"))) == 1
    assert not list(tmp_path.glob(".partial*"))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()}
    again = data.cached(source, tmp_path / "cache", 68, unreadable)
    assert len(again) == 19
    assert before == {p: p.stat().st_mtime_ns for p in before}
    with pytest.raises(data.DataUnavailableError, match="of other images"):
        data.cached(source, tmp_path / "cache", 60, unreadable)
    with pytest.raises(data.DataUnavailableError, match="no cache"):
        data.cached(source, tmp_path / "train", 60, unreadable)
    info = read_json(tmp_path / "cache" / "cache.json")
    assert info["side"] == 68
    # As many images, and others.
    (tmp_path / "train/class1/0.JPEG").rename(tmp_path / "train/class1/9.JPEG")
    source = data.Folder(tmp_path / "train")
    with pytest.raises(data.DataUnavailableError, match="of other images"):
        data.cached(source, tmp_path / "cache", 68, unreadable)


@pytest.mark.skipif(IMAGENET_SAMPLE is None, reason="no images of ImageNet")
def test_real_images():
    source = data.Folder(IMAGENET_SAMPLE)
    unreadable = data.Unreadable(source, share=0)
    batches = imagenet.training_batches(
        source, 48, box="paper", color=True, unreadable=unreadable, **SMALL
    )
    images, _ = _take(batches, 1)[0]
    # As ImageNet's are: mean about (124, 116, 104), deviation about 70.
    np.testing.assert_allclose(
        images.mean(axis=(0, 1, 2)), randaugment.FILL, atol=20
    )
    assert 50 < images.std() < 90
    assert len(_evaluate(source, share=0)[0]) == len(source)
    assert not unreadable.reasons
