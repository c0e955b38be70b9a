"""Input by tf.data: batches are prepared on the host, beside the training."""

import functools

import numpy as np
import tensorflow as tf

from keras_resnet.data import augmentation
from keras_resnet.data.passes import draw_pass, pad


def training_batches(
    split, batch_size, *, mean=None, margin=0, mirror=False, seed=0, start=0
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

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels.

    Reference: He et al. 2015, section 4.2.
    """
    n, *size, channels = split.images.shape
    if mean is None:
        mean = np.zeros((*size, channels))
    padded = pad(split.images, margin)
    with tf.device("CPU"):
        corrections = tf.constant(augmentation.corrections(mean, margin))
        labels = tf.constant(split.labels, tf.int32)
    draw = functools.partial(
        draw_pass, n, margin=margin, mirror=mirror, seed=seed
    )
    first_pass, offset = divmod(start * batch_size, n)

    def drawn(number):
        whole = tf.numpy_function(draw, [number], tf.int32, stateful=False)
        whole = tf.ensure_shape(whole, (n, 4))
        return whole[tf.where(number == first_pass, offset, 0) :]

    def cut(drawn):
        images = (padded[i] for i in drawn[:, 0])
        return augmentation.cut(images, drawn[:, 1:], size)

    def augmented(drawn):
        images = tf.numpy_function(cut, [drawn], tf.uint8, stateful=False)
        images = tf.ensure_shape(images, (batch_size, *size, channels))
        number = augmentation.number(drawn[:, 1:], margin)
        return (
            tf.cast(images, tf.float32) + tf.gather(corrections, number),
            tf.gather(labels, drawn[:, 0]),
        )

    return (
        tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
        .map(drawn)
        .prefetch(1)
        .rebatch(batch_size)
        .map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_batches(split, batch_size=500):
    """All images once, in order, as they are; the last batch may be smaller.

    Args:
        split: `Split` of uint8 images and integer labels.
        batch_size: Integer. Defaults to `500`.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels.
    """

    def as_float(images, labels):
        return tf.cast(images, tf.float32), tf.cast(labels, tf.int32)

    return (
        tf.data.Dataset.from_tensor_slices((split.images, split.labels))
        .batch(batch_size)
        .map(as_float, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
