"""Loading: every tensor is used and every weight is set, or none is."""

import os
import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet import blocks, table1
from keras_resnet.types import Tensor
from keras_resnet.weights import files, sources
from keras_resnet.weights.errors import WeightsError
from keras_resnet.weights.sources import WeightPath

SHOWN = 6  # names in an error
STEM = ("stem_conv", "", "kernel")
# Keep the model's head only if the source has other classes, or no head.
IF_DIFFERENT = "if different"


def load_torch_weights(
    model: keras.Model,
    source: Any,
    *,
    new_head: bool = False,
    adapt_input: bool = False,
    naming: str | None = None,
) -> None:
    """Load weights that were trained in PyTorch, by their names.

    The names of torchvision, timm, transformers and akamaster's CIFAR networks
    are recognized, also with the prefix `module.`, and so are those of
    `keras.applications` and KerasHub. Every tensor must be used and every
    weight of the network set. Otherwise an error lists the tensors that are
    missing, left over or of another shape, and the model is unchanged. Code in
    a file is never run. PyTorch is needed only to read its own file format.

    The network computes the same as the source in inference: biases of
    convolutions and another `epsilon` go into the next normalization, and
    channels are reordered for akamaster's option A, which adds zero channels
    on both sides. Only the classifier's name distinguishes akamaster from
    torchvision, so a source without classifier needs `naming` if the network
    has option A.

    The tensors do not show two properties. The first is the convolution of a
    bottleneck with the stride: the 3x3 in torchvision and timm, the 1x1 in
    `keras.applications`, either in transformers. A `model` of the other kind
    raises an error. The second is shortcuts without weights: a plain network
    also loads the weights of its twin with option A.

    Args:
        model: A network of this package, not folded, quantized or adapted by
            LoRA. Layers before the network (`input_tensor`) are unchanged.
        source: Path of a `.safetensors`, `.pth`, `.pt`, `.th`, `.bin` or
            `.h5` file, or a mapping of names to arrays or tensors, such as a
            state dict.
        new_head: Boolean. `True` keeps the model's head and ignores the
            source's, for another number of classes. A model without top always
            ignores it. Defaults to `False`.
        adapt_input: Boolean. `True` allows another number of input channels:
            see `adapt_channels`. Defaults to `False`.
        naming: Naming of the source's tensors, as in `to_torch_state_dict`.
            Defaults to recognition by the names.

    Raises:
        WeightsError: A `ValueError`, if the source does not fit the model.
    """
    if naming is not None:
        _check_naming(naming)
    if isinstance(source, (str, os.PathLike)):
        origin, source = str(source), files.read(source)
    elif hasattr(source, "items"):
        origin = "The mapping"
    else:
        raise WeightsError(
            "`source` must be a path or a mapping of names to arrays. "
            f"Received: {type(source).__name__}"
        )
    assign(model, convert(model, source, origin, new_head, adapt_input, naming))


def targets(model: keras.Model) -> dict[WeightPath, keras.Variable]:
    """Return the weights of a network by their paths: see `sources`.

    Raises:
        WeightsError: If the model is not a network of this package, or is
            folded, quantized or adapted by LoRA.
    """
    reason = blocks.adaptation(model)
    if reason is not None:
        raise WeightsError(
            f"{reason}, so its weights are other numbers. Load or convert "
            "them first, and adapt or quantize afterwards."
        )
    variables = {}
    for layer in model.layers:
        if isinstance(layer, blocks.ResidualBlock):
            parts = [
                (part.name, part)
                for part in layer._flatten_layers()
                if part is not layer
            ]
        elif layer.name in ("stem_conv", "stem_bn", "end_bn", "head"):
            parts = [("", layer)]
        else:
            continue
        for name, part in parts:
            for weight in ("kernel", "bias", *sources.WEIGHTS["bn"]):
                variable = getattr(part, weight, None)
                if variable is not None:
                    variables[layer.name, name, weight] = variable
    names = {layer for layer, *_ in variables}
    if (
        not {"stem_conv", "stage1_block1"} <= names
        or not {"stem_bn", "end_bn"} & names
        or any(block.folded for block in blocks.residual_blocks(model))
    ):
        raise WeightsError(
            f"Model {model.name!r} is not a network of this package, or it "
            "is folded. Load the weights first, then fold or build on it."
        )
    return variables


