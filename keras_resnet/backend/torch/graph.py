"""PyTorch: a model's graph of operations, traced once and replayed.

On small batches, most of the time is Python's: Keras's layers call one another,
and autograd records their operations. The operations are the same in each
batch, so they are traced once, forward and backward, and replayed. Nothing is
compiled.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import torch
from keras import tree

from keras_resnet.backend import parallel, torch_ops, torch_parallel
from keras_resnet.backend.torch import cuda_graph, numbers
from keras_resnet.types import Tensor

# A shape is traced only after this many batches, because tracing takes as long
# as dozens of steps on small batches.
UNTRACED_BATCHES = 2
# A model keeps at most this many traces, because each takes megabytes.
TRACES = 16
# One thread traces at a time, because PyTorch's tracing has global state.
_TRACING = threading.RLock()

_KINDS = ("train", "test", "predict")
# Layers that run the user's code, or PyTorch modules with their own state.
_OPAQUE_LAYERS = (keras.layers.Lambda, keras.layers.TorchModuleWrapper)


class Model(keras.Model):
    """`keras.Model` whose `fit`, `evaluate` and `predict` replay its graph."""

    def call(
        self,
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
        **kwargs: Any,
    ) -> Any:
        replay = self.__dict__.get("_replay")
        # For several inputs, the mask has their structure.
        masked = any(m is not None for m in tree.flatten(mask))
        if replay is None or masked or kwargs:
            return super().call(inputs, training=training, mask=mask, **kwargs)
        return replay.call(inputs, training)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        wrapper = self.__dict__.pop("_calls_by", None)
        # The wrapper calls the model, and exchanges the gradients.
        call = super().__call__ if wrapper is None else wrapper
        return call(*args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        with numbers.kept(self._device()):
            return self._exchanged_train_step(data)

    def test_step(self, data: Any) -> dict[str, Any]:
        with numbers.kept(self._device()):
            return super().test_step(data)

    def _device(self):
        weight = next(self.parameters(), None)
        return torch.device("cpu") if weight is None else weight.device

    def _exchanged_train_step(self, data):
        if parallel.processes == 1:
            return super().train_step(data)
        exchange = self.__dict__.get("_exchange")
        if exchange is None or not exchange.holds():
            exchange = torch_parallel.Exchange(self)
            # Keras and PyTorch would track and save an attribute.
            self.__dict__["_exchange"] = exchange
        self.__dict__["_calls_by"] = exchange.wrapper
        logs = super().train_step(data)
        exchange.average_statistics()
        return logs

    def get_metrics_result(self) -> dict[str, Any]:
        variables = self.metrics_variables
        # They have no values while Keras creates the metrics.
        summed = parallel.processes > 1 and not any(
            v._value is None for v in variables
        )
        with (
            torch_parallel.summed(variables)
            if summed
            else contextlib.nullcontext()
        ):
            results = super().get_metrics_result()
        # Cloned, because a callback may read them after the next step.
        return tree.map_structure(
            lambda result: (
                result.clone()
                if any(result is v._value for v in variables)
                else result
            ),
            results,
        )

    def export(self, *args: Any, **kwargs: Any) -> None:
        # `torch.export` ignores the strides of weights, so kernels must be
        # contiguous.
        kernels = [v for v in self.variables if not v.value.is_contiguous()]
        for kernel in kernels:
            kernel.value.data = kernel.value.data.contiguous()
        try:
            return super().export(*args, **kwargs)
        finally:
            for kernel in kernels:
                torch_ops.lay_out_kernel(kernel)

    def make_train_function(self, force: bool = False) -> None:
        self._make_function("train", force)

    def make_test_function(self, force: bool = False) -> None:
        self._make_function("test", force)

    def make_predict_function(self, force: bool = False) -> Callable:
        self._make_function("predict", force)
        return self.predict_function

    def _make_function(self, kind, force):
        before = [getattr(self, f"{k}_function") for k in _KINDS]
        getattr(super(), f"make_{kind}_function")(force)
        function = getattr(self, f"{kind}_function")
        if function in before or self.jit_compile or self.run_eagerly:
            return
        # The functions of all kinds share one replay. When they are recreated,
        # it is too, because the model may have other layers.
        replay = self.__dict__.get("_replay")
        if replay is None or force or before == [None] * len(_KINDS):
            forward = super().call
            replay = Replay(
                self,
                lambda inputs, training: forward(inputs, training=training),
            )
            # Keras and PyTorch would track and save an attribute.
            self.__dict__["_replay"] = replay
        for method in (f"{kind}_step", "call", "compute_loss"):
            owner = getattr(self, method).__module__
            if owner.partition(".")[0] not in ("keras", "keras_resnet"):
                replay.refuse(f"it has a `{method}` of its own")

        recorded = function
        if kind == "train":
            recorded = cuda_graph.TrainingStep(self, replay, function)

        @functools.wraps(function)
        def replayed(data):
            if self.run_eagerly:
                return function(data)
            on_gpu = self._device().type == "cuda"
            with self.__dict__["_replay"].active():
                return recorded(data) if on_gpu else function(data)

        setattr(self, f"{kind}_function", replayed)


class Replay:
    """Forward pass of a model, replayed from a trace of its operations.

    A trace is valid for one kind of batch (shape, dtype, training or not) and
    for the same weights, of which the same are trainable. If a trace would omit
    a side effect, the model runs layer by layer instead, and warns once.
    """

    def __init__(self, model: keras.Model, forward: Callable) -> None:
        self._model = model
        self._forward = forward
        self._layers = list(model._flatten_layers())
        kinds = ("forward", "forward_pre", "backward", "backward_pre")
        self._hooks = [
            getattr(layer, f"_{kind}_hooks")
            for layer in self._layers
            for kind in kinds
        ]
        # Tensors that are not variables are constants of a trace.
        self._places_of_constants = [
            (vars(layer), name)
            for layer in self._layers
            for name, value in vars(layer).items()
            if isinstance(value, torch.Tensor)
        ]
        self._synchronized = [
            layer
            for layer in self._layers
            if getattr(layer, "synchronized", False)
        ]
        self._random = [
            layer
            for layer in self._layers
            if any(
                isinstance(value, keras.random.SeedGenerator)
                for value in vars(layer).values()
            )
        ]
        self._recomputes = any(
            getattr(layer, "_remat_mode", None) for layer in self._layers
        )
        self._seen = {}
        self._traces = {}
        # Per thread: another one may call the model without replay.
        self._state = threading.local()
        self._enabled = True
        self._said = False
        self._check_layers()

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Return a context in which `call` may replay, in this thread."""
        before = getattr(self._state, "active", False)
        self._state.active = True
        try:
            yield
        finally:
            self._state.active = before

    def refuse(self, reason: str) -> None:
        """Run layer by layer from now on, and warn with the reason."""
        if not self._enabled:
            return
        self._enabled = False
        warnings.warn(
            f"{self._model.name} runs layer by layer, somewhat slower: "
            f"{reason}",
            stacklevel=2,
        )

    def call(self, inputs: Any, training: bool | None) -> Any:
        """Return the outputs, and assign the variables that change."""
        active = getattr(self._state, "active", False)
        if active and isinstance(inputs, np.ndarray):
            # `train_on_batch` and similar methods pass arrays.
            inputs = keras.ops.convert_to_tensor(inputs)
        kind = self.kind(inputs, training)
        if kind is None:
            return self._forward(inputs, training)
        trace = self._traces.get(kind)
        if trace is None:
            self._seen[kind] = self._seen.get(kind, 0) + 1
            if self._seen[kind] <= UNTRACED_BATCHES:
                return self._forward(inputs, training)
            with _TRACING:
                # Another thread may have traced it in the meantime.
                trace = self._traces.get(kind)
                if trace is None:
                    return self._traced(kind, inputs, training)
        # Moved to the end, because the first trace is dropped next.
        self._traces[kind] = self._traces.pop(kind, trace)
        return trace(inputs)

    def kind(self, inputs: Any, training: bool | None) -> tuple | None:
        """Return the kind of a batch, or `None` if no trace may be used."""
        active = getattr(self._state, "active", False)
        if not (active and self._enabled and self._replayable(inputs)):
            return None
        if training and self._trains_layer_by_layer():
            return None
        return (
            inputs.shape,
            inputs.stride(),
            inputs.dtype,
            inputs.device,
            training,
            torch.is_grad_enabled(),
            tuple((id(v), v._value.requires_grad) for v in self._weights()),
            tuple(layer.trainable for layer in self._layers),
            tuple(map(id, self._constants())),
        )

    def traces(self) -> list[Callable]:
        """Return all traces."""
        return list(self._traces.values())

    def _weights(self):
        """Return the layers' variables, of which LoRA and int8 make others."""
        return [
            variable
            for layer in self._layers
            for variables in (
                layer._trainable_variables,
                layer._non_trainable_variables,
            )
            for variable in variables
        ]

    def _constants(self):
        return [
            attributes.get(name)
            for attributes, name in self._places_of_constants
        ]

    def _traced(self, key, inputs, training):
        """Trace the forward pass, keep the trace, and return the outputs."""
        trace = _Trace(
            self._model.variables, self._forward, training, self._constants()
        )
        try:
            with _may_hold_tensors():
                outputs = trace(inputs)
        except Exception as error:
            # Tracing failed before anything was assigned.
            self.refuse(
                str(error)
                if isinstance(error, _NotTraceableError)
                else f"{type(error).__name__} when it was traced: "
                + str(error).partition("\n")[0]
            )
            return self._forward(inputs, training)
        self._traces[key] = trace
        while len(self._traces) > TRACES:
            unused = next(iter(self._traces))
            del self._traces[unused]
            self._seen.pop(unused, None)
        return outputs

    def _check_layers(self):
        operations = [
            operation
            for layer in self._layers
            for operation in (layer, *getattr(layer, "operations", ()))
        ]
        for operation in operations:
            kind = type(operation)
            package = kind.__module__.partition(".")[0]
            known = package in ("keras", "keras_resnet")
            # Not inherited, because a subclass may have side effects.
            traceable = vars(kind).get("traceable", known)
            if not traceable or isinstance(operation, _OPAQUE_LAYERS):
                self.refuse(
                    f"the layer {operation.name} is of class {kind.__name__}, "
                    "which may do more than compute its outputs from inputs "
                    "and weights, and a replay would skip it. Write "
                    "`traceable = True` in a class of your own that does "
                    "nothing else"
                )
            elif getattr(operation, "activity_regularizer", None) is not None:
                self.refuse(
                    f"the layer {operation.name} has an activity regularizer"
                )

    def _trains_layer_by_layer(self):
        """Return whether training cannot be traced, and warn once if so."""
        if self._random:
            reason = (
                f"the layer {self._random[0].name} draws random numbers, and a "
                "replay would draw the same ones again. JAX and TensorFlow "
                "compile such layers"
            )
        elif self._recomputes:
            reason = (
                "it was made in a `keras.RematScope`, which computes "
                "activations again to save memory, and a replay keeps them"
            )
        elif parallel.processes > 1 and (
            parallel.synchronized or self._synchronized
        ):
            reason = "its normalization is synchronized between processes"
        else:
            return False
        first = parallel.processes == 1 or torch.distributed.get_rank() == 0
        if first and not self._said:
            warnings.warn(
                f"{self._model.name} trains layer by layer, somewhat slower: "
                f"{reason}",
                stacklevel=2,
            )
        self._said = True
        return True

    def _replayable(self, inputs):
        if not isinstance(inputs, torch.Tensor):
            self.refuse("it takes other inputs than one tensor")
            return False
        return (
            type(inputs) is torch.Tensor
            and not inputs.requires_grad
            and not inputs.is_meta
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled(inputs.device.type)
            and not any(self._hooks)
            and not torch.nn.modules.module._has_any_global_hook()
        )


