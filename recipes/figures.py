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

import cifar10
import cli
import fitting
from settings import add_flags, given, setting, to_flags

FIGURES = {}


@dataclasses.dataclass(frozen=True)
class Size:
    """Size of a figure. By default two cores draw it in minutes."""

    depths: tuple = setting(
        (20,),
        "weighted layers, 6n+2; others by figure",
        type=cli.positive_int,
        nargs="+",
    )
    seeds: int = setting(
        1,
        "runs of each net, with seeds from 0, for degradation, shortcuts and "
        "depths; all others look at seed 0",
        type=cli.positive_int,
    )
    steps: int = setting(200, "steps of each training", type=cli.positive_int)
    images: int | None = setting(
        500,
        "images that responses, growth, lesions and landscape look at",
        type=cli.positive_int,
    )
    points: int = setting(
        9, "points along each axis of a landscape", type=cli.positive_int
    )


# Two cores finish the first in minutes; the second is the paper's.
SIZES = {
    "degradation": (Size((20, 56)), Size((20, 32, 44, 56), seeds=3)),
    "shortcuts": (Size((20,)), Size((56,), seeds=3)),
    "depths": (Size((20, 32, 44)), Size((20, 32, 44, 56, 110))),
    "responses": (Size((20,)), Size((20, 56, 110))),
    "gradients": (Size((20, 56)), Size((20, 56, 110))),
    "growth": (Size((20,)), Size((20,))),
    "lesions": (Size((20,)), Size((110,))),
    "landscape": (Size((56,)), Size((56,), points=51)),
}
# Which figures take a flag.
TAKEN_BY = {
    "seeds": ("degradation", "shortcuts", "depths"),
    "images": ("responses", "growth", "lesions", "landscape"),
    "points": ("landscape",),
}
FULL = {"steps": 64_000, "images": None}
# Of a short run, in which the usual rate comes too soon: ResNet-56 did not
# begin to learn at 0.2 in 125 steps, seed 0, and did at this.
SHORT_RATE = 0.05
# The error is looked at so often in a short run.
EVALUATIONS = 8
RECORDS = 20


