# ruff: noqa: E402
"""Image data: loading, splitting, augmenting, batching.

tf.data feeds every backend, so importing this package imports TensorFlow. Where
TensorFlow is not installed, the input on the device is still there.
"""

import importlib.util
import warnings
from typing import Any

import keras

from keras_resnet.data import resident
from keras_resnet.data.augmentation import (
    corrections,
    cut,
    cut_on_device,
    random_windows,
)
from keras_resnet.data.datasets import (
    DataUnavailableError,
    ImageData,
    Split,
    load,
)
from keras_resnet.data.order import draw_epoch

# Where batches are prepared: on the host, or on the device that trains.
INPUTS = {"device": resident}


def _hide_gpus():
    """Keep TensorFlow from the GPUs' memory, which the backend needs."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        warnings.warn(
            "TensorFlow ran before `keras_resnet.data` was imported and keeps "
            "the GPUs' memory. Import `keras_resnet.data` first.",
            stacklevel=3,
        )


if importlib.util.find_spec("tensorflow"):
    if keras.backend.backend() != "tensorflow":
        # Before the first tf.data operation.
        _hide_gpus()

    from keras_resnet.data import imagenet, pipeline
    from keras_resnet.data.cache import cached
    from keras_resnet.data.folders import (
        UnreadableImageError,
        class_folders,
        image_batches,
        read_image,
    )
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

    INPUTS = {"tf.data": pipeline, **INPUTS}
else:

    def __getattr__(name: str) -> Any:
        """Say what the other names need."""
        if name in __all__:
            import tensorflow  # noqa: F401
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
