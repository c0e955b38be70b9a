"""Input that stays on the device: images go there once, before training.

At each step the host sends only the numbers of the images and their windows,
and the device cuts the batch. For PyTorch and JAX, because TensorFlow's `fit`
reads only tf.data.
"""

import keras
import numpy as np
from keras import ops

from keras_resnet.backend import compiled
from keras_resnet.data import augmentation
from keras_resnet.data.datasets import Split
from keras_resnet.data.order import Draws, evaluation_arrays, shard_slice
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
    return _TrainingBatches(
        split, batch_size, mean, padding, horizontal_flip, seed, start, shard
    )


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
    return _EvaluationBatches(
        *evaluation_arrays(split, batch_size, shard, pad_to_multiple_of)
    )


class _Batches(keras.utils.PyDataset):
    def __init__(self) -> None:
        if keras.backend.backend() == "tensorflow":
            raise RuntimeError(
                "TensorFlow's `fit` reads only tf.data: use the functions of "
                "`keras_resnet.data.pipeline`, or another backend"
            )
        super().__init__()


class _TrainingBatches(_Batches):
    def __init__(
        self,
        split: Split,
        batch_size: int,
        mean: np.ndarray | None,
        padding: int,
        horizontal_flip: bool,
        seed: int,
        start: int,
        shard: tuple[int, int],
    ) -> None:
        super().__init__()
        if mean is None:
            mean = np.zeros(split.images.shape[1:])
        self._tensors = [
            ops.convert_to_tensor(array)
            for array in (
                augmentation.pad(split.images, padding),
                split.labels.astype("int32"),
                augmentation.corrections(mean, padding),
            )
        ]
        self._padding = padding
        self._batch_size = batch_size
        self._draws = Draws(
            len(split),
            padding=padding,
            horizontal_flip=horizontal_flip,
            seed=seed,
        )
        self._start = start
        self._shard = shard_slice(batch_size, shard)

    @property
    def num_batches(self) -> None:
        return None

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first = (self._start + index) * self._batch_size
        drawn = self._draws[first : first + self._batch_size][self._shard]
        indices = augmentation.window_index(drawn[:, 1:], self._padding)
        return _augmented(
            *self._tensors,
            ops.convert_to_tensor(np.column_stack([drawn, indices])),
        )


@compiled
def _augmented(
    images: Tensor, labels: Tensor, corrections: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    image, windows, window = drawn[:, 0], drawn[:, 1:4], drawn[:, 4]
    images = augmentation.cut_on_device(
        ops.take(images, image, axis=0), windows, corrections.shape[1:3]
    )
    return (
        ops.cast(images, "float32") + ops.take(corrections, window, axis=0),
        ops.take(labels, image, axis=0),
    )


class _EvaluationBatches(_Batches):
    def __init__(self, arrays: list[np.ndarray], batch_size: int) -> None:
        super().__init__()
        images, labels, *weights = arrays
        arrays = [images, labels.astype("int32"), *weights]
        self._batches = [
            [ops.convert_to_tensor(a[i : i + batch_size]) for a in arrays]
            for i in range(0, len(images), batch_size)
        ]

    @property
    def num_batches(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        images, *others = self._batches[index]
        return ops.cast(images, "float32"), *others
