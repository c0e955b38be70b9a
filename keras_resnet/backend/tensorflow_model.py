"""TensorFlow: models that are exported with their constants."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class Model(keras.Model):
    """`keras.Model` whose export holds the constants of its layers."""

    def export(self, *args: Any, **kwargs: Any) -> None:
        with self._constants_as_arrays():
            return super().export(*args, **kwargs)

    @contextlib.contextmanager
    def _constants_as_arrays(self) -> Iterator[None]:
        """Hold arrays in place of tensors that are no variables.

        `keras.layers.Normalization` has such tensors, and tf2onnx would make
        inputs of them.
        """
        tensors = [
            (vars(layer), name, value)
            for layer in self._flatten_layers()
            for name, value in vars(layer).items()
            if isinstance(value, tf.Tensor)
        ]
        for attributes, name, value in tensors:
            attributes[name] = value.numpy()
        try:
            yield
        finally:
            for attributes, name, value in tensors:
                attributes[name] = value
