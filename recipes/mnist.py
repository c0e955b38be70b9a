"""ResNet-18 with and without shortcuts, side by side on MNIST.

python recipes/mnist.py                            # 2,000 images, 5 epochs
python recipes/mnist.py --preset batch128 --seeds 5
python recipes/mnist.py --full                     # all images
python recipes/mnist.py --dataset digits           # no download
"""

import dataclasses
import json

import cli
import fitting
from results import mean_and_deviation
from settings import add_flags, dataset, differences, given, name_parts, setting

SIZE = 32
NETS = ("resnet", "plain")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the runs of both nets, besides the seed."""

    preset: str = "batch64"
    dataset: str = dataset("mnist", "mnist", "digits")
    train_images: int | None = setting(
        2000, "the first N training images", type=cli.positive_int
    )
    validation_images: int | None = setting(
        200, "the first N validation images", type=cli.positive_int
    )
    test_images: int | None = setting(
        200, "the first N test images", type=cli.positive_int
    )
    epochs: int = setting(
        5, "epochs of the training images", type=cli.positive_int
    )
    batch_size: int = setting(64, "images per step", type=cli.positive_int)
    learning_rate: float = setting(
        0.005, "rate, or the cycle's peak", type=cli.positive_float
    )
    schedule: str = "constant"
    momentum: float = 0.0
    weight_decay: float = 0.0
    augment: bool = False
    every: int = setting(
        15,
        "steps between two evaluations on the validation images",
        type=cli.positive_int,
    )


# A preset states only what differs from the first.
PRESETS = {
    "batch64": {},
    "batch128": {"batch_size": 128, "learning_rate": 0.01},
    "full": {
        "train_images": None,
        "validation_images": None,
        "test_images": None,
        "batch_size": 128,
        "learning_rate": 0.1,
        "schedule": "one-cycle",
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augment": True,
        # Twice in an epoch.
        "every": 215,
    },
}


def make_parser():
    """Return the parser of this recipe's flags."""
    full = Settings(**PRESETS["full"])
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--preset",
        choices=("batch64", "batch128"),
        help="batch64: rate 0.005, batches of 64 (default); batch128: rate "
        "0.01, batches of 128; both constant, without momentum",
    )
    add(
        "--full",
        action="store_true",
        help="all images instead of 2,000/200/200, shifted at random; batches "
        f"of {full.batch_size}, one cycle with rate {full.learning_rate}, "
        f"momentum {full.momentum}, weight decay {full.weight_decay}",
    )
    add_flags(parser, Settings, PRESETS)
    cli.add_data_flags(parser)
    add(
        "--seed",
        type=cli.seed,
        metavar="N",
        help="of weights, order and augmentation (default: 0)",
    )
    add(
        "--seeds",
        type=cli.positive_int,
        metavar="N",
        help="so many seeds, beginning with --seed, and mean and standard "
        "deviation over them (default: 1)",
    )
    cli.add_run_flags(
        parser,
        "runs/DATASET-resnet18-PRESET-BACKEND, other flags after the preset",
    )
    return parser


def settle(arguments):
    """Return the `Settings` that flags and preset add up to, and the seeds."""
    flags = given(arguments, Settings)
    if hasattr(arguments, "full"):
        if "preset" in flags:
            raise cli.UsageError("give --preset or --full, not both")
        flags["preset"] = "full"
    values = PRESETS[flags.get("preset", Settings.preset)]
    first = getattr(arguments, "seed", 0)
    seeds = range(first, first + getattr(arguments, "seeds", 1))
    if seeds[-1] > cli.LAST_SEED:
        raise cli.UsageError(
            f"--seed {first} --seeds {len(seeds)} goes up to {seeds[-1]}, and "
            f"the last seed is {cli.LAST_SEED}"
        )
    return Settings(**values | flags), seeds


def name_of(settings, backend):
    """Return the name of the folder of runs with these settings."""
    usual = Settings(**PRESETS[settings.preset])
    others = name_parts(differences(settings, usual, ("preset", "dataset")))
    parts = settings.dataset, "resnet18", settings.preset, *others, backend
    return "-".join(parts)


def check_counts(arguments, data):
    """Raise an error if more images are asked for than there are."""
    for part in ("train", "validation", "test"):
        asked = getattr(arguments, f"{part}_images", 0)
        if asked > len(getattr(data, part)):
            raise cli.UsageError(
                f"--{part}-images {asked}: there are "
                f"{len(getattr(data, part)):,} of them"
            )


