"""ImageNet and similar data: large images, decoded when a step needs them.

TensorFlow decodes them on all cores, without Python's lock. Each batch is a
function of its step.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_resnet.data import folders, sampling
from keras_resnet.data.order import Draws, lay_out
from keras_resnet.data.pipeline import cores, untuned
from keras_resnet.data.records import Source
from keras_resnet.data.unreadable import GROUP, Unreadable, reader
from keras_resnet.preprocessing import center_crop, resize_shorter_side
from keras_resnet.types import Progress

# Number of seeds of an image: box, flip, RandAugment, colours.
CHANGES = 4
# `mean_image` averages at most this number of images.
MEAN_IMAGES = 10_000


def decode(
    contents: tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Decode a part of an image, `(rows, columns, 3)` uint8.

    Only that part of a JPEG file is decoded, because that is faster. Grey and
    CMYK images become RGB. The contents determine the file format. `choose` is
    a function from the size of the image, `(2,)` int32, to the part, `(4,)`
    int32: first row, first column, rows, columns.
    """

    def jpeg():
        box = choose(tf.io.extract_jpeg_shape(contents)[:2])
        return tf.io.decode_and_crop_jpeg(contents, box, channels=3)

    def other():
        image = folders.decode(contents)
        box = choose(tf.shape(image)[:2])
        return tf.image.crop_to_bounding_box(image, *tf.unstack(box))

    return tf.cond(tf.io.is_jpeg(contents), jpeg, other)


