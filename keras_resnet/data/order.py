"""The order of images in training and in evaluation.

NumPy draws the training order from seed and step alone, so that every input
and every backend gets the same batches.
"""

import functools
from typing import Any

import numpy as np

from keras_resnet.data.augmentation import random_windows
from keras_resnet.data.datasets import Split


def draw_epoch(
    n: int, epoch: int, *, padding: int, horizontal_flip: bool, seed: int
) -> np.ndarray:
    """Draw order and augmentation of one epoch of `n` images.

    It returns an `(n, 4)` int32 array. A row has the index of an image and its
    window (see `random_windows`). Every image occurs once.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(n).astype("int32")
    windows = random_windows(n, padding, horizontal_flip, rng)
    return np.column_stack([order, windows])


class Draws:
    """The endless sequence of epochs over a training set, and its batches.

    Args:
        n: Integer, images of the training set.
        batch_size: Integer, images of a whole batch.
        shard: Pair `(i, k)`: the `i`-th of `k` equal shards of each batch.
        **kwargs: See `draw_epoch`.

    Attributes:
        size: Integer, images of this shard of a batch.

    Raises:
        ValueError: If the shards would not be of equal size.
    """

    def __init__(
        self, n: int, batch_size: int, shard: tuple[int, int], **kwargs: Any
    ) -> None:
        self.n = n
        self.batch_size = batch_size
        mine = shard_slice(batch_size, shard)
        self.size: int = mine.stop - mine.start
        self._offset = mine.start
        # Two epochs, because a slice may begin in one and end in the next.
        self._draw = functools.lru_cache(maxsize=2)(
            functools.partial(draw_epoch, n, **kwargs)
        )

    def places(self, step: int) -> range:
        """Return the places of a step's batch in the sequence."""
        first = step * self.batch_size + self._offset
        return range(first, first + self.size)

    def batch(self, step: int) -> np.ndarray:
        """Return the draws of a step's batch, `(size, 4)` int32."""
        places = self.places(step)
        return self[places.start : places.stop]

    def __getitem__(self, places: slice) -> np.ndarray:
        """Return a slice of the sequence, `(places, 4)` int32."""
        first, last = places.start, places.stop - 1
        pieces = []
        for epoch in range(first // self.n, last // self.n + 1):
            begin = epoch * self.n
            pieces.append(
                self._draw(epoch)[max(first - begin, 0) : last - begin + 1]
            )
        return np.concatenate(pieces)


def shard_slice(batch_size: int, shard: tuple[int, int]) -> slice:
    """Return the slice of each batch that belongs to the i-th of k shards.

    Raises:
        ValueError: If the shards would not be of equal size.
    """
    index, count = shard
    if not 0 <= index < count or batch_size % count:
        raise ValueError(
            "`shard` must be an index from 0 and the number of shards, which "
            f"divides `batch_size`. Received: shard={shard}, "
            f"batch_size={batch_size}"
        )
    size = batch_size // count
    return slice(index * size, (index + 1) * size)


def evaluation_arrays(
    split: Split,
    batch_size: int,
    shard: tuple[int, int],
    pad_to_multiple_of: int | None,
) -> tuple[list[np.ndarray], int]:
    """Lay out all images of a split in batches, for one or more devices.

    Returns:
        Tuple of a list of arrays (images, int32 labels, and float32 weights if
        there are empty places) and the number of places in a batch. Whole
        batches without `pad_to_multiple_of` stay as they are.
    """
    arrays = [split.images, split.labels.astype("int32")]
    if pad_to_multiple_of is None and shard == (0, 1):
        return arrays, batch_size
    images, weights, places = lay_out(
        len(split), batch_size, shard, pad_to_multiple_of
    )
    arrays = [array[images] for array in arrays]
    return [*arrays, weights] if (weights != 1).any() else arrays, places


def lay_out(
    n: int,
    batch_size: int,
    shard: tuple[int, int],
    pad_to_multiple_of: int | None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Lay out the indices of `n` images in equal batches, for some devices.

    Each device takes an equal share of each batch, so some places at the end
    may stay empty. A mean over a batch counts every place. The weights of all
    images therefore sum to the number of places, so that loss and weighted
    metrics are those of the images.

    Args: see `pipeline.evaluation_batches`.

    Returns:
        Tuple of the index of the image in each place of this shard, 0 in an
        empty place; float32 weights, 0 for an empty place; and the number of
        places in a batch.
    """
    multiple = pad_to_multiple_of or shard[1]
    batches = -(-n // batch_size)
    size = -(-n // (batches * multiple)) * multiple
    mine = shard_slice(size, shard)
    places = np.arange(batches * size).reshape(batches, size)[:, mine].ravel()
    empty = places >= n
    weights = np.where(empty, 0, batches * size / n).astype("float32")
    return np.where(empty, 0, places), weights, mine.stop - mine.start