class _NotTraceableError(Exception):
    """Error for a model whose trace would compute something else."""


class _Trace:
    """Traced operations for one kind of batch."""

    def __init__(self, variables, forward, training, constants):
        # Kept alive, because a new object could get the id of a freed one.
        self._constants = constants
        self._variables = variables
        self._forward = forward
        self._training = training
        # Imported only here, because the import is slow.
        from functorch.compile import aot_function

        from keras_resnet.backend.torch import program

        self._run = aot_function(
            self._pure,
            fw_compiler=program.training_program,
            bw_compiler=program.training_program,
            inference_compiler=program.inference_program,
        )

    def _pure(self, inputs, *values):
        """Return outputs and changed values from inputs and values."""
        with keras.StatelessScope() as scope:
            # Not as the scope's `state_mapping`, which would convert values to
            # the dtype that the network computes in, and later assign these.
            for update in zip(self._variables, values, strict=True):
                scope.add_update(update)
            outputs = self._forward(inputs, self._training)
        flat = tree.flatten(outputs)
        if len(flat) > 1 and torch.is_grad_enabled():
            # In a trace, unused weights have gradients of zero, not `None`, so
            # that weight decay and momentum would change them.
            raise _NotTraceableError(
                "a loss may leave out some of its several outputs"
            )
        if any(hasattr(output, "_keras_mask") for output in flat):
            raise _NotTraceableError("its outputs have a mask, for the loss")
        self._changed = [
            variable
            for variable, value in zip(self._variables, values, strict=True)
            if scope.get_current_value(variable) is not value
        ]
        self._structure = outputs
        updates = map(scope.get_current_value, self._changed)
        return (*flat, *(update.detach() for update in updates))

    def __call__(self, inputs: Tensor) -> Any:
        results = self._run(inputs, *(v._value for v in self._variables))
        n = len(results) - len(self._changed)
        if self._changed:
            with torch.no_grad():
                torch._foreach_copy_(
                    [v._value for v in self._changed], list(results[n:])
                )
        return tree.pack_sequence_as(self._structure, list(results[:n]))


def _may_hold_tensors():
    """Return a context in which layers may use tensors besides variables.

    They are constants, such as the mean of `keras.layers.Normalization`.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode

    return tracing(TracingContext(FakeTensorMode(allow_non_fake_inputs=True)))
