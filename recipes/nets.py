"""The trained nets of the figures: runs of cifar10.py, or files.

A net can be any finished run with the same settings, on any backend, also one
of several seeds. cifar10.py trains the missing runs.
"""

import dataclasses
import functools
import hashlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from keras_resnet_recipes import cifar10, evaluate
from keras_resnet_recipes.experiment import Failure, command, files, report

# Number of times that a run records gradient norms.
RECORDS = 20


@dataclasses.dataclass
class Net:
    """A trained net of a figure."""

    depth: int
    plain: bool
    name: str  # unique
    # Returns the model, and a function that prepares an array of images.
    load: Callable
    # For a run: its folder, settings and result line.
    path: Path | None = None
    settings: cifar10.Settings | None = None
    result: dict | None = None

    @property
    def label(self):
        """The net's name, as in the paper."""
        return f"{'plain' if self.plain else 'ResNet'}-{self.depth}"

    @property
    def style(self):
        """Label and colour, for a plot."""
        from keras_resnet_recipes.experiment.study import style

        return style(self.label, self.plain)

    def history(self):
        """Return the history of errors, a list of values for each name."""
        name = files.HISTORIES[bool(self.settings.every)]
        return files.read_history(self.path / name)


class Nets:
    """The nets of a figure.

    Args:
        settings: `figures.Settings`.

    Attributes:
        used: Dictionary from names of the used nets to their sources and
            errors.
    """

    def __init__(self, settings):
        self.settings = settings
        self.used = {}

    def run(self, *args, gradients=False, **kwargs):
        """Return the net of a finished run, see `figures.Settings.net`.

        Args:
            gradients: Boolean, whether its gradient norms are needed.
        """
        net = self.settings.net(*args, **kwargs)
        path = self.find(net, gradients)
        if path is None:
            path = self._train(net, gradients)
        else:
            print(f"{path}: trained already")
        result = files.read_result(path / "result.json")
        source = f"`{result['command']}`  \n  {report.origin(result)}"
        errors = {key: result[key] for key in ("training_error", "test_error")}
        self.used[path.name] = {"source": source} | errors
        load = functools.partial(_load_run, path)
        return Net(net.depth, net.plain, path.name, load, path, net, result)

    def find(self, net, gradients=False):
        """Return the folder of a finished run, or `None`.

        Args:
            net: `cifar10.Settings`.
            gradients: See `run`.
        """
        runs = self.settings.runs
        lines = {*runs.glob("*/result.json"), *runs.glob("*/seed*/result.json")}
        for path in sorted(lines):
            stored = files.read_result(path)["settings"]
            stored.pop("backend", None)
            # A run of an earlier version may lack a setting.
            wanted = net.stored()
            if dict.fromkeys(wanted) | stored == wanted and (
                not gradients or _has_gradients(path.parent)
            ):
                return path.parent
        return None

    def _train(self, net, gradients):
        """Train a net in a process of its own, and return its folder."""
        import keras

        s, backend = self.settings, keras.backend.backend()
        path = s.runs / net.name(backend)
        flags = [*net.flags(), "--input", s.input]
        flags += ["--data-dir", str(s.data_dir)] if s.data_dir else []
        if gradients:
            # An epoch of CIFAR-10 has 352 steps.
            steps = net.steps or 352 * net.epochs
            flags += ["--gradients", str(max(1, steps // RECORDS))]
            if (path / "last.keras").exists() and not _has_gradients(path):
                path = path.with_name(f"{path.name}-gradients")
        flags += ["--output", str(path)]
        if (path / "settings.json").exists():
            flags += ["--resume"]
        script = [os.path.relpath(cifar10.__file__)]
        if command.installed:
            script = ["-m", "keras_resnet_recipes", "cifar10"]
        shown = shlex.join([*command.call("cifar10"), *flags])
        print(f"{path}: to be trained: {shown}", flush=True)
        status = subprocess.run(
            [sys.executable, *script, *flags],
            env=os.environ | {"KERAS_BACKEND": backend},
        ).returncode
        if status in (129, 130, 143, -signal.SIGINT):
            # The training was interrupted, so this process ends, too.
            raise KeyboardInterrupt(abs(status) % 128)
        if status:
            raise Failure(
                f"training of {path} failed with exit status {status}; its "
                "own message stands above"
            )
        return path

    def file(self, path, depth):
        """Return the net of a file with weights."""
        from keras_resnet.weights import files as weight_files

        s = self.settings
        chosen = evaluate.Settings.settle(
            {
                "weights": str(path),
                "depth": depth,
                "block": s.block,
                "dataset": s.dataset,
                "preprocessing": s.preprocessing,
            }
        )
        weight_files.check(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        name = path.name
        if [file.name for file in s.weights].count(name) > 1:
            # Files of the hub are all called model.safetensors.
            name = files.as_name(str(path))
        source = f"weights {name}, sha256 {digest[:16]}"
        self.used[name] = {"source": source}
        load = functools.partial(_load_file, chosen)
        return Net(depth, False, name, load)

    def all_seeds(self, depth, **options):
        """Return the title of a net, and its runs with all seeds."""
        seeds = range(self.settings.seeds)
        runs = [self.run(depth, seed=seed, **options) for seed in seeds]
        shortcut = options.get("shortcut")
        return runs[0].label + (f" ({shortcut})" if shortcut else ""), runs

    def by_depth(self, gradients=False):
        """Return for each depth its nets, the residual one first."""
        s = self.settings
        if s.weights:
            return [
                [self.file(path, depth)]
                for path, depth in zip(s.weights, s.depths, strict=True)
            ]
        return [
            [self.run(depth, p, gradients=gradients) for p in (False, True)]
            for depth in s.depths
        ]


def _has_gradients(folder):
    """Return whether a run recorded gradients from its beginning."""
    from keras_resnet import analysis

    path = folder / cifar10.GRADIENTS
    # A run resumed with `--gradients` lacks the norms at initialization.
    return path.exists() and analysis.read_gradient_flow(path)[0][0] == 0


def _load_run(path):
    from keras_resnet_recipes.experiment.run import load_model

    return load_model(path / "final.keras"), lambda images: images


def _load_file(settings):
    import keras_resnet

    model, how = evaluate.load_network(settings)

    def prepare(images):
        return keras_resnet.preprocess_input(images.astype("float32"), how)

    return model, prepare
