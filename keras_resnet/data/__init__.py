# ruff: noqa: E402
"""Image data: loading, splitting, augmenting, batching.

tf.data feeds every backend, so importing this package imports TensorFlow.
"""

import warnings

import keras
import tensorflow as tf


def _hide_gpus():
    """Keep TensorFlow from the GPUs' memory, which the backend needs."""
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        warnings.warn(
            "TensorFlow ran before `keras_resnet.data` was imported and keeps "
            "the GPUs' memory. Import `keras_resnet.data` first.",
            stacklevel=3,
        )


if keras.backend.backend() != "tensorflow":
    # Before the first tf.data operation.
    _hide_gpus()

from keras_resnet.data import imagenet, pipeline, resident
from keras_resnet.data.augmentation import (
    corrections,
    cut,
    cut_on_device,
    random_windows,
)
from keras_resnet.data.cache import cached
from keras_resnet.data.datasets import (
    DataUnavailableError,
    ImageData,
    Split,
    load,
)
from keras_resnet.data.folders import (
    UnreadableImageError,
    class_folders,
    image_batches,
    read_image,
)
from keras_resnet.data.order import draw_epoch
from keras_resnet.data.pipeline import (
    evaluation_batches,
    training_batches,
)
from keras_resnet.data.records import (
    Folder,
    Records,
    from_tfds,
    read_image_of,
)
from keras_resnet.data.unreadable import (
    TooManyUnreadableError,
    Unreadable,
)

# Where batches are prepared: on the host, or on the device that trains.
INPUTS = {"tf.data": pipeline, "device": resident}

__all__ = [
    "INPUTS",
    "DataUnavailableError",
    "Folder",
    "ImageData",
    "Records",
    "Split",
    "TooManyUnreadableError",
    "Unreadable",
    "UnreadableImageError",
    "cached",
    "class_folders",
    "corrections",
    "cut",
    "cut_on_device",
    "draw_epoch",
    "evaluation_batches",
    "from_tfds",
    "image_batches",
    "imagenet",
    "load",
    "pipeline",
    "random_windows",
    "read_image",
    "read_image_of",
    "resident",
    "training_batches",
]
