"""tf.data pipelines over images that fit in memory."""

import numpy as np
import tensorflow as tf

from keras_resnet.data.augmentation import crop_and_mirror, random_windows


def training_batches(
    split, batch_size, *, mean=None, margin=0, mirror=False, seed=0, start=0
):
    """Endless shuffled, augmented batches, each a function of its step.

    All images are shuffled anew for each pass; a batch may begin in one pass
    and end in the next, so that every image is seen exactly once a pass and
    none is dropped. The order is a function of `seed` and the pass, the
    augmentation one of `seed` and the step. A run that starts again at step
    `start` therefore gets what it would have got without the stop.

    Each image is shifted by up to `margin` pixels and mirrored at random. As
    in the paper the mean is subtracted before that, so that what moves in
    from outside is the mean, not black. The mean is then added back: the
    model, which takes raw pixels, subtracts it once more.

    Args:
        split: `Split` of uint8 images `(n, rows, columns, channels)` and
            integer labels.
        batch_size: Integer.
        mean: `(rows, columns, channels)` array, the mean of each pixel.
            Defaults to zeros.
        margin: Integer, pixels of padding on each side. Defaults to `0`.
        mirror: Boolean, whether half of the images are mirrored.
        seed: Integer. Defaults to `0`.
        start: Integer, the first step. Defaults to `0`.

    Returns:
        `tf.data.Dataset` of float32 images in [0, 255] and int32 labels.

    Reference: He et al. 2015, section 4.2.
    """
    n, *size, _ = split.images.shape
    if mean is None:
        mean = np.zeros(split.images.shape[1:])
    border = ((margin, margin), (margin, margin), (0, 0))
    mean = tf.constant(mean, tf.float32)
    padded_mean = tf.pad(mean, border)[None]
    with tf.device("CPU"):
        images = tf.constant(np.pad(split.images, ((0, 0), *border)))
        labels = tf.constant(split.labels, tf.int32)

    first_pass, offset = divmod(start * batch_size, n)

    def shuffled(number):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(n), seed=tf.stack([seed, number])
        )
        return order[tf.where(number == first_pass, offset, 0) :]

    def augmented(step, indices):
        batch = tf.gather(images, indices)
        windows = random_windows(
            batch_size, margin, mirror, seed=tf.stack([~seed, step])
        )
        batch = tf.cast(crop_and_mirror(batch, *windows, size), tf.float32)
        batch += mean - crop_and_mirror(padded_mean, *windows, size)
        return batch, tf.gather(labels, indices)

    return (
        tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
        .map(shuffled)
        .rebatch(batch_size)
        .enumerate(start)
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
