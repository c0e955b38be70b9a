"""Input that stays on the device: images go there once, before training.

A step then gets some numbers from the host, and the device cuts its batch
itself. For PyTorch and JAX: TensorFlow's `fit` reads tf.data alone.
"""

import keras
import numpy as np
from keras import ops

from keras_resnet.backend import compiled
from keras_resnet.data import augmentation
from keras_resnet.data.passes import Draws, for_evaluation, pad, part_of


def training_batches(
    split,
    batch_size,
    *,
    mean=None,
    margin=0,
    mirror=False,
    seed=0,
    start=0,
    part=(0, 1),
):
    """Endless shuffled, augmented batches, each a function of its step.

    The same batches as those of `pipeline.training_batches`, bit by bit.

    Args:
        split: `Split` of uint8 images `(n, rows, columns, channels)` and
            integer labels.
        batch_size: Integer.
        mean: `(rows, columns, channels)` array, the mean of each pixel.
            Defaults to zeros.
        margin: Integer, pixels of padding on each side. Defaults to `0`.
        mirror: Boolean, whether half of the images are mirrored.
        seed: Integer, zero or above. Defaults to `0`.
        start: Integer, the first step. Defaults to `0`.
        part: Pair of integers `(i, k)`: only the `i`-th of `k` equal parts of
            each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.

    Returns:
        `keras.utils.PyDataset` of float32 images in [0, 255] and int32 labels.

    Raises:
        RuntimeError: On TensorFlow.

    Reference: He et al. 2015, section 4.2.
    """
    if mean is None:
        mean = np.zeros(split.images.shape[1:])
    return _TrainingBatches(
        split,
        batch_size,
        corrections=augmentation.corrections(mean, margin),
        margin=margin,
        mirror=mirror,
        seed=seed,
        start=start,
        part=part,
    )


def evaluation_batches(split, batch_size=500, *, part=(0, 1), divisor=None):
    """All images once, in order, as they are; the last batch may be smaller.

    The same batches as those of `pipeline.evaluation_batches`.

    Args:
        split: `Split` of uint8 images and integer labels.
        batch_size: Integer. Defaults to `500`.
        part: Pair of integers `(i, k)`: only the `i`-th of `k` equal parts of
            each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.
        divisor: Integer, the number of devices. Defaults to `None`. See
            `pipeline.evaluation_batches`.

    Returns:
        `keras.utils.PyDataset` of float32 images in [0, 255] and int32 labels,
        and float32 sample weights where places are empty.

    Raises:
        RuntimeError: On TensorFlow.
    """
    arrays, batch_size = for_evaluation(split, batch_size, part, divisor)
    return _EvaluationBatches(arrays, batch_size)


class _Batches(keras.utils.PyDataset):
    def __init__(self):
        if keras.backend.backend() == "tensorflow":
            raise RuntimeError(
                "TensorFlow's `fit` reads tf.data alone: take the functions "
                "of `keras_resnet.data.pipeline`, or another backend"
            )
        super().__init__()


class _TrainingBatches(_Batches):
    def __init__(
        self,
        split,
        batch_size,
        *,
        corrections,
        margin,
        mirror,
        seed,
        start,
        part,
    ):
        super().__init__()
        self._tensors = [
            ops.convert_to_tensor(array)
            for array in (
                pad(split.images, margin),
                split.labels.astype("int32"),
                corrections,
            )
        ]
        self._margin = margin
        self._batch_size = batch_size
        self._draws = Draws(len(split), margin=margin, mirror=mirror, seed=seed)
        self._start = start
        self._part = part_of(batch_size, part)

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        first = (self._start + index) * self._batch_size
        drawn = self._draws[first : first + self._batch_size][self._part]
        number = augmentation.number(drawn[:, 1:], self._margin)
        return _augmented(
            *self._tensors,
            ops.convert_to_tensor(np.column_stack([drawn, number])),
        )


@compiled
def _augmented(images, labels, corrections, drawn):
    index, windows, number = drawn[:, 0], drawn[:, 1:4], drawn[:, 4]
    images = augmentation.cut_on_device(
        ops.take(images, index, axis=0), windows, corrections.shape[1:3]
    )
    return (
        ops.cast(images, "float32") + ops.take(corrections, number, axis=0),
        ops.take(labels, index, axis=0),
    )


class _EvaluationBatches(_Batches):
    def __init__(self, arrays, batch_size):
        super().__init__()
        images, labels, *weights = arrays
        arrays = [images, labels.astype("int32"), *weights]
        self._batches = [
            [ops.convert_to_tensor(a[i : i + batch_size]) for a in arrays]
            for i in range(0, len(images), batch_size)
        ]

    @property
    def num_batches(self):
        return len(self._batches)

    def __getitem__(self, index):
        images, *others = self._batches[index]
        return ops.cast(images, "float32"), *others
