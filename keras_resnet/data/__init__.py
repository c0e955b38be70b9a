# ruff: noqa: E402
"""Image data: loading, splitting, augmenting, batching.

tf.data feeds every backend, so importing this package imports TensorFlow.
"""

import keras
import tensorflow as tf

if keras.backend.backend() != "tensorflow":
    # TensorFlow would otherwise take the GPU's memory, which the backend that
    # trains needs. This must come before the first tf.data operation.
    tf.config.set_visible_devices([], "GPU")

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
