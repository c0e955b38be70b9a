"""Cost of a network: parameters and multiply-adds, layer by layer."""

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import keras
from keras import layers


@dataclasses.dataclass(frozen=True)
class LayerComplexity:
    """Cost of one layer: a leaf of the model, such as a convolution.

    Attributes:
        name: Path of the layer in the model, `"stage1_block1/conv1"`.
        kind: Name of its class.
        output_shape: Shape of its output for one image, without the batch.
        parameters: Number of its weights, moving statistics included.
        trainable_parameters: Number of its trainable weights.
        macs: Multiply-adds for one image; 0 for layers other than
            convolutions and dense layers.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    trainable_parameters: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Complexity:
    """Cost of a model, in total and per layer. `print` shows it as a table.

    Attributes:
        name: Name of the model.
        parameters: Number of weights, moving statistics included, as
            `model.count_params()`.
        trainable_parameters: Number of trainable weights, which PyTorch calls
            the parameter count.
        macs: Multiply-adds of convolutions and dense layers for one image,
            called FLOPs in the paper's table 1.
        layers: Tuple of `LayerComplexity`, in the order of execution.
    """

    name: str
    parameters: int
    trainable_parameters: int
    macs: int
    layers: tuple[LayerComplexity, ...]

    def __str__(self) -> str:
        def row(cost, kind="", output_shape=()):
            shape = "x".join(map(str, output_shape))
            numbers = f"{cost.parameters:,}", f"{cost.macs:,}"
            return cost.name, kind, shape, *numbers

        rows = [("layer", "kind", "output", "parameters", "multiply-adds")]
        rows += [
            row(layer, layer.kind, layer.output_shape)
            for layer in self.layers
            if layer.parameters or layer.macs
        ]
        rows.append(row(self))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        # Text is left-aligned, numbers are right-aligned.
        sides = [f"{side}{w}" for side, w in zip("<<<>>", widths, strict=True)]
        header, *body, total = (
            "  ".join(map(format, cells, sides)) for cells in rows
        )
        rule = "  ".join("-" * width for width in widths)
        summary = (
            f"trainable parameters: {self.trainable_parameters:,}; "
            f"multiply-adds of one image: {self.macs / 1e9:.4g} G"
        )
        return "\n".join([header, rule, *body, rule, total, summary])


def complexity(
    model: keras.Model | keras.Layer,
    input_shape: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> Complexity:
    """Count the parameters and multiply-adds of a built model.

    The model is traced symbolically for one image. Each layer counts as often
    as it runs, also in nested layers and models, in subclassed models, and if
    it is called twice. Nothing is computed.

    Multiply-adds are those of convolutions and dense layers, as in the paper:
    biases, shortcut additions, normalization, pooling and activations are not
    counted. (Some authors call twice this number FLOPs.)

    Args:
        model: A built `keras.Model` or layer.
        input_shape: Shape of one image, without the batch; a list of shapes
            for several inputs. Defaults to the model's own input shape. It is
            required if that has `None` for rows or columns.

    Returns:
        A `Complexity`.

    Raises:
        ValueError: If the model is not built, or its input shape has `None`.

    Reference: He et al. 2015, table 1 and section 3.3.
    """
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built: call it on a batch, or "
            "`model.build(input_shape)`, first."
        )
    inputs = _one_image(model, input_shape)
    leaves = dict(_leaves(model, ""))
    calls = _Trace(model, leaves)(inputs)
    rows = []
    seen = set()
    for layer, output_shape, macs in calls:
        # A layer that runs twice has only one set of weights.
        new = id(layer) not in seen
        seen.add(id(layer))
        rows.append(
            LayerComplexity(
                name=leaves[layer],
                kind=type(layer).__name__,
                output_shape=output_shape,
                parameters=layer.count_params() if new else 0,
                trainable_parameters=_size(
                    layer.trainable_variables if new else ()
                ),
                macs=macs,
            )
        )
    return Complexity(
        name=model.name,
        parameters=model.count_params(),
        trainable_parameters=_size(model.trainable_variables),
        macs=sum(row.macs for row in rows),
        layers=tuple(rows),
    )


def _size(variables):
    return sum(math.prod(variable.shape) for variable in variables)


def _one_image(model, input_shape):
    """Return symbolic inputs of the model for a batch of one."""
    if input_shape is not None:
        several = bool(input_shape) and isinstance(input_shape[0], list | tuple)
        shapes = input_shape if several else [input_shape]
        shapes = [tuple(shape) for shape in shapes]
        dtypes = [None] * len(shapes)
    elif getattr(model, "inputs", None):
        several = len(model.inputs) > 1
        shapes = [tensor.shape[1:] for tensor in model.inputs]
        dtypes = [tensor.dtype for tensor in model.inputs]
    else:
        raise ValueError(
            f"Model {model.name!r} does not know its input's shape. "
            "Give `input_shape`, the shape of one image."
        )
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(
            f"The input shape of model {model.name!r} is open: "
            f"{shapes if several else shapes[0]}. Give `input_shape`, the "
            "shape of one image, such as (224, 224, 3)."
        )
    tensors = [
        keras.KerasTensor((1, *shape), dtype=dtype or keras.config.floatx())
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    return tensors if several else tensors[0]


def _children(layer):
    return getattr(layer, "layers", None) or layer._layers


def _leaves(layer, path):
    """Yield (leaf layer, path) for all layers without sublayers."""
    for child in _children(layer):
        child_path = f"{path}/{child.name}" if path else child.name
        if not _is_leaf(child):
            yield from _leaves(child, child_path)
        else:
            yield child, child_path


def _is_leaf(layer):
    return isinstance(layer, _COUNTED) or not _children(layer)


class _Trace(keras.Operation):
    """Run a model on symbolic inputs and record each call of its leaves."""

    def __init__(self, model, leaves):
        super().__init__(name="complexity")
        self.model = model
        self.leaves = leaves
        self.calls = []

    def call(self, inputs):
        # Some backends trace more than once; only the last trace counts.
        self.calls.clear()
        return self.model(inputs)

    def __call__(self, inputs):
        with contextlib.ExitStack() as stack:
            for leaf in self.leaves:
                stack.enter_context(_noted(leaf, self.calls))
            self.compute_output_spec(inputs)
        return list(self.calls)


@contextlib.contextmanager
def _noted(layer, calls):
    """Return a context in which calls of `layer` are appended to `calls`."""
    original = layer.call

    def call(*args, **kwargs):
        outputs = original(*args, **kwargs)
        shapes = [
            tuple(tensor.shape)
            for tensor in keras.tree.flatten(outputs)
            if hasattr(tensor, "shape")
        ]
        output_shape = shapes[0] if shapes else ()
        macs = 0
        if isinstance(layer, _COUNTED):
            source = args[0] if args else next(iter(kwargs.values()))
            macs = _macs(layer, tuple(source.shape), output_shape)
        calls.append((layer, output_shape[1:], macs))
        return outputs

    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")


_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_DENSE = (layers.Dense, layers.EinsumDense)
_COUNTED = (*_TRANSPOSED, *_CONVOLUTIONS, *_SEPARABLE, *_DENSE)


def _macs(layer, input_shape, output_shape):
    """Return the multiply-adds of one call of a layer."""
    if isinstance(layer, _TRANSPOSED):
        return _positions(layer, input_shape) * math.prod(layer.kernel.shape)
    if isinstance(layer, _CONVOLUTIONS):
        return _positions(layer, output_shape) * math.prod(layer.kernel.shape)
    if isinstance(layer, _SEPARABLE):
        kernels = layer.depthwise_kernel, layer.pointwise_kernel
        return _positions(layer, output_shape) * _size(kernels)
    if isinstance(layer, layers.Dense):
        return math.prod(output_shape[1:-1]) * math.prod(layer.kernel.shape)
    if isinstance(layer, layers.EinsumDense):
        # Each output element sums over the kernel's indices that it lacks.
        operands, output = layer.equation.replace("...", "").split("->")
        _, kernel = operands.split(",")
        sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
        summed = [sizes[index] for index in kernel if index not in output]
        return math.prod(output_shape[1:]) * math.prod(summed)
    return 0


def _positions(layer, shape):
    """Return the number of positions in a feature map of this shape."""
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return math.prod(shape[1:-1] if last else shape[2:])
