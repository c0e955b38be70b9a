"""PyTorch: a model's graph of operations, traced once and replayed.

On small batches PyTorch waits for Python: for Keras's layers to call one
another, and for autograd to write down what they do. Both find the same
operations in each batch, so they are traced once, forward and backward, and
replayed as they are. Nothing is compiled.
"""

import contextlib
import functools
import operator
import threading
import warnings

import keras
import numpy as np
import torch
from functorch.compile import aot_function, make_boxed_func
from keras import tree
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode

_aten = torch.ops.aten
_IN_PLACE = {
    _aten.relu.default: _aten.relu_.default,
    _aten.add.Tensor: _aten.add_.Tensor,
}
# Operations whose results share no memory with what they read, nor with what
# their gradient reads but as an output of the graph.
_FRESH = {
    _aten.add.Tensor,
    _aten.add_.Tensor,
    _aten.convolution.default,
    _aten.convolution_backward.default,
    _aten._native_batch_norm_legit.no_stats,
    _aten._native_batch_norm_legit_no_training.default,
    _aten.native_batch_norm.default,
    _aten.native_batch_norm_backward.default,
    _aten.threshold_backward.default,
}

# Tracing costs as much as some dozens of steps on small batches: batches of
# a shape that comes up only now and then are not worth it.
UNTRACED_BATCHES = 2

_KINDS = ("train", "test", "predict")
# Layers that run code of the user's, or of PyTorch's with state of its own.
_OPAQUE_LAYERS = (keras.layers.Lambda, keras.layers.TorchModuleWrapper)


class Model(keras.Model):
    """`keras.Model` whose `fit`, `evaluate` and `predict` replay its graph."""

    def call(self, inputs, training=None, mask=None, **kwargs):
        replay = self.__dict__.get("_replay")
        # Keras gives the mask of several inputs in their structure.
        masked = any(m is not None for m in tree.flatten(mask))
        if replay is None or masked or kwargs:
            return super().call(inputs, training=training, mask=mask, **kwargs)
        return replay.call(inputs, training)

    def make_train_function(self, force=False):
        self._make_function("train", force)

    def make_test_function(self, force=False):
        self._make_function("test", force)

    def make_predict_function(self, force=False):
        self._make_function("predict", force)
        return self.predict_function

    def _make_function(self, kind, force):
        before = [getattr(self, f"{k}_function") for k in _KINDS]
        getattr(super(), f"make_{kind}_function")(force)
        function = getattr(self, f"{kind}_function")
        if function in before or self.jit_compile or self.run_eagerly:
            return
        # Shared by the functions of all kinds, until they are made anew: by
        # then the model may have other layers.
        replay = self.__dict__.get("_replay")
        if replay is None or force or before == [None] * len(_KINDS):
            forward = super().call
            replay = Replay(
                self,
                lambda inputs, training: forward(inputs, training=training),
            )
            # Not an attribute that Keras or PyTorch would track and save.
            self.__dict__["_replay"] = replay
        for method in (f"{kind}_step", "call", "compute_loss"):
            owner = getattr(self, method).__module__
            if owner.partition(".")[0] not in ("keras", "keras_resnet"):
                replay.refuse(f"it has a `{method}` of its own")

        @functools.wraps(function)
        def replayed(data):
            if self.run_eagerly:
                return function(data)
            with self.__dict__["_replay"].active():
                return function(data)

        setattr(self, f"{kind}_function", replayed)


