"""The paper's augmentation: random windows of padded images, mirrored or not.

A window is three integers: its first row and column in the padded image, and
one if it is mirrored from left to right, else zero.
"""

import itertools

import numpy as np
from keras import ops


def random_windows(n, margin, mirror, rng):
    """Draws a window for each of `n` images.

    Args:
        n: Integer, number of images.
        margin: Integer, pixels of padding on each side. Every shift from
            `-margin` to `margin` rows and columns is equally likely.
        mirror: Boolean, whether half of the windows are mirrored.
        rng: `numpy.random.Generator`.

    Returns:
        `(n, 3)` int32 array.

    Reference: He et al. 2015, section 4.2.
    """
    high = [2 * margin + 1, 2 * margin + 1, 2 if mirror else 1]
    return rng.integers(0, high, (n, 3), "int32")


def cut(padded, window, size):
    """Cuts a window out of an image, on the host.

    Args:
        padded: `(rows, columns, channels)` array, a padded image.
        window: Three integers.
        size: Pair of integers, rows and columns of the window.

    Returns:
        `(*size, channels)` array, a view of the image.
    """
    (row, column, mirrored), (rows, columns) = window, size
    found = padded[row : row + rows, column : column + columns]
    return found[:, ::-1] if mirrored else found


def cut_on_device(padded, windows, size):
    """Cuts a window out of each image of a batch, for tensors of the backend.

    Args:
        padded: `(batch, rows, columns, channels)` tensor of padded images.
        windows: `(batch, 3)` int32 tensor.
        size: Pair of integers, rows and columns of a window.

    Returns:
        `(batch, *size, channels)` tensor of the dtype of `padded`.
    """
    rows, columns = size
    batch, height, width, channels = padded.shape
    row = windows[:, 0, None] + ops.arange(rows, dtype="int32")
    column = ops.arange(columns, dtype="int32")
    column = ops.where(windows[:, 2, None] == 1, columns - 1 - column, column)
    column = column + windows[:, 1, None]
    image = ops.arange(batch, dtype="int32")[:, None] * height
    pixel = (image + row)[:, :, None] * width + column[:, None, :]
    return ops.take(ops.reshape(padded, (-1, channels)), pixel, axis=0)


def corrections(mean, margin):
    """Returns what every window needs so that the mean moves in, not black.

    In the paper the mean is subtracted before an image is padded by zeros and
    cut. The networks here take raw pixels and subtract the mean themselves,
    which of a shifted image is the wrong one. A window of zeros around raw
    pixels plus its correction is what makes up for both.

    Args:
        mean: `(rows, columns, channels)` array, the mean of each pixel.
        margin: Integer, pixels of padding on each side.

    Returns:
        `(windows, rows, columns, channels)` float32 array: all windows in the
        order of `number`.

    Reference: He et al. 2015, section 4.2.
    """
    mean = np.asarray(mean, "float32")
    shifts = range(2 * margin + 1)
    padded = np.pad(mean, ((margin, margin), (margin, margin), (0, 0)))
    return np.stack(
        [
            mean - cut(padded, window, mean.shape[:2])
            for window in itertools.product(shifts, shifts, range(2))
        ]
    )


def number(windows, margin):
    """Returns the places of windows among all windows, `(batch,)`."""
    shifts = 2 * margin + 1
    return (windows[:, 0] * shifts + windows[:, 1]) * 2 + windows[:, 2]
