"""Input that stays on the device: images go there once, before training.

At each step the host sends only the numbers of the images and their windows,
and the device cuts the batch. For PyTorch and JAX, because TensorFlow's `fit`
reads only tf.data.
"""

from collections.abc import Callable

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
) -> keras.utils.PyDataset:
    """Return the batches of `pipeline.training_batches`, bit for bit.

    Args: see `pipeline.training_batches`.

    Returns:
        `keras.utils.PyDataset` of float32 images in [0, 255] and int32 labels.

    Raises:
        RuntimeError: On TensorFlow.
    """
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

    def batch(index):
        drawn = draws.batch(start + index)
        indices = window_index(drawn[:, 1:], padding)
        drawn = to_device(np.column_stack([drawn, indices]), tensors[0])
        return _augmented(*tensors, drawn)

    return _Batches(batch, None)


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


class _Batches(keras.utils.PyDataset):
    """Batches by a function of their index, endless without a number."""

    def __init__(
        self, batch: Callable[[int], tuple], num_batches: int | None
    ) -> None:
        if keras.backend.backend() == "tensorflow":
            raise RuntimeError(
                "TensorFlow's `fit` reads only tf.data: use the functions of "
                "`keras_resnet.data.pipeline`, or another backend"
            )
        super().__init__()
        self._batch = batch
        self._num_batches = num_batches

    @property
    def num_batches(self) -> int | None:
        return self._num_batches

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._batch(index)


@compiled
def _augmented(
    images: Tensor, labels: Tensor, added: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    image, windows, window = drawn[:, 0], drawn[:, 1:4], drawn[:, 4]
    images = cut_on_device(
        ops.take(images, image, axis=0), windows, added.shape[1:3]
    )
    return (
        ops.cast(images, "float32") + ops.take(added, window, axis=0),
        ops.take(labels, image, axis=0),
    )
