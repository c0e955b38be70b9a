"""Reading weights from files."""

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_resnet.types import PathLike
from keras_resnet.weights.errors import WeightsError

TORCH_ENDINGS = (".pth", ".pt", ".th", ".bin")
ENDINGS = (".keras", ".weights.h5", ".h5", ".safetensors", *TORCH_ENDINGS)
# Weights can hardly be compressed, so a file is not read if its stated content
# is larger than this many times its size.
MAX_EXPANSION = 100
# ResNet-1202 has a configuration of about a megabyte.
MAX_CONFIG_BYTES = 2**25


def check(path: PathLike) -> Path:
    """Return the `Path` of a file of weights.

    Raises:
        WeightsError: If it does not exist, is a folder, a pipe, a device or
            an empty file, or has an unknown ending.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights.")
    if not path.exists():
        raise WeightsError(f"There is no file {str(path)!r}.")
    if not path.is_file():
        raise WeightsError(f"{path} is a pipe or a device, not a file.")
    if not path.name.endswith(ENDINGS):
        raise WeightsError(
            f"{path}: the name of a file of weights ends in "
            f"{', '.join(ENDINGS)}."
        )
    if not path.stat().st_size:
        raise WeightsError(f"{path} is empty.")
    return path


def read(path: PathLike) -> Mapping[str, Any]:
    """Read tensors by name from a file of PyTorch, safetensors or Keras 2.

    They may be wrapped: see `sources.unwrap`.

    Raises:
        WeightsError: If the file is damaged, or not in the format of its
            ending.
    """
    path = check(path)
    if path.name.endswith((".keras", ".weights.h5")):
        raise WeightsError(
            f"{path} is a file of Keras 3. Build the network with "
            f"weights={str(path)!r}"
            + (
                ", or load the model in it by `keras.saving.load_model`."
                if path.name.endswith(".keras")
                else ", or load it by `model.load_weights`."
            )
        )
    if path.name.endswith(".safetensors"):
        return _safetensors(path)
    if path.name.endswith(TORCH_ENDINGS):
        return _torch(path)
    return _legacy_h5(path)


def _safetensors(path):
    # Imported here because few uses of this package read such a file.
    import safetensors
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is not a complete safetensors file: {error}"
        ) from None
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} has a dtype that NumPy does not support: {error}"
        ) from None


def _torch(path):
    try:
        import torch
    except ModuleNotFoundError:
        raise WeightsError(
            f"{path}: PyTorch is needed to read its own file format. Install "
            "it, or convert the file to .safetensors where it is."
        ) from None
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            # The errors below replace PyTorch's warnings.
            warnings.simplefilter("ignore")
            # `weights_only` does not run code in a file.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A file that is no pickle can raise any error. PyTorch's message is
        # left out, because it recommends loading without `weights_only`.
        match = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        with open(path, "rb") as file:
            pickled = file.read(1) == b"\x80"
        if match or (pickled and isinstance(error, pickle.UnpicklingError)):
            what = f" ({match[1]})" if match else ""
            raise WeightsError(
                f"{path} holds more than tensors{what}, which could run code. "
                "It is not read."
            ) from None
        raise WeightsError(f"{path} is not a complete PyTorch file.") from None
    if not hasattr(content, "items"):
        raise WeightsError(
            f"{path} holds no state dict but {type(content).__name__}."
        )
    return content


def _check_archive(path):
    """Raise `WeightsError` if a ZIP archive states an implausible size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    _check_size(path, sum(member.file_size for member in members))
    for member in members:
        if member.filename == "config.json":
            check_config(path, member.file_size)


def check_config(origin: PathLike, size: int) -> None:
    """Raise `WeightsError` if a configuration has too many bytes."""
    if size > MAX_CONFIG_BYTES:
        raise WeightsError(
            f"{origin} holds a configuration of {size:,} bytes, and one of a "
            f"network has at most {MAX_CONFIG_BYTES:,}. It is not read."
        )


def _check_size(path, size):
    if size > MAX_EXPANSION * os.path.getsize(path):
        raise WeightsError(
            f"{path} has {os.path.getsize(path):,} bytes and states that it "
            f"holds {size:,}. It is not read."
        )


