"""Settings: a field of a dataclass is a flag, its help, a part of a name.

Nothing here imports Keras, so `--help` and a mistyped flag answer at once.
"""

import argparse
import dataclasses

import cli

# Placeholders in `--help`. Any other type of value is an X.
METAVARS = {cli.positive_int: "N", cli.seed: "N"}


def setting(default, help, **flag):
    """Return a dataclass field that `add_flags` makes a flag of.

    Args:
        default: Value of the setting.
        help: String, without the defaults: `add_flags` appends them.
        **flag: Arguments of `ArgumentParser.add_argument`, such as `type` or
            `choices`. A Boolean setting needs none.
    """
    return dataclasses.field(default=default, metadata=flag | {"help": help})


def dataset(default, *choices):
    """Return the setting of a dataset of small images."""
    return setting(
        default,
        "images to train on; digits come with scikit-learn and need no "
        "download",
        choices=choices,
    )


def add_flags(parser, settings, presets=()):
    """Add a flag for each `setting` of a dataclass.

    Args:
        parser: `cli.Parser`.
        settings: Dataclass.
        presets: Dictionary from the names of presets to dictionaries of the
            settings in which they differ from the defaults. Defaults to none.
    """
    presets = dict(presets)
    for field in dataclasses.fields(settings):
        flag = dict(field.metadata)
        if not flag:
            continue
        values = {
            name: preset[field.name]
            for name, preset in presets.items()
            if field.name in preset
        }
        if isinstance(field.default, bool):
            both = field.default or any(values.values())
            flag["action"] = (
                argparse.BooleanOptionalAction if both else "store_true"
            )
        elif "choices" not in flag:
            flag.setdefault("metavar", METAVARS.get(flag["type"], "X"))
        shown = {"default": field.default} | values
        defaults = "; ".join(f"{k}: {_shown(v)}" for k, v in shown.items())
        flag["help"] += f" ({defaults})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", **flag)


def _shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        value = " ".join(map(str, value)) or None
    return "none" if value is None else value


def given(arguments, settings):
    """Return the flags that were given and are fields of a dataclass.

    Raises:
        cli.UsageError: For two flags that exclude each other in every recipe.
    """
    flags = {
        field.name: getattr(arguments, field.name)
        for field in dataclasses.fields(settings)
        if hasattr(arguments, field.name)
    }
    digits = getattr(arguments, "dataset", None) == "digits"
    if digits and hasattr(arguments, "data_dir"):
        raise cli.UsageError(
            "the digits come with scikit-learn: leave out --data-dir"
        )
    if "steps" in flags and "epochs" in flags:
        raise cli.UsageError("give --steps or --epochs, not both")
    if "plain" in flags and "shortcut" in flags:
        raise cli.UsageError(
            "a plain net has no shortcuts: leave out one of "
            "--plain and --shortcut"
        )
    return flags


def differences(settings, usual, named=()):
    """Return the settings that differ from the usual ones.

    Args:
        settings: Dataclass.
        usual: Another one of the same class.
        named: Names of the fields to leave out.

    Returns:
        Dictionary of values by name, without those that are `None`.
    """
    values = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in named
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != getattr(usual, name)
    }


def name_parts(values):
    """Return the parts of a folder's name that tell its settings."""
    parts = []
    for name, value in values.items():
        if isinstance(value, tuple):
            value = "_".join(map(str, value))
        parts.append(f"{name.replace('_', '')}{value}")
    return parts


def to_flags(values):
    """Return the flags that give these settings."""
    flags = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        flags += [flag] if value is True else [flag, str(value)]
    return flags