def training_batches(
    source: Source,
    batch_size: int,
    *,
    image_size: int | Sequence[int] = 224,
    steps_per_size: int | None = None,
    box: str = "inception",
    interpolation: str = "bilinear",
    magnitude: float | None = None,
    color: bool = False,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    seed: int = 0,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    unreadable: Unreadable | None = None,
) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
    """Return endless shuffled, augmented batches, each a function of its step.

    Order and epochs are those of `pipeline.training_batches`. Half of the
    images are flipped. An image that cannot be decoded is replaced by the
    next image in the order.

    Args:
        source: `Folder` or `Records`.
        batch_size: Integer.
        image_size: Integer, rows and columns, or a sequence of integers,
            sizes to use one after the other. Defaults to `224`.
        steps_per_size: Integer, steps at each of several sizes. The last size
            stays until the end. Defaults to `None`, for one size.
        box: `"inception"` (default) or `"paper"`: see `inception_box` and
            `paper_box`.
        interpolation: `"bilinear"` (default) or `"bicubic"`, with
            antialiasing.
        magnitude: Number from 0 to 10, see `rand_augment`. Defaults to
            `None`, no RandAugment.
        color: Boolean, whether to shift colours as the paper does: see
            `color_shift`. Defaults to `False`.
        mixup: Float, see `sampling.mixer`. It mixes the images of a shard.
            Defaults to `0`.
        cutmix: Float, as `mixup`.
        seed: Integer, see `pipeline.training_batches`.
        start: Integer, see `pipeline.training_batches`.
        shard: Pair of integers, see `pipeline.training_batches`.
        unreadable: `Unreadable`. Defaults to a new one.

    Returns:
        `tf.data.Dataset` of float32 images, `(batch, rows, columns, 3)` of
        about 0 to 255, and float32 labels, `(batch, classes)`.

    Raises:
        ValueError: If `image_size` and `steps_per_size`, or `batch_size` and
            `shard`, do not fit together.

    Reference: He et al. 2015, section 3.4.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    sizes = np.atleast_1d(np.asarray(image_size, "int32"))
    if (len(sizes) > 1) != (steps_per_size is not None):
        raise ValueError(
            "`steps_per_size` must be given if `image_size` has several sizes, "
            "and only then. Received: "
            f"image_size={image_size}, steps_per_size={steps_per_size}"
        )
    draws = Draws(
        len(source),
        batch_size,
        shard,
        padding=0,
        horizontal_flip=False,
        seed=seed,
    )
    fixed = int(sizes[0]) if len(sizes) == 1 else None
    classes = len(source.class_names)
    seed = tf.constant(seed, tf.int64)

    def elements(step):
        images, places = tf.numpy_function(
            lambda i: (draws.batch(i)[:, 0], np.array(draws.places(i))),
            [step],
            (tf.int32, tf.int64),
            stateful=False,
        )
        which = step // (steps_per_size or 1)
        size = tf.gather(sizes, tf.minimum(which, len(sizes) - 1))
        return (
            tf.ensure_shape(images, (draws.size,)),
            tf.ensure_shape(places, (draws.size,)),
            tf.fill((draws.size,), size),
        )

    def prepare(contents, place, size):
        # Each change of each image has its own seed, because splitting one
        # seed takes a large share of the time for an image.
        seeds = [(seed, place * CHANGES + i) for i in range(CHANGES)]
        for_box, *further = map(tf.stack, seeds)
        image = decode(contents, lambda x: sampling.BOXES[box](x, for_box))
        image = tf.image.resize(
            image, (size, size), interpolation, antialias=True
        )
        if interpolation == "bicubic":
            # Bicubic resizing overshoots the range of a pixel.
            image = tf.clip_by_value(image, 0.0, 255.0)
        return sampling.augmented(image, *further, magnitude, color)

    def following(place, size):
        first = int(place[0]) + 1
        # These places contain at least one whole epoch.
        for i in range(first, first + 2 * len(source)):
            yield draws[i : i + 1][0, 0]
        raise unreadable.none_left()

    spec = tf.TensorSpec((fixed, fixed, 3))
    read = reader(source, prepare, spec, unreadable, following)

    def read_group(*elements):
        images, labels, _ = read(*elements)
        return images, tf.one_hot(labels, classes)

    # All images of a group have one size, so no group spans two steps.
    group = max(n for n in range(1, GROUP + 1) if draws.size % n == 0)
    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    batches = (
        steps.map(elements)
        .unbatch()
        .batch(group, drop_remainder=True)
        .map(read_group, num_parallel_calls=cores())
        .rebatch(draws.size, drop_remainder=True)
        .apply(
            tf.data.experimental.assert_cardinality(
                tf.data.INFINITE_CARDINALITY
            )
        )
    )
    if mixup or cutmix:
        mixer = sampling.mixer(mixup, cutmix)

        def mix(step, batch):
            # No image has this seed, because places are not negative.
            drawn = tf.stack([seed, -1 - step * shard[1] - shard[0]])
            return _mixed(mixer, batch, sizes, drawn)

        batches = tf.data.Dataset.zip(steps, batches).map(
            mix, num_parallel_calls=cores()
        )
    return batches.prefetch(2).with_options(untuned())


def _mixed(
    mixer: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    batch: tuple[tf.Tensor, tf.Tensor],
    sizes: np.ndarray,
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix the images of a batch, whose size is one of `sizes`."""
    images, labels = batch

    # Keras's CutMix must know the size before it runs.
    def mixed_at(size):
        known = tf.ensure_shape(images, (None, size, size, 3))
        return mixer(known, labels, seed)

    different = np.unique(sizes).tolist()
    mixed, shares = tf.switch_case(
        tf.searchsorted(different, tf.shape(images)[1:2])[0],
        [functools.partial(mixed_at, size) for size in different],
    )
    return (
        tf.ensure_shape(mixed, images.shape),
        tf.ensure_shape(shares, labels.shape),
    )