def convert(
    model: keras.Model,
    source: Mapping[str, Any],
    origin: str,
    new_head: bool | str = False,
    adapt_input: bool | str = False,
    naming: str | None = None,
) -> dict[WeightPath, np.ndarray]:
    """Return the arrays of a source for a model, by path, after all checks.

    Args are those of `load_torch_weights`, and `origin` is the source's name
    in errors. `new_head` may also be `IF_DIFFERENT`. `adapt_input` may also be
    the source's order of colours, `"RGB"` or `"BGR"`, because another number
    of channels begins with red (`Preprocessing.for_channels`).
    """
    weights = targets(model)
    source = sources.unwrap(source)
    key, meanings = _recognized(source, origin, naming)
    scheme = sources.NAMINGS[key]
    name = f"{origin} ({key} names)"
    check_stride(model, scheme.bottleneck_stride, name)
    _check_preactivation(model, scheme, name)
    arrays = {
        path: sources.to_ours(
            scheme, path, _array(source[tensor], tensor, origin)
        )
        for tensor, path in meanings.items()
    }
    # Checked before the head is removed, because the head may be damaged.
    _check_finite(arrays, scheme, origin)
    arrays, weights = _without_head(arrays, weights, new_head)
    _fold_biases(arrays, weights)
    _check_architecture(arrays, weights, origin)
    if adapt_input:
        _adapt_stem(arrays, weights, adapt_input)
    leftover = [
        tensor
        for tensor in source
        if tensor not in meanings and not re.fullmatch(scheme.ignored, tensor)
    ]
    problem = _misfit(arrays, weights, leftover, scheme)
    if problem:
        raise WeightsError(
            f"{name} does not fit model {model.name!r}. {problem}"
        )
    if scheme.centred_zeros:
        _renumber(model, arrays)
    elif (
        naming is None
        and scheme is sources.TORCHVISION
        and not any(
            layer == "head" or part.startswith("shortcut")
            for layer, part, _ in meanings.values()
        )
    ):
        _check_zero_channels(model, origin)
    _shift_variances(model, arrays, scheme)
    return arrays


def _recognized(source, origin, naming):
    """Return the naming of a source, and the path of each tensor's name."""
    if not source:
        raise WeightsError(f"{origin} holds no tensors.")
    key, meanings = sources.recognize(source, naming)
    if key == "keras.applications" and any("preact" in x for x in source):
        raise WeightsError(
            f"{origin} is of a ResNetV2 of keras.applications, which strides "
            "in the last block of a stage: no network of this package "
            "computes the same."
        )
    if key is None:
        known = ", ".join(k for k in sources.NAMINGS if k != "keras_resnet")
        raise WeightsError(
            f"{origin} does not name its tensors as "
            f"{naming or known} do: {_listed(source)}."
        )
    return key, meanings


def _without_head(arrays, weights, new_head):
    """Return both without the head, if the source's head is not loaded."""
    head = sources.HEAD
    if new_head == IF_DIFFERENT:
        new_head = head in weights and (
            head not in arrays or arrays[head].shape != weights[head].shape
        )
    if new_head or head not in weights:
        arrays = {p: a for p, a in arrays.items() if p[0] != "head"}
        weights = {p: v for p, v in weights.items() if p[0] != "head"}
    return arrays, weights


def _adapt_stem(arrays, weights, adapt_input):
    """Adapt the first kernel to the model's number of input channels."""
    channels = weights[STEM].shape[2]
    if adapt_input == "BGR" and channels != arrays[STEM].shape[2]:
        arrays[STEM] = arrays[STEM][:, :, ::-1]
    arrays[STEM] = adapt_channels(arrays[STEM], channels)


def _misfit(arrays, weights, leftover, scheme):
    """Return a message about differences and remedies, empty for none."""
    missing = [p for p in weights if p not in arrays]
    extra = [p for p in arrays if p not in weights]
    other = [
        p
        for p, array in arrays.items()
        if p in weights and array.shape != tuple(weights[p].shape)
    ]
    kinds = {
        "missing": [scheme.name(p) for p in missing],
        "left over": leftover + [scheme.name(p) for p in extra],
        "of another shape": [
            f"{scheme.name(p)} {_shape(scheme, p, arrays[p])} for "
            f"{_shape(scheme, p, weights[p])}"
            for p in other
        ],
    }
    problems = [
        f"{len(names)} {kind}: {_listed(names)}."
        for kind, names in kinds.items()
        if names
    ]
    differ = {*missing, *extra, *other}
    if {layer for layer, *_ in differ} == {"head"}:
        head = arrays.get(sources.HEAD)
        if head is not None and head.ndim == 2:
            problems.append(
                f"Build it with classes={head.shape[1]}, or keep the model's "
                "own head by `new_head=True`."
            )
        else:
            problems.append("Keep the model's own head by `new_head=True`.")
    elif differ == {STEM} and (
        _but_channels(arrays[STEM]) == _but_channels(weights[STEM])
    ):
        problems.append("Adapt the first convolution by `adapt_input=True`.")
    return " ".join(problems)


