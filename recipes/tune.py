"""Search for hyperparameters of cifar10.py, by KerasTuner.

KERAS_BACKEND=jax python recipes/tune.py
python recipes/tune.py --tuner bayesian --max-trials 30 --depths 20 32
python recipes/tune.py --dataset digits --epochs 4            # no download
python recipes/tune.py --dataset digits --epochs 4 --resume   # continues

The search covers depth, learning rate, and each setting that gets more than one
value. A trial is a run of cifar10.py with preset "fast", judged by its
validation error. The best one is trained again on training and validation
images, and tested once. See docs/tuning.md for several machines.
"""

import csv
import dataclasses
import io
import shlex
import tempfile
from importlib import metadata

from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment import (
    IMAGE_DATASETS,
    Failure,
    ImageSettings,
    RunSettings,
    UsageError,
    block_setting,
    cifar_depth,
    dataset_setting,
    execute,
    option,
    report,
    seed_setting,
    setting,
    share,
)
from keras_resnet_recipes.experiment.command import call, flag

FAST = cifar10.Settings.PRESETS["fast"]
# Settings of a run, by the name of the setting of a search.
SEARCHED = {
    "depths": "depth",
    "learning_rates": "learning_rate",
    "shortcuts": "shortcut",
    "weight_decays": "weight_decay",
    "batch_sizes": "batch_size",
    "label_smoothings": "label_smoothing",
    "schedules": "schedule",
}
LOST_AFTER = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, ImageSettings):
    """Settings of a search. Empty ones take the value of cifar10.py."""

    NAMED = ("dataset", "tuner")

    dataset: str = dataset_setting(*IMAGE_DATASETS)
    tuner: str = setting(
        "random",
        "random: drawn at random; hyperband: many short trials, the best "
        "again with three times the epochs; bayesian: drawn where a Gaussian "
        "process expects a low error",
        choices=("random", "hyperband", "bayesian"),
    )
    max_trials: int = setting(12, "trials in all, failed ones too")
    epochs: int = setting(
        FAST["epochs"],
        "epochs of the training images in a trial, in hyperband's last round, "
        "and in the training of the best",
    )
    depths: tuple[int, ...] = setting(
        (8, 14, 20), "weighted layers to choose from, 6n+2", type=cifar_depth
    )
    learning_rates: tuple[float, float] = setting(
        (0.02, 2.0),
        "range of the learning rate, searched on a logarithmic scale",
        metavar=("LOW", "HIGH"),
    )
    shortcuts: tuple[str, ...] = setting(
        (), "shortcuts to choose from", choices=("A", "B", "C")
    )
    weight_decays: tuple[float, float] = setting(
        (),
        "range of the weight decay, searched on a logarithmic scale; none: "
        f"{FAST['weight_decay']}",
        metavar=("LOW", "HIGH"),
    )
    batch_sizes: tuple[int, ...] = setting(
        (), "images per step to choose from; none: 128, for the digits 32"
    )
    label_smoothings: tuple[float, ...] = setting(
        (), "label smoothings to choose from", type=share
    )
    schedules: tuple[str, ...] = setting(
        (),
        "schedules to choose from; none: one-cycle",
        choices=("one-cycle", "step-decay"),
    )
    block: str | None = block_setting()
    seed: int = seed_setting(
        "of the drawn hyperparameters, and of weights, order and augmentation "
        "in all trials"
    )
    lost_after: float | None = option(
        None,
        "seconds of silence after which a worker's trial goes to another "
        f"worker (default: {LOST_AFTER:g})",
    )
    resume: bool = option(
        False,
        "continue the search in that folder; the trials that were running run "
        "again",
    )

    def title(self):
        return ["tune", self.dataset, self.tuner]

    def resolve(self, given):
        for name in SEARCHED:
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise UsageError(
                    f"argument {flag(name)}: a value is given twice: "
                    f"{' '.join(map(str, values))}"
                )
            is_range = name in ("learning_rates", "weight_decays")
            if is_range and values and values[0] > values[1]:
                raise UsageError(
                    f"argument {flag(name)}: the low end comes first: "
                    f"{values[1]} {values[0]}"
                )
        return self


def space(settings):
    """Return the choices and the fixed values of `ResNetHyperModel`."""
    usual = run_settings(settings, {})
    searched = {
        name: getattr(settings, plural) or getattr(usual, name)
        for plural, name in SEARCHED.items()
    }
    fixed = ("padding", "horizontal_flip")
    return searched | {name: getattr(usual, name) for name in fixed}


def run_settings(settings, values):
    """Return the settings of `cifar10.py` for a trial's values."""
    asked = {
        "preset": "fast",
        "dataset": settings.dataset,
        "epochs": settings.epochs,
        "block": settings.block,
        "seed": settings.seed,
        "input": settings.input,
    }
    return cifar10.Settings.settle(asked | values)


