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

accelerators = _own.accelerators
compiled = _own.compiled
batch_normalization = getattr(
    _own, "batch_normalization", keras_ops.batch_normalization
)
convolution = _own.convolution
lay_out_kernel = getattr(_own, "lay_out_kernel", None)
lay_out_like = getattr(_own, "lay_out_like", None)
max_pooling = getattr(_own, "max_pooling", keras_ops.max_pooling)
moving_average = getattr(_own, "moving_average", keras_ops.moving_average)
normalization = getattr(_own, "normalization", keras_ops.normalization)
profiler = _own.profiler
relu = getattr(_own, "relu", keras_ops.relu)
sgd_step = getattr(_own, "sgd_step", None)
share_memory = getattr(_own, "share_memory", None)
synchronized_batch_normalization = getattr(
    _own,
    "synchronized_batch_normalization",
    keras_ops.synchronized_batch_normalization,
)
subsample = getattr(_own, "subsample", keras_ops.subsample)
value_and_gradients = _own.value_and_gradients
vectorized = getattr(_own, "vectorized", None)


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