def _but_channels(kernel):
    """Return the shape of a kernel without the number of input channels."""
    return (*kernel.shape[:2], *kernel.shape[3:])


def _check_zero_channels(model, origin):
    """Raise if the names fit torchvision and akamaster, which then differ."""
    order = _orders(model)[-1]
    if (order != np.arange(len(order))).any():
        raise WeightsError(
            f"{origin}: the tensor names fit both torchvision and akamaster, "
            f"whose option A differs, and model {model.name!r} has option A. "
            "Set `naming` of `load_torch_weights` to 'torchvision' or "
            "'akamaster', or keep the classifier in the source, because its "
            "name distinguishes them."
        )


def assign(model: keras.Model, arrays: Mapping[WeightPath, np.ndarray]) -> None:
    """Assign arrays by path to a network. They must have been checked."""
    weights = targets(model)
    for path, array in arrays.items():
        weights[path].assign(array.astype("float32"))


def _check_naming(naming):
    if naming not in sources.TORCH_NAMINGS:
        raise WeightsError(
            f"`naming` must be one of {', '.join(sources.TORCH_NAMINGS)}. "
            f"Received: naming={naming!r}"
        )


def _listed(names):
    names = [str(name) for name in names]
    more = len(names) - SHOWN
    text = ", ".join(names[:SHOWN])
    return f"{text} and {more} more" if more > 0 else text


def _shape(naming, path, array):
    """Return a shape as text, in the source's order of axes."""
    shape = np.broadcast_to(0.0, tuple(array.shape))
    shape = sources.to_source(naming, path, shape).shape
    return "x".join(map(str, shape)) or "scalar"


def _array(value, name, origin):
    """Return a tensor of any framework as a NumPy array."""
    if hasattr(value, "detach"):
        _check_torch(value, name, origin)
        value = value.detach().cpu()
        if value.is_floating_point():
            # NumPy has no bfloat16; float32 represents it exactly.
            value = value if value.element_size() > 2 else value.float()
        value = value.numpy()
    elif ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = ops.convert_to_numpy(value)
    try:
        value = np.asarray(value)
        # Types of ml_dtypes, such as bfloat16, are of kind "V".
        if value.dtype.kind == "V":
            value = value.astype("float32")
    except (TypeError, ValueError):
        value = np.asarray(None)
    if value.dtype.kind != "f":
        raise WeightsError(
            f"{origin}: {name} holds no floating-point numbers but "
            f"{value.dtype}."
        )
    return value


def _check_torch(tensor, name, origin):
    """Raise `WeightsError` if a PyTorch tensor is not dense and complete."""
    if tensor.is_quantized:
        reason = "is quantized: dequantize it first"
    elif tensor.is_meta:
        reason = "has a shape and no numbers"
    elif str(tensor.layout) != "torch.strided":
        reason = f"has the layout {tensor.layout}: make it dense first"
    elif (
        tensor.numel() * tensor.element_size()
        > tensor.untyped_storage().nbytes()
    ):
        reason = (
            f"states {tensor.numel():,} numbers, and its storage has fewer: "
            "make it contiguous first"
        )
    else:
        return
    raise WeightsError(f"{origin}: {name} {reason}.")


def _check_finite(arrays, naming, origin):
    broken = [
        naming.name(path)
        for path, array in arrays.items()
        # Numbers beyond float32's range would become infinite.
        if not np.isfinite(array).all()
        or (array.size and np.abs(array).max() > np.finfo("float32").max)
    ]
    if broken:
        raise WeightsError(
            f"{origin} holds numbers that are not finite, in {len(broken)} "
            f"tensors: {_listed(broken)}."
        )
    negative = [
        naming.name(path)
        for path, array in arrays.items()
        if path[-1] == "moving_variance" and (array < 0).any()
    ]
    if negative:
        raise WeightsError(
            f"{origin} holds negative variances: {_listed(negative)}."
        )


