"""Input by tf.data: batches are prepared on the host, beside the training."""

import os

import numpy as np
import tensorflow as tf

from keras_resnet.data import augmentation
from keras_resnet.data.passes import Draws, for_evaluation, pad, part_of


def training_batches(
    split,
    batch_size,
    *,
    mean=None,
    margin=0,
    mirror=False,
    seed=0,
    start=0,
    part=(0, 1),
):
    """Endless shuffled, augmented batches, each a function of its step.

    All images are shuffled anew for each pass; a batch may begin in one pass
    and end in the next, so that every image is seen exactly once a pass and
    none is dropped. Order and augmentation are functions of `seed`, the pass
    and the place in it: a run that starts again at step `start` gets what it
    would have got without the stop.

    Each image is shifted by up to `margin` pixels and mirrored at random. As
    in the paper, what moves in from outside is the mean (see `augment`).

    Args:
        split: `Split` of uint8 images `(n, rows, columns, channels)` and
            integer labels.
        batch_size: Integer.
        mean: `(rows, columns, channels)` array, the mean of each pixel.
            Defaults to zeros.
        margin: Integer, pixels of padding on each side. Defaults to `0`.
        mirror: Boolean, whether half of the images are mirrored.
        seed: Integer, zero or above. Defaults to `0`.
        start: Integer, the first step. Defaults to `0`.
        part: Pair of integers `(i, k)`: only the `i`-th of `k` equal parts of
            each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels.

    Reference: He et al. 2015, section 4.2.
    """
    n, *size, channels = split.images.shape
    if mean is None:
        mean = np.zeros((*size, channels))
    rows, columns = size
    padded = [pad(split.images, margin)]
    if mirror:
        # To mirror a view would take longer than all the rest.
        padded.append(np.ascontiguousarray(padded[0][:, :, ::-1]))
    labels = split.labels.astype("int32")
    corrections = augmentation.corrections(mean, margin)
    draws = Draws(n, margin=margin, mirror=mirror, seed=seed)
    mine = part_of(batch_size, part)
    size_of_part = mine.stop - mine.start

    def prepare(step):
        drawn = draws[step * batch_size : (step + 1) * batch_size][mine]
        numbers = augmentation.number(drawn[:, 1:], margin)
        images = np.empty((size_of_part, *size, channels), "float32")
        # Views and one addition for each image are several times as fast as
        # a gather of all pixels.
        for image, (i, row, column, mirrored), number in zip(
            images, drawn.tolist(), numbers.tolist(), strict=True
        ):
            if mirrored:
                column = 2 * margin - column
            view = padded[mirrored][
                i, row : row + rows, column : column + columns
            ]
            np.add(view, corrections[number], out=image)
        return images, labels[drawn[:, 0]]

    def batch(step):
        images, labels = tf.numpy_function(
            prepare, [step], (tf.float32, tf.int32), stateful=False
        )
        return (
            tf.ensure_shape(images, (size_of_part, *size, channels)),
            tf.ensure_shape(labels, (size_of_part,)),
        )

    return (
        tf.data.Dataset.range(start, np.iinfo(np.int64).max)
        .map(batch, num_parallel_calls=cores())
        .prefetch(2)
        .with_options(untuned())
    )


def evaluation_batches(split, batch_size=500, *, part=(0, 1), divisor=None):
    """All images once, in order, as they are; the last batch may be smaller.

    Args:
        split: `Split` of uint8 images and integer labels.
        batch_size: Integer. Defaults to `500`.
        part: Pair of integers `(i, k)`: only the `i`-th of `k` equal parts of
            each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.
        divisor: Integer, the number of devices: batches are then all of one
            size, about `batch_size`, which divides by it. If that leaves
            places empty, there are sample weights too, with which the loss
            and weighted metrics are those of the images. Defaults to `None`:
            the number of parts; whole batches stay as they are.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels, and
        float32 sample weights where places are empty.
    """

    def as_float(images, labels, *weights):
        return tf.cast(images, tf.float32), tf.cast(labels, tf.int32), *weights

    arrays, batch_size = for_evaluation(split, batch_size, part, divisor)
    return (
        tf.data.Dataset.from_tensor_slices(tuple(arrays))
        .batch(batch_size)
        .map(as_float, num_parallel_calls=cores())
        .prefetch(2)
        .with_options(untuned())
    )


def cores():
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def untuned():
    """Return the options of a dataset that tf.data does not tune as it runs.

    A tuned dataset ends together with its tuning thread, which sleeps twice as
    long each time: a run would end up to a minute late.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
