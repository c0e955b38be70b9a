"""Folders of weights to share, in the layout of the Hugging Face hub."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet import blocks, table1
from keras_resnet.atomic import PARTIAL
from keras_resnet.complexity import complexity
from keras_resnet.preactivation import PreactivationBlock
from keras_resnet.preprocessing import Preprocessing
from keras_resnet.types import Config, PathLike
from keras_resnet.version import __version__
from keras_resnet.weights import loading, published, sources
from keras_resnet.weights.errors import WeightsError

FORMATS = ("keras_resnet", "timm", "transformers")
CONFIG, TENSORS = "config.json", "model.safetensors"


def save_pretrained(
    model: keras.Model,
    folder: PathLike,
    *,
    format: str = "keras_resnet",
    result: Mapping[str, Any] | PathLike | None = None,
    license: str | None = None,
) -> None:
    """Save a network as a folder to share: weights, configuration, model card.

    The folder has the files of a repository on the Hugging Face hub:
    `model.safetensors`, `config.json` and `README.md`. `weights=FOLDER` reads
    it, and so does the library in `format`: here `load_pretrained`. To upload
    it, call `huggingface_hub.upload_folder(repo_id=..., folder_path=...)`.

    Args:
        model: A network of this package.
        folder: Path of a folder that does not exist yet.
        format: `"keras_resnet"` (default) for any network of this package,
            also with a block of your own or layers that prepare images;
            `"timm"` or `"transformers"` for ImageNet networks with a
            classifier that the library also has. These two need
            `model.preprocessing`.
        result: Result of the run that trained the network, a dictionary or the
            path of its `result.json`. The model card then states data,
            procedure and errors. Defaults to `None`.
        license: String, licence of the weights, such as `"apache-2.0"`.
            Defaults to `None`: the model card says `not stated`.

    Raises:
        WeightsError: A `ValueError`, if the format does not support the
            network, or the folder exists.
    """
    folder = Path(folder)
    if format not in FORMATS:
        raise WeightsError(
            f"`format` must be one of {', '.join(FORMATS)}. "
            f"Received: format={format!r}"
        )
    if folder.exists():
        raise WeightsError(
            f"{folder} exists already, and is not overwritten: choose another "
            "folder."
        )
    if isinstance(result, (str, os.PathLike)):
        result = json.loads(Path(result).read_text("utf-8"))
    describe = {
        "keras_resnet": _own,
        "timm": _timm,
        "transformers": _transformers,
    }
    arrays, configs = describe[format](model)
    card = _card(model, format, result or {}, license)
    # Imported here because few uses of this package write such a file.
    from safetensors.numpy import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=PARTIAL) as part:
        whole = Path(part, folder.name)
        whole.mkdir()
        save_file(arrays, whole / TENSORS, metadata={"format": "pt"})
        for name, config in configs.items():
            text = json.dumps(config, indent=2) + "\n"
            (whole / name).write_text(text, "utf-8")
        (whole / "README.md").write_text(card, "utf-8")
        os.rename(whole, folder)


def _own(model):
    """Return all variables by path, and the model's configuration."""
    loading.targets(model)  # raises an error for other models
    # In C order, because safetensors writes the memory of an array as it is.
    arrays = {
        v.path: np.array(ops.convert_to_numpy(v), order="C")
        for v in model.variables
    }
    if len(arrays) < len(model.variables):
        raise WeightsError(
            f"Model {model.name!r} has variables with the same path: give its "
            "layers names of their own."
        )
    structure = keras.saving.serialize_keras_object(model)
    structure.pop("compile_config", None)
    config = {
        "library": "keras_resnet",
        "version": __version__,
        "model": structure,
        "variables": list(arrays),
    }
    return arrays, {CONFIG: config}


def _timm(model):
    """Return tensors and configuration in timm's format."""
    kind = _imagenet_block(model, "timm")
    images = _images(model, "timm")
    depth = published.depth_of(model)
    residual = blocks.residual_blocks(model)
    widths = tuple(dict.fromkeys(block.filters for block in residual))
    if depth is None or widths != table1.IMAGENET_WIDTHS:
        raise _cannot(
            model, "timm", "is none of ResNet-18, 34, 50, 101 and 152"
        )
    naming = "torchvision" if kind is blocks.ResidualBlock else "timm_v2"
    stride = sources.NAMINGS[naming].bottleneck_stride
    if loading.stride_of(model) not in (None, stride):
        raise _cannot(model, "timm", "strides in the 1x1 convolution")
    share = images.size / images.resize
    if math.floor(images.size / share) != images.resize:
        # timm rounds down, so a rounded quotient can lose a pixel.
        share = images.size / (images.resize + 0.5)
    classes, channels = _ends(model)
    version = "v2_" if naming == "timm_v2" else ""
    config = {
        "architecture": f"resnet{version}{depth}",
        "num_classes": classes,
        "pretrained_cfg": {
            "mean": list(images.mean),
            "std": list(images.std),
            "input_size": [channels, images.size, images.size],
            "crop_pct": share,
            "crop_mode": "center",
            "interpolation": images.interpolation,
            "num_classes": classes,
            "first_conv": "conv1" if not version else "stem.conv",
            "classifier": "fc" if not version else "head.fc",
        },
    }
    if channels != 3:
        config["model_args"] = {"in_chans": channels}
    return loading.to_torch_arrays(model, naming), {CONFIG: config}


