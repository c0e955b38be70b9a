"""Losses with label smoothing."""

from typing import Any

import keras

from keras_resnet.types import Config, Tensor


@keras.saving.register_keras_serializable(package="keras_resnet")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels with label smoothing, from logits.

    Of each label, a share `label_smoothing` is spread evenly over all
    classes. `keras.losses.SparseCategoricalCrossentropy` has no smoothing, and
    `keras.losses.CategoricalCrossentropy` takes no integers.

    Args:
        label_smoothing: Float in [0, 1].
        **kwargs: Other arguments of `keras.losses.Loss`.

    Reference: Szegedy et al. 2016, Rethinking the Inception Architecture,
    section 7.
    """

    def __init__(
        self,
        label_smoothing: float,
        name: str = "smoothed_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = keras.ops.reshape(y_true, keras.ops.shape(y_pred)[:-1])
        # Keras casts the labels to the dtype of the loss.
        labels = keras.ops.cast(labels, "int32")
        # Not `one_hot`, which on PyTorch waits for the labels to check them.
        classes = keras.ops.arange(y_pred.shape[-1], dtype="int32")
        one_hot = keras.ops.equal(labels[..., None], classes)
        return keras.losses.categorical_crossentropy(
            keras.ops.cast(one_hot, y_pred.dtype),
            y_pred,
            from_logits=True,
            label_smoothing=self.label_smoothing,
        )

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable(package="keras_resnet")
class SmoothedBinaryCrossentropy(keras.losses.BinaryCrossentropy):
    """Binary cross-entropy of each class, with label smoothing over classes.

    A share `label_smoothing` of each present class is spread evenly over all
    classes, as for the softmax and in timm. `keras.losses.BinaryCrossentropy`
    moves every class towards 1/2 instead, so that each absent class gets half
    the share.

    Args:
        label_smoothing: Float in [0, 1].
        **kwargs: Other arguments of `keras.losses.BinaryCrossentropy`.

    Reference: Wightman et al. 2021, "ResNet strikes back".
    """

    def __init__(
        self,
        label_smoothing: float,
        name: str = "smoothed_binary_crossentropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.share = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        spread = self.share / y_pred.shape[-1]
        return super().call(y_true * (1 - self.share) + spread, y_pred)

    def get_config(self) -> Config:
        return {**super().get_config(), "label_smoothing": self.share}


def crossentropy(label_smoothing: float = 0.0) -> keras.losses.Loss:
    """Return the loss of integer labels and logits.

    Args:
        label_smoothing: Float in [0, 1]. Defaults to `0.0`, which gives
            Keras's own `SparseCategoricalCrossentropy`.
    """
    if label_smoothing:
        return SmoothedCrossentropy(label_smoothing)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
