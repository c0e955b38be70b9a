"""A network as a chain of layers, and as a function of its variables.

Every analysis starts here. The networks of this package are chains: each layer
reads the one before it, and branches are inside blocks. An analysis runs the
chain layer by layer and replaces the part that it studies. The backend compiles
the result once, as a function of the network's variables, for any number of
lesions, directions or training steps.
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.blocks import ResidualBlock, adaptation, follows_steps
from keras_resnet.types import Numbers, Tensor

BATCH_SIZE = 256


def chain(model: keras.Model) -> list[keras.Layer]:
    """Return the layers of a network of this package, in order.

    A model within the model, such as a network below a head of your own, is
    replaced by its layers.

    Raises:
        ValueError: If the model is not a chain of layers with blocks, or if
            a block overrides `call` or `paths`.
    """
    layers = _in_order(model)
    if layers is None or not any(isinstance(x, ResidualBlock) for x in layers):
        raise ValueError(
            "An analysis needs a network of this package: a chain of layers "
            f"with `ResidualBlock`s. Received: {type(model).__name__} "
            f"{model.name!r}"
        )
    for layer in layers:
        if isinstance(layer, ResidualBlock) and not follows_steps(layer):
            raise ValueError(
                f"An analysis cannot see into block {layer.name!r}, because "
                f"{type(layer).__name__} overrides `call` or `paths`. Override "
                "the methods that `ResidualBlock` names instead."
            )
    return layers


def _in_order(model):
    """Return the layers of a chain, or `None` if the model is not one."""
    if len(getattr(model, "inputs", None) or ()) != 1:
        return None
    layers, tensor = [], model.inputs[0]
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        nodes = [n for n in layer._inbound_nodes if n.input_tensors == [tensor]]
        if len(nodes) != 1:
            return None
        (tensor,) = nodes[0].output_tensors
        inner = [layer]
        if isinstance(layer, keras.Model):
            inner = _in_order(layer)
        if inner is None:
            return None
        layers += inner
    return layers if tensor is model.outputs[0] else None


def blocks(model: keras.Model) -> list[ResidualBlock]:
    """Return the `ResidualBlock`s of a network, in order."""
    return [x for x in chain(model) if isinstance(x, ResidualBlock)]


def changes_shape(model: keras.Model) -> np.ndarray:
    """Return for each block whether it changes the shape of its input."""
    changes = []
    shape = model.inputs[0].shape
    for layer in chain(model):
        output = layer.compute_output_shape(shape)
        if isinstance(layer, ResidualBlock):
            changes.append(tuple(output) != tuple(shape))
        shape = output
    return np.array(changes)


def forward(
    model: keras.Model,
    x: Tensor,
    training: bool = False,
    block: Callable[[int, Tensor, Tensor | None, Tensor], Tensor] | None = None,
    observe: Callable[[str, keras.Layer, Tensor], None] | None = None,
) -> Tensor:
    """Run a network layer by layer, and return its outputs.

    `block(i, branch, shortcut, x)` returns the output of block `i` from the
    outputs of its branch and its shortcut (`None` in a plain net) and its
    input. By default it is the block's `join`.

    `observe(name, convolution, response)` is called with the response of the
    stem and of each convolution in a branch: after normalization, before the
    nonlinearity.
    """
    observe = observe or (lambda *_: None)
    layers = chain(model)
    # Folded and pre-activated nets have no normalization in the stem.
    stem = (
        "stem_bn" if any(x.name == "stem_bn" for x in layers) else "stem_conv"
    )
    number = 0
    for layer in layers:
        if isinstance(layer, ResidualBlock):

            def response(convolution, y, name=layer.name):
                observe(f"{name}/{convolution.name}", convolution, y)

            branch, shortcut = layer.paths(x, training, response)
            if block is None:
                x = layer.join(branch, shortcut, training)
            else:
                x = block(number, branch, shortcut, x)
            number += 1
            continue
        x = layer(x, training=training)
        if layer.name == stem:
            convolution = next(y for y in layers if y.name == "stem_conv")
            observe("stem_conv", convolution, x)
    return x


def pure(model: keras.Model, function: Callable) -> Callable:
    """Return a function as one that also takes the model's variables.

    It takes `(values, *inputs)` and computes `function(*inputs)` with `values`
    in place of the model's variables. It changes none of these variables.
    """
    variables = model.variables

    def stateless(values, *inputs):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return function(*inputs)

    return stateless


def check_weights(model: keras.Model, lora: bool = False) -> None:
    """Raise `ValueError` if a layer is quantized, or adapted by LoRA.

    `lora=True` allows LoRA.
    """
    reason = adaptation(model, not lora)
    if reason is not None:
        raise ValueError(
            f"{reason}. This analysis needs a network whose weights are all "
            f"float{'' if lora else ' and its own'}."
        )


def values_of(model: keras.Model) -> list[Tensor]:
    """Return the values of all variables of a model, as tensors.

    They are copies, because `tf.function` would treat TensorFlow's variables as
    variables, and JAX may reuse a variable's memory in the next training step.
    """
    return [ops.copy(v) for v in model.variables]


def compiled(model: keras.Model, function: Callable) -> Callable:
    """Return `pure(model, function)`, compiled, with arrays in and out.

    Without `values`, each call uses the current values of the model.
    """
    run = backend.compiled(pure(model, function))

    def call(*inputs, values=None):
        values = values_of(model) if values is None else values
        outputs = run(values, *map(ops.convert_to_tensor, inputs))
        return keras.tree.map_structure(ops.convert_to_numpy, outputs)

    return call


def at_least_one(name: str, value: int) -> None:
    """Raise `ValueError` for an argument that is less than one."""
    if value < 1:
        raise ValueError(
            f"`{name}` must be at least 1. Received: {name}={value}"
        )


def batches(
    images: Numbers, *others: Numbers, batch_size: int = BATCH_SIZE
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield images as float32, and other arrays, a batch at a time."""
    at_least_one("batch_size", batch_size)
    if not len(images):
        raise ValueError("`images` is empty: there is nothing to analyse.")
    for other in others:
        if len(other) != len(images):
            raise ValueError(
                "There must be a label for each image. Received: "
                f"{len(images)} images, {len(other)} labels"
            )
    for i in range(0, len(images), batch_size):
        part = slice(i, i + batch_size)
        yield (
            np.asarray(images[part], "float32"),
            *(np.asarray(other[part], "int32") for other in others),
        )


def gives_logits(model: keras.Model) -> bool:
    """Return whether a classifier's outputs are logits, not probabilities.

    Raises:
        ValueError: If the model does not end in a dense classifier with
            softmax or no activation.
    """
    head = chain(model)[-1]
    activation = getattr(head, "activation", None)
    known = (keras.activations.linear, keras.activations.softmax)
    if not isinstance(head, keras.layers.Dense) or activation not in known:
        raise ValueError(
            "This analysis needs a classifier: a dense head with softmax, or "
            f"with `classifier_activation=None`. Received: {head.name!r} of "
            f"{model.name!r}"
        )
    return activation is keras.activations.linear


def cross_entropies(
    outputs: Tensor, labels: Tensor, from_logits: bool
) -> Tensor:
    """Return the cross-entropy of each image, by the function of Keras."""
    return keras.losses.sparse_categorical_crossentropy(
        labels, ops.cast(outputs, "float32"), from_logits=from_logits
    )


def wrong(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return 1.0 for each image that is classified wrongly, else 0.0."""
    predicted = ops.cast(ops.argmax(outputs, axis=-1), labels.dtype)
    return ops.cast(ops.not_equal(predicted, labels), "float32")
