"""Values of `weights=`: published weights, repositories and files."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from keras_resnet import blocks, preprocessing, table1
from keras_resnet.types import PathLike
from keras_resnet.weights import files, hub, loading
from keras_resnet.weights.errors import WeightsError

KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "resnet{depth}_weights_tf_dim_ordering_tf_kernels{notop}.h5"
)
# MD5 with and without top.
KERAS_MD5 = {
    50: (
        "2cb95161c43110f7111970584f804107",
        "4d473c1dd8becc155b73f8504c6f6626",
    ),
    101: (
        "f1aeb4b969a6efcfb50fad2f0c20cfc5",
        "88cf7a10940856eca736dc7b7e228a21",
    ),
    152: (
        "100835be76be38e30d865e96f2aaae62",
        "ee4c566cf9a93f14d82f913c2dc6dd0c",
    ),
}
# Pillow's numbers of interpolations, which the files of transformers use.
PILLOW = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# The size from which on transformers' image processor does not crop.
UNCROPPED = 384
# Arguments of timm's networks that are allowed: they change nothing in
# inference, or the tensors show the change.
TIMM_ARGUMENTS = {
    "drop_block_rate",
    "drop_path_rate",
    "drop_rate",
    "in_chans",
    "num_classes",
    "zero_init_last",
}
# Layers that preprocess images.
PREPARING = keras.layers.Normalization, keras.layers.Rescaling
KERAS = "keras"
IMAGENET = "imagenet"


def check(weights: PathLike | None) -> PathLike | None:
    """Return `weights` if it can be a name of weights, else `WeightsError`.

    This is called before a network is built, so that mistyped names fail fast.
    """
    if weights in (None, IMAGENET, KERAS) or isinstance(weights, os.PathLike):
        return weights
    if isinstance(weights, str):
        if os.path.exists(weights):
            return weights
        if weights.endswith(files.ENDINGS):
            raise WeightsError(f"There is no file {weights!r}.")
        if hub.REPOSITORY.fullmatch(weights):
            return weights
    raise WeightsError(
        "`weights` must be None, 'imagenet', 'keras', a repository of the "
        "Hugging Face hub such as 'timm/resnet50.a1_in1k', a folder with what "
        "one holds, or the path of a file ending in "
        f"{', '.join(files.ENDINGS)}. "
        f"Received: weights={weights!r}"
    )


def load(
    model: keras.Model,
    weights: PathLike,
    *,
    may_change_head: bool,
    adapt_input: bool,
) -> None:
    """Load `weights` into a new network, and set its preprocessing.

    With `may_change_head` the head keeps its random weights if the source has
    another number of classes. `adapt_input`: see `load_torch_weights`.
    """
    options = {
        "new_head": loading.IF_DIFFERENT if may_change_head else False,
        "adapt_input": adapt_input,
    }
    if weights == IMAGENET:
        depth = _depth(model, weights, tuple(table1.IMAGENET_SPECS))
        _load_repository(model, f"timm/resnet{depth}.tv_in1k", options)
    elif weights == KERAS:
        _load_keras(model, options)
    elif os.path.isdir(weights) or not (
        isinstance(weights, os.PathLike) or os.path.exists(weights)
    ):
        _load_repository(model, os.fspath(weights), options)
    else:
        path = files.check(weights)
        if path.name.endswith(".weights.h5"):
            _load_keras_weights(model, path)
        elif path.suffix == ".keras":
            _load_model(model, files.read_model(path), path, options)
        else:
            _convert(model, files.read(path), str(path), options)


def depth_of(model: keras.Model) -> int | None:
    """Return the depth, from the kind and the number of blocks.

    It is `None` if the paper has no such network for ImageNet.
    """
    residual = blocks.residual_blocks(model)
    depths = table1.depths_of(block.name for block in residual)
    for depth, spec in table1.IMAGENET_SPECS.items():
        if spec == (residual[0].bottleneck, depths):
            return depth
    return None


def _depth(model, weights, published):
    """Return the depth of a network, if weights for it are published."""
    depth = depth_of(model)
    if depth in published:
        return depth
    raise WeightsError(
        f"weights={weights!r} are published for ImageNet's ResNet-"
        f"{', '.join(map(str, published))}, and model {model.name!r} is none "
        "of them."
    )


def _load_keras(model, options):
    depth = _depth(model, KERAS, tuple(KERAS_MD5))
    loading.check_stride(model, "1x1", "weights='keras'")
    # Published for 1000 classes, so another number needs a new head.
    head = loading.targets(model).get(("head", "", "kernel"))
    notop = head is None or head.shape[1] != 1000
    url = KERAS_URL.format(depth=depth, notop="_notop" if notop else "")
    path = hub.keras_file(url, KERAS_MD5[depth][notop])
    images = preprocessing.PREPROCESSINGS["keras"]
    _convert(model, files.read(path), path.name, options, images)
    _prepare(model, images)


def _load_repository(model, repository, options):
    config = hub.read_json(repository, "config.json")
    stored = _whole(repository, config)
    if stored is not None:
        _load_model(model, stored, repository, options)
        return
    images, stride = describe(repository, config)
    loading.check_stride(model, stride, repository)
    path = hub.repository_file(repository, "model.safetensors")
    _convert(model, files.read(path), repository, options)
    _prepare(model, images)


def load_pretrained(repository: PathLike) -> keras.Model:
    """Return the whole network that `save_pretrained` wrote.

    The network has its own blocks and head, `preprocessing` and the layers
    that prepare images, and gives the outputs that it gave when it was saved.
    A class of blocks of your own must be registered with Keras. No code in the
    repository is run.

    Args:
        repository: Path of a folder, or a repository of the Hugging Face hub,
            `"owner/name"` or `"owner/name@revision"`, in the format
            `"keras_resnet"`.

    Returns:
        `keras.Model`, not compiled.

    Raises:
        WeightsError: A `ValueError`, if there is no such repository, if it is
            damaged, or if it has the format of another library.
    """
    name = os.fspath(repository)
    if not os.path.isdir(name) and (
        os.path.exists(name) or not hub.REPOSITORY.fullmatch(name)
    ):
        raise WeightsError(
            "`repository` must be a folder that `save_pretrained` wrote, or a "
            "repository of the Hugging Face hub such as 'owner/name'. "
            f"Received: repository={name!r}"
        )
    model = _whole(name, hub.read_json(name, "config.json"))
    if model is None:
        raise WeightsError(
            f"{name} holds weights in the format of another library, and no "
            f"whole network. Build the network with weights={name!r}."
        )
    return model


def _whole(repository, config):
    """Return the network in a repository, or `None` if it holds weights."""
    if not isinstance(config, dict) or config.get("library") != "keras_resnet":
        return None
    path = hub.repository_file(repository, "model.safetensors")
    return files.rebuild(config, files.read(path), repository)


def _prepare(model, images):
    channels = model.get_layer("stem_conv").kernel.shape[2]
    model.preprocessing = images.for_channels(channels)


def _convert(model, source, origin, options, images=None):
    if images is not None and options["adapt_input"]:
        options = {**options, "adapt_input": images.channels}
    loading.assign(model, loading.convert(model, source, origin, **options))


def describe(
    repository: str, config: Mapping[str, Any]
) -> tuple[preprocessing.Preprocessing, str]:
    """Return the `Preprocessing` and stride in a repository's configuration.

    Raises:
        WeightsError: If the repository has another kind of network, even with
            the same names and shapes of tensors.
    """
    try:
        if config.get("model_type") == "resnet":
            return _describe_transformers(repository, config)
        if re.fullmatch(r"resnet(v2_)?\d+", config.get("architecture", "")):
            _check_timm(repository, config)
            images = config.get("pretrained_cfg", config)
            return _describe_timm(repository, images), "3x3"
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise WeightsError(
            f"{repository}: its configuration is not understood: "
            f"{type(error).__name__} {error}."
        ) from None
    architecture = config.get("architecture") or config.get("model_type")
    raise WeightsError(
        f"{repository} holds {architecture!r}, which is none of the networks "
        "of He et al. 2015 and 2016."
    )


def _check_timm(repository, config):
    """Raise for arguments that change the computation but not the tensors."""
    arguments = dict(config.get("model_args") or {})
    pool = arguments.pop("global_pool", config.get("global_pool", "avg"))
    classes = arguments.get("num_classes", config.get("num_classes"))
    if pool != "avg" and classes != 0:
        arguments["global_pool"] = pool
    other = [k for k in arguments if k not in TIMM_ARGUMENTS]
    if other:
        listed = ", ".join(f"{k}={arguments[k]!r}" for k in other)
        raise WeightsError(
            f"{repository} holds a network that may compute something else "
            f"from the same tensors, by {listed}. If it does not, "
            "`load_torch_weights` takes the file."
        )


def _describe_timm(repository, config):
    size = config["input_size"][-1]
    if config.get("crop_mode", "center") != "center":
        raise WeightsError(
            f"{repository} crops images by crop_mode={config['crop_mode']!r}, "
            "which is not supported."
        )
    return preprocessing.Preprocessing(
        mean=config["mean"],
        std=config["std"],
        size=size,
        # Rounded down, as in timm.
        resize=math.floor(size / config["crop_pct"]),
        interpolation=config["interpolation"],
    )


def _describe_transformers(repository, config):
    if config.get("hidden_act", "relu") != "relu" or config.get(
        "downsample_in_first_stage", False
    ):
        raise WeightsError(
            f"{repository} holds a network with another activation, or that "
            "strides in the first stage."
        )
    stride = "1x1" if config.get("downsample_in_bottleneck") else "3x3"
    images = hub.read_json(repository, "preprocessor_config.json")
    size = images["size"]
    if isinstance(size, dict):
        size = size["shortest_edge"]
    # As in its image processor for ConvNeXT.
    share = images.get("crop_pct", 224 / 256) if size < UNCROPPED else 1
    return (
        preprocessing.Preprocessing(
            mean=images["image_mean"],
            std=images["image_std"],
            scale=images.get("rescale_factor", 1 / 255),
            size=size,
            resize=int(size / share),
            interpolation=PILLOW[images.get("resample", 3)],
        ),
        stride,
    )


def _load_keras_weights(model, path):
    """Load a `.weights.h5` file by Keras. It has no layer names to check."""
    before = model.get_weights()
    try:
        stored = _count_arrays(path)
        # This includes the random states of blocks with stochastic depth.
        known = len(model.variables)
        if stored > known:
            raise WeightsError(
                f"{path} does not match model {model.name!r}: {stored} arrays "
                f"in the file, {known} in the model."
            )
        model.load_weights(path)
        _check_finite(model, path)
    except Exception as error:
        model.set_weights(before)
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"{path} does not fit model {model.name!r}; only a .keras file "
            "can be loaded with another number of classes or channels. "
            f"{error}"
        ) from error


def _count_arrays(path):
    """Count a file's arrays, without those of optimizer and metrics."""
    names = []

    def collect(name, item):
        if isinstance(item, h5py.Dataset):
            names.append(name)

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return sum(
        name.partition("/")[0] in ("layers", "_layer_checkpoint_dependencies")
        for name in names
    )


