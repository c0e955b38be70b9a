"""Image data: loading, splitting, augmenting, batching.

tf.data feeds every backend, so importing this package imports TensorFlow.
"""

import keras
import tensorflow as tf

if keras.backend.backend() != "tensorflow":
    # TensorFlow would otherwise take the GPU's memory, which the backend that
    # trains needs. This must come before the first tf.data operation.
    tf.config.set_visible_devices([], "GPU")

from keras_resnet.data import imagenet, pipeline, resident  # noqa: E402
from keras_resnet.data.augmentation import (  # noqa: E402
    corrections,
    cut,
    cut_on_device,
    random_windows,
)
from keras_resnet.data.cache import cached  # noqa: E402
from keras_resnet.data.datasets import (  # noqa: E402
    DATASETS,
    DataUnavailableError,
    ImageData,
    Split,
    load,
)
from keras_resnet.data.folders import (  # noqa: E402
    UnreadableImageError,
    class_folders,
    image_batches,
    read_image,
)
from keras_resnet.data.order import draw_epoch  # noqa: E402
from keras_resnet.data.pipeline import (  # noqa: E402
    evaluation_batches,
    training_batches,
)
from keras_resnet.data.records import (  # noqa: E402
    Folder,
    Records,
    from_tfds,
    read_image_of,
)
from keras_resnet.data.unreadable import (  # noqa: E402
    TooManyUnreadableError,
    Unreadable,
)

# Where batches are prepared: on the host, or on the device that trains.
INPUTS = {"tf.data": pipeline, "device": resident}

__all__ = [
    "DATASETS",
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