def evaluation_batches(
    source: Source,
    batch_size: int = 128,
    *,
    image_size: int = 224,
    resize: int = 256,
    interpolation: str = "bilinear",
    shard: tuple[int, int] = (0, 1),
    pad_to_multiple_of: int | None = None,
    unreadable: Unreadable | None = None,
) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
    """Return the centres of all images, in order, in batches.

    Each image is resized to a shorter side, with antialiasing, and its centre
    is cut out, as `training.one_crop` does. Images that cannot be decoded are
    left out. The last batch may be smaller.

    Args:
        source: `Folder` or `Records`.
        batch_size: Integer, the largest size of a batch. Defaults to `128`.
        image_size: Integer, rows and columns. Defaults to `224`.
        resize: Integer, the shorter side before the crop. Defaults to `256`.
        interpolation: `"bilinear"` (default) or `"bicubic"`.
        shard: See `pipeline.training_batches`.
        pad_to_multiple_of: Integer, the number of devices. All batches then
            have one size, a multiple of it, and sample weights. The weight is
            0 for empty places and for images that cannot be decoded, which
            add 0 to the loss. Defaults to `None`: the number of shards; whole
            batches are not padded.
        unreadable: `Unreadable`. Defaults to a new one.

    Returns:
        `tf.data.Dataset` of float32 images, `(batch, rows, columns, 3)` of 0
        to 255, and float32 labels, `(batch, classes)`. Padded batches have
        float32 sample weights, too.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    n = len(source)
    classes = len(source.class_names)
    read = _centres(source, image_size, resize, interpolation, unreadable)
    if pad_to_multiple_of is not None or shard != (0, 1):
        numbers, weights, size = lay_out(
            n, batch_size, shard, pad_to_multiple_of
        )

        def weighted(numbers, weights):
            images, labels, readable = read(numbers)
            weights *= tf.cast(readable, tf.float32)
            return images, tf.one_hot(labels, classes), weights

        batches = (
            tf.data.Dataset.from_tensor_slices((numbers, weights))
            .batch(GROUP)
            .map(weighted, num_parallel_calls=cores())
            .rebatch(size, drop_remainder=True)
        )
        count = len(numbers) // size
    else:
        # A small last batch could become empty, because unreadable images are
        # left out, and the loss of an empty batch is NaN.
        size = next(
            b for b in range(batch_size, 0, -1) if n % b == 0 or n % b >= b / 2
        )

        def readable_ones(images, labels, readable):
            images, labels = tf.cond(
                tf.reduce_all(readable),
                lambda: (images, labels),
                lambda: (
                    tf.boolean_mask(images, readable),
                    tf.boolean_mask(labels, readable),
                ),
            )
            # Keras warns of an unknown size.
            images = tf.ensure_shape(images, (None, image_size, image_size, 3))
            return images, tf.one_hot(labels, classes)

        batches = (
            tf.data.Dataset.range(n)
            .batch(GROUP)
            .map(read, num_parallel_calls=cores())
            .rebatch(size)
            .map(readable_ones)
        )
        count = -(-n // size)
    return (
        batches.apply(tf.data.experimental.assert_cardinality(count))
        .prefetch(2)
        .with_options(untuned())
    )


def _centres(
    source: Source,
    image_size: int,
    resize: int,
    interpolation: str,
    unreadable: Unreadable,
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Return a function from indices of images to their centres."""

    def centre(contents):
        image = folders.decode(contents)
        image = resize_shorter_side(image, resize, interpolation)
        return center_crop(image, image_size)

    spec = tf.TensorSpec((image_size, image_size, 3))
    return reader(source, centre, spec, unreadable)


def mean_image(
    source: Source,
    *,
    image_size: int = 224,
    resize: int = 256,
    unreadable: Unreadable | None = None,
    progress: Progress = iter,
) -> np.ndarray:
    """Return the mean of each pixel over the centres of training images.

    It takes at most 10,000 images, evenly spread. This reduces the standard
    error of each pixel to about 0.6.

    Args:
        source: `Folder` or `Records`.
        image_size: Integer, rows and columns. Defaults to `224`.
        resize: Integer, the shorter side before the crop. Defaults to `256`.
        unreadable: `Unreadable`. Defaults to a new one.
        progress: Function that wraps the numbers of the batches, such as
            `tqdm.tqdm`. Defaults to showing nothing.

    Returns:
        `(image_size, image_size, 3)` float32 array.

    Raises:
        TooManyUnreadableError: If too many images cannot be decoded.

    Reference: He et al. 2015, section 3.4.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    chosen = np.linspace(0, len(source) - 1, min(MEAN_IMAGES, len(source)))
    batches = (
        tf.data.Dataset.from_tensor_slices(chosen.astype("int64"))
        .batch(GROUP)
        .map(
            _centres(source, image_size, resize, "bilinear", unreadable),
            num_parallel_calls=cores(),
        )
        .prefetch(2)
        .with_options(untuned())
    )
    total: Any = 0.0
    count = 0
    try:
        each = zip(
            progress(range(len(batches))),
            batches.as_numpy_iterator(),
            strict=True,
        )
        for _, (images, _, readable) in each:
            # Zeros take the place of images that cannot be decoded.
            total = total + images.sum(axis=0, dtype="float64")
            count += readable.sum()
    except tf.errors.OpError:
        if unreadable.error is None:
            raise
        raise unreadable.error from None
    if not count:
        raise unreadable.none_left()
    return (total / count).astype("float32")
