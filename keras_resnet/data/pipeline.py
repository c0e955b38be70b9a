"""Input by tf.data: the host prepares batches while the device trains."""

import os

import numpy as np
import tensorflow as tf

from keras_resnet.data.augmentation import corrections, pad, window_index
from keras_resnet.data.datasets import Split
from keras_resnet.data.order import Draws, evaluation_arrays


def training_batches(
    split: Split,
    batch_size: int,
    *,
    mean: np.ndarray | None = None,
    padding: int = 0,
    horizontal_flip: bool = False,
    seed: int = 0,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
    """Return endless shuffled, augmented batches, each a function of its step.

    Each epoch shuffles all images anew. A batch may begin in one epoch and
    end in the next, so that every image is seen exactly once an epoch and
    none is dropped. Order and augmentation are functions of `seed`, the epoch
    and the place in it: a run that resumes at step `start` gets the same
    batches as a run without a stop.

    Each image is shifted by up to `padding` pixels and flipped at random. As
    in the paper, padding has the mean's colours (see `corrections`).

    Args:
        split: `Split` of uint8 images `(n, rows, columns, channels)` and
            integer labels.
        batch_size: Integer.
        mean: `(rows, columns, channels)` array, the mean of each pixel.
            Defaults to zeros.
        padding: Integer, pixels of padding on each side. Defaults to `0`.
        horizontal_flip: Boolean, whether half of the images are flipped.
            Defaults to `False`.
        seed: Integer, zero or above. Defaults to `0`.
        start: Integer, the first step. Defaults to `0`.
        shard: Pair of integers `(i, k)`: only the `i`-th of `k` equal shards
            of each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels.

    Reference: He et al. 2015, section 4.2.
    """
    n, *size, channels = split.images.shape
    if mean is None:
        mean = np.zeros((*size, channels))
    rows, columns = size
    padded = [pad(split.images, padding)]
    if horizontal_flip:
        # Flipping views one by one would take longer than all the rest.
        padded.append(np.ascontiguousarray(padded[0][:, :, ::-1]))
    labels = split.labels.astype("int32")
    added = corrections(mean, padding)
    draws = Draws(
        n,
        batch_size,
        shard,
        padding=padding,
        horizontal_flip=horizontal_flip,
        seed=seed,
    )

    def prepare(step):
        drawn = draws.batch(step)
        indices = window_index(drawn[:, 1:], padding)
        images = np.empty((draws.size, *size, channels), "float32")
        # A view and one addition for each image are several times as fast as
        # a gather of all pixels.
        for image, (i, row, column, flipped), index in zip(
            images, drawn.tolist(), indices.tolist(), strict=True
        ):
            if flipped:
                column = 2 * padding - column
            view = padded[flipped][
                i, row : row + rows, column : column + columns
            ]
            np.add(view, added[index], out=image)
        return images, labels[drawn[:, 0]]

    def batch(step):
        images, labels = tf.numpy_function(
            prepare, [step], (tf.float32, tf.int32), stateful=False
        )
        return (
            tf.ensure_shape(images, (draws.size, *size, channels)),
            tf.ensure_shape(labels, (draws.size,)),
        )

    return (
        tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        .map(batch, num_parallel_calls=cores())
        .prefetch(2)
        .with_options(untuned())
    )


def evaluation_batches(
    split: Split,
    batch_size: int = 500,
    *,
    shard: tuple[int, int] = (0, 1),
    pad_to_multiple_of: int | None = None,
) -> "tf.data.Dataset[tuple[tf.Tensor, ...]]":
    """Return all images once, in order; the last batch may be smaller.

    Args:
        split: `Split` of uint8 images and integer labels.
        batch_size: Integer. Defaults to `500`.
        shard: See `training_batches`.
        pad_to_multiple_of: Integer, the number of devices. All batches then
            have one size, a multiple of it near `batch_size`. If that leaves
            places empty, sample weights make the loss and weighted metrics
            those of the images alone. Defaults to `None`: the number of
            shards; whole batches are not padded.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels, and
        float32 sample weights if places are empty.
    """

    def as_float(images, *others):
        return tf.cast(images, tf.float32), *others

    arrays, batch_size = evaluation_arrays(
        split, batch_size, shard, pad_to_multiple_of
    )
    return (
        tf.data.Dataset.from_tensor_slices(tuple(arrays))
        .batch(batch_size)
        .map(as_float, num_parallel_calls=cores())
        .prefetch(2)
        .with_options(untuned())
    )


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def untuned() -> tf.data.Options:
    """Return the options of a dataset that is not tuned while it runs.

    A tuned dataset ends only when its tuning thread wakes up. The thread
    sleeps twice as long each time, so the end of a run would be delayed.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
