"""The paper's augmentation, for a whole batch at once, as pure functions."""

from keras import ops


def random_windows(n, margin, mirror, rng):
    """Draws where to crop each of `n` images, and which to mirror.

    Args:
        n: Integer, number of images.
        margin: Integer, pixels of padding on each side. Every shift from
            `-margin` to `margin` rows and columns is equally likely.
        mirror: Boolean, whether half of the images are mirrored.
        rng: `numpy.random.Generator`.

    Returns:
        `(n, 3)` int32 array: first row and first column of each window in the
        padded image, and one where the window is mirrored.

    Reference: He et al. 2015, section 4.2.
    """
    high = [2 * margin + 1, 2 * margin + 1, 2 if mirror else 1]
    return rng.integers(0, high, (n, 3), "int32")


def crop_and_mirror(padded, windows, size, xp=ops):
    """Cuts one window out of each image, and mirrors some from left to right.

    Args:
        padded: `(batch, rows, columns, channels)` tensor of padded images,
            or of one image, `(1, ...)`, from which all windows are cut.
        windows: `(batch, 3)` int32 tensor, as `random_windows` draws them.
        size: Pair of integers, rows and columns of a window.
        xp: Module with the functions `arange`, `reshape`, `shape`, `take` and
            `where`. Defaults to `keras.ops`.

    Returns:
        `(batch, *size, channels)` tensor of the dtype of `padded`.
    """
    rows, columns = size
    height, width, channels = padded.shape[1:]
    row = windows[:, 0, None] + xp.arange(rows, dtype="int32")
    column = xp.arange(columns, dtype="int32")
    column = xp.where(windows[:, 2, None] == 1, columns - 1 - column, column)
    column = column + windows[:, 1, None]
    pixel = row[:, :, None] * width + column[:, None, :]
    if padded.shape[0] != 1:
        image = xp.arange(xp.shape(windows)[0], dtype="int32")
        pixel = pixel + image[:, None, None] * (height * width)
    # One gather of pixels is several times as fast as a crop for each image.
    return xp.take(xp.reshape(padded, (-1, channels)), pixel, axis=0)


def augment(images, mean, padded_mean, windows, xp=ops):
    """Shifts and mirrors images around their mean.

    As in the paper the mean is subtracted first, so that what moves in from
    outside is the mean, not black. It is then added back: the model, which
    takes raw pixels, subtracts it once more.

    Args:
        images: `(batch, rows, columns, channels)` uint8 tensor of images with
            zeros around them.
        mean: `(rows, columns, channels)` float32 tensor, without padding.
        padded_mean: `(1, rows, columns, channels)` float32 tensor.
        windows: `(batch, 3)` int32 tensor, as `random_windows` draws them.
        xp: As in `crop_and_mirror`, with `cast` too.

    Returns:
        `(batch, rows, columns, channels)` float32 tensor, without padding.

    Reference: He et al. 2015, section 4.2.
    """
    size = mean.shape[:2]
    cut = xp.cast(crop_and_mirror(images, windows, size, xp), "float32")
    return cut + (mean - crop_and_mirror(padded_mean, windows, size, xp))
