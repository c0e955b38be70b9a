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


def part_of(batch_size, part):
    """Returns which images of each batch are in one of its equal parts.

    Args:
        batch_size: Integer, images of a whole batch.
        part: Pair of integers: which part, from 0, and how many there are.

    Returns:
        A slice.

    Raises:
        ValueError: If the parts would not be equal.
    """
    index, count = part
    if not 0 <= index < count or batch_size % count:
        raise ValueError(
            "`part` must be a part from 0 and the number of parts, which "
            f"divides `batch_size`. Received: part={part}, "
            f"batch_size={batch_size}"
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def for_evaluation(split, batch_size, part, divisor):
    """Lays out all images of a split in batches, for one or more devices.

    Args:
        split: `Split`.
        batch_size: Integer, images of a batch, about.
        part: See `part_of`.
        divisor: See `laid_out`. `None` is the number of parts, and no layout
            at all for one part.

    Returns:
        Tuple of a list of arrays (the images, the labels, and float32 weights
        if there are empty places) and the entries of a batch of them.
    """
    arrays = [split.images, split.labels]
    if divisor is None and part == (0, 1):
        return arrays, batch_size
    places, weights, entries = laid_out(len(split), batch_size, part, divisor)
    arrays = [array[places] for array in arrays]
    return [*arrays, weights] if (weights != 1).any() else arrays, entries


def laid_out(n, batch_size, part, divisor):
    """Lays out images by number in batches of equal size, for some devices.

    Devices take parts of equal size of each batch, so some places at the end
    may have to stay empty. Means over a batch count every place; with the
    weights all images together count as much as all places, so that loss and
    weighted metrics are those of the images.

    Args:
        n: Integer, number of images.
        batch_size: Integer, images of a batch, about.
        part: See `part_of`.
        divisor: Integer, what the size of each batch must divide by. `None`
            is the number of parts.

    Returns:
        Tuple of the image for each place of this part, any for an empty one;
        float32 weights, 0 for an empty one; and the places of a batch.
    """
    divisor = divisor or part[1]
    batches = -(-n // batch_size)
    size = -(-n // (batches * divisor)) * divisor
    mine = part_of(size, part)
    places = np.arange(batches * size).reshape(batches, size)[:, mine].ravel()
    empty = places >= n
    weights = np.where(empty, 0, batches * size / n).astype("float32")
    return np.where(empty, 0, places), weights, mine.stop - mine.start


def pad(images, margin):
    """Returns images `(n, rows, columns, channels)` with zeros around them."""
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
