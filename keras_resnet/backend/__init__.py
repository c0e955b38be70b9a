"""Backend-specific fast operations, each with a `keras.ops` equivalent.

No other package names jax, torch or tensorflow for speed. `keras_ops` has each
operation in terms of `keras.ops`. The module of a backend has the operations
that are faster there, with the same numbers. Layers take all others from
`keras_ops`. An operation that only other backends need is `None`.

`analysis` and `data` transform pure functions of tensors by `compiled`,
`value_and_gradients` (by the first argument, a list of tensors) and
`vectorized` (over the first axis of the last argument). TensorFlow lacks the
last one, because its convolutions take one kernel at a time.
"""

import importlib
from collections.abc import Callable

import keras

from keras_resnet.backend import keras_ops, memory, parallel  # noqa: F401

_own = importlib.import_module(
    f"keras_resnet.backend.{keras.backend.backend()}_ops"
)


def _fastest(name):
    """Return the backend's own operation, else that of `keras_ops`."""
    return getattr(_own, name, getattr(keras_ops, name, None))


convolution: Callable = _fastest("convolution")
max_pooling: Callable = _fastest("max_pooling")
subsample: Callable = _fastest("subsample")
relu: Callable = _fastest("relu")
batch_normalization: Callable = _fastest("batch_normalization")
synchronized_batch_normalization: Callable = _fastest(
    "synchronized_batch_normalization"
)
normalization: Callable = _fastest("normalization")
moving_average: Callable = _fastest("moving_average")
lay_out_kernel: Callable | None = _fastest("lay_out_kernel")
lay_out_like: Callable | None = _fastest("lay_out_like")
sgd_step: Callable | None = _fastest("sgd_step")
share_memory: Callable | None = _fastest("share_memory")
accelerators = _own.accelerators
compiled = _own.compiled
profiler = _own.profiler
value_and_gradients = _own.value_and_gradients
vectorized: Callable | None = _fastest("vectorized")


if keras.backend.backend() == "torch":
    from keras_resnet.backend.torch.graph import Model as _Model
else:
    _Model = keras.Model  # type: ignore[misc]  # the other branch's class


class Model(_Model):  # type: ignore[valid-type,misc]  # one of two classes
    """`keras.Model` with the fast functions of its backend."""

    def make_train_function(self, force: bool = False) -> None:
        _keep_memory()
        super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> None:
        _keep_memory()
        super().make_test_function(force)

    def make_predict_function(self, force: bool = False) -> Callable:
        _keep_memory()
        return super().make_predict_function(force)


def _keep_memory():
    if not accelerators():
        memory.keep()