def command(settings, values, backend, devices):
    """Return the command of `cifar10.py` that trains with these values."""
    flags = run_settings(settings, values).flags()
    if settings.data_dir is not None:
        flags += ["--data-dir", str(settings.data_dir)]
    if devices.settings():  # else the results do not depend on the devices
        flags += ["--devices", str(devices.count)]
        flags += ["--normalization", "per-device"]
    words = [*call("cifar10"), *flags]
    return f"KERAS_BACKEND={backend} {shlex.join(words)}"


def table(rows, names):
    """Return the trials as a Markdown table, the best first."""
    head = ["trial", *(name.replace("_", " ") for name in names), "epochs"]
    head += ["validation error", "training error", "seconds", "status"]
    body = []
    for row in sorted(rows, key=lambda row: row.get("val_error", 2.0)):
        numbers, status = ["", "", ""], row["status"]
        if status == "completed":
            numbers = [report.percent(row[k]) for k in ("val_error", "error")]
            numbers.append(f"{row['seconds']:.0f}")
        else:
            status += f": {row['reason']}"
        values = [row[name] for name in names]
        body.append([row["trial"], *values, row["epochs"], *numbers, status])
    return report.table(head, body) + "\n"


def as_csv(rows):
    """Return all values of all trials as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def tell(search, row, bar):
    """Print a line about a trial that has ended, and remove its bar."""
    from keras_resnet import tuning

    # A failed trial leaves its bar.
    bar.close()

    rows = search.rows()
    ended = sum(row["status"] != "running" for row in rows)
    names = search.hypermodel.searched()
    chosen = [f"{name.replace('_', ' ')} {row[name]}" for name in names]
    line = (
        f"trial {row['trial']} ({ended} of {search.oracle.max_trials}): "
        f"{', '.join(chosen)}, epochs {row['epochs']}: "
    )
    if row["status"] == "completed":
        line += (
            f"validation error {report.percent(row['val_error'])}, "
            f"{row['seconds']:.0f} s; lowest so far "
            f"{report.percent(tuning.best(rows)['val_error'])}"
        )
    else:
        line += f"failed: {row['reason']}"
    report.show(line)


def use_devices(settings):
    """Return the devices that each trial is trained on."""
    from keras_resnet_recipes.experiment import training

    devices = training.use_devices(settings)
    if devices.processes > 1:
        raise UsageError(
            f"there are {devices.processes} processes, but a search trains "
            "each trial in one process; leave out --devices, and start workers "
            "(docs/tuning.md)"
        )
    usual = run_settings(settings, {}).batch_size
    for size in settings.batch_sizes or (usual,):
        devices.check_batch(size)
    return devices


def check_steps(settings, images):
    """Raise `UsageError` if a trial would have too few steps or images.

    Args:
        settings: `Settings`.
        images: Integer, number of training images.
    """
    from keras_resnet import tuning
    from keras_resnet_recipes.experiment.images import steps_per_epoch

    if max(settings.batch_sizes or (1,)) > images:
        raise UsageError(
            f"argument --batch-sizes: {max(settings.batch_sizes):,} is too "
            f"large, because an epoch has {images:,} images"
        )
    if "step-decay" not in settings.schedules:
        return
    # The fewest steps of any trial, for the network that needs the most.
    values = {"schedule": "step-decay", "depth": max(settings.depths)}
    if settings.batch_sizes:
        values["batch_size"] = max(settings.batch_sizes)
    chosen = run_settings(settings, values)
    epochs = tuning.fewest_epochs(settings.tuner, settings.epochs)
    steps = epochs * steps_per_epoch(images, chosen.batch_size)
    more = "more --epochs"
    if settings.tuner == "hyperband":
        more += " with another --tuner"  # this one begins with 1, 2 or 3
    try:
        cifar10.warmup_steps(chosen, steps)
    except UsageError as error:
        raise UsageError(
            f"argument --depths: {chosen.depth} layers with step-decay begin "
            f"with {cifar10.WARMUP_STEPS} steps of a lower rate, which must be "
            f"fewer than half of a trial's; the shortest has {steps} (epochs "
            f"{epochs}, batch size {chosen.batch_size}): take {more}, smaller "
            "--batch-sizes, smaller --depths, or --schedules one-cycle"
        ) from error


def run_search(settings, data, folder, devices):
    """Run the trials of these settings, and return their `Search`."""
    from keras_resnet import data as image_data
    from keras_resnet import tuning
    from keras_resnet_recipes.experiment import images
    from keras_resnet_recipes.experiment.terminal import TrainingBar

    def make(values, steps):
        chosen = run_settings(settings, values)
        return cifar10.build(chosen, data, cifar10.learning_rate(chosen, steps))

    hypermodel = tuning.ResNetHyperModel(
        data,
        settings.epochs,
        seed=settings.seed,
        batches=image_data.INPUTS[images.batches_by(settings.input)],
        make=make,
        devices=devices,
        **space(settings),
    )
    bar = TrainingBar()
    search = tuning.Search(
        hypermodel,
        settings.tuner,
        settings.max_trials,
        folder,
        seed=settings.seed,
        report=lambda row: tell(search, row, bar),
        lost_after=settings.lost_after or LOST_AFTER,
    )
    try:
        search.search(callbacks=[bar])
    finally:
        bar.close()
    return search


def with_validation(data):
    """Return data whose training images include the validation images."""
    import numpy as np

    train = type(data.train)(
        np.concatenate([data.train.images, data.validation.images]),
        np.concatenate([data.train.labels, data.validation.labels]),
    )
    return dataclasses.replace(data, train=train, validation=None)


def train_again(settings, values, data, study):
    """Train on all training images, test once, and return the result."""
    from keras_resnet_recipes.experiment import images, training

    chosen = run_settings(settings, values)
    data = with_validation(data)
    steps = images.steps_in_all(chosen, len(data.train))
    rate = cifar10.learning_rate(chosen, steps)
    job = images.job(
        chosen,
        data,
        study.devices,
        lambda: cifar10.build(chosen, data, rate),
        steps=steps,
        folder="retrained",
        identity=chosen.stored() | {"images": "training and validation"},
    )
    with training.job_run(study, job) as run:
        return training.finish(run, job)


def draw(study, settings, rows, names):
    """Draw the trials into the folder of a search."""
    from keras_resnet import plots, tuning

    caption = (
        f"{settings.dataset}: {settings.tuner} search, {len(rows)} trials, "
        f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}, "
        f"seed {settings.seed}, "
        f"{study.settings['backend']}"
    )
    path = study / "learning_rates.png"
    plots.draw(path, plots.learning_rate_errors, rows, caption)
    done = [row for row in rows if row["status"] == "completed"]
    if done:
        plots.draw(
            study / "parallel_coordinates.png",
            plots.parallel_coordinates,
            {name: [row[name] for row in done] for name in names},
            [row["val_error"] for row in done],
            log=[name for name in names if name in tuning.RANGES],
            caption=caption,
        )


def main(settings):
    """Search, and write all results of the search to one folder."""
    from keras_resnet import data as image_data
    from keras_resnet import tuning
    from keras_resnet_recipes.experiment import images, training

    try:
        role = tuning.role()
    except ValueError as error:
        raise UsageError(str(error)) from error
    if role is None and settings.lost_after is not None:
        raise UsageError(
            f"argument --lost-after: {settings.lost_after:g} seconds are for "
            "workers, and this process is alone: leave it out, or set "
            "KERASTUNER_TUNER_ID and the chief's address (docs/tuning.md)"
        )
    tuning.take_gpu()
    devices = use_devices(settings)
    images.batches_by(settings.input)
    data = image_data.load(settings.dataset, settings.data_dir)
    check_steps(settings, len(data.train))
    if role == "worker":
        with tempfile.TemporaryDirectory() as empty:
            run_search(settings, data, empty, devices)
        print("the search is over: the chief has its results")
        return
    with training.open_run(settings, devices) as study:
        if study.finished:
            report.show(f"{study.path} is finished: see result.json")
            return
        try:
            search = run_search(settings, data, study / "search", devices)
            finish(study, settings, search)
        except KeyboardInterrupt:
            report.show(
                f"\nInterrupted. {study.path} holds the search; run the same "
                "command with --resume to continue."
            )
            raise


def finish(study, settings, search):
    """Write table and figures of a search, and train the best network."""
    from keras_resnet import training, tuning

    rows, names = search.rows(), search.hypermodel.searched()
    training.write_atomically(study / "trials.md", table(rows, names))
    training.write_atomically(study / "trials.csv", as_csv(rows))
    draw(study, settings, rows, names)
    report.show(f"\n{table(rows, names)}")
    best = tuning.best(rows)
    if best is None:
        raise Failure(
            f"all {len(rows)} trials failed, the last one: "
            f"{rows[-1]['reason']}; see {study / 'trials.md'}"
        )
    values = {name: best[name] for name in SEARCHED.values()}
    again = command(settings, values, study.settings["backend"], study.devices)
    print(f"lowest validation error: trial {best['trial']}\n\n    {again}\n")
    print("training it again on all training images:", flush=True)
    tested = train_again(settings, values, search.hypermodel.data, study)
    study.conclude(
        keras_tuner=metadata.version("keras-tuner"),
        input=tested["input"],
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
        test_error=tested["test_error"],
        test_loss=tested["test_loss"],
        test_images=tested["test_images"],
    )
    report.show(
        f"test error {report.percent(tested['test_error'])} "
        f"({tested['test_images']:,} images), validation error of the trial "
        f"{report.percent(best['val_error'])}; everything is in {study.path}"
    )


if __name__ == "__main__":
    execute(Settings, main)
