"""Image data for training: loading, splitting, augmenting, batching.

tf.data feeds every backend, so importing this package imports TensorFlow.
"""

import keras
import tensorflow as tf

if keras.backend.backend() != "tensorflow":
    # Or else TensorFlow would take the GPU's memory from the backend that
    # trains. Must come before the first tf.data operation.
    tf.config.set_visible_devices([], "GPU")

from keras_resnet.data.augmentation import (  # noqa: E402
    crop_and_mirror,
    random_windows,
)
from keras_resnet.data.datasets import (  # noqa: E402
    DATASETS,
    DataUnavailableError,
    ImageData,
    Split,
    load,
)
from keras_resnet.data.pipeline import (  # noqa: E402
    evaluation_batches,
    training_batches,
)

__all__ = [
    "DATASETS",
    "DataUnavailableError",
    "ImageData",
    "Split",
    "crop_and_mirror",
    "evaluation_batches",
    "load",
    "random_windows",
    "training_batches",
]
