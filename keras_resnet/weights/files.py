"""Reading weights from files."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras

from keras_resnet.types import PathLike
from keras_resnet.weights.errors import WeightsError

TORCH_ENDINGS = (".pth", ".pt", ".th", ".bin")
ENDINGS = (".keras", ".weights.h5", ".h5", ".safetensors", *TORCH_ENDINGS)


def check(path: PathLike) -> Path:
    """Return the `Path` of a file of weights.

    Raises:
        WeightsError: If there is no such file, its ending is unknown, or it
            is empty.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder, not a file of weights.")
    if not path.exists():
        raise WeightsError(f"There is no file {str(path)!r}.")
    if not path.name.endswith(ENDINGS):
        raise WeightsError(
            f"{path}: the name of a file of weights ends in "
            f"{', '.join(ENDINGS)}."
        )
    if not path.stat().st_size:
        raise WeightsError(f"{path} is empty.")
    return path


def read(path: PathLike) -> Mapping:
    """Read tensors by name from a file of PyTorch, safetensors or Keras 2.

    Args:
        path: Path of a `.safetensors`, `.pth`, `.pt`, `.th`, `.bin` or `.h5`
            file.

    Returns:
        A mapping of names to arrays, which may be wrapped: see
        `sources.unwrap`.

    Raises:
        WeightsError: If the file is broken or has another format than its
            ending says.
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
    # Imported here because most uses of this package read no such file.
    import safetensors
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is no whole safetensors file: {error}"
        ) from None
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} holds numbers of a type that NumPy does not know: {error}"
        ) from None


def _torch(path):
    try:
        import torch
    except ModuleNotFoundError:
        raise WeightsError(
            f"{path}: PyTorch is needed to read its own file format. Install "
            "it, or convert the file to .safetensors where it is."
        ) from None
    try:
        with warnings.catch_warnings():
            # The error below covers pickles of this kind.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            # `weights_only` never runs code that a file contains.
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Text that is read as a pickle may fail in any way. PyTorch's message
        # is left out, because it advises to load without this protection.
        match = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        with open(path, "rb") as file:
            pickled = file.read(1) == b"\x80"
        if match or (pickled and isinstance(error, pickle.UnpicklingError)):
            what = f" ({match[1]})" if match else ""
            raise WeightsError(
                f"{path} holds more than tensors{what}, which could run code. "
                "It is not read."
            ) from None
        raise WeightsError(f"{path} is no whole file of PyTorch.") from None
    if not hasattr(content, "items"):
        raise WeightsError(
            f"{path} holds no state dict but {type(content).__name__}."
        )
    return content


def _legacy_h5(path):
    """Read the format of keras.applications: a group for each layer."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise WeightsError(f"{path} is no whole HDF5 file: {error}") from None
    with file:
        root = file.get("model_weights", file)
        if "layer_names" not in root.attrs:
            raise WeightsError(
                f"{path} names no layers, as the files of keras.applications "
                "do. The names of Keras 3's own files end in .weights.h5 or "
                ".keras."
            )
        names = list(map(_text, root.attrs["layer_names"]))
        if "stem_conv" in names:
            raise WeightsError(
                f"{path} is a model of this package in Keras's old HDF5 "
                "format. Load it by `keras.saving.load_model`."
            )
        arrays = {}
        for layer in names:
            for weight in map(_text, root[layer].attrs["weight_names"]):
                kind = weight.rpartition("/")[2].removesuffix(":0")
                arrays[f"{layer}/{kind}"] = root[layer][weight][()]
        return arrays


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def read_model(path: PathLike) -> keras.Model:
    """Load a `.keras` file, unless it contains code.

    Raises:
        WeightsError: If it cannot be loaded.
    """
    path = check(path)
    try:
        return keras.saving.load_model(path, compile=False)
    except WeightsError:
        raise
    # Keras raises errors of many classes for broken files.
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise WeightsError(f"{path} cannot be loaded: {reason}") from error