def make_parser():
    """Return the parser of this recipe's flags."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("figure", choices=SIZES, help="what to draw")
    add(
        "--full",
        action="store_true",
        help="the paper's depths and its procedure of "
        f"{FULL['steps']:,} steps, for an accelerator (default: "
        f"{Size().steps} steps of cifar10.py --preset fast, with rate "
        f"{SHORT_RATE})",
    )
    add(
        "--dataset",
        choices=("cifar10", "digits", "mnist"),
        help="images to train on (default: cifar10)",
    )
    cli.add_data_flags(parser)
    add_flags(parser, Size, {"full": FULL})
    add(
        "--runs",
        metavar="DIR",
        default="runs",
        help="folder of runs (default: runs)",
    )
    add(
        "--output",
        metavar="DIR",
        default="figures",
        help="folder for pictures and tables (default: figures)",
    )
    return parser


class Work:
    """The request for a figure: its size, its runs, its folder."""

    def __init__(self, arguments):
        self.figure = arguments.figure
        self.full = hasattr(arguments, "full")
        size = SIZES[self.figure][self.full]
        if self.full:
            size = dataclasses.replace(size, **FULL)
        flags = given(arguments, Size)
        for name, takers in TAKEN_BY.items():
            if name in flags and self.figure not in takers:
                raise cli.UsageError(
                    f"{self.figure} takes no --{name}: leave it out"
                )
        if flags.get("points") == 1:
            raise cli.UsageError("a landscape needs --points 2 or more, not 1")
        if self.figure == "lesions" and 8 in flags.get("depths", ()):
            raise cli.UsageError(
                "lesions swap blocks of a stage, and ResNet-8 has one in "
                "each: give --depths 14 or more"
            )
        if "depths" in flags:
            flags["depths"] = tuple(sorted(set(flags["depths"])))
        self.size = dataclasses.replace(size, **flags)
        data_flags = {
            name: getattr(arguments, name)
            for name in ("data_dir", "input")
            if hasattr(arguments, name)
        }
        self.data_flags = to_flags(data_flags)
        self.dataset = getattr(arguments, "dataset", cifar10.Settings.dataset)
        self.data_dir = getattr(arguments, "data_dir", None)
        self.input = getattr(arguments, "input", "auto")
        self.runs = Path(arguments.runs)
        self.output = Path(arguments.output)
        # What it used and made, for the page.
        self.used, self.pictures, self.tables = {}, [], []
        for depth in self.size.depths:
            self.settings(depth)
        self._check_output()

    def _check_output(self):
        """Raise an error before what is no earlier state of it is replaced."""
        path = self.output / "README.md"
        if path.exists() and not path.read_text("utf-8").startswith(PAGE):
            raise cli.UsageError(
                f"{path} is no page of figures and would be replaced: give "
                "another --output"
            )
        path = self.output / f"{self.figure}.json"
        if not path.exists():
            return
        there = json.loads(path.read_text("utf-8"))
        for name, value in self.what().items():
            # Older lines do not say which data.
            if there.get(name, value) != value:
                raise cli.UsageError(
                    f"{path} is of {name} {there[name]}, which would be "
                    f"replaced by {value}: give another --output"
                )

    def what(self):
        """Return the values that tell figures of one name apart."""
        size = dataclasses.asdict(self.size)
        return {
            "size": size | {"depths": list(self.size.depths)},
            "dataset": self.dataset,
        }

    def settings(self, depth, plain=False, shortcut="A", seed=0):
        """Return the `cifar10.Settings` of a net."""
        flags = {"depth": depth, "seed": seed, "dataset": self.dataset}
        if not self.full:
            every = max(1, self.size.steps // EVALUATIONS)
            flags |= {"preset": "fast", "every": every}
            flags |= {"learning_rate": SHORT_RATE}
        if not self.full or self.size.steps != FULL["steps"]:
            flags |= {"steps": self.size.steps}
        flags |= {"plain": True} if plain else {"shortcut": shortcut}
        return cifar10.settled(flags)

    def run(self, *args, needs="result.json", **kwargs):
        """Return the finished run of a net, trained now if it must be.

        A run of any backend will do; one that was stopped goes on.
        """
        import keras

        settings = self.settings(*args, **kwargs)
        backend = keras.backend.backend()
        name = cifar10.name_of(settings, backend)
        folder = self.runs / name
        found = self.find(settings, needs)
        if found is not None:
            print(f"{found}: found")
            return self.use(Trained(found, settings))
        if (folder / "last.keras").exists() and not self.has(folder, needs):
            # Trained, but without what this figure needs.
            folder = self.runs / f"{name}-{Path(needs).stem}"
        flags = [*cifar10.flags_of(settings), *self.data_flags]
        flags += ["--output", str(folder)]
        flags += ["--gradients", str(max(1, self.size.steps // RECORDS))]
        if (folder / "settings.json").exists():
            flags += ["--resume"]
        recipe = Path(cifar10.__file__)
        command = [sys.executable, os.path.relpath(recipe), *flags]
        print(f"{folder}: to be trained: {shlex.join(command[1:])}", flush=True)
        status = subprocess.run(
            command, env=os.environ | {"KERAS_BACKEND": backend}
        ).returncode
        if status in (130, -2):
            raise KeyboardInterrupt
        if status:
            raise cli.Failure(
                f"training of {folder} failed with exit status {status}; its "
                "own message stands above"
            )
        return self.use(Trained(folder, settings))

    def use(self, run):
        """Note that a run was used, and return it."""
        keys = ("command", "commit", "backend", "versions", "device")
        self.used[run.path.name] = {
            key: run.result.get(key)
            for key in (*keys, "training_error", "test_error")
        }
        return run

    def find(self, settings, needs):
        """Return the folder of a finished run of these settings, if any."""
        wanted = dataclasses.asdict(settings)
        # What a run does not say was not to be chosen when it was made.
        usual = dataclasses.asdict(cifar10.Settings())
        for path in sorted(self.runs.glob("*/result.json")):
            stored = json.loads(path.read_text("utf-8"))["settings"]
            stored = {k: v for k, v in stored.items() if k != "backend"}
            if usual | stored == wanted and self.has(path.parent, needs):
                return path.parent
        return None

    def has(self, folder, needs):
        """Return whether a run has, or will have, what a figure needs."""
        if needs != cifar10.GRADIENTS:
            return True
        from keras_resnet import analysis

        path = folder / needs
        # A run that was resumed with them lacks those at initialization.
        return path.exists() and analysis.read_gradient_flow(path)[0][0] == 0

    def data(self):
        """Return the `ImageData` of all runs."""
        from keras_resnet import data

        return data.load(self.dataset, self.data_dir)

    def save(self, figure, name):
        """Save a picture, whole or not at all, and say where."""
        from keras_resnet import plots

        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"{name}.png"
        plots.save(figure, path)
        self.pictures.append(name)
        print(path)

    def write(self, text, name):
        """Save a table, and show it."""
        from keras_resnet import training

        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / f"{name}.md"
        training.write_atomically(path, text)
        self.tables.append(name)
        print(f"\n{text}\n{path}")

    def finish(self):
        """Leave the figure's result line, and the page of all figures."""
        from keras_resnet import training
        from keras_resnet.training import runs

        line = {
            "title": FIGURES[self.figure].__doc__.rstrip("."),
            "command": runs.command(),
            "commit": runs.commit(),
            **training.environment(),
            **self.what(),
            "pictures": self.pictures,
            "tables": self.tables,
            "runs": self.used,
        }
        training.write_atomically(
            self.output / f"{self.figure}.json", json.dumps(line) + "\n"
        )
        training.write_atomically(self.output / "README.md", page(self.output))

    def caption(self, runs, what="", one=False):
        """Return seeds and settings of a figure's runs as one sentence."""
        s = runs[0].settings
        backends = sorted({run.result["backend"] for run in runs})
        length = f"{runs[0].result['iterations']:,} steps"
        seeds = 1 if one else self.size.seeds
        return (
            f"{s.dataset}, cifar10.py --preset {s.preset}, {length}, batch "
            f"{s.batch_size}, {s.schedule} with rate {s.learning_rate:g}, "
            f"weight decay {s.weight_decay:g}, "
            + (
                f"seeds 0 to {seeds - 1} (mean, one standard deviation)"
                if seeds > 1
                else "seed 0"
            )
            + f", {', '.join(backends)}."
            + (f" {what}" if what else "")
        )


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
        return cifar10.curve(self.path, self.settings)

    def model(self):
        """Return the trained model."""
        import keras

        return keras.models.load_model(self.path / "final.keras")


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
    from results import mean_and_deviation

    lines = ["| net | parameters | training error | test error |"]
    lines += ["|---|---|---|---|"]
    for title, runs in rows:
        cells = [
            mean_and_deviation([100 * e for e in errors], "%")
            for errors in final_errors(runs)
        ]
        parameters = f"{runs[0].result['parameters']:,}"
        lines.append(f"| {' | '.join([title, parameters, *cells])} |")
    return "\n".join([*lines, "", caption, ""])