def _load_model(model, stored, path, options):
    _check_preparation(model, stored, path)
    images = getattr(stored, "preprocessing", None)
    own, others = True, []
    try:
        arrays = {
            "/".join(filter(None, k)): v
            for k, v in loading.targets(stored).items()
        }
    except (WeightsError, AttributeError):
        # A model of another package, whose naming may be known.
        own = False
        arrays = {v.path: v for v in getattr(stored, "weights", ())}
    else:
        loading.check_stride(model, loading.stride_of(stored), str(path))
        _check_shortcuts(model, stored, path)
    names = [
        [(w.path, tuple(w.shape)) for w in m.weights] for m in (model, stored)
    ]
    if names[0] == names[1]:
        # This includes the weights of layers before the network.
        _check_finite(stored, path)
        model.set_weights(stored.get_weights())
    else:
        if own:
            others = _pair_others(model, stored, path)
        _convert(model, arrays, str(path), options, images)
        for ours, theirs in others:
            ours.assign(theirs)
    if own:
        _shift_variances(model, stored)
    files.finalize(model)
    if images is not None:
        _prepare(model, images)


def _check_finite(model, path):
    if not all(np.isfinite(w).all() for w in model.get_weights()):
        raise WeightsError(f"{path} holds numbers that are not finite.")


