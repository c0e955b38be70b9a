"""Folding batch normalization into convolutions, for inference."""

import collections
import functools

import keras
import numpy as np
from keras import layers, ops

from keras_resnet import backend, blocks
from keras_resnet.resnet import ResidualNetwork, StemConvolution
from keras_resnet.steps import pairs, parts

# No subclasses of these are folded, because they may override `call`.
CONVOLUTIONS: tuple[type[keras.Layer], ...] = (
    layers.Conv2D,
    blocks.Convolution,
    StemConvolution,
)
NORMALIZATIONS: tuple[type[keras.Layer], ...] = (
    layers.BatchNormalization,
    blocks.BatchNormalization,
)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Return an inference copy without the foldable batch normalizations.

    In inference, batch normalization multiplies each channel by one constant
    and adds another. Folding moves both into the 2-D convolution before it,
    whose kernel and bias become:

    `kernel * gamma / sqrt(variance + epsilon)`,
    `beta + (bias - mean) * gamma / sqrt(variance + epsilon)`.

    Normalizations inside `ResidualBlock` and inside nested functional and
    sequential models are folded too. A normalization stays if the layer before
    it is not a linear convolution, if the convolution's output is also used
    elsewhere, or if the normalization is called with `training=True`. A block
    of a subclass of `ResidualBlock` is folded if its `call` runs its steps,
    and if `make_normalization` returns batch normalizations that the steps
    pair with their convolutions, such as `bn1` with `conv1`.

    The copy is for inference: `training=True` does not normalize by the
    statistics of the batch. It is a functional model, not compiled, and shares
    no variables with the original.

    Args:
        model: A functional Keras model, as in this package, or a sequential
            model that is built.

    Returns:
        A `keras.Model` with the inputs, outputs and layer names of `model`,
        without the folded normalizations.

    Raises:
        ValueError: If the model is neither functional nor sequential, or has
            nothing to fold, for example because it is already folded.

    Reference: Jacob et al. 2018, "Quantization and Training of Neural
    Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2.
    """
    if not _is_graph(model):
        raise ValueError(
            "Only a functional model, or a sequential one that is built, can "
            f"be folded. Received: {type(model).__name__} {model.name!r}"
        )
    folded = _folded(model)
    if _count(folded) == _count(model):
        raise ValueError(
            f"Model {model.name!r} has nothing to fold: no batch normalization "
            "follows a convolution that it could be folded into."
        )
    return folded


def _is_graph(layer):
    return isinstance(layer, keras.Model) and bool(
        getattr(layer, "inputs", None)
    )


def _count(model):
    return sum(
        isinstance(layer, layers.BatchNormalization)
        for layer in model._flatten_layers()
    )


def _folded(model):
    """Return a copy of a functional or sequential model, folded."""
    graph = getattr(model, "_functional", model)
    # Rebuilt from its graph, because a clone of a compiled model would be
    # compiled too, and have the optimizer's slot variables.
    kind = keras.Model
    if isinstance(model, ResidualNetwork):
        # A `FeatureExtractor` stays one. The arguments of other subclasses are
        # unknown.
        usual = type(model).__init__ is ResidualNetwork.__init__
        kind = type(model) if usual else ResidualNetwork
    graph = kind(graph._inputs_struct, graph._outputs_struct, name=model.name)
    nodes = [node for level in graph._nodes_by_depth.values() for node in level]
    in_training = {
        node.operation
        for node in nodes
        if node.arguments.kwargs.get("training")
    }
    normalizations = _foldable(nodes, graph.outputs, in_training)
    convolutions = {conv: bn for bn, conv in normalizations.items()}
    transfers = []

    def copy(layer):
        if _is_graph(layer) and layer not in in_training:
            return _folded(layer)
        if layer in normalizations:
            return None
        config = layer.get_config()
        transfer = copy_weights
        if layer in convolutions:
            config["use_bias"] = True
            _forget_lora(config)
            transfer = functools.partial(_fold, bn=convolutions[layer])
        elif layer not in in_training and _is_foldable_block(layer):
            config["folded"] = True
            for sublayer in config.get("sublayers", {}).values():
                _forget_lora(sublayer)
            transfer = _fold_block
        twin = type(layer).from_config(config)
        transfers.append((transfer, layer, twin))
        return twin

    def call(layer, *args, **kwargs):
        if layer is None:
            return args[0] if args else kwargs["inputs"]
        return layer(*args, **kwargs)

    folded = keras.models.clone_model(
        graph, clone_function=copy, call_function=call
    )
    # Weights are copied here, because now all layers are built.
    for transfer, layer, twin in transfers:
        transfer(layer, twin)
    return folded


def _foldable(nodes, outputs, in_training):
    """Return a dictionary from foldable normalizations to convolutions."""
    sources = collections.defaultdict(set)
    readers = collections.defaultdict(set)
    for node in nodes:
        for tensor in node.input_tensors:
            source = tensor._keras_history.operation
            sources[node.operation].add(source)
            readers[source].add(node.operation)
    outputs = {tensor._keras_history.operation for tensor in outputs}
    convolutions = {}
    for bn in sources:
        conv, *others = sources[bn]
        if (
            not others
            and _fits(conv, bn)
            and bn not in in_training
            and readers[conv] == {bn}
            and conv not in outputs
        ):
            convolutions[bn] = conv
    return convolutions


def _fits(conv, bn):
    """Return whether a normalization can be folded into a convolution."""
    return (
        type(conv) in CONVOLUTIONS
        and type(bn) in NORMALIZATIONS
        and conv.activation is keras.activations.linear
        and bn.axis % 4 == backend.channel_axis(conv.data_format) % 4
    )


def _own_pairs(block):
    """Return the pairs of a convolution and a normalization to be folded."""
    names = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3)]
    names += [("shortcut_conv", "shortcut_bn")]
    own = [[getattr(block, name, None) for name in pair] for pair in names]
    return [pair for pair in own if None not in pair]


def _is_foldable_block(layer):
    if (
        not isinstance(layer, blocks.ResidualBlock)
        or layer.folded
        or not blocks.follows_steps(layer)
    ):
        return False
    branch, shortcut = layer.residual_branch(), layer.projection()
    steps = (*layer.preactivation(), *branch, *shortcut)
    together = [tuple(map(id, pair)) for pair in pairs(steps)]
    all_parts = [id(part) for part in parts(steps)]
    own = _own_pairs(layer)
    return bool(own) and all(
        _fits(conv, bn)
        and (id(conv), id(bn)) in together
        # A second use of either would need the layer before folding.
        and all_parts.count(id(conv)) == all_parts.count(id(bn)) == 1
        for conv, bn in own
    )


def _forget_lora(config):
    """Remove LoRA from a configuration: the folded kernel includes it."""
    config.pop("lora_rank", None)
    config.pop("lora_alpha", None)


def _fold_block(block, twin):
    own = {conv.name: bn for conv, bn in _own_pairs(block)}
    sources, targets = (
        list(x._flatten_layers(include_self=False, recursive=False))
        for x in (block, twin)
    )
    sources = [x for x in sources if x not in own.values()]
    for source, target in zip(sources, targets, strict=True):
        if source.name in own:
            _fold(source, target, own[source.name])
        else:
            copy_weights(source, target)
    _copy_own_weights(block, twin)


def _fold(conv, twin, bn):
    """Set the weights of `twin` to a convolution folded with `bn`."""

    # In double precision, so that the kernel is rounded only once.
    def array(weight):
        tensor = ops.convert_to_tensor(weight)
        return ops.convert_to_numpy(tensor).astype("float64")

    scale = 1 / np.sqrt(array(bn.moving_variance) + bn.epsilon)
    if bn.scale:
        scale *= array(bn.gamma)
    bias = array(conv.bias) if conv.use_bias else 0
    bias = (bias - array(bn.moving_mean)) * scale
    if bn.center:
        bias += array(bn.beta)
    twin.set_weights([array(conv.kernel) * scale, bias])


def copy_weights(layer: keras.Operation, twin: keras.Operation) -> None:
    """Copy the weights of `layer` to `twin`, of the same configuration."""
    if not isinstance(layer, layers.Layer):
        # Operations of `keras.ops` have no weights.
        return
    for source, target in zip(
        layer._flatten_layers(), twin._flatten_layers(), strict=True
    ):
        _copy_own_weights(source, target)


def _copy_own_weights(source, target):
    # The methods of saving and loading are used, because some layers, such as
    # `keras.layers.Normalization`, derive other tensors from their weights.
    store = {}
    source.save_own_variables(store)
    # Copied as NumPy arrays, because on JAX the two models would share arrays,
    # and `predict` of one model deletes them.
    store = {
        key: ops.convert_to_numpy(ops.convert_to_tensor(value))
        for key, value in store.items()
    }
    target.load_own_variables(store)