def select(data, settings):
    """Return the first so many images of each part, enlarged to 32x32.

    Each pixel becomes a square, as large as fits; around that is black.
    """
    from keras_resnet.data import augmentation

    def part(split, count):
        images = split.images[:count]
        factor = SIZE // images.shape[1]
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        padding = (SIZE - images.shape[1]) // 2
        images = augmentation.pad(images, padding)
        return type(split)(images, split.labels[:count])

    factor = SIZE // data.train.images.shape[1]
    return dataclasses.replace(
        data,
        train=part(data.train, settings.train_images),
        validation=part(data.validation, settings.validation_images),
        test=part(data.test, settings.test_images),
        padding=data.padding * factor,
    )


def build(settings, data, steps, net, seed):
    """Return a compiled net. It takes raw pixels and returns logits.

    The plain net begins with the weights of the residual one.
    """
    import keras

    import keras_resnet
    from keras_resnet import training

    def network(residual):
        keras.utils.set_random_seed(seed)
        image = keras.Input(data.train.images.shape[1:], name="image")
        pixels = data.train.images
        standardized = keras.layers.Normalization(
            axis=None,
            mean=float(pixels.mean(dtype="float64")),
            variance=float(pixels.var(dtype="float64")),
            name="standardize",
        )(image)
        return keras_resnet.ResNet18(
            input_tensor=standardized,
            classes=len(data.class_names),
            classifier_activation=None,
            residual=residual,
        )

    model = network(residual=True)
    if net == "plain":
        weights = {v.path: v for v in model.variables}
        model = network(residual=False)
        for variable in model.variables:
            variable.assign(keras.ops.convert_to_numpy(weights[variable.path]))
    rate = settings.learning_rate
    if settings.schedule == "one-cycle":
        rate = training.one_cycle(rate, steps)
    model.compile(
        optimizer=training.CoupledSGD(
            rate,
            momentum=settings.momentum,
            coupled_decay=settings.weight_decay,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def main(arguments):
    """Train both nets for each seed, and compare them in one folder."""
    settings, seeds = settle(arguments)
    import keras

    from keras_resnet import training

    backend = keras.backend.backend()
    devices = fitting.use_devices(arguments)
    devices.check_batch(settings.batch_size)
    input_name = fitting.choose_input(getattr(arguments, "input", "auto"))
    data = fitting.load(
        devices, settings.dataset, getattr(arguments, "data_dir", None)
    )
    check_counts(arguments, data)
    data = select(data, settings)
    # Without the seeds: more of them may come later.
    study = fitting.open_run(
        arguments, name_of(settings, backend), settings, devices
    )
    for seed in seeds:
        for net in NETS:
            folder = study / f"seed{seed}" / net
            run = training.Run(
                folder,
                study.settings | {"net": net, "seed": seed},
                resume=devices.on_first((folder / "settings.json").exists),
                devices=devices,
            )
            if not run.finished:
                print(f"{net}, seed {seed}:", flush=True)
                train(run, settings, data, net, seed, input_name)
                keras.backend.clear_session()
    if devices.is_first:
        report(study, settings, data)


def train(run, settings, data, net, seed, input_name):
    """Train one net, and test the best model of its run."""
    import keras

    import keras_resnet

    steps = settings.epochs * fitting.steps_per_epoch(
        len(data.train), settings.batch_size
    )
    model = fitting.fit(
        run,
        lambda: build(settings, data, steps, net, seed),
        data,
        batch_size=settings.batch_size,
        steps=steps,
        seed=seed,
        input_name=input_name,
        augment=settings.augment,
        every=settings.every,
    )
    best_model = run.devices.model(
        lambda: build(settings, data, steps, net, seed),
        lambda: keras.models.load_model(run / "best.keras"),
    )
    evaluation = fitting.evaluate(best_model, data.test, run.devices)
    if not run.devices.is_first:
        return
    history = run.history("steps.csv")
    errors = history["val_error"]
    best = errors.index(min(errors))
    run.finish(
        model,
        input=input_name,
        multiply_adds=keras_resnet.complexity(model).macs,
        best_step=round(history["iterations"][best]),
        best_validation_accuracy=round(1 - errors[best], 4),
        test_accuracy=round(evaluation["accuracy"], 4),
        test_loss=round(evaluation["loss"], 4),
        test_images=len(data.test),
    )


COLUMNS = (
    ("best_validation_accuracy", "validation accuracy", 100, "%"),
    ("test_accuracy", "test accuracy", 100, "%"),
    ("test_loss", "test loss", 1, ""),
)


def table(results):
    """Return rows of text: a net each, means and deviations over seeds.

    Args:
        results: Dictionary from (seed, net) to a run's result line.
    """
    head = ["net", "parameters", "multiply-adds", "best step"]
    head += [title for _, title, *_ in COLUMNS]
    rows = [head, ["---"] * len(head)]
    for net in NETS:
        lines = [line for (_, n), line in results.items() if n == net]
        rows.append(
            [
                {"resnet": "ResNet-18", "plain": "plain-18"}[net],
                f"{lines[0]['parameters']:,}",
                f"{lines[0]['multiply_adds']:,}",
                ", ".join(str(line["best_step"]) for line in lines),
                *(
                    mean_and_deviation([s * line[key] for line in lines], unit)
                    for key, _, s, unit in COLUMNS
                ),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def finished(study):
    """Return the seeds of which a study has both nets, earlier ones too."""
    return sorted(
        int(folder.name.removeprefix("seed"))
        for folder in study.path.glob("seed*")
        if folder.name.removeprefix("seed").isdigit()
        and all((folder / net / "result.json").exists() for net in NETS)
    )


def report(study, settings, data):
    """Leave table, result line and pictures of all seeds in the folder."""
    from keras_resnet import training

    seeds = finished(study)
    lines = {
        (seed, net): json.loads(
            (study / f"seed{seed}" / net / "result.json").read_text("utf-8")
        )
        for seed in seeds
        for net in NETS
    }
    several = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation"
    caption = (
        f"{settings.dataset}, {len(data.train):,} / {len(data.validation):,} / "
        f"{len(data.test):,} images of 32x32, {settings.epochs} epochs, SGD, "
        f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}"
        f" ({settings.schedule}), momentum {settings.momentum:g}, weight decay "
        f"{settings.weight_decay:g}, "
        f"{'random shifts, ' if settings.augment else ''}"
        f"{several if len(seeds) > 1 else f'seed {seeds[0]}'}, "
        f"{lines[seeds[0], 'resnet']['backend']}"
    )
    rows = table(lines)
    note = (
        f"{caption}. Tested is the model of the best step: the first with the "
        "highest validation accuracy.\n"
    )
    training.write_atomically(study / "table.md", f"{rows}\n\n{note}")
    training.write_atomically(
        study / "results.json",
        json.dumps({f"seed{s}-{n}": line for (s, n), line in lines.items()})
        + "\n",
    )
    draw(study, seeds, data, caption)
    print(f"\n{rows}\n\n{note}Everything is in {study.path}")


def draw(study, seeds, data, caption):
    """Draw curves over all seeds, and predictions of the first."""
    import keras
    import numpy as np

    from keras_resnet import plots, training

    labels = {
        "resnet": ("ResNet-18", plots.RESIDUAL),
        "plain": ("plain-18", plots.PLAIN),
    }
    curves, predicted = [], {}
    shown = data.test[:18]
    for net, (label, color) in labels.items():
        histories = [
            training.read_history(study / f"seed{seed}" / net / "steps.csv")
            for seed in seeds
        ]
        curves.append(
            {"label": label, "color": color}
            | {"iterations": histories[0]["iterations"]}
            | {
                key: np.stack([h[key] for h in histories], axis=-1)
                for key in ("loss", "val_loss", "accuracy", "val_accuracy")
            }
        )
        model = keras.models.load_model(
            study / f"seed{seeds[0]}" / net / "best.keras"
        )
        logits = model.predict(shown.images.astype("float32"), verbose=0)
        probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
        predicted[label] = [
            (data.class_names[p.argmax()], float(p.max()))
            for p in probabilities
        ]
    figure = plots.step_curves(curves, caption)
    plots.save(figure, study / "curves.png")
    figure = plots.predictions(
        shown.images,
        [data.class_names[i] for i in shown.labels],
        predicted,
        f"{caption}. The first test images, and what the best models of seed "
        f"{seeds[0]} take them for, with their probability.",
    )
    plots.save(figure, study / "predictions.png")


if __name__ == "__main__":
    cli.run(make_parser(), main)
