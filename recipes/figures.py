"""The figures and tables of why residual networks learn, from saved runs.

python recipes/figures.py degradation           # minutes on two cores
python recipes/figures.py degradation --full    # the paper's size
python recipes/figures.py lesions --depths 56 --steps 1000
python recipes/figures.py degradation --seeds 3

degradation  plain and residual nets of growing depth (figures 1 and 6)
shortcuts    options A, B and C (table 3)
depths       error of residual nets by depth (table 6)
responses    deviations of layer responses (figure 7)
gradients    gradient norms by layer, at initialization and in training
growth       a trained net made deeper by identities, and trained on
lesions      blocks deleted and swapped, and paths (Veit et al. 2016)
landscape    loss around trained weights (Li et al. 2018)

The nets come from runs of recipes/cifar10.py with the same settings in
--runs; those that are missing are trained there, by that recipe. The folder of
pictures gets README.md, a page of all figures that are there and of the
commands, versions and machines that made them.
"""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment import (
    REQUIRED,
    Failure,
    ImageSettings,
    UsageError,
    cifar_depth,
    dataset_setting,
    execute,
    option,
    report,
    setting,
)

# Depths and more by figure: two cores finish the first in minutes; the second
# is the paper's.
SIZES = {
    "degradation": (
        {"depths": (20, 56)},
        {"depths": (20, 32, 44, 56), "seeds": 3},
    ),
    "shortcuts": ({"depths": (20,)}, {"depths": (56,), "seeds": 3}),
    "depths": ({"depths": (20, 32, 44)}, {"depths": (20, 32, 44, 56, 110)}),
    "responses": ({"depths": (20,)}, {"depths": (20, 56, 110)}),
    "gradients": ({"depths": (20, 56)}, {"depths": (20, 56, 110)}),
    "growth": ({"depths": (20,)}, {"depths": (20,)}),
    "lesions": ({"depths": (20,)}, {"depths": (110,)}),
    "landscape": ({"depths": (56,)}, {"depths": (56,), "points": 51}),
}
FULL = {"steps": 64_000, "images": None}
# A short run takes a lower rate: ResNet-56 did not begin to learn at 0.2 in
# 125 steps, seed 0, and did at this.
SHORT_RATE = 0.05
# The error is looked at so often in a short run.
EVALUATIONS = 8
RECORDS = 20
FIGURES = {}