def _shift_variances(model, stored):
    """Shift variances so that `variance + epsilon` equals the file's."""
    for path, variable in loading.targets(model).items():
        if path[-1] == "moving_variance":
            a, b = (loading.epsilon_of(m, path) for m in (stored, model))
            if a != b:
                value = ops.convert_to_numpy(ops.convert_to_tensor(variable))
                variable.assign(value.astype("float64") + (a - b))


def preparing_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the layers that prepare images, those of nested models too."""
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, PREPARING)]


def _check_preparation(model, stored, path):
    """Raise if only the file's network has layers that preprocess images."""
    theirs, ours = map(preparing_layers, (stored, model))
    if theirs and not ours:
        names = ", ".join(f"{x.name} ({type(x).__name__})" for x in theirs)
        raise WeightsError(
            f"{path} has its own preprocessing layers, {names}, and model "
            f"{model.name!r} has none. Build it on such layers "
            f"(`input_tensor`), or {_take_whole(path)}."
        )


def _take_whole(path):
    if str(path).endswith(".keras"):
        return "take the whole file by `keras.saving.load_model`"
    return "take the whole network by `keras_resnet.load_pretrained`"


def _pair_others(model, stored, path):
    """Pair the weights of layers before and after the network, in order.

    Their names cannot be compared, because Keras numbers layers globally.
    """
    ours, theirs = map(_others, (model, stored))
    shapes = [[tuple(w.shape) for w in weights] for weights in (ours, theirs)]
    if theirs and shapes[0] != shapes[1]:
        names = ", ".join(f"{w.path} {tuple(w.shape)}" for w in theirs)
        raise WeightsError(
            f"{path} has weights before or after the network, {names}, and "
            f"those of model {model.name!r} are "
            f"{', '.join(map(str, shapes[0])) or 'none'}. Build it with the "
            f"same layers (`input_tensor`), or {_take_whole(path)}."
        )
    return list(zip(ours, theirs, strict=True)) if theirs else []


def _others(model):
    known = {id(v) for v in loading.targets(model).values()}
    return [w for w in model.weights if id(w) not in known]


def _check_shortcuts(model, stored, path):
    """Raise if one network is plain: the shapes of weights do not show it."""
    theirs, ours = (
        {block.residual for block in blocks.residual_blocks(m)}
        for m in (stored, model)
    )
    if theirs != ours:
        residual = theirs.pop()
        raise WeightsError(
            f"{path} is of a {'residual' if residual else 'plain'} network, "
            f"and model {model.name!r} is not. Build the model with "
            f"residual={residual}."
        )
