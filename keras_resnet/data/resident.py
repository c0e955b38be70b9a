"""Input that stays on the device: images go there once, before training.

Once an epoch the host sends the images' indices and windows of all batches. The
device counts the steps and cuts the batches, so that a step sends nothing. This
is for PyTorch and JAX, because TensorFlow's `fit` reads only tf.data.
"""

import itertools
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_resnet.backend import compiled, to_device
from keras_resnet.data.augmentation import (
    corrections,
    cut_on_device,
    pad,
    window_index,
)
from keras_resnet.data.datasets import Split
from keras_resnet.data.order import Draws, evaluation_arrays
from keras_resnet.types import Tensor


def training_batches(
    split: Split,
    batch_size: int,
    *,
    mean: np.ndarray | None = None,
    padding: int = 0,
    horizontal_flip: bool = False,
    seed: int = 0,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the batches of `pipeline.training_batches`, bit for bit.

    Args: see `pipeline.training_batches`.

    Returns:
        Endless generator of float32 images in [0, 255] and int32 labels.

    Raises:
        RuntimeError: On TensorFlow.
    """
    _check_backend()
    if mean is None:
        mean = np.zeros(split.images.shape[1:])
    tensors = [
        ops.convert_to_tensor(array)
        for array in (
            pad(split.images, padding),
            split.labels.astype("int32"),
            corrections(mean, padding),
        )
    ]
    draws = Draws(
        len(split),
        batch_size,
        shard,
        padding=padding,
        horizontal_flip=horizontal_flip,
        seed=seed,
    )

    def draw(step):
        drawn = draws.batch(step)
        return np.column_stack([drawn, window_index(drawn[:, 1:], padding)])

    at_a_time = max(1, len(split) // batch_size)
    # A generator, because a resumed training ends an epoch by a callback. After
    # that Keras begins no other epoch of a `PyDataset`.
    return (
        batch
        for first in itertools.count(start, at_a_time)
        for batch in _cut(
            tensors,
            np.stack([draw(first + i) for i in range(at_a_time)]),
        )
    )


def _cut(
    tensors: list[Tensor], drawn: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of several steps, after one transfer to the device."""
    steps = len(drawn)
    drawn, place = (
        to_device(array, tensors[0]) for array in (drawn, np.zeros(1, "int32"))
    )
    for _ in range(steps):
        images, labels, place = _augmented(*tensors, drawn, place)
        yield images, labels


def evaluation_batches(
    split: Split,
    batch_size: int = 500,
    *,
    shard: tuple[int, int] = (0, 1),
    pad_to_multiple_of: int | None = None,
) -> keras.utils.PyDataset:
    """Return the batches of `pipeline.evaluation_batches`.

    Args: see `pipeline.evaluation_batches`.

    Returns:
        `keras.utils.PyDataset` of float32 images in [0, 255] and int32 labels,
        and float32 sample weights if places are empty.

    Raises:
        RuntimeError: On TensorFlow.
    """
    _check_backend()
    arrays, size = evaluation_arrays(
        split, batch_size, shard, pad_to_multiple_of
    )
    batches = [
        [ops.convert_to_tensor(array[i : i + size]) for array in arrays]
        for i in range(0, len(arrays[0]), size)
    ]

    def batch(index):
        images, *others = batches[index]
        return ops.cast(images, "float32"), *others

    return _Batches(batch, len(batches))


def _check_backend():
    if keras.backend.backend() == "tensorflow":
        raise RuntimeError(
            "TensorFlow's `fit` reads only tf.data: use the functions of "
            "`keras_resnet.data.pipeline`, or another backend"
        )


class _Batches(keras.utils.PyDataset):
    """Batches by a function of their index."""

    def __init__(self, batch: Callable[[int], tuple], num_batches: int) -> None:
        super().__init__()
        self._batch = batch
        self._num_batches = num_batches

    @property
    def num_batches(self) -> int:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._batch(index)


@compiled
def _augmented(
    images: Tensor, labels: Tensor, added: Tensor, drawn: Tensor, place: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch, and the place of the next one."""
    # PyTorch would read a place without an axis, and wait for the GPU.
    drawn = drawn[place][0]
    image, windows, window = drawn[:, 0], drawn[:, 1:4], drawn[:, 4]
    images = cut_on_device(
        ops.take(images, image, axis=0), windows, added.shape[1:3]
    )
    return (
        ops.cast(images, "float32") + ops.take(added, window, axis=0),
        labels[image],
        place + 1,
    )