def _for(*figures):
    """Return the needs of a setting that only these figures have."""
    return f"the figure {' or '.join(figures)}", lambda s: s.figure in figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """Settings of a figure."""

    figure: str = option(
        REQUIRED, "what to draw", choices=tuple(SIZES), positional=True
    )
    full: bool = option(
        False,
        "the paper's depths and its procedure of "
        f"{FULL['steps']:,} steps, for an accelerator (default: 200 steps of "
        f"cifar10.py --preset fast, with rate {SHORT_RATE})",
    )
    dataset: str = dataset_setting("cifar10", "digits", "mnist")
    depths: tuple[int, ...] = setting(
        (), "weighted layers, 6n+2 (default: by figure)", type=cifar_depth
    )
    seeds: int = setting(
        1,
        "runs of each net, with seeds from 0; all other figures look at seed "
        "0 (default: 1; of degradation and shortcuts with --full: 3)",
        needs=_for("degradation", "shortcuts", "depths"),
    )
    steps: int = setting(
        200,
        f"steps of each training (default: 200; full: {FULL['steps']})",
    )
    images: int | None = setting(
        500,
        "images that are looked at (default: 500; full: all)",
        needs=_for("responses", "growth", "lesions", "landscape"),
    )
    points: int = setting(
        9,
        "points along each axis of a landscape (default: 9; full: 51)",
        needs=_for("landscape"),
    )
    runs: Path = option(Path("runs"), "folder of runs")
    output: Path = option(
        Path("figures"),
        "folder for pictures and tables",
    )

    def resolve(self, given):
        changes = SIZES[self.figure][self.full] | (FULL if self.full else {})
        changes = {k: v for k, v in changes.items() if k not in given}
        s = dataclasses.replace(self, **changes)
        if s.points == 1:
            raise UsageError("a landscape needs --points 2 or more, not 1")
        if s.figure == "lesions" and 8 in s.depths:
            raise UsageError(
                "lesions swap blocks of a stage, and ResNet-8 has one in "
                "each: give --depths 14 or more"
            )
        return dataclasses.replace(s, depths=tuple(sorted(set(s.depths))))

    def net(self, depth, plain=False, shortcut="A", seed=0):
        """Return the `cifar10.Settings` of a net."""
        flags = {"depth": depth, "seed": seed, "dataset": self.dataset}
        if not self.full:
            every = max(1, self.steps // EVALUATIONS)
            flags |= {"preset": "fast", "every": every}
            flags |= {"learning_rate": SHORT_RATE}
        if not self.full or self.steps != FULL["steps"]:
            flags |= {"steps": self.steps}
        flags |= {"plain": True} if plain else {"shortcut": shortcut}
        return cifar10.Settings.settle(flags)


class TrainedNets:
    """Finished runs of `cifar10.py` in a folder, trained now if need be.

    Args:
        settings: `Settings`.

    Attributes:
        used: Dictionary from names of runs that were used to their results.
    """

    def __init__(self, settings):
        self.settings = settings
        self.path = settings.runs
        self.used = {}

    def __call__(self, *args, needs="result.json", **kwargs):
        """Return the finished run of a net, see `Settings.net`.

        A run of any backend will do; one that was stopped is continued.
        """
        import keras

        net = self.settings.net(*args, **kwargs)
        backend = keras.backend.backend()
        path = self.find(net, needs)
        if path is not None:
            print(f"{path}: trained already")
        else:
            path = self.path / net.name(backend)
            if (path / "last.keras").exists() and not _has(path, needs):
                # Trained, but without what this figure needs.
                path = path.with_name(f"{path.name}-{Path(needs).stem}")
            self.train(net, path, backend)
        trained = Trained(path, net)
        keys = ("command", "commit", "backend", "versions", "device")
        self.used[path.name] = {
            key: trained.result.get(key)
            for key in (*keys, "training_error", "test_error")
        }
        return trained

    def train(self, net, path, backend):
        """Train a net by the recipe, in a process of its own."""
        s = self.settings
        flags = [*net.flags(), "--input", s.input, "--output", str(path)]
        flags += ["--data-dir", str(s.data_dir)] if s.data_dir else []
        flags += ["--gradients", str(max(1, s.steps // RECORDS))]
        if (path / "settings.json").exists():
            flags += ["--resume"]
        recipe = os.path.relpath(cifar10.__file__)
        print(
            f"{path}: to be trained: {shlex.join([recipe, *flags])}",
            flush=True,
        )
        status = subprocess.run(
            [sys.executable, recipe, *flags],
            env=os.environ | {"KERAS_BACKEND": backend},
        ).returncode
        if status in (130, -2):
            raise KeyboardInterrupt
        if status:
            raise Failure(
                f"training of {path} failed with exit status {status}; its "
                "own message stands above"
            )

    def find(self, net, needs):
        """Return the folder of a finished run of these settings, if any."""
        for path in sorted(self.path.glob("*/result.json")):
            stored = json.loads(path.read_text("utf-8"))["settings"]
            stored.pop("backend", None)
            if stored == net.stored() and _has(path.parent, needs):
                return path.parent
        return None

    def all_seeds(self, *args, **kwargs):
        """Return the runs of a net with all seeds."""
        return [
            self(*args, seed=seed, **kwargs)
            for seed in range(self.settings.seeds)
        ]

    def residual_and_plain(self, **kwargs):
        """Return the runs of all depths, residual and plain, seed 0."""
        return [
            self(depth, plain=plain, **kwargs)
            for depth in self.settings.depths
            for plain in (False, True)
        ]


def _has(path, needs):
    """Return whether a run has, or will have, what a figure needs."""
    if needs != cifar10.GRADIENTS:
        return True
    from keras_resnet import analysis

    path = path / needs
    # A run that was resumed with them lacks those at initialization.
    return path.exists() and analysis.read_gradient_flow(path)[0][0] == 0


class Trained:
    """A finished run of `cifar10.py`."""

    def __init__(self, path, settings):
        self.path = path
        self.settings = settings
        self.result = json.loads((path / "result.json").read_text("utf-8"))

    @property
    def label(self):
        """The net's name, as in the paper."""
        kind = "plain" if self.settings.plain else "ResNet"
        return f"{kind}-{self.settings.depth}"

    @property
    def style(self):
        """Label and colour, for a plot."""
        from keras_resnet import plots

        color = plots.PLAIN if self.settings.plain else plots.RESIDUAL
        return {"label": self.label, "color": color}

    def history(self):
        """Return the history of errors, a list of values for each name."""
        from keras_resnet_recipes.experiment.run import read_history

        every = self.settings.every
        return read_history(
            self.path / ("steps.csv" if every else "history.csv")
        )

    def model(self):
        """Return the trained model."""
        import keras

        return keras.models.load_model(self.path / "final.keras")


class Page:
    """The folder of pictures and tables, and its page README.md.

    Args:
        settings: `Settings`.

    Raises:
        UsageError: If the folder holds another page, or this figure of other
            settings.
    """

    def __init__(self, settings):
        self.settings = settings
        self.path = settings.output
        self.pictures, self.tables = [], []
        path = self.path / "README.md"
        if path.exists() and not path.read_text("utf-8").startswith(PAGE):
            raise UsageError(
                f"{path} is no page of figures and would be replaced: give "
                "another --output"
            )
        path = self.path / f"{settings.figure}.json"
        if not path.exists():
            return
        there = json.loads(path.read_text("utf-8"))["settings"]
        for name, value in settings.stored().items():
            if there[name] != value:
                raise UsageError(
                    f"{path} is of {name} {there[name]}, which would be "
                    f"replaced by {value}: give another --output"
                )

    def save(self, figure, name):
        """Save a picture, whole or not at all, and say where."""
        from keras_resnet import plots

        self.path.mkdir(parents=True, exist_ok=True)
        plots.save(figure, self.path / f"{name}.png")
        self.pictures.append(name)
        print(self.path / f"{name}.png")

    def write(self, text, name):
        """Save a table, and show it."""
        from keras_resnet import training

        self.path.mkdir(parents=True, exist_ok=True)
        training.write_atomically(self.path / f"{name}.md", text)
        self.tables.append(name)
        print(f"\n{text}\n{self.path / name}.md")

    def finish(self, title, runs):
        """Leave the figure's result line, and the page of all figures.

        Args:
            title: String.
            runs: Dictionary from names of runs to parts of their results.
        """
        from keras_resnet import training
        from keras_resnet_recipes.experiment.provenance import origin

        line = {
            "title": title,
            **origin(),
            "settings": self.settings.stored(),
            "pictures": self.pictures,
            "tables": self.tables,
            "runs": runs,
        }
        path = self.path / f"{self.settings.figure}.json"
        training.write_atomically(path, json.dumps(line) + "\n")
        training.write_atomically(self.path / "README.md", page(self.path))


def caption_of(settings, runs, what="", one=False):
    """Return seeds and settings of a figure's runs as one sentence."""
    s = runs[0].settings
    backends = sorted({run.result["backend"] for run in runs})
    seeds = 1 if one else settings.seeds
    text = (
        f"{s.dataset}, cifar10.py --preset {s.preset}, "
        f"{runs[0].result['iterations']:,} steps, batch {s.batch_size}, "
        f"{s.schedule} with rate {s.learning_rate:g}, weight decay "
        f"{s.weight_decay:g}, "
    )
    text += "seed 0"
    if seeds > 1:
        text = text.removesuffix("seed 0")
        text += f"seeds 0 to {seeds - 1} (mean, one standard deviation)"
    return f"{text}, {', '.join(backends)}.{f' {what}' if what else ''}"


def data_of(settings):
    """Return the `keras_resnet.data.ImageData` of all runs."""
    from keras_resnet import data

    return data.load(settings.dataset, settings.data_dir)


def figure(function):
    """Register a function under its name."""
    FIGURES[function.__name__] = function
    return function


def curves_of(runs):
    """Return the histories of runs that differ in their seed, stacked."""
    import numpy as np

    histories = [run.history() for run in runs]
    return {"iterations": histories[0]["iterations"]} | {
        key: np.stack([h[key] for h in histories], axis=-1)
        for key in ("error", "val_error")
    }


def final_errors(runs):
    """Return training and test errors of some runs, as fractions."""
    return [
        [run.result[key] for run in runs]
        for key in ("training_error", "test_error")
    ]


def error_table(rows, caption):
    """Return a table of errors: rows of a title and the runs of it."""
    head = ["net", "parameters", "training error", "test error"]
    body = [
        [
            title,
            f"{runs[0].result['parameters']:,}",
            *(
                report.mean_and_deviation([100 * e for e in errors], "%")
                for errors in final_errors(runs)
            ),
        ]
        for title, runs in rows
    ]
    return f"{report.table(head, body)}\n\n{caption}\n"


TRAINING_ERROR = (
    "Training error is that of augmented batches while the weights move: over "
    "the last epoch, or the steps since the evaluation before."
)


@figure
def degradation(settings, trained, page):
    """Plain and residual nets of growing depth."""
    from keras_resnet import plots

    nets = {
        (plain, depth): trained.all_seeds(depth, plain=plain)
        for plain in (True, False)
        for depth in settings.depths
    }
    everything = sum(nets.values(), [])
    caption = caption_of(settings, everything, TRAINING_ERROR)
    page.save(
        plots.degradation(
            [
                {"depth": depth, "plain": plain} | curves_of(runs)
                for (plain, depth), runs in nets.items()
            ],
            caption,
        ),
        "degradation",
    )
    series = []
    for plain, label in ((True, "plain"), (False, "residual")):
        runs = [nets[plain, depth] for depth in settings.depths]
        series.append(
            {
                "label": label,
                "color": plots.PLAIN if plain else plots.RESIDUAL,
                "depths": settings.depths,
                "error": [final_errors(r)[0] for r in runs],
            }
        )
    page.save(
        plots.error_by_depth(series, caption=caption), "degradation-depths"
    )
    rows = [(runs[0].label, runs) for runs in nets.values()]
    page.write(error_table(rows, caption), "degradation")


@figure
def shortcuts(settings, trained, page):
    """Options A, B and C, and the plain twin."""
    from keras_resnet import plots

    for depth in settings.depths:
        nets = {"plain": trained.all_seeds(depth, plain=True)}
        nets |= {
            option: trained.all_seeds(depth, shortcut=option)
            for option in "ABC"
        }
        caption = caption_of(settings, sum(nets.values(), []), TRAINING_ERROR)
        colors = [plots.PLAIN, plots.RESIDUAL, *plots.OTHERS]
        titles = {
            name: runs[0].label + ("" if name == "plain" else f" ({name})")
            for name, runs in nets.items()
        }
        curves = [
            {"label": titles[name], "color": color} | curves_of(runs)
            for (name, runs), color in zip(nets.items(), colors, strict=False)
        ]
        page.save(
            plots.learning_curves(curves, caption=caption), f"shortcuts-{depth}"
        )
        rows = [(titles[name], runs) for name, runs in nets.items()]
        page.write(error_table(rows, caption), f"shortcuts-{depth}")


@figure
def depths(settings, trained, page):
    """Error of residual nets by depth."""
    from keras_resnet import plots

    nets = {depth: trained.all_seeds(depth) for depth in settings.depths}
    caption = caption_of(settings, sum(nets.values(), []), TRAINING_ERROR)
    series = [
        {
            "label": f"residual, {what}",
            "color": color,
            "depths": settings.depths,
            "error": [final_errors(runs)[i] for runs in nets.values()],
        }
        for i, (what, color) in enumerate(
            (
                ("training", plots.shade(plots.RESIDUAL, 0)),
                ("test", plots.RESIDUAL),
            )
        )
    ]
    known = [depth for depth in settings.depths if depth in cifar10.PAPER]
    if settings.full and settings.dataset == "cifar10" and known:
        series.append(
            {
                "label": "test, the paper's table 6",
                "color": plots.OTHERS[-1],
                "depths": known,
                "error": [[cifar10.PAPER[depth] / 100] for depth in known],
            }
        )
    page.save(plots.error_by_depth(series, "error (%)", caption), "depths")
    rows = [(runs[0].label, runs) for runs in nets.values()]
    page.write(error_table(rows, caption), "depths")


def shaded(runs):
    """Return label and colour of runs: the deeper, the darker."""
    from keras_resnet import plots

    depths = sorted({run.settings.depth for run in runs})
    return [
        run.style
        | {
            "color": plots.shade(
                run.style["color"],
                (depths.index(run.settings.depth) + 1) / len(depths),
            )
        }
        for run in runs
    ]


@figure
def responses(settings, trained, page):
    """Deviations of layer responses."""
    from keras_resnet import analysis, plots

    runs = trained.residual_and_plain()
    images = data_of(settings).test.images[: settings.images]
    series = [
        style | {"std": analysis.layer_responses(run.model(), images).std}
        for run, style in zip(runs, shaded(runs), strict=True)
    ]
    caption = caption_of(
        settings, runs, f"{len(images):,} test images.", one=True
    )
    page.save(plots.layer_responses(series, caption), "responses")


@figure
def gradients(settings, trained, page):
    """Gradient norms by layer, at initialization and in training."""
    from keras_resnet import analysis, plots

    runs = trained.residual_and_plain(needs=cifar10.GRADIENTS)
    series = []
    for run in runs:
        steps, _, norms = analysis.read_gradient_flow(
            run.path / cifar10.GRADIENTS
        )
        series.append(run.style | {"steps": steps, "norms": norms})
    what = "Mean cross-entropy of the first 128 training images as one batch."
    caption = caption_of(settings, runs, what, one=True)
    page.save(plots.gradient_flow(series, caption), "gradients")
    first = [
        style | {"norms": one["norms"][0]}
        for one, style in zip(series, shaded(runs), strict=True)
    ]
    caption = f"At initialization. {caption}"
    page.save(plots.gradient_norms(first, caption), "gradients-initial")


@figure
def growth(settings, trained, page):
    """A trained net made deeper by identities, and trained on."""
    from keras_resnet import analysis, plots

    runs = trained.residual_and_plain()
    data = data_of(settings)
    images = data.test.images[: settings.images]
    series = [
        style
        | analysis.identity_property(run.model(), images, (1, 2, 4))._asdict()
        for run, style in zip(runs, shaded(runs), strict=True)
    ]
    what = f"Logits of {len(images):,} test images."
    page.save(
        plots.identity_property(
            series, caption_of(settings, runs, what, one=True)
        ),
        "growth-identity",
    )
    curves = []
    residual = [run for run in runs if not run.settings.plain]
    for run, style in zip(residual, shaded(residual), strict=True):
        curves += grown_curves(settings, run, style, data)
    what = (
        "Grown by a block in each stage, then trained on with a constant rate "
        f"of {GROWN_RATE:g}, momentum 0.9, batches of seed 1."
    )
    caption = caption_of(settings, residual, what, one=True)
    page.save(plots.learning_curves(curves, caption=caption), "growth")


GROWN_RATE = 0.01


def grown_curves(settings, source, style, data):
    """Train a grown net on, and return the curves of before and after."""
    import keras

    from keras_resnet import analysis, plots, training
    from keras_resnet.devices import Devices
    from keras_resnet_recipes.experiment import images
    from keras_resnet_recipes.experiment.run import Run
    from keras_resnet_recipes.experiment.training import finish, train

    steps = max(1, settings.steps // 2)
    every = max(1, steps // EVALUATIONS)
    folder = source.path.with_name(f"{source.path.name}-grown-steps{steps}")
    run = Run(
        folder,
        {
            "grown_from": source.result["settings"],
            "added": 1,
            "steps": steps,
            "every": every,
            "learning_rate": GROWN_RATE,
        },
        resume=(folder / "settings.json").exists(),
    )

    def build():
        model = analysis.grow(source.model(), 1)
        model.compile(
            training.CoupledSGD(
                GROWN_RATE, coupled_decay=source.settings.weight_decay
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        return model

    depth, shades = source.settings.depth, list(settings.depths)
    label = f"{source.label}, grown to {depth + 6}"
    if not run.finished:
        keras.utils.set_random_seed(source.settings.seed)
        job = images.job(
            dataclasses.replace(
                source.settings,
                input=settings.input,
                seed=source.settings.seed + 1,
            ),
            data,
            Devices(),
            build,
            steps=steps,
            every=every,
            label=label,
        )
        finish(run, job, train(run, job))
    after = run.history("steps.csv")
    start = source.result["iterations"]
    return [
        style | source.history(),
        {
            "label": label,
            "color": plots.shade(
                plots.OTHERS[0], (shades.index(depth) + 1) / len(shades)
            ),
            "iterations": [start + i for i in after["iterations"]],
            "error": after["error"],
            "val_error": after["val_error"],
        },
    ]


@figure
def lesions(settings, trained, page):
    """Blocks deleted and swapped, and paths."""
    from keras_resnet import analysis, plots

    for depth in settings.depths:
        runs = [trained(depth, plain=plain) for plain in (False, True)]
        test = data_of(settings).test[: settings.images]
        each, several = [], []
        for run in runs:
            model = run.model()
            data = model, test.images, test.labels
            deleted = analysis.delete_each_block(*data)
            each.append(run.style | deleted._asdict())
            most = len(deleted.names)
            counts = sorted({*range(min(most, 9) + 1), *range(0, most + 1, 5)})
            several.append(
                run.style
                | {
                    "deleted": analysis.delete_blocks(*data, counts),
                    "swapped": analysis.swap_blocks(*data, counts),
                }
            )
        what = f"{len(test):,} test images"
        caption = caption_of(settings, runs, f"{what}.", one=True)
        page.save(plots.deleted_blocks(each, caption), f"lesions-each-{depth}")
        what += "; five random choices for each count, mean and deviation."
        caption = caption_of(settings, runs, what, one=True)
        page.save(plots.lesion_study(several, caption), f"lesions-{depth}")
        batch = test[:128]
        model = runs[0].model()
        gradients = analysis.gradient_by_path_length(
            model, batch.images, batch.labels
        )
        what = f"{runs[0].label}, {len(batch)} test images; ten paths of each "
        what += "length, their mean and range."
        caption = caption_of(settings, runs[:1], what, one=True)
        lengths = analysis.path_lengths(gradients.lengths[-1])
        page.save(
            plots.path_lengths(*lengths, gradients, caption), f"paths-{depth}"
        )


@figure
def landscape(settings, trained, page):
    """Loss around trained weights."""
    import numpy as np

    from keras_resnet import analysis, plots

    axis = np.linspace(-1, 1, settings.points)
    fine = np.linspace(-1, 1, 4 * settings.points - 3)
    for depth in settings.depths:
        runs = [trained(depth, plain=plain) for plain in (False, True)]
        train = data_of(settings).train[: settings.images]
        lines, planes = [], []
        page.path.mkdir(parents=True, exist_ok=True)
        for run in runs:
            model = run.model()
            directions = [analysis.random_direction(model, s) for s in (0, 1)]
            for series, axes in ((lines, (fine,)), (planes, (axis, axis))):
                sizes = "x".join(str(len(a)) for a in axes)
                name = f"landscape-{run.path.name}-{len(train)}-{sizes}.npz"
                print(page.path / name, flush=True)
                landscape = analysis.loss_landscape(
                    model,
                    train.images,
                    train.labels,
                    directions[: len(axes)],
                    axes,
                    path=page.path / name,
                    verbose=int(sys.stdout.isatty()),
                )
                series.append(run.style | {"landscape": landscape})
        two = "directions of seeds 0 and 1"
        for plot, series, where, more in (
            ("lines", lines, "direction of seed 0", "0: trained weights."),
            (
                *("contours", planes, two),
                "contours of the cross-entropy (nats), cross: trained weights.",
            ),
            ("surface", planes, two, "trained weights in the middle."),
        ):
            what = (
                f"{len(train):,} training images; {where}, normalized by "
                "filter; normalization with the moving statistics; "
            )
            caption = caption_of(settings, runs, what + more, one=True)
            drawn = getattr(plots, f"landscape_{plot}")(series, caption)
            page.save(drawn, f"landscape-{plot}-{depth}")


PAGE = """\
# Figures

Made by `python recipes/figures.py` from its own result lines, FIGURE.json.
"""


def page(folder):
    """Return a page of all figures that a folder has result lines of."""
    parts = [PAGE]
    for name in FIGURES:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        line = json.loads(path.read_text("utf-8"))
        parts.append(f"## {line['title']}\n")
        parts += [
            (folder / f"{n}.md").read_text("utf-8") for n in line["tables"]
        ]
        parts += [f"![{n}]({n}.png)\n" for n in line["pictures"]]
        parts.append(f"{made_by(line)}\n")
        parts += [
            f"- {run}: {made_by(result)}"
            for run, result in sorted(line["runs"].items())
        ]
        parts.append("")
    return "\n".join(parts)


def made_by(line):
    """Return a result line's command and where it ran."""
    return f"`{line['command']}`  \n  {report.origin(line)}"


def main(settings):
    """Make one figure."""
    from keras_resnet import devices

    devices.use()  # before anything is computed
    trained, own = TrainedNets(settings), Page(settings)
    draw = FIGURES[settings.figure]
    draw(settings, trained, own)
    own.finish(draw.__doc__.rstrip("."), trained.used)


if __name__ == "__main__":
    execute(Settings, main)
