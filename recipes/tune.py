"""Search for hyperparameters of recipes/cifar10.py, by KerasTuner.

KERAS_BACKEND=jax python recipes/tune.py
python recipes/tune.py --tuner bayesian --max-trials 30 --depths 20 32
python recipes/tune.py --dataset digits --epochs 4            # no download
python recipes/tune.py --dataset digits --epochs 4 --resume   # continues

Searches depth and learning rate, and each further setting with more than one
value. Each trial is a run of cifar10.py with preset "fast", and counts by its
error on the validation images. The best is trained again on all training
images, and tested once. On several machines: see docs/tuning.md.
"""

import csv
import dataclasses
import io
import shlex
import tempfile
from importlib import metadata

import cifar10
import cli
import fitting
from settings import add_flags, dataset, differences, given, name_parts, setting

FAST = cifar10.PRESETS["fast"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a search. Empty ones are those of cifar10.py."""

    dataset: str = dataset("cifar10", "cifar10", "digits", "mnist")
    tuner: str = setting(
        "random",
        "random: drawn at random; hyperband: many short trials, the best "
        "again with three times the epochs; bayesian: drawn where a Gaussian "
        "process expects a low error",
        choices=("random", "hyperband", "bayesian"),
    )
    max_trials: int = setting(
        12, "trials in all, failed ones too", type=cli.positive_int
    )
    epochs: int = setting(
        FAST["epochs"],
        "epochs of the training images in a trial, in hyperband's last round, "
        "and in the training of the best",
        type=cli.positive_int,
    )
    depths: tuple = setting(
        (8, 14, 20),
        "weighted layers to choose from, 6n+2",
        type=cli.positive_int,
        nargs="+",
    )
    learning_rates: tuple = setting(
        (0.02, 2.0),
        "range of the learning rate, searched on a logarithmic scale",
        type=cli.positive_float,
        nargs=2,
        metavar=("LOW", "HIGH"),
    )
    shortcuts: tuple = setting(
        (), "shortcuts to choose from", choices=("A", "B", "C"), nargs="+"
    )
    weight_decays: tuple = setting(
        (),
        "range of the weight decay, searched on a logarithmic scale; none: "
        f"{FAST['weight_decay']}",
        type=cli.positive_float,
        nargs=2,
        metavar=("LOW", "HIGH"),
    )
    batch_sizes: tuple = setting(
        (),
        f"images per step to choose from; none: {cifar10.Settings.batch_size}, "
        "for the digits 32",
        type=cli.positive_int,
        nargs="+",
    )
    label_smoothings: tuple = setting(
        (), "label smoothings to choose from", type=cli.share, nargs="+"
    )
    schedules: tuple = setting(
        (),
        "schedules to choose from; none: one-cycle",
        choices=("one-cycle", "step-decay"),
        nargs="+",
    )
    seed: int = setting(
        0,
        "of the drawn hyperparameters, and of weights, order and augmentation "
        "in all trials",
        type=cli.seed,
    )


# Names of settings of a run, by those of a search.
SEARCHED = {
    "depths": "depth",
    "learning_rates": "learning_rate",
    "shortcuts": "shortcut",
    "weight_decays": "weight_decay",
    "batch_sizes": "batch_size",
    "label_smoothings": "label_smoothing",
    "schedules": "schedule",
}
RANGES = ("learning_rate", "weight_decay")
TESTED = ("test_error", "test_loss", "test_images")
LOST_AFTER = 60.0


def make_parser():
    """Return the parser of this recipe's flags."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add_flags(parser, Settings)
    cli.add_data_flags(parser)
    add(
        "--lost-after",
        type=cli.positive_float,
        metavar="S",
        help="seconds without a sign of life after which a worker's trial "
        f"goes to another (default: {LOST_AFTER:g})",
    )
    cli.add_device_flags(parser)
    add(
        "--output",
        metavar="DIR",
        help="folder for what the search leaves (default: "
        "runs/tune-DATASET-TUNER-BACKEND-seedN, other flags after the tuner)",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the search in that folder; the trials that were "
        "running run again",
    )
    return parser


def settle(arguments):
    """Return the `Settings` that the flags add up to."""
    flags = {
        name: tuple(value) if name in SEARCHED else value
        for name, value in given(arguments, Settings).items()
    }
    for name, values in flags.items():
        flag = f"--{name.replace('_', '-')}"
        if name in SEARCHED and len(set(values)) < len(values):
            raise cli.UsageError(
                f"argument {flag}: a value is there twice: "
                f"{' '.join(map(str, values))}"
            )
        if SEARCHED.get(name) in RANGES and values[0] > values[1]:
            raise cli.UsageError(
                f"argument {flag}: the low end comes first: "
                f"{values[1]} {values[0]}"
            )
    for depth in flags.get("depths", ()):
        cifar10.check_depth("depths", depth)
    return Settings(**flags)


def name_of(settings, backend):
    """Return the name of a search's folder, which tells searches apart."""
    named = ("dataset", "tuner", "seed")
    others = name_parts(differences(settings, Settings(), named))
    parts = settings.dataset, settings.tuner, *others, backend
    return "-".join(["tune", *parts, f"seed{settings.seed}"])


def space(settings):
    """Return what `ResNetHyperModel` is to choose from, or to take."""
    usual = run_settings(settings, {})
    return {
        name: getattr(settings, plural) or getattr(usual, name)
        for plural, name in SEARCHED.items()
    }


def run_settings(settings, values):
    """Return the settings of `cifar10.py` that a trial's values stand for."""
    usual = cifar10.preset_values("fast", settings.dataset)
    if values.get("schedule") == "step-decay":
        usual = usual | {"warmup": None}
    asked = {
        "preset": "fast",
        "dataset": settings.dataset,
        "epochs": settings.epochs,
        "seed": settings.seed,
    }
    return cifar10.Settings(**usual | asked | values)


def command(settings, values, backend, devices, data_dir=None):
    """Return the command of `cifar10.py` that trains with these values."""
    flags = cifar10.flags_of(run_settings(settings, values))
    if data_dir is not None:
        flags += ["--data-dir", str(data_dir)]
    if devices.settings():  # or else any number gives the same numbers
        flags += ["--devices", str(devices.count)]
        flags += ["--normalization", "per-device"]
    return (
        f"KERAS_BACKEND={backend} python recipes/cifar10.py {shlex.join(flags)}"
    )


def cells(row, names):
    """Return a row of the table of trials, as texts."""
    done = row["status"] == "completed"
    return [
        row["trial"],
        *(str(row[name]) for name in names),
        str(row["epochs"]),
        f"{100 * row['val_error']:.2f} %" if done else "",
        f"{100 * row['error']:.2f} %" if done else "",
        f"{row['seconds']:.0f}" if done else "",
        row["status"] if done else f"{row['status']}: {row['reason']}",
    ]


def table(rows, names):
    """Return the trials as a Markdown table, the best ones first."""
    head = ["trial", *(name.replace("_", " ") for name in names), "epochs"]
    head += ["validation error", "training error", "seconds", "status"]
    ranked = sorted(rows, key=lambda row: row.get("val_error", 2.0))
    body = [head, *(cells(row, names) for row in ranked)]
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        " | ".join(t.ljust(w) for t, w in zip(line, widths, strict=True))
        for line in body
    ]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def as_csv(rows):
    """Return the trials as CSV, everything that is known of each."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Progress:
    """Prints a line for each trial that has ended."""

    def __init__(self, settings, names):
        self.settings = settings
        self.names = names
        self.best = None
        self.ended = 0

    def __call__(self, row):
        chosen = ", ".join(
            f"{name.replace('_', ' ')} {row[name]}" for name in self.names
        )
        self.ended += 1
        line = (
            f"trial {row['trial']} "
            f"({self.ended} of {self.settings.max_trials}): {chosen}, "
            f"epochs {row['epochs']}"
        )
        if row["status"] != "completed":
            print(f"{line}: failed: {row['reason']}", flush=True)
            return
        error = row["val_error"]
        if self.best is None or error < self.best:
            self.best = error
        print(
            f"{line}: validation error {100 * error:.2f} %, "
            f"{row['seconds']:.0f} s; lowest so far {100 * self.best:.2f} %",
            flush=True,
        )


def use_devices(arguments, settings):
    """Return the devices that each trial is trained on."""
    devices = fitting.use_devices(arguments)
    if devices.processes > 1:
        raise cli.UsageError(
            f"--devices: these are {devices.processes} processes, and a search "
            "trains each trial in one; leave it out, and start workers "
            "(docs/tuning.md)"
        )
    usual = run_settings(settings, {}).batch_size
    for size in settings.batch_sizes or (usual,):
        devices.check_batch(size)
    return devices


def check_steps(settings, images):
    """Raise `cli.UsageError` if a trial would have too few steps.

    Args:
        settings: `Settings`.
        images: Integer, number of training images.
    """
    from keras_resnet import tuning

    if "step-decay" not in settings.schedules:
        return
    # The trial that has the fewest, of the network that needs the most.
    values = {"schedule": "step-decay", "depth": max(settings.depths)}
    if settings.batch_sizes:
        values["batch_size"] = max(settings.batch_sizes)
    chosen = run_settings(settings, values)
    epochs = tuning.fewest_epochs(settings.tuner, settings.epochs)
    steps = epochs * fitting.steps_per_epoch(images, chosen.batch_size)
    more = "more --epochs"
    if settings.tuner == "hyperband":
        more += " with another --tuner"  # this one begins with 1, 2 or 3
    try:
        cifar10.learning_rate(chosen, steps)
    except cli.UsageError as error:
        raise cli.UsageError(
            f"argument --depths: {chosen.depth} layers with step-decay begin "
            f"with {cifar10.WARMUP_STEPS} steps of a lower rate, which must be "
            f"fewer than half of a trial's; the shortest has {steps} (epochs "
            f"{epochs}, batch size {chosen.batch_size}): take {more}, smaller "
            "--batch-sizes, smaller --depths, or --schedules one-cycle"
        ) from error


def make_search(settings, data, folder, input_name, lost_after, devices):
    """Return the `Search` of these settings."""
    from keras_resnet import data as image_data
    from keras_resnet import tuning

    def make(values, steps):
        return cifar10.build(run_settings(settings, values), data, steps)

    hypermodel = tuning.ResNetHyperModel(
        data,
        settings.epochs,
        seed=settings.seed,
        batches=image_data.INPUTS[input_name],
        make=make,
        devices=devices,
        **space(settings),
    )
    progress = Progress(settings, hypermodel.searched())
    search = tuning.Search(
        hypermodel,
        settings.tuner,
        settings.max_trials,
        folder,
        seed=settings.seed,
        report=progress,
        lost_after=lost_after,
    )
    if search.role != "worker":
        rows = search.rows()
        best = tuning.best(rows)
        progress.best = best and best["val_error"]
        progress.ended = sum(row["status"] != "running" for row in rows)
    return search


def with_validation(data):
    """Return data whose validation images are training images, too."""
    import numpy as np

    train = type(data.train)(
        np.concatenate([data.train.images, data.validation.images]),
        np.concatenate([data.train.labels, data.validation.labels]),
    )
    return dataclasses.replace(data, train=train, validation=None)


def train_again(settings, values, data, input_name, run):
    """Train on all training images, test once, and return the result."""
    chosen = run_settings(settings, values)
    data = with_validation(data)
    steps = settings.epochs * fitting.steps_per_epoch(
        len(data.train), chosen.batch_size
    )
    model = fitting.fit(
        run,
        lambda: cifar10.build(chosen, data, steps),
        data,
        batch_size=chosen.batch_size,
        steps=steps,
        seed=settings.seed,
        input_name=input_name,
    )
    evaluation = fitting.evaluate(model, data.test, run.devices)
    return run.finish(
        model,
        input=input_name,
        training_error=round(run.history()["error"][-1], 4),
        test_error=round(1 - evaluation["accuracy"], 4),
        test_loss=round(evaluation["loss"], 4),
        test_images=len(data.test),
    )


def draw(run, settings, rows, names):
    """Draw the trials into the folder of a search."""
    from keras_resnet import plots

    caption = (
        f"{settings.dataset}: {settings.tuner} search, {len(rows)} trials, "
        f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}, "
        f"seed {settings.seed}, "
        f"{run.settings['backend']}"
    )
    figure = plots.learning_rate_errors(rows, caption)
    plots.save(figure, run / "learning_rates.png")
    done = [row for row in rows if row["status"] == "completed"]
    if done:
        figure = plots.parallel_coordinates(
            {name: [row[name] for row in done] for name in names},
            [row["val_error"] for row in done],
            log=[name for name in names if name in RANGES],
            caption=caption,
        )
        plots.save(figure, run / "parallel_coordinates.png")


def main(arguments):
    """Searches, and leaves everything about the search in one folder."""
    settings = settle(arguments)
    import keras

    from keras_resnet import data as image_data
    from keras_resnet import tuning

    try:
        role = tuning.role()
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    if role is None and "lost_after" in arguments:
        raise cli.UsageError(
            f"argument --lost-after: {arguments.lost_after:g} seconds are for "
            "workers, and this process is alone: leave it out, or set "
            "KERASTUNER_TUNER_ID and the chief's address (docs/tuning.md)"
        )
    backend = keras.backend.backend()
    devices = use_devices(arguments, settings)
    input_name = fitting.choose_input(getattr(arguments, "input", "auto"))
    data_dir = getattr(arguments, "data_dir", None)
    data = image_data.load(settings.dataset, data_dir)
    check_steps(settings, len(data.train))

    def search_in(folder):
        lost_after = getattr(arguments, "lost_after", LOST_AFTER)
        search = make_search(
            settings, data, folder, input_name, lost_after, devices
        )
        search.search()
        return search

    if role == "worker":
        with tempfile.TemporaryDirectory() as empty:
            search_in(empty)
        print("the search is over: the chief has its results")
        return
    run = fitting.open_run(
        arguments, name_of(settings, backend), settings, devices
    )
    if fitting.said_finished(run):
        return
    try:
        search = search_in(run / "search")
        finish(run, settings, search, input_name, data_dir)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. {run.path} holds the search; run the same "
            "command with --resume to continue."
        )
        raise


def finish(run, settings, search, input_name, data_dir):
    """Take a search to its end: table, figures, the best network."""
    from keras_resnet import training, tuning

    rows, names = search.rows(), search.hypermodel.searched()
    training.write_atomically(run / "trials.md", table(rows, names))
    training.write_atomically(run / "trials.csv", as_csv(rows))
    draw(run, settings, rows, names)
    print(f"\n{table(rows, names)}")
    best = tuning.best(rows)
    if best is None:
        raise cli.Failure(
            f"all {len(rows)} trials failed, the last one: "
            f"{rows[-1]['reason']}; see {run / 'trials.md'}"
        )
    values = {name: best[name] for name in SEARCHED.values()}
    backend = run.settings["backend"]
    again = command(settings, values, backend, run.devices, data_dir)
    print(f"lowest validation error: trial {best['trial']}\n\n    {again}\n")
    print("training it again on all training images:", flush=True)
    folder = run / "retrained"
    retrained = training.Run(
        folder,
        dataclasses.asdict(run_settings(settings, values))
        | {"backend": backend, "images": "training and validation"}
        | run.devices.settings(),
        resume=(folder / "settings.json").exists(),
        devices=run.devices,
    )
    tested = train_again(
        settings, values, search.hypermodel.data, input_name, retrained
    )
    run.conclude(
        keras_tuner=metadata.version("keras-tuner"),
        input=input_name,
        trials=len(rows),
        failed_trials=sum(row["status"] == "failed" for row in rows),
        best_trial=best["trial"],
        best=values,
        best_command=again,
        best_epochs=best["epochs"],
        validation_error=round(best["val_error"], 4),
        seconds=round(
            sum(row.get("seconds", 0) for row in rows) + tested["seconds"], 1
        ),
        **{key: tested[key] for key in TESTED},
    )
    print(
        f"test error {100 * tested['test_error']:.2f} % "
        f"({tested['test_images']:,} images), validation error of the trial "
        f"{100 * best['val_error']:.2f} %; everything is in {run.path}"
    )


if __name__ == "__main__":
    cli.run(make_parser(), main)