def stride_of(model: keras.Model) -> str | None:
    """Return the strided convolution of a model's bottlenecks, or `None`."""
    places = {
        block.bottleneck_stride
        for block in blocks.residual_blocks(model)
        if block.bottleneck and block.stride != 1
    }
    return places.pop() if places else None


def check_stride(model: keras.Model, expected: str | None, origin: str) -> None:
    """Raise `WeightsError` if the source strides in another convolution."""
    place = stride_of(model)
    if expected is not None and place not in (None, expected):
        raise WeightsError(
            f"{origin} is of a network that strides in the {expected} "
            f"convolution of a bottleneck, and model {model.name!r} strides "
            f"in the {place}: the shapes fit, the outputs would not. Build it "
            f"with bottleneck_stride={expected!r}."
        )


def is_preactivated(model: keras.Model) -> bool:
    """Return whether a network consists of pre-activated blocks."""
    return any(b.preactivated for b in blocks.residual_blocks(model))


def _check_preactivation(model, scheme, origin):
    """Raise `WeightsError` if only one of both has pre-activation."""
    ours = is_preactivated(model)
    if scheme.preactivated not in (None, ours):
        having, kind = "with", "PreactivationBlock"
        if not scheme.preactivated:
            having, kind = "without", "ResidualBlock"
        raise WeightsError(
            f"{origin} has blocks {having} pre-activation, unlike model "
            f"{model.name!r}. Build the model with block=keras_resnet.{kind}."
        )


def _check_architecture(arrays, weights, origin):
    """Raise `WeightsError` if depth, blocks or shortcuts differ."""
    ours = _description(weights)
    for words, theirs in _description(arrays).items():
        if theirs != ours[words]:
            remedy = (
                " Build the model with the `shortcut` of the weights: 'A' has "
                "no projections, 'B' one where the shape changes, 'C' one in "
                "every block."
            )
            raise WeightsError(
                f"{origin} does not match the model. {words.capitalize()}: "
                f"{theirs} in the source, {ours[words]} in the model."
                + (remedy if words == "projections" else "")
            )


def _description(paths):
    """Return depths, convolutions and projections of a network, by name."""
    kernels = [
        (layer, part)
        for layer, part, weight in paths
        if weight == "kernel" and table1.stage_and_block(layer)
    ]
    depths = table1.depths_of({layer for layer, _ in kernels})
    # A block of the user's own may have other parts.
    matches = [re.fullmatch(r"conv(\d)", part) for _, part in kernels]
    numbers = [int(match[1]) for match in matches if match]
    projecting = [
        table1.stage_and_block(layer)[0]
        for layer, part in kernels
        if part == "shortcut_conv"
    ]
    by_stage = [projecting.count(i + 1) for i in range(len(depths))]
    return {
        "blocks per stage": depths,
        "convolutions per block": max(numbers, default=0),
        "projections": f"{by_stage} by stage" if projecting else "none",
    }


def _fold_biases(arrays, weights):
    """Move the biases of convolutions into the normalizations after them.

    `y + bias - mean` is `y - (mean - bias)`. A bias that the model has, too,
    by a block of the user's own, stays.
    """
    for path in list(arrays):
        layer, part, weight = path
        if weight != "bias" or layer == "head" or path in weights:
            continue
        after = (
            ("stem_bn", "", "moving_mean")
            if layer == "stem_conv"
            else (layer, part.replace("conv", "bn"), "moving_mean")
        )
        mean = arrays.get(after)
        if mean is not None and mean.shape == arrays[path].shape:
            arrays[after] = mean.astype("float64") - arrays.pop(path)


def epsilon_of(model: keras.Model, path: WeightPath) -> float:
    """Return the epsilon of the normalization that has this weight."""
    layer, part, _ = path
    bn = model.get_layer(layer)
    return (getattr(bn, part) if part else bn).epsilon


def _shift_variances(model, arrays, scheme, back=False):
    """Shift variances so that `variance + epsilon` equals the source's."""
    if scheme.epsilon is None:
        return
    for path, array in arrays.items():
        if path[-1] == "moving_variance":
            shift = scheme.epsilon - epsilon_of(model, path)
            if shift:
                shift = -shift if back else shift
                arrays[path] = array.astype("float64") + shift


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return a first convolution for another number of input channels.

    For one channel, the kernel, `(rows, columns, channels, filters)`, is summed
    over the old channels. The output for a grey image then equals that for the
    same image in RGB. For other numbers, the old channels are repeated in turn,
    and scaled so that their sum stays about the same.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    repeated = kernel[:, :, np.arange(channels) % old]
    return repeated * np.asarray(old / channels, kernel.dtype)


