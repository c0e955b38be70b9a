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


def pad(images, margin):
    """Returns images `(n, rows, columns, channels)` with zeros around them."""
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
