"""The order and the augmentation of a training, by seed and step alone.

Drawn by NumPy, so that every input and every backend gets the same batches.
"""

import functools

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


class Draws:
    """The endless sequence of passes over a training set.

    Args:
        n: Integer, images of the training set.
        **kwargs: See `draw_pass`.
    """

    def __init__(self, n, **kwargs):
        self.n = n
        # What is asked for may begin in one pass and end in the next.
        self._draw = functools.lru_cache(maxsize=2)(
            functools.partial(draw_pass, n, **kwargs)
        )

    def __getitem__(self, places):
        """Returns a slice of the sequence, `(places, 4)` int32."""
        first, last = places.start, places.stop - 1
        parts = []
        for number in range(first // self.n, last // self.n + 1):
            begin = number * self.n
            parts.append(
                self._draw(number)[max(first - begin, 0) : last - begin + 1]
            )
        return np.concatenate(parts)


def pad(images, margin):
    """Returns images `(n, rows, columns, channels)` with zeros around them."""
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
