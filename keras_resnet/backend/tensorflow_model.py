"""TensorFlow: export of models with their constants."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class Model(keras.Model):
    """`keras.Model` whose export includes the constants of its layers."""

    def export(self, *args: Any, **kwargs: Any) -> None:
        with self._constants_as_arrays():
            return super().export(*args, **kwargs)

    @contextlib.contextmanager
    def _constants_as_arrays(self) -> Iterator[None]:
        """Replace tensors that are not variables by NumPy arrays.

        `keras.layers.Normalization` has such tensors, and tf2onnx would turn
        them into inputs.
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
