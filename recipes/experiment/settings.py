"""Settings of a command: each field of a dataclass is a flag.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings(RunSettings):
        epochs: int = setting(30, "epochs of the training images")

The fields determine the flags, `--help`, errors, `settings.json`, the name of
the run's folder, and the flags that give the same settings again.
"""

import argparse
import dataclasses
import sys
import typing
from pathlib import Path

from . import block, files, report, values
from .command import Parser, UsageError, flag

REQUIRED = dataclasses.MISSING
# Keras's dtype policies by precision of the computation.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
# By type of field: the type of the flag, and its placeholder in `--help`.
TYPES = {
    int: (values.positive_int, "N"),
    float: (values.positive_float, "X"),
    Path: (values.path, "DIR"),
    str: (str, None),
}


def setting(
    default,
    help,
    *,
    type=None,
    choices=None,
    metavar=None,
    positional=False,
    needs=None,
    instead_of=None,
    preset=None,
    stored=True,
):
    """Return a field of settings.

    The flag's values are of the field's type: a Boolean takes no value, and a
    tuple takes several. Numbers must be above 0, unless `type` allows others.

    Args:
        default: Value of the setting if neither flag nor preset gives one,
            or `REQUIRED`.
        help: String for `--help`, which appends the defaults.
        type: Function from a text to a value. Defaults to that of the field.
        choices: Sequence of the possible values. Defaults to all.
        metavar: String, placeholder of the value in `--help`.
        positional: Boolean, whether the values are given without a flag.
            Defaults to `False`.
        needs: Pair of a text and a function from the settings to a Boolean:
            whether this setting has an effect. If it has none, its value is
            the default, and a given flag is an error that quotes the text.
        instead_of: Name of a field. Only one of the two can be given. The
            other one is then `None`.
        preset: Name of the preset that this Boolean flag selects.
        stored: Boolean, whether the numbers of a run depend on this setting.
            If so, it is in `settings.json` and in the name of the folder.
            Defaults to `True`.
    """
    metadata = dict(locals())
    del metadata["default"]
    return dataclasses.field(default=default, metadata=metadata)


