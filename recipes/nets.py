"""The trained nets that figures look at: runs of cifar10.py, or files."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

from keras_resnet_recipes import cifar10, evaluate
from keras_resnet_recipes.experiment import files, report

# Gradient norms are looked at so often in a run.
RECORDS = 20


@dataclasses.dataclass
class Net:
    """A trained net that a figure looks at.

    Attributes:
        depth: Integer.
        plain: Boolean.
        name: String that no other net has.
        source: String, where it comes from.
        load: Function that returns the model and a function that prepares an
            array of images for it.
        path: `Path` of its run's folder, `None` of a file with weights.
        settings: `cifar10.Settings` of the run.
        result: Dictionary, the run's result line.
    """

    depth: int
    plain: bool
    name: str
    source: str
    load: Callable
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
        from keras_resnet import plots

        color = plots.PLAIN if self.plain else plots.RESIDUAL
        return {"label": self.label, "color": color}

    def history(self):
        """Return the history of errors, a list of values for each name."""
        every = self.settings.every
        return files.read_history(
            self.path / ("steps.csv" if every else "history.csv")
        )


class Nets:
    """The nets of a figure: runs, trained now if need be, or files.

    Args:
        settings: `figures.Settings`.

    Attributes:
        used: Dictionary from names of nets that were used to where they come
            from, and their errors.
    """

    def __init__(self, settings):
        from keras_resnet_recipes.experiment.store import RunStore

        self.settings = settings
        self.store = RunStore(settings.runs, cifar10)
        self.used = {}

    def run(self, *args, gradients=False, **kwargs):
        """Return the net of a finished run, see `figures.Settings.net`.

        Args:
            gradients: Boolean, whether its gradient norms are needed.
        """
        s = self.settings
        net = s.net(*args, **kwargs)
        flags = ["--input", s.input]
        flags += ["--data-dir", str(s.data_dir)] if s.data_dir else []
        if gradients:
            # An epoch of CIFAR-10 has 352 steps.
            steps = net.steps or 352 * net.epochs
            flags += ["--gradients", str(max(1, steps // RECORDS))]
        path = self.store.get(
            net, flags, has_gradients if gradients else any_folder, "gradients"
        )
        result = files.read_result(path / "result.json")
        trained = Net(
            net.depth,
            net.plain,
            path.name,
            f"`{result['command']}`  \n  {report.origin(result)}",
            functools.partial(_load_run, path),
            path,
            net,
            result,
        )
        keys = "training_error", "test_error"
        return self._use(trained, {key: result[key] for key in keys})

    def file(self, path, depth):
        """Return the net of a file with weights."""
        from keras_resnet.weights import files as weight_files

        options = {"weights": str(path), "depth": depth}
        if self.settings.preprocessing:
            options["preprocessing"] = self.settings.preprocessing
        options["dataset"] = self.settings.dataset
        options["block"] = self.settings.block
        chosen = evaluate.Settings.settle(options)
        weight_files.check(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source = f"weights {path.name}, sha256 {digest[:16]}"
        net = Net(depth, False, path.name, source, lambda: _load_file(chosen))
        return self._use(net, {})

    def _use(self, net, errors):
        self.used[net.name] = {"source": net.source} | errors
        return net

    def all_seeds(self, *args, **kwargs):
        """Return the runs of a net with all seeds."""
        return [
            self.run(*args, seed=seed, **kwargs)
            for seed in range(self.settings.seeds)
        ]

    def by_depth(self, **kwargs):
        """Return for each depth its nets, the residual one first."""
        s = self.settings
        if s.weights:
            return [
                [self.file(path, depth)]
                for path, depth in zip(s.weights, s.depths, strict=True)
            ]
        return [
            [self.run(depth, plain=plain, **kwargs) for plain in (False, True)]
            for depth in s.depths
        ]


def any_folder(folder):
    """Return that a run has all that is needed."""
    return True


def has_gradients(folder):
    """Return whether a run has, or will have, gradients from its beginning."""
    from keras_resnet import analysis

    path = folder / cifar10.GRADIENTS
    # A run that was resumed with them lacks those at initialization.
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