def _legacy_h5(path):
    """Read the format of keras.applications: a group for each layer."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise WeightsError(
            f"{path} is not a complete HDF5 file: {error}"
        ) from None
    with file:
        root = file
        if "model_weights" in file:
            root = _member(path, file, "model_weights", h5py.Group)
        if "layer_names" not in root.attrs:
            raise WeightsError(
                f"{path} names no layers, as the files of keras.applications "
                "do. The names of Keras 3's own files end in .weights.h5 or "
                ".keras."
            )
        names = _names(path, root, "layer_names")
        if "stem_conv" in names:
            raise WeightsError(
                f"{path} is a model of this package in Keras's old HDF5 "
                "format. Load it by `keras.saving.load_model`."
            )
        datasets = {}
        for name in names:
            layer = _member(path, root, name, h5py.Group)
            for weight in _names(path, layer, "weight_names"):
                kind = weight.rpartition("/")[2].removesuffix(":0")
                datasets[f"{name}/{kind}"] = _member(
                    path, layer, weight, h5py.Dataset
                )
        # Checked before reading, because the stated sizes may be false.
        _check_size(path, sum(dataset.nbytes for dataset in datasets.values()))
        try:
            return {name: dataset[()] for name, dataset in datasets.items()}
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} is damaged: {error}") from None


def _names(path, group, attribute):
    """Return the strings in an attribute of a group."""
    try:
        names = [
            value.decode() if isinstance(value, bytes) else value
            for value in group.attrs[attribute]
        ]
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{name!r} is not a string")
        return names
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged: {group.name} has no names in its attribute "
            f"{attribute}: {error}"
        ) from None


def _member(path, group, name, kind):
    """Return a group's member of type `kind`, with its data in the same file.

    A link or external storage could read any other file of this machine.
    """
    where = f"{group.name.rstrip('/')}/{name}"
    member = group
    for part in name.split("/"):
        link = None
        # h5py raises errors of several classes for damaged files.
        with contextlib.suppress(KeyError, OSError, RuntimeError, ValueError):
            if isinstance(member, h5py.Group):
                link = member.get(part, getlink=True)
        if isinstance(link, (h5py.SoftLink, h5py.ExternalLink)):
            raise WeightsError(
                f"{path}: {where} is a link to another place. It is not "
                "followed."
            )
        parent, member = member, None
        with contextlib.suppress(KeyError, OSError, RuntimeError, ValueError):
            if link is not None:
                member = parent[part]
    if not isinstance(member, kind):
        raise WeightsError(
            f"{path} is damaged: there is no {kind.__name__.lower()} {where}."
        )
    if kind is h5py.Dataset and (member.external or member.is_virtual):
        raise WeightsError(
            f"{path}: the numbers of {where} are in another file. They are "
            "not read."
        )
    return member


def read_model(path: PathLike) -> keras.Model:
    """Load a `.keras` file, unless it contains code.

    Raises:
        WeightsError: If it cannot be loaded.
    """
    path = check(path)
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        # Keras would report that the file does not exist.
        raise WeightsError(
            f"{path} is not a complete .keras file: it is cut off, or in "
            "another format."
        )
    _check_archive(path)
    return _deserialized(
        path, lambda: keras.saving.load_model(path, compile=False)
    )


def rebuild(
    config: Mapping[str, Any], tensors: Mapping[str, Any], origin: str
) -> keras.Model:
    """Build a model from the configuration and tensors of `save_pretrained`.

    Args:
        config: Dictionary: `"model"`, the model's configuration, and
            `"variables"`, the names of the variables' tensors in order.
        tensors: Dictionary from names to arrays.
        origin: String, name of the source in error messages.

    Raises:
        WeightsError: If it cannot be built, or has other variables.
    """

    def build():
        return keras.saving.deserialize_keras_object(dict(config["model"]))

    model = _deserialized(origin, build)
    # A damaged file may have anything here.
    names = config.get("variables")
    names = [str(n) for n in names] if isinstance(names, list) else []
    arrays = [tensors[name] for name in names if name in tensors]
    shapes = [tuple(v.shape) for v in getattr(model, "variables", ())]
    if (
        not isinstance(model, keras.Model)
        or [a.shape for a in arrays] != shapes
        or len(tensors) != len(names)
    ):
        raise WeightsError(
            f"{origin}: configuration and tensors are of different networks."
        )
    for variable, array in zip(model.variables, arrays, strict=True):
        variable.assign(array)
    finalize(model)
    return model


def finalize(model: keras.Model) -> None:
    """Let layers compute with weights that were assigned to them."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            # It computes with tensors derived from its weights.
            layer.finalize_state()


def _deserialized(origin, load):
    """Return the result of `load`, with errors as `WeightsError`."""
    try:
        return load()
    except WeightsError:
        raise
    # Keras raises errors of many classes for damaged files.
    except Exception as error:
        if re.search("lambda|unsafe|safe_mode", str(error), re.IGNORECASE):
            # Keras's message is left out, because it recommends loading
            # without `safe_mode`.
            raise WeightsError(
                f"{origin} holds code, such as a Lambda layer, which is not "
                "run. Save the model with layers of registered classes instead."
            ) from None
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{origin} cannot be loaded: {reason}") from error
