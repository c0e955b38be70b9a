"""The paper's augmentation, for a whole batch at once, as pure functions."""

import tensorflow as tf


def random_windows(batch_size, margin, mirror, seed):
    """Draws where to crop each image of a batch, and which to mirror.

    Args:
        batch_size: Integer, number of images.
        margin: Integer, pixels of padding on each side. Every shift from
            `-margin` to `margin` rows and columns is equally likely.
        mirror: Boolean, whether half of the images are mirrored.
        seed: Pair of integers. The same seed draws the same windows.

    Returns:
        Tuple of `offsets`, `(batch_size, 2)` int32: first row and column of
        each window in the padded image; and `mirrored`, `(batch_size,)`
        booleans.

    Reference: He et al. 2015, section 4.2.
    """
    draws = tf.random.stateless_uniform((batch_size, 3), seed)
    offsets = tf.cast(draws[:, :2] * float(2 * margin + 1), tf.int32)
    mirrored = tf.logical_and(draws[:, 2] < 0.5, mirror)
    return offsets, mirrored


def crop_and_mirror(padded, offsets, mirrored, size):
    """Cuts one window out of each image, and mirrors some from left to right.

    Args:
        padded: `(batch, rows, columns, channels)` tensor of padded images,
            or of one image, `(1, ...)`, from which all windows are cut.
        offsets: `(batch, 2)` int32, first row and column of each window.
        mirrored: `(batch,)` booleans.
        size: Pair of integers, rows and columns of a window.

    Returns:
        `(batch, *size, channels)` tensor of the dtype of `padded`.
    """
    rows, columns = size
    height, width, channels = padded.shape[1:]
    row = offsets[:, 0, None] + tf.range(rows)
    column = tf.range(columns)
    column = tf.where(mirrored[:, None], columns - 1 - column, column)
    column += offsets[:, 1, None]
    if padded.shape[0] == 1:
        first = tf.zeros_like(offsets[:, 0])
    else:
        first = tf.range(tf.shape(padded)[0]) * (height * width)
    # One gather of pixels is several times as fast as a crop for each image.
    pixel = first[:, None, None] + row[:, :, None] * width
    pixel += column[:, None, :]
    return tf.gather(tf.reshape(padded, (-1, channels)), pixel)