def _orders(model):
    """Return the source's channel order after the stem and each stage."""
    residual = blocks.residual_blocks(model)
    channels = {0: residual[0].conv1.kernel.shape[2]}
    for block in residual:
        stage, _ = table1.stage_and_block(block.name)
        channels[stage] = block.out_channels
    if all(block.residual and block.shortcut == "A" for block in residual):
        return sources.channel_order(list(channels.values()))
    return [np.arange(n) for n in channels.values()]


def _renumber(model, arrays, back=False):
    """Reorder the channels between blocks to this package's order, or back."""
    orders = _orders(model)
    if back:
        orders = [np.argsort(order) for order in orders]
    for path, array in arrays.items():
        layer, part, weight = path
        place = table1.stage_and_block(layer)
        if path == sources.HEAD:
            arrays[path] = array[orders[-1]]
        elif place:
            stage, block = place
            last = "3" if (layer, "conv3", "kernel") in arrays else "2"
            if part == "conv1" and weight == "kernel":
                before = stage - 1 if block == 1 else stage
                arrays[path] = array[:, :, orders[before]]
            elif part in (f"conv{last}", f"bn{last}"):
                arrays[path] = array[..., orders[stage]]


def to_arrays(model: keras.Model, naming: str) -> dict[str, np.ndarray]:
    """Return a model's weights with the names and layout of a source."""
    scheme = sources.NAMINGS[naming]
    arrays = {
        path: ops.convert_to_numpy(ops.convert_to_tensor(variable)).copy()
        for path, variable in targets(model).items()
    }
    if scheme.centred_zeros:
        _renumber(model, arrays, back=True)
    _shift_variances(model, arrays, scheme, back=True)
    return {
        scheme.name(path): np.ascontiguousarray(
            sources.to_source(scheme, path, array), "float32"
        )
        for path, array in arrays.items()
    }


def to_torch_arrays(model: keras.Model, naming: str) -> dict[str, np.ndarray]:
    """Return `to_arrays` and PyTorch's counts of batches, which are zero."""
    arrays = {}
    for name, array in to_arrays(model, naming).items():
        arrays[name] = array
        if name.endswith(".running_var"):
            counter = name.removesuffix("running_var") + "num_batches_tracked"
            arrays[counter] = np.array(0, "int64")
    return arrays


def to_torch_state_dict(
    model: keras.Model, naming: str = "torchvision"
) -> dict[str, Tensor]:
    """Return a network's weights as a state dict of PyTorch.

    `load_state_dict` of the same network in PyTorch accepts it, and computes
    the same in inference. Weights from `load_torch_weights` are returned bit
    for bit. The count of batches of every normalization is zero.

    Args:
        model: A network of this package, not folded, quantized or adapted by
            LoRA.
        naming: `"torchvision"` (default; also timm's), `"transformers"`,
            `"akamaster"` (CIFAR networks with option A, whose zero channels
            are on both sides) or `"timm_v2"` (for `PreactivationBlock`). A
            network with `bottleneck_stride="1x1"` needs `"transformers"`,
            where it is called `downsample_in_bottleneck=True`.

    Returns:
        A dictionary from names to float32 tensors of PyTorch on the CPU,
        which share no memory with the model. PyTorch must be installed.

    Raises:
        WeightsError: A `ValueError`, for an unknown naming, and if the network
            with that naming would compute something else.
    """
    _check_naming(naming)
    try:
        import torch
    except ModuleNotFoundError:
        raise WeightsError(
            "A state dict holds PyTorch's tensors, and PyTorch is not "
            "installed."
        ) from None
    scheme = sources.NAMINGS[naming]
    if scheme.preactivated != is_preactivated(model):
        raise WeightsError(
            f"Model {model.name!r}: naming='timm_v2' is only for networks of "
            "`PreactivationBlock`, and all others need another naming. "
            f"Received: naming={naming!r}"
        )
    expected = scheme.bottleneck_stride
    if expected is not None and stride_of(model) not in (None, expected):
        raise WeightsError(
            f"Networks of {naming} stride in the {expected} convolution of a "
            f"bottleneck, and model {model.name!r} in the {stride_of(model)}. "
            "naming='transformers' has both."
        )
    arrays = to_torch_arrays(model, naming)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
