"""The order and the augmentation of a training, by seed and step alone.

Drawn by NumPy, so that every input and every backend gets the same batches.
"""

import numpy as np

from keras_resnet.data.augmentation import random_windows


def draw_pass(n, number, *, margin, mirror, seed):
    """Draws one pass over a training set.

    Args:
        n: Integer, images of the training set.
        number: Integer, which pass, from 0.
        margin: Integer, pixels of padding on each side.
        mirror: Boolean, whether half of the images are mirrored.
        seed: Integer, zero or above.

    Returns:
        `(n, 4)` int32 array: for each place in the pass the index of an
        image, every image once, and its window (see `random_windows`).
    """
    rng = np.random.default_rng((seed, number))
    order = rng.permutation(n).astype("int32")
    return np.column_stack([order, random_windows(n, margin, mirror, rng)])


def pad(split, mean, margin):
    """Returns what an input keeps in memory.

    Args:
        split: `Split` of `n` images.
        mean: `(rows, columns, channels)` array or `None`, zeros.
        margin: Integer, pixels of padding on each side.

    Returns:
        Tuple of arrays: images with zeros around them, labels (int32), mean
        and `(1, rows, columns, channels)` mean with zeros around it (float32).
    """
    if mean is None:
        mean = np.zeros(split.images.shape[1:])
    mean = np.asarray(mean, "float32")
    border = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    return (
        np.pad(split.images, border),
        split.labels.astype("int32"),
        mean,
        np.pad(mean[None], border),
    )
