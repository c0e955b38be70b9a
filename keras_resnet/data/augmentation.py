"""The paper's augmentation: random windows of padded images, flipped or not.

A window is three integers: its first row and column in the padded image, and
1 if it is flipped horizontally, else 0.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from keras import ops

from keras_resnet.types import Tensor


def random_windows(
    n: int, padding: int, horizontal_flip: bool, rng: np.random.Generator
) -> np.ndarray:
    """Draw the windows of `n` images, `(n, 3)` int32.

    Every shift from `-padding` to `padding` rows and columns is equally
    likely. With `horizontal_flip` half of the windows are flipped.

    Reference: He et al. 2015, section 4.2.
    """
    shifts = 2 * padding + 1
    high = [shifts, shifts, 2 if horizontal_flip else 1]
    return rng.integers(0, high, (n, 3), "int32")


def pad(images: np.ndarray, padding: int) -> np.ndarray:
    """Return images `(n, rows, columns, channels)` with zeros around them."""
    border = (padding, padding)
    return np.pad(images, ((0, 0), border, border, (0, 0)))


def cut(
    padded: np.ndarray, window: Sequence[int], size: Sequence[int]
) -> np.ndarray:
    """Return a window of an image, a view of `size` rows and columns."""
    (row, column, flipped), (rows, columns) = window, size
    image = padded[row : row + rows, column : column + columns]
    return image[:, ::-1] if flipped else image


def cut_on_device(
    padded: Tensor, windows: Tensor, size: Sequence[int]
) -> Tensor:
    """Cut a window out of each image of a batch, for tensors of the backend.

    `padded` is `(batch, rows, columns, channels)`, `windows` is `(batch, 3)`
    int32, and `size` is the rows and columns of a window.
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


def corrections(mean: np.ndarray, padding: int) -> np.ndarray:
    """Return the correction of each window of a raw padded image.

    The paper subtracts the mean before it pads; our models subtract it after.
    Adding this correction to a window of raw pixels makes the two equal: its
    padding then has the mean's colours instead of black.

    Args:
        mean: `(rows, columns, channels)` array, the mean of each pixel.
        padding: Integer, pixels of padding on each side.

    Returns:
        `(windows, rows, columns, channels)` float32 array, in the order of
        `window_index`.

    Reference: He et al. 2015, section 4.2.
    """
    mean = np.asarray(mean, "float32")
    shifts = range(2 * padding + 1)
    (padded,) = pad(mean[None], padding)
    return np.stack(
        [
            mean - cut(padded, window, mean.shape[:2])
            for window in itertools.product(shifts, shifts, range(2))
        ]
    )


def window_index(windows: np.ndarray, padding: int) -> np.ndarray:
    """Return the index of each window among all windows, `(batch,)`."""
    shifts = 2 * padding + 1
    return (windows[:, 0] * shifts + windows[:, 1]) * 2 + windows[:, 2]