class Replay:
    """Runs the forward pass of a model from a trace of its operations.

    A trace holds for one kind of batch: shape, dtype, training or not, and
    which weights are trainable. What has side effects that a trace does not
    know of runs layer by layer instead, and says so once.

    Args:
        model: `keras.Model` whose variables the forward pass reads.
        forward: Callable `(inputs, training)`, its forward pass.
    """

    def __init__(self, model, forward):
        self._model = model
        self._forward = forward
        self._layers = list(model._flatten_layers())
        self._variables = model.variables
        self._hooks = [
            hooks
            for layer in self._layers
            for hooks in (
                layer._forward_hooks,
                layer._forward_pre_hooks,
                layer._backward_hooks,
                layer._backward_pre_hooks,
            )
        ]
        # Tensors that are no variables, and constants of a trace.
        self._places_of_constants = [
            (vars(layer), name)
            for layer in self._layers
            for name, value in vars(layer).items()
            if isinstance(value, torch.Tensor)
        ]
        self._seen = {}
        self._traces = {}
        # One thread may predict while another one does not replay.
        self._state = threading.local()
        self._enabled = True
        self._check_layers()

    @contextlib.contextmanager
    def active(self):
        """Within this context `call` may replay, in this thread."""
        before = getattr(self._state, "active", False)
        self._state.active = True
        try:
            yield
        finally:
            self._state.active = before

    def refuse(self, reason):
        """Runs layer by layer from now on, and says why."""
        if not self._enabled:
            return
        self._enabled = False
        warnings.warn(
            f"{self._model.name} runs layer by layer, somewhat slower: "
            f"{reason}",
            stacklevel=2,
        )

    def call(self, inputs, training):
        """Returns the outputs, and assigns the variables that change."""
        active = getattr(self._state, "active", False)
        if active and isinstance(inputs, np.ndarray):
            # What `train_on_batch` and its like hand on as they got it.
            inputs = keras.ops.convert_to_tensor(inputs)
        if not (active and self._enabled and self._replayable(inputs)):
            return self._forward(inputs, training)
        constants = [
            attributes.get(name)
            for attributes, name in self._places_of_constants
        ]
        key = (
            inputs.shape,
            inputs.stride(),
            inputs.dtype,
            inputs.device,
            training,
            torch.is_grad_enabled(),
            tuple(v._value.requires_grad for v in self._variables),
            tuple(layer.trainable for layer in self._layers),
            tuple(map(id, constants)),
        )
        trace = self._traces.get(key)
        if trace is None:
            self._seen[key] = self._seen.get(key, 0) + 1
            if self._seen[key] <= UNTRACED_BATCHES:
                return self._forward(inputs, training)
            trace = _Trace(self._variables, self._forward, training, constants)
        try:
            with _may_hold_tensors() if key not in self._traces else _nothing:
                outputs = trace(inputs)
        except Exception as error:
            if key in self._traces:
                raise
            # Tracing failed before anything was assigned.
            self.refuse(
                str(error)
                if isinstance(error, _NotTraceableError)
                else f"{type(error).__name__} when it was traced: "
                + str(error).partition("\n")[0]
            )
            return self._forward(inputs, training)
        self._traces[key] = trace
        return outputs

    def _check_layers(self):
        operations = [
            operation
            for layer in self._layers
            for operation in (layer, *getattr(layer, "operations", ()))
        ]
        for operation in operations:
            package = type(operation).__module__.partition(".")[0]
            if package not in ("keras", "keras_resnet") or isinstance(
                operation, _OPAQUE_LAYERS
            ):
                self.refuse(
                    f"a trace does not know what the layer {operation.name} "
                    f"of class {type(operation).__name__} does besides"
                )
            elif getattr(operation, "activity_regularizer", None) is not None:
                self.refuse(
                    f"the layer {operation.name} has an activity regularizer"
                )

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
    """A trace of this model would compute something else."""


class _Trace:
    """The operations of one kind of batch."""

    def __init__(self, variables, forward, training, constants):
        # Kept, so that no other tensor gets their ids.
        self._constants = constants
        self._variables = variables
        self._forward = forward
        self._training = training
        self._run = aot_function(
            self._pure, fw_compiler=_operations, bw_compiler=_operations
        )

    def _pure(self, inputs, *values):
        """The forward pass as a function of tensors, of tensors."""
        mapping = zip(self._variables, values, strict=True)
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = self._forward(inputs, self._training)
        flat = tree.flatten(outputs)
        if len(flat) > 1 and torch.is_grad_enabled():
            # Zeros instead of none: an optimizer with weight decay or
            # momentum would move weights that it should leave alone.
            raise _NotTraceableError(
                "a loss may leave out some of its several outputs"
            )
        if any(hasattr(output, "_keras_mask") for output in flat):
            raise _NotTraceableError("its outputs have a mask, for the loss")
        updates = [scope.get_current_value(v) for v in self._variables]
        self._changed = [
            variable
            for variable, update, value in zip(
                self._variables, updates, values, strict=True
            )
            if update is not value
        ]
        self._structure = outputs
        return (
            *flat,
            *(
                update.detach()
                for update, value in zip(updates, values, strict=True)
                if update is not value
            ),
        )

    def __call__(self, inputs):
        results = self._run(inputs, *(v._value for v in self._variables))
        n = len(results) - len(self._changed)
        if self._changed:
            with torch.no_grad():
                torch._foreach_copy_(
                    [v._value for v in self._changed], list(results[n:])
                )
        return tree.pack_sequence_as(self._structure, list(results[:n]))


