"""The class of blocks that `--block MODULE:CLASS` names."""

import argparse
import importlib
import os
import sys

from .command import UsageError, check_backend


def load(name):
    """Return the class of blocks that a setting names.

    The module is imported, also from the working directory. After that Keras
    can load saved models with its blocks.

    Args:
        name: String `"MODULE:CLASS"`, or `None` for `ResidualBlock`.

    Raises:
        ArgumentTypeError: If there is no such class, if it is not a subclass
            of `ResidualBlock`, or if Keras could not load it from a file.
    """
    from keras.saving import get_registered_name

    from keras_resnet import ResidualBlock

    if name is None:
        return ResidualBlock
    module, _, kind = name.partition(":")
    if not module or not kind:
        raise argparse.ArgumentTypeError(
            f"{name!r} is not MODULE:CLASS, such as myblock:SwishBlock"
        )
    # Python looks only in the folder of the recipe. The working directory comes
    # last, because a file in it must not hide another module of that name.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        chosen = getattr(importlib.import_module(module), kind, None)
    except Exception as error:
        raise argparse.ArgumentTypeError(
            f"{module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(chosen, type) or not issubclass(chosen, ResidualBlock):
        raise argparse.ArgumentTypeError(
            f"{module} has no class {kind} that is a subclass of "
            "keras_resnet.ResidualBlock"
        )
    if ">" not in get_registered_name(chosen):
        raise argparse.ArgumentTypeError(
            f"{name} is not registered, so Keras could not load the run's "
            "files: write @keras.saving.register_keras_serializable"
            f"({module!r}) above the class"
        )
    return chosen


def parse(text):
    """Return the name of a class of blocks, after loading it."""
    try:
        check_backend()
        load(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except ModuleNotFoundError as error:
        raise argparse.ArgumentTypeError(
            f"{text} needs Keras and a backend: {error}"
        ) from error
    return text
