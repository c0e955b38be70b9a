"""Backend-specific fast operations, each with a `keras.ops` equivalent.

Only this package imports jax, torch or tensorflow for speed. `keras_ops` has
each operation in terms of `keras.ops`. The module of a backend has the
operations that are faster there, with the same numbers. Layers use `keras_ops`
for all others. An operation that only other backends need is `None`.

`analysis` and `data` transform pure functions of tensors by `compiled`,
`value_and_gradients` (by the first argument, a list of tensors) and
`vectorized` (over the first axis of the last argument). TensorFlow has no
`vectorized`, because its convolutions take one kernel at a time.

`be_deterministic` must be called before anything is computed, because JAX and
PyTorch read its settings once.
"""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.backend import keras_ops, memory, parallel  # noqa: F401
from keras_resnet.backend.keras_ops import channel_axis  # noqa: F401
from keras_resnet.backend.logs import Callbacks

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
to_device: Callable = _fastest("to_device")
share_memory: Callable | None = _fastest("share_memory")
accelerators = _own.accelerators
be_deterministic = _own.be_deterministic
compiled = _own.compiled
profiler = _own.profiler
full_float32 = _own.full_float32
tensor_float32 = _own.tensor_float32
value_and_gradients = _own.value_and_gradients
vectorized: Callable | None = _fastest("vectorized")


if keras.backend.backend() == "torch":
    from keras_resnet.backend.torch.graph import Model as _Model
elif keras.backend.backend() == "jax":
    from keras_resnet.backend.jax_scan import Model as _Model
else:
    from keras_resnet.backend.tensorflow_model import Model as _Model


class Model(_Model):  # type: ignore[misc]  # one of three classes
    """`keras.Model` with the fast functions of its backend.

    The callbacks of `fit` and `evaluate` get `logs.UnreadLogs`, which copy a
    value from the device when a callback reads it.
    """

    @functools.wraps(keras.Model.fit)
    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        return self._with_own_callbacks(super().fit, args, kwargs)

    @functools.wraps(keras.Model.evaluate)
    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_own_callbacks(super().evaluate, args, kwargs)

    def _with_own_callbacks(self, method, args, kwargs):
        """Call `fit` or `evaluate` with `Callbacks` in place of Keras's list.

        Keras then sets neither model nor parameters of the callbacks.
        """
        call = inspect.signature(method).bind(*args, **kwargs)
        call.apply_defaults()
        given = call.arguments
        if isinstance(given["callbacks"], keras.callbacks.CallbackList):
            return method(*call.args, **call.kwargs)
        trains = "epochs" in given
        epochs = given["epochs"] if trains else 1
        callbacks = given["callbacks"] = Callbacks(
            given["callbacks"],
            add_history=trains,
            add_progbar=given["verbose"] != 0,
        )
        # Keras and PyTorch would track and save an attribute.
        self.__dict__["_untold"] = (
            callbacks,
            {
                "verbose": given["verbose"],
                "epochs": min(epochs, keras.config.max_epochs() or epochs),
            },
        )
        try:
            return method(*call.args, **call.kwargs)
        finally:
            self.__dict__.pop("_untold", None)

    def _tell_callbacks(self, iterator):
        """Set model and parameters of `Callbacks`, as Keras does at this point.

        The number of batches in an epoch is known only here.
        """
        if iterator is not None and "_untold" in self.__dict__:
            callbacks, parameters = self.__dict__.pop("_untold")
            callbacks.set_model(self)
            callbacks.set_params(parameters | {"steps": iterator.num_batches})

    def _symbolic_build(self, iterator: Any = None, data_batch: Any = None):
        super()._symbolic_build(iterator=iterator, data_batch=data_batch)
        self._tell_callbacks(iterator)

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ):
        # On TensorFlow, `fit` and `evaluate` call this method instead.
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)
        self._tell_callbacks(iterator)

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