def over_seeds(work, *args, **kwargs):
    """Return the runs of a net with all seeds."""
    return [
        work.run(*args, seed=seed, **kwargs) for seed in range(work.size.seeds)
    ]


TRAINING_ERROR = (
    "Training error is that of augmented batches while the weights move: over "
    "the last epoch, or the steps since the evaluation before."
)


@figure
def degradation(work):
    """Plain and residual nets of growing depth."""
    from keras_resnet import plots

    nets = {
        (plain, depth): over_seeds(work, depth, plain=plain)
        for plain in (True, False)
        for depth in work.size.depths
    }
    everything = sum(nets.values(), [])
    caption = work.caption(everything, TRAINING_ERROR)
    work.save(
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
        runs = [nets[plain, depth] for depth in work.size.depths]
        series.append(
            {
                "label": label,
                "color": plots.PLAIN if plain else plots.RESIDUAL,
                "depths": work.size.depths,
                "error": [final_errors(r)[0] for r in runs],
            }
        )
    work.save(
        plots.error_by_depth(series, caption=caption), "degradation-depths"
    )
    rows = [(runs[0].label, runs) for runs in nets.values()]
    work.write(error_table(rows, caption), "degradation")


@figure
def shortcuts(work):
    """Options A, B and C, and the plain twin."""
    from keras_resnet import plots

    for depth in work.size.depths:
        nets = {"plain": over_seeds(work, depth, plain=True)}
        nets |= {
            option: over_seeds(work, depth, shortcut=option) for option in "ABC"
        }
        caption = work.caption(sum(nets.values(), []), TRAINING_ERROR)
        colors = [plots.PLAIN, plots.RESIDUAL, *plots.OTHERS]
        titles = {
            name: runs[0].label + ("" if name == "plain" else f" ({name})")
            for name, runs in nets.items()
        }
        curves = [
            {"label": titles[name], "color": color} | curves_of(runs)
            for (name, runs), color in zip(nets.items(), colors, strict=False)
        ]
        work.save(
            plots.learning_curves(curves, caption=caption), f"shortcuts-{depth}"
        )
        rows = [(titles[name], runs) for name, runs in nets.items()]
        work.write(error_table(rows, caption), f"shortcuts-{depth}")


@figure
def depths(work):
    """Error of residual nets by depth."""
    from results import PAPER

    from keras_resnet import plots

    nets = {depth: over_seeds(work, depth) for depth in work.size.depths}
    caption = work.caption(sum(nets.values(), []), TRAINING_ERROR)
    series = [
        {
            "label": f"residual, {what}",
            "color": color,
            "depths": work.size.depths,
            "error": [final_errors(runs)[i] for runs in nets.values()],
        }
        for i, (what, color) in enumerate(
            (
                ("training", plots.shade(plots.RESIDUAL, 0)),
                ("test", plots.RESIDUAL),
            )
        )
    ]
    known = [depth for depth in work.size.depths if depth in PAPER]
    if work.full and work.dataset == "cifar10" and known:
        series.append(
            {
                "label": "test, the paper's table 6",
                "color": plots.OTHERS[-1],
                "depths": known,
                "error": [[PAPER[depth] / 100] for depth in known],
            }
        )
    work.save(plots.error_by_depth(series, "error (%)", caption), "depths")
    rows = [(runs[0].label, runs) for runs in nets.values()]
    work.write(error_table(rows, caption), "depths")


def both(work, **kwargs):
    """Return the runs of all depths, residual and plain, seed 0."""
    return [
        work.run(depth, plain=plain, **kwargs)
        for depth in work.size.depths
        for plain in (False, True)
    ]


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
def responses(work):
    """Deviations of layer responses."""
    from keras_resnet import analysis, plots

    runs = both(work)
    images = work.data().test.images[: work.size.images]
    series = [
        style | {"std": analysis.layer_responses(run.model(), images).std}
        for run, style in zip(runs, shaded(runs), strict=True)
    ]
    caption = work.caption(runs, f"{len(images):,} test images.", one=True)
    work.save(plots.layer_responses(series, caption), "responses")


@figure
def gradients(work):
    """Gradient norms by layer, at initialization and in training."""
    from keras_resnet import analysis, plots

    runs = both(work, needs=cifar10.GRADIENTS)
    series = []
    for run in runs:
        steps, _, norms = analysis.read_gradient_flow(
            run.path / cifar10.GRADIENTS
        )
        series.append(run.style | {"steps": steps, "norms": norms})
    what = "Mean cross-entropy of the first 128 training images as one batch."
    caption = work.caption(runs, what, one=True)
    work.save(plots.gradient_flow(series, caption), "gradients")
    first = [
        style | {"norms": one["norms"][0]}
        for one, style in zip(series, shaded(runs), strict=True)
    ]
    caption = f"At initialization. {caption}"
    work.save(plots.gradient_norms(first, caption), "gradients-initial")


@figure
def growth(work):
    """A trained net made deeper by identities, and trained on."""
    from keras_resnet import analysis, plots

    runs = both(work)
    data = work.data()
    images = data.test.images[: work.size.images]
    series = [
        style
        | analysis.identity_property(run.model(), images, (1, 2, 4))._asdict()
        for run, style in zip(runs, shaded(runs), strict=True)
    ]
    what = f"Logits of {len(images):,} test images."
    work.save(
        plots.identity_property(series, work.caption(runs, what, one=True)),
        "growth-identity",
    )
    curves = []
    residual = [run for run in runs if not run.settings.plain]
    for run, style in zip(residual, shaded(residual), strict=True):
        curves += grown_curves(work, run, style, data)
    what = (
        "Grown by a block in each stage, then trained on with a constant rate "
        f"of {GROWN_RATE:g}, momentum 0.9, batches of seed 1."
    )
    caption = work.caption(residual, what, one=True)
    work.save(plots.learning_curves(curves, caption=caption), "growth")


GROWN_RATE = 0.01


def grown_curves(work, source, style, data):
    """Train a grown net on, and return the curves of before and after."""
    import keras

    from keras_resnet import analysis, plots, training

    steps = max(1, work.size.steps // 2)
    every = max(1, steps // EVALUATIONS)
    settings = {
        "grown_from": source.result["settings"],
        "added": 1,
        "steps": steps,
        "every": every,
        "learning_rate": GROWN_RATE,
    }
    folder = work.runs / f"{source.path.name}-grown-steps{steps}"
    run = training.Run(
        folder, settings, resume=(folder / "settings.json").exists()
    )

    def build():
        model = analysis.grow(source.model(), 1)
        model.compile(
            optimizer=training.CoupledSGD(
                GROWN_RATE, coupled_decay=source.settings.weight_decay
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    if not run.finished:
        keras.utils.set_random_seed(source.settings.seed)
        model = fitting.fit(
            run,
            build,
            data,
            batch_size=source.settings.batch_size,
            steps=steps,
            seed=source.settings.seed + 1,
            input_name=fitting.choose_input(work.input),
            every=every,
        )
        run.finish(model)
    before, after = source.history(), run.history("steps.csv")
    start = source.result["iterations"]
    depth = source.settings.depth
    shades = list(work.size.depths)
    return [
        style | before,
        {
            "label": f"{source.label}, grown to {depth + 6}",
            "color": plots.shade(
                plots.OTHERS[0], (shades.index(depth) + 1) / len(shades)
            ),
            "iterations": [start + i for i in after["iterations"]],
            "error": after["error"],
            "val_error": after["val_error"],
        },
    ]


@figure
def lesions(work):
    """Blocks deleted and swapped, and paths."""
    from keras_resnet import analysis, plots

    for depth in work.size.depths:
        runs = [work.run(depth, plain=plain) for plain in (False, True)]
        test = work.data().test[: work.size.images]
        each, several = [], []
        for run in runs:
            model = run.model()
            data = model, test.images, test.labels
            found = analysis.delete_each_block(*data)
            each.append(run.style | found._asdict())
            most = len(found.names)
            counts = sorted({*range(min(most, 9) + 1), *range(0, most + 1, 5)})
            several.append(
                run.style
                | {
                    "deleted": analysis.delete_blocks(*data, counts),
                    "swapped": analysis.swap_blocks(*data, counts),
                }
            )
        what = f"{len(test):,} test images"
        caption = work.caption(runs, f"{what}.", one=True)
        work.save(plots.deleted_blocks(each, caption), f"lesions-each-{depth}")
        what += "; five random choices for each count, mean and deviation."
        caption = work.caption(runs, what, one=True)
        work.save(plots.lesion_study(several, caption), f"lesions-{depth}")
        batch = test[:128]
        model = runs[0].model()
        found = analysis.gradient_by_path_length(
            model, batch.images, batch.labels
        )
        what = f"{runs[0].label}, {len(batch)} test images; ten paths of each "
        what += "length, their mean and range."
        caption = work.caption(runs[:1], what, one=True)
        lengths = analysis.path_lengths(found.lengths[-1])
        work.save(
            plots.path_lengths(*lengths, found, caption), f"paths-{depth}"
        )


@figure
def landscape(work):
    """Loss around trained weights."""
    import numpy as np

    from keras_resnet import analysis, plots

    axis = np.linspace(-1, 1, work.size.points)
    fine = np.linspace(-1, 1, 4 * work.size.points - 3)
    for depth in work.size.depths:
        runs = [work.run(depth, plain=plain) for plain in (False, True)]
        train = work.data().train[: work.size.images]
        lines, planes = [], []
        work.output.mkdir(parents=True, exist_ok=True)
        for run in runs:
            model = run.model()
            directions = [analysis.random_direction(model, s) for s in (0, 1)]
            for series, axes in ((lines, (fine,)), (planes, (axis, axis))):
                sizes = "x".join(str(len(a)) for a in axes)
                name = f"landscape-{run.path.name}-{len(train)}-{sizes}.npz"
                print(work.output / name, flush=True)
                found = analysis.loss_landscape(
                    model,
                    train.images,
                    train.labels,
                    directions[: len(axes)],
                    axes,
                    path=work.output / name,
                    verbose=int(sys.stdout.isatty()),
                )
                series.append(run.style | {"landscape": found})
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
            caption = work.caption(runs, what + more, one=True)
            drawn = getattr(plots, f"landscape_{plot}")(series, caption)
            work.save(drawn, f"landscape-{plot}-{depth}")


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
    """Return a result line's command, versions, machine and commit."""
    versions = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
    return (
        f"`{line['command']}`  \n  {versions}; {line['device']}; commit "
        f"{line['commit']}"
    )


def main(arguments):
    """Make one figure."""
    work = Work(arguments)
    from keras_resnet import devices

    devices.use()  # before anything is computed
    FIGURES[work.figure](work)
    work.finish()


if __name__ == "__main__":
    cli.run(make_parser(), main)