def _transformers(model):
    """Return tensors and configurations in the format of transformers."""
    if _imagenet_block(model, "transformers") is not blocks.ResidualBlock:
        raise _cannot(model, "transformers", "activates before convolutions")
    images = _images(model, "transformers")
    if images.size >= published.UNCROPPED:
        raise WeightsError(
            f"Model {model.name!r} crops images to {images.size} pixels, and "
            f"transformers crops only below {published.UNCROPPED}. The other "
            "formats hold every size."
        )
    residual = blocks.residual_blocks(model)
    depths = table1.depths_of(block.name for block in residual)
    sizes = {
        table1.stage_and_block(block.name)[0]: block.out_channels
        for block in residual
    }
    classes, channels = _ends(model)
    config = {
        "model_type": "resnet",
        "architectures": ["ResNetForImageClassification"],
        "num_channels": channels,
        "embedding_size": model.get_layer("stem_conv").filters,
        "hidden_sizes": list(sizes.values()),
        "depths": list(depths),
        "layer_type": "bottleneck" if residual[0].bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": loading.stride_of(model) == "1x1",
        "id2label": {str(i): f"LABEL_{i}" for i in range(classes)},
        "label2id": {f"LABEL_{i}": i for i in range(classes)},
    }
    codes = {name: code for code, name in published.PILLOW.items()}
    processor = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": images.size},
        # It rounds down, so a rounded quotient could lose a pixel.
        "crop_pct": images.size / (images.resize + 0.5),
        "resample": codes[images.interpolation],
        "do_rescale": True,
        "rescale_factor": images.scale,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
    }
    names = {CONFIG: config, "preprocessor_config.json": processor}
    return loading.to_torch_arrays(model, "transformers"), names


def _cannot(model, format, reason):
    return WeightsError(
        f"Model {model.name!r} {reason}, so {format} has no such network. "
        "format='keras_resnet' holds every network of this package."
    )


def _ends(model):
    """Return the numbers of classes and of input channels."""
    stem = model.get_layer("stem_conv")
    return model.get_layer("head").units, stem.kernel.shape[2]


def _imagenet_block(model, format):
    """Return the class of a network's blocks, if other libraries have it.

    Raises:
        WeightsError: If the network differs from the paper's ImageNet networks
            in more than blocks, depths and widths.
    """
    loading.targets(model)
    residual = blocks.residual_blocks(model)
    names = {layer.name for layer in model.layers}
    kinds = {type(block) for block in residual}
    own = kinds - {blocks.ResidualBlock, PreactivationBlock}
    changes = [b.shortcut_conv is not None for b in residual if b.residual]
    wanted = [
        stage > 1 or block.bottleneck if i == 1 else False
        for block in residual
        for stage, i in [table1.stage_and_block(block.name)]
    ]
    reasons = {
        f"has blocks of class {', '.join(k.__name__ for k in own)}": own,
        "is a plain network": not all(b.residual for b in residual),
        # The tensors do not show it, and the other library would stride.
        "dilates convolutions (`output_stride`)": any(
            max(b.dilation) > 1 for b in residual
        ),
        "has another stem than ImageNet's networks": "stem_pool" not in names,
        "has no classifier": "head" not in names,
        "has its own preprocessing layers": published.preparing_layers(model),
        "does not use shortcut B": changes != wanted,
    }
    for reason, holds in reasons.items():
        if holds:
            raise _cannot(model, format, reason)
    return kinds.pop()


def _images(model, format):
    """Return the model's preprocessing, if other libraries support it."""
    images: Preprocessing | None = getattr(model, "preprocessing", None)
    if images is None:
        raise WeightsError(
            f"Model {model.name!r} does not say how images are prepared, and "
            f"{format} must know: set `model.preprocessing`, for example to "
            "'imagenet'."
        )
    if images.channels != "RGB" or not math.isclose(images.scale, 1 / 255):
        raise _cannot(model, format, "takes images of other colours or scale")
    return images


def _card(model, format, result, license):
    """Return the text of the model card, with the result of the run."""
    settings: Config = dict(result.get("settings", {}))
    data = settings.get("dataset")
    # The hub shows how this library loads a repository.
    head, own = {"library_name": format}, format == "keras_resnet"
    head |= {"license": license} if license else {}
    head |= {"pipeline_tag": "image-classification"}
    lines = ["---", *(f"{k}: {v}" for k, v in head.items())]
    lines += ["datasets:", f"- {data}"] if data else []
    lines += ["---", "", f"# {model.name}", ""]
    parameters = complexity(model).trainable_parameters
    rows = {
        "parameters": f"{parameters:,}",
        "data": data or "not stated",
        **{
            key.replace("_", " "): f"{100 * result[key]:.2f} %"
            for key in ("training_error", "validation_error", "test_error")
            if key in result
        },
        "licence": license or "not stated",
    }
    if "command" in result:
        rows["command"] = f"`{result['command']}`"
    chosen = {k: v for k, v in settings.items() if v is not None}
    if chosen:
        rows["procedure"] = ", ".join(f"{k} {v}" for k, v in chosen.items())
    if "versions" in result:
        rows["versions"] = ", ".join(
            f"{k} {v}" for k, v in result["versions"].items()
        )
    if "device" in result:
        rows["trained on"] = result["device"]
    lines += ["| | |", "|---|---|"]
    lines += [f"| {k} | {v} |" for k, v in rows.items()]
    lines += [
        "",
        "A residual network of He et al. 2015, [arXiv:1512.03385]"
        "(https://arxiv.org/abs/1512.03385), written by `keras_resnet`, whose "
        "networks take this folder as `weights=`.",
        *(["`keras_resnet.load_pretrained` returns it whole."] if own else []),
        "",
    ]
    return "\n".join(lines)