def option(default, help, **kwargs):
    """Return a `setting` that does not affect the numbers of a run."""
    return setting(default, help, stored=False, **kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandSettings:
    """Settings of a command. Subclasses are frozen dataclasses, too.

    Class attributes:
        PRESETS: Dictionary from the values of the field `preset` to
            dictionaries of the settings that differ from the defaults.
        DATASETS: The same for the field `dataset`. It overrides presets.
        NAMED: Names of the fields that `title` contains.
    """

    PRESETS = {}
    DATASETS = {}
    NAMED = ()

    debug: bool = option(False, "show the traceback of an error")

    @classmethod
    def fields(cls):
        """Return the fields by name, the class's own fields first."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        names = [
            n
            for kind in cls.__mro__
            for n in vars(kind).get("__annotations__", ())
        ]
        return {name: fields[name] for name in dict.fromkeys(names)}

    @classmethod
    def parser(cls):
        """Return the parser of the flags."""
        parser = Parser(description=sys.modules[cls.__module__].__doc__)
        for field in cls.fields().values():
            name = (
                field.name if field.metadata["positional"] else flag(field.name)
            )
            parser.add_argument(name, **cls._argument(field))
        return parser

    @classmethod
    def _argument(cls, field):
        """Return the arguments of `add_argument` for a field."""
        data = field.metadata
        shown = {"default": field.default}
        shown |= {
            preset: changes[field.name]
            for preset, changes in (cls.PRESETS | cls.DATASETS).items()
            if field.name in changes
        }
        required = field.default is REQUIRED
        help = data["help"]
        if not required and "(default: " not in help:
            defaults = (f"{k}: {_shown(v)}" for k, v in shown.items())
            help += f" ({'; '.join(defaults)})"
        argument = {"help": help.replace("%", "%%")}
        if field.type is bool:
            argument["action"] = (
                argparse.BooleanOptionalAction
                if any(shown.values())
                else "store_true"
            )
            return argument
        kinds = typing.get_args(field.type) or (field.type,)
        if typing.get_origin(field.type) is tuple:
            some = "*" if data["positional"] and not required else "+"
            argument["nargs"] = some if ... in kinds else len(kinds)
        if required and not data["positional"]:
            argument["required"] = True
        usual_type, metavar = TYPES.get(kinds[0], (None, None))
        argument["type"] = data["type"] or usual_type
        argument["choices"] = data["choices"]
        argument["metavar"] = data["metavar"]
        if data["choices"] is data["metavar"] is None:
            argument["metavar"] = metavar
        return argument

    @classmethod
    def settle(cls, given):
        """Return the settings by flags, preset and dataset.

        Args:
            given: Dictionary of the values that were given, by field.

        Raises:
            UsageError: For values that do not fit together.
        """
        fields = cls.fields()
        given = {
            k: tuple(v) if isinstance(v, list) else v for k, v in given.items()
        }
        for name in set(given) & set(fields):
            preset, other = (
                fields[name].metadata[k] for k in ("preset", "instead_of")
            )
            if preset:
                if "preset" in given:
                    raise UsageError(f"give --preset or {flag(name)}, not both")
                given["preset"] = preset
            if other in given:
                raise UsageError(
                    f"give {flag(other)} or {flag(name)}, not both"
                )
        layers = [
            changes.get(given.get(name, fields[name].default), {})
            for name, changes in (
                ("preset", cls.PRESETS),
                ("dataset", cls.DATASETS),
            )
            if name in fields
        ]
        values = {}
        for layer in [*layers, given]:
            for name, field in fields.items():
                other = field.metadata["instead_of"]
                if other and {name, other} & set(layer):
                    values |= {name: None, other: None}
            values |= layer
        settings = cls(**values)
        for name, field in fields.items():
            if settings.applies(name):
                continue
            if name in given:
                raise UsageError(
                    f"{flag(name)} needs {field.metadata['needs'][0]}"
                )
            settings = dataclasses.replace(settings, **{name: field.default})
        return settings.resolve(given)

    def applies(self, name):
        """Return whether a setting has an effect, given the others."""
        needs = self.fields()[name].metadata["needs"]
        return needs is None or bool(needs[1](self))

    def resolve(self, given):
        """Return the final settings, or raise `UsageError`.

        Subclasses compute settings that depend on others here, and refuse
        settings that do not fit together.

        Args:
            given: Dictionary of the values that were given, by field.
        """
        return self

    def stored(self):
        """Return the settings that a run depends on, as JSON values."""
        return {
            name: _as_json(getattr(self, name))
            for name, field in self.fields().items()
            if field.metadata["stored"]
        }

    def changes(self):
        """Return the stored settings that differ from preset and dataset."""
        usual = type(self).settle(self.base())
        return {
            name: getattr(self, name)
            for name in self.stored()
            if self.applies(name)
            and getattr(self, name) is not None
            and (
                self.fields()[name].default is REQUIRED
                or getattr(self, name) != getattr(usual, name)
            )
        }

    def base(self):
        """Return preset, dataset and required settings, in this order."""
        fields = self.fields()
        names = [name for name in ("preset", "dataset") if name in fields]
        names += [n for n, field in fields.items() if field.default is REQUIRED]
        return {name: getattr(self, name) for name in names}

    def flags(self):
        """Return the flags that give these settings."""
        values = self.base()
        for name, field in self.fields().items():
            if field.metadata["preset"] == values.get("preset", ""):
                del values["preset"]
                values[name] = True
        flags = []
        for name, value in (values | self.changes()).items():
            if isinstance(value, bool):
                flags.append(flag(name if value else f"no_{name}"))
            else:
                flags += [flag(name), *_texts(value)]
        return flags

    def title(self):
        """Return the beginning of the name of a run's folder, in parts."""
        return [type(self).__name__.lower()]

    def name(self, backend):
        """Return the name of a run's folder.

        It consists of title, changed settings, backend and seed, so that runs
        with different settings have different folders.
        """
        parts = [*self.title()]
        for name, value in self.changes().items():
            if name not in (*self.NAMED, "seed"):
                text = name.replace("_", "") + "_".join(_texts(value))
                parts.append(files.as_name(text))
        parts.append(backend)
        if "seed" in self.stored():
            parts.append(f"seed{self.seed}")
        return "-".join(map(str, parts))


def _texts(value):
    return [*map(str, value if isinstance(value, tuple) else (value,))]


def _as_json(value):
    if isinstance(value, tuple):
        return list(map(_as_json, value))
    return str(value) if isinstance(value, Path) else value


def _shown(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value in (None, ()) else " ".join(_texts(value))


# The datasets that `keras_resnet.data.load` takes.
IMAGE_DATASETS = ("cifar10", "cifar100", "digits", "mnist")


def data_dir_option(*needs):
    """Return the field of the folder of TensorFlow Datasets."""
    return option(
        None,
        "folder of TensorFlow Datasets (default: TFDS_DATA_DIR, else "
        "~/tensorflow_datasets)",
        needs=needs,
    )


def dataset_setting(*names):
    """Return the field of a dataset of small images, by default the first."""
    return setting(
        names[0],
        "images to train on; digits come with scikit-learn and need no "
        "download",
        choices=names,
    )


def shortcut_setting(default):
    """Return the field of the shortcut of a net with the field `plain`."""
    return setting(
        default,
        "A: zero padding; B: projection where the shape changes; C: "
        "projection everywhere",
        choices=("A", "B", "C"),
        needs=("a residual net: leave out --plain", lambda s: not s.plain),
    )


def precision_setting():
    """Return the field of the dtype of the computation."""
    return setting(
        "float32",
        "dtype of the computation; weights stay float32",
        choices=tuple(POLICIES),
    )


def block_setting():
    """Return the field of the class of the residual blocks."""
    return setting(
        None,
        "class of the residual blocks, such as "
        "keras_resnet:PreactivationBlock, or myblock:SwishBlock from "
        "myblock.py in this folder (default: keras_resnet:ResidualBlock)",
        type=block.parse,
        metavar="MODULE:CLASS",
    )


def seed_setting(help="of weights, order and augmentation"):
    """Return the field of a seed."""
    return setting(0, help, type=values.seed, metavar="N")


def execution_option():
    """Return the field of the number of steps in one call."""
    return option(
        1,
        "steps per call; more are faster on an accelerator; must divide the "
        "steps of an epoch and of the run; not on PyTorch, no gain on a CPU",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedSettings(CommandSettings):
    """Settings of one training, or of several that differ in their seeds."""

    seed: int = seed_setting()
    seeds: int | None = option(
        None,
        "number of seeds to train with, starting at --seed, each in a folder "
        "of its own; makes a table with mean and standard deviation (default: "
        "one training)",
    )

    def resolve(self, given):
        last = self.seed + (self.seeds or 1) - 1
        if last > values.LAST_SEED:
            raise UsageError(
                f"--seed {self.seed} --seeds {self.seeds} goes up to {last}, "
                f"and the last seed is {values.LAST_SEED}"
            )
        return super().resolve(given)

    def stored(self):
        stored = super().stored()
        if self.seeds is not None:
            # More seeds may be added later, to the same folder.
            del stored["seed"]
        return stored

    def each_seed(self):
        """Return the settings of one training with each seed."""
        return [
            dataclasses.replace(self, seed=self.seed + i, seeds=None)
            for i in range(self.seeds)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings(CommandSettings):
    """Settings of a training in a folder of its own.

    A recipe may have a field for each of the attributes below, which `Job` and
    `keras_resnet.data.training_batches` describe. Without `steps`, `epochs`
    must be a field.
    """

    steps = None
    every = None
    steps_per_execution = 1
    padding = 0
    horizontal_flip = False
    plain = False
    label = "training"

    def resolve(self, given):
        if self.every and self.every % self.steps_per_execution:
            raise UsageError(
                f"--every {self.every} must be a multiple of "
                f"--steps-per-execution {self.steps_per_execution}, because "
                "nothing is evaluated in between"
            )
        return super().resolve(given)

    def caption(self, *seeds):
        """Return the caption of figures of runs with these seeds."""
        fields = self.fields()
        parts = [self.dataset] if "dataset" in fields else []
        parts += [f"preset {self.preset}"] if "preset" in fields else []
        return ", ".join([*parts, report.seeds(seeds)])

    output: Path | None = option(
        None,
        "folder for what the run leaves (default: a folder in runs, named "
        "after the settings)",
    )
    resume: bool = option(
        False, "continue the run in that folder from its last checkpoint"
    )
    save_every: values.Interval = option(
        values.SAVE_EVERY,
        "steps between two checkpoints within an epoch, such as 500, or "
        "minutes, such as 10m; there is one after each epoch, too",
        type=values.interval,
        metavar="N|Nm",
    )
    devices: int | str | None = option(
        None,
        "train on N devices, or on all of them: those of this machine, or of "
        "all processes that were started together; batch size and learning "
        "rate do not change (default: one device)",
        type=values.device_count,
    )
    normalization: str = option(
        "synchronized",
        "statistics of batch normalization on several devices; synchronized: "
        "of the whole batch, as on one device; per-device: of each device's "
        "shard, faster, not on JAX",
        choices=("synchronized", "per-device"),
        needs=("--devices", lambda s: s.devices),
    )
    deterministic: bool = option(
        False,
        "use only GPU kernels that give the same bits each time, which are "
        "slower; a CPU always does",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSettings(CommandSettings):
    """Settings of a recipe that trains on one of the small datasets."""

    data_dir: Path | None = data_dir_option(
        "--dataset, not digits", lambda s: s.dataset != "digits"
    )
    input: str = option(
        "auto",
        "device that prepares the batches (the batches are the same); tf.data: "
        "the processor; device: the one that trains, not on TensorFlow; auto: "
        "device on JAX and PyTorch with an accelerator",
        choices=("auto", "tf.data", "device"),
    )


def net_label(settings):
    """Return a net's name in figures, by the dictionary of its settings."""
    net = f"ResNet-{settings['depth']} ({settings['shortcut']})"
    net = f"plain-{settings['depth']}" if settings["plain"] else net
    block = settings.get("block")
    return f"{net}, {block}" if block else net


class NetSettings:
    """Names of a net, for settings with `depth`, `shortcut` and `plain`.

    A recipe may have the field `block`.
    """

    NAMED = ("dataset", "preset", "depth", "shortcut", "plain", "block")

    block = None

    @property
    def label(self):
        """The net's name in figures."""
        return net_label(vars(self))

    def title(self):
        net = f"resnet{self.depth}{self.shortcut}"
        net = f"plain{self.depth}" if self.plain else net
        own = [self.block.replace(":", ".")] if self.block else []
        return [self.dataset, net, *own, self.preset]