def _may_hold_tensors():
    """Context in which layers may use tensors that are no variables.

    Such as `keras.layers.Normalization` its mean: a constant of the trace.
    """
    return tracing(TracingContext(FakeTensorMode(allow_non_fake_inputs=True)))


_nothing = contextlib.nullcontext()


def _operations(graph_module, example_inputs):
    """Returns a callable that runs a traced graph as it is."""
    graph = graph_module.graph
    for node in graph.nodes:
        source = _same_as(node)
        if source is not None:
            node.replace_all_uses_with(source)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        _write_in_place(node)
    return make_boxed_func(_straight_line(graph))


def _same_as(node):
    """Returns the node that holds the same tensor as this one, if any."""
    # Without autograd there is nothing to detach from.
    if node.target is _aten.detach.default:
        return node.args[0]
    # One layer's last permutation is undone by the next layer's first.
    if node.target is _aten.permute.default:
        before, order = node.args
        if before.target is _aten.permute.default:
            original, order_before = before.args
            if [order_before[i] for i in order] == [0, 1, 2, 3]:
                return original
    return None


def _write_in_place(node):
    """Lets an operation overwrite a tensor that nothing else will read.

    So much less memory is asked of the system, which a CPU has to wait for.
    """
    in_place = _IN_PLACE.get(node.target)
    if in_place is None or node.kwargs:
        return
    result = node.meta["val"]
    operands = list(node.args[: 2 if node.target is _aten.add.Tensor else 1])
    for i, operand in enumerate(operands):
        if not isinstance(operand, torch.fx.Node) or not _is_fresh(operand):
            continue
        value = operand.meta["val"]
        if (
            value.shape != result.shape
            or value.dtype != result.dtype
            # What comes next may view it.
            or value.stride() != result.stride()
        ):
            continue
        others = operands[:i] + operands[i + 1 :]
        node.args = (operand, *others, *node.args[len(operands) :])
        node.target = in_place
        return


def _is_fresh(node):
    """Whether a tensor is newly made, and read in one place alone."""
    while len(node.users) == 1:
        if node.target in _FRESH:
            return True
        if node.target is operator.getitem:
            return node.args[0].target in _FRESH
        if node.target is not _aten.permute.default:
            return False
        node = node.args[0]
    return False


def _straight_line(graph):
    """Returns a function that calls the operators of a graph one by one.

    As `torch.fx.GraphModule.forward`, but it calls each operator's overload
    itself rather than PyTorch's Python wrapper around it.
    """
    names, constants, lines = {}, {}, []

    def constant(value):
        name = f"c{len(constants)}"
        constants[name] = value
        return name

    def expression(value):
        if isinstance(value, torch.fx.Node):
            return names[value]
        if isinstance(value, (list, tuple)):
            items = "".join(f"{expression(item)}, " for item in value)
            return f"[{items}]" if isinstance(value, list) else f"({items})"
        if value is None or isinstance(value, (bool, int)):
            return repr(value)
        return constant(value)

    last_use = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last_use[source] = node
    arguments = []
    for node in graph.nodes:
        names[node] = f"v{len(names)}"
        if node.op == "placeholder":
            arguments.append(names[node])
        elif node.op == "call_function":
            given = [expression(value) for value in node.args]
            given += [
                f"{key}={expression(value)}"
                for key, value in node.kwargs.items()
            ]
            overload = getattr(node.target, "_op", node.target)
            lines.append(
                f"{names[node]} = {constant(overload)}({', '.join(given)})"
            )
        elif node.op == "get_attr":
            tensor = operator.attrgetter(node.target)(graph.owning_module)
            lines.append(f"{names[node]} = {constant(tensor)}")
        elif node.op == "output":
            lines.append(f"return {expression(node.args[0])}")
        else:
            raise NotImplementedError(
                f"a traced graph has a node of kind {node.op}"
            )
        done = [
            names[source]
            for source in node.all_input_nodes
            if last_use[source] is node and node.op != "output"
        ]
        if done:
            # So that its memory can be used again.
            lines.append(f"{' = '.join(done)} = None")
    body = "\n    ".join(lines)
    namespace = constants
    exec(f"def run({', '.join(arguments)}):\n    {body}\n", namespace)
    return namespace["run"]
