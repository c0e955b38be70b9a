"""CIFAR-10 by the paper's procedure (He et al. 2015, section 4.2).

KERAS_BACKEND=jax python recipes/cifar10.py                   # ResNet-20
python recipes/cifar10.py --depth 110 --seed 1
python recipes/cifar10.py --plain --depth 56
python recipes/cifar10.py --preset fast                       # for a CPU
python recipes/cifar10.py --preset fast --dataset digits      # no download
"""

import dataclasses

import cli
import fitting
from settings import (
    add_flags,
    dataset,
    differences,
    given,
    setting,
    to_flags,
)

# Section 4.2: ResNet-110 begins at 0.01 for about 400 iterations, because 0.1
# is "slightly too large to start converging".
WARMUP_STEPS = 400
WARMUP_FROM_DEPTH = 110

GRADIENTS = "gradients.csv"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run. The defaults are the paper's procedure."""

    preset: str = "paper"
    dataset: str = dataset("cifar10", "cifar10", "digits", "mnist")
    depth: int = setting(
        20,
        f"weighted layers, 6n+2; from {WARMUP_FROM_DEPTH} on, step-decay "
        f"begins with {WARMUP_STEPS} steps of a tenth of the rate",
        type=cli.positive_int,
    )
    shortcut: str = setting(
        "A",
        "A: zero padding; B: projection where the shape changes; C: "
        "projection everywhere",
        choices=("A", "B", "C"),
    )
    plain: bool = setting(False, "the plain twin, without shortcuts")
    steps: int | None = setting(
        64_000, "optimizer steps in all", type=cli.positive_int
    )
    epochs: int | None = setting(
        None,
        "epochs of the training images, instead of --steps",
        type=cli.positive_int,
    )
    batch_size: int = setting(128, "images per step", type=cli.positive_int)
    schedule: str = setting(
        "step-decay",
        "step-decay: divided by 10 after 1/2 and 3/4 of the steps; one-cycle: "
        "up for --warmup, then down to 0",
        choices=("step-decay", "one-cycle"),
    )
    warmup: float | None = setting(
        None, "share of the steps in which one cycle goes up", type=cli.share
    )
    learning_rate: float = setting(
        0.1, "initial rate, or the cycle's peak", type=cli.positive_float
    )
    weight_decay: float = setting(
        1e-4, "the paper's, part of the gradient", type=cli.non_negative_float
    )
    label_smoothing: float = setting(
        0.0,
        "share of each label that is spread over all classes",
        type=cli.share,
    )
    seed: int = setting(
        0,
        "of weights, order and augmentation; the same seed gives other "
        "weights on another backend",
        type=cli.seed,
    )
    precision: str = setting(
        "float32",
        "of the computation; weights are float32",
        choices=("float32", "bfloat16"),
    )
    every: int | None = setting(
        None,
        "evaluate on the validation images every so many steps, within epochs "
        "too, into steps.csv; none: after each epoch, into history.csv",
        type=cli.positive_int,
    )


# A preset states only what differs from the paper.
PRESETS = {
    "paper": {},
    "fast": {
        "steps": None,
        "epochs": 16,
        "schedule": "one-cycle",
        # A short run needs its steps for the way down.
        "warmup": 0.15,
        "learning_rate": 0.2,
        "weight_decay": 5e-4,
    },
}
# The digits are 1,257 images: smaller batches, for enough steps.
PRESETS_BY_DATASET = {("fast", "digits"): {"batch_size": 32}}


def make_parser():
    """Return the parser of this recipe's flags."""
    fast = PRESETS["fast"]
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="paper: 64k steps as in section 4.2 (default); fast: "
        f"{fast['epochs']} epochs of one cycle",
    )
    add_flags(
        parser,
        Settings,
        PRESETS | {" ".join(k): v for k, v in PRESETS_BY_DATASET.items()},
    )
    cli.add_data_flags(parser)
    parser.add_argument(
        "--gradients",
        type=cli.positive_int,
        metavar="N",
        help="write the gradient norm of each layer to gradients.csv every N "
        "steps (default: never); changes nothing in the training",
    )
    cli.add_run_flags(
        parser,
        "runs/DATASET-NET-PRESET-BACKEND-seedN, other flags after the preset",
    )
    return parser


def preset_values(preset, dataset):
    """Return the settings in which a preset differs from the paper."""
    return PRESETS[preset] | PRESETS_BY_DATASET.get((preset, dataset), {})


def check_depth(name, depth):
    """Raise `cli.UsageError` for a depth that is not 6n+2."""
    if depth < 8 or (depth - 2) % 6:
        raise cli.UsageError(
            f"argument --{name}: {depth} is not 6n+2: 8, 14, 20, 26, 32, ..."
        )


def usual(settings):
    """Return the settings of the same preset and dataset, nothing changed."""
    return Settings(**preset_values(settings.preset, settings.dataset))


def name_of(settings, backend):
    """Return the name of a run's folder."""
    return fitting.folder_name(settings, usual(settings), backend)


def flags_of(settings):
    """Return the flags that give these settings."""
    named = {"preset": settings.preset, "dataset": settings.dataset}
    return to_flags(named | differences(settings, usual(settings), named))


def settle(arguments):
    """Return the `Settings` that flags and preset add up to."""
    return settled(given(arguments, Settings))


def settled(flags):
    """Return the `Settings` of a preset with other values.

    Args:
        flags: Dictionary of the settings that were given.
    """
    check_depth("depth", flags.get("depth", Settings.depth))
    values = preset_values(
        flags.get("preset", Settings.preset),
        flags.get("dataset", Settings.dataset),
    )
    if "steps" in flags or "epochs" in flags:
        values = values | {"steps": None, "epochs": None}
    if flags.get("schedule") == "step-decay":
        values = values | {"warmup": None}
    settings = Settings(**values | flags)
    if (settings.schedule == "one-cycle") != (settings.warmup is not None):
        raise cli.UsageError(
            "--warmup and --schedule one-cycle go together: --schedule is "
            f"{settings.schedule}, --warmup is {settings.warmup}"
        )
    return settings


def learning_rate(settings, steps):
    """Return the learning rate as a function of the step.

    Raises:
        cli.UsageError: If the warm-up of a deep net leaves too few steps.
    """
    from keras_resnet import training

    if settings.schedule == "one-cycle":
        return training.one_cycle(
            settings.learning_rate, steps, warmup=settings.warmup
        )
    deep = settings.depth >= WARMUP_FROM_DEPTH
    if deep and steps // 2 <= WARMUP_STEPS:
        raise cli.UsageError(
            f"argument --depth: {settings.depth} layers begin with "
            f"{WARMUP_STEPS} steps of a lower rate, which must be fewer than "
            f"half of {steps} steps in all: take more --steps or --epochs, or "
            "--schedule one-cycle with --warmup"
        )
    return training.step_decay(
        settings.learning_rate,
        steps,
        warmup_steps=WARMUP_STEPS if deep else 0,
    )


def build(settings, data, steps):
    """Return the compiled model. It takes raw pixels and returns logits."""
    import keras
    import numpy as np

    import keras_resnet
    from keras_resnet import training

    keras.utils.set_random_seed(settings.seed)
    policy = settings.precision
    keras.config.set_dtype_policy(
        policy if policy == "float32" else f"mixed_{policy}"
    )
    image = keras.Input(data.train.images.shape[1:], name="image")
    # "Per-pixel mean subtracted", inside the model: whoever loads it later
    # needs no statistics. In float32, which raw pixels need.
    centered = keras.layers.Normalization(
        axis=(1, 2, 3),
        mean=data.mean,
        variance=np.ones_like(data.mean),
        dtype="float32",
        name="per_pixel_mean",
    )(image)
    model = keras_resnet.ResNetCIFAR(
        settings.depth,
        input_tensor=centered,
        classes=len(data.class_names),
        classifier_activation=None,
        shortcut=settings.shortcut,
        residual=not settings.plain,
    )
    model.compile(
        optimizer=training.CoupledSGD(
            learning_rate(settings, steps),
            momentum=0.9,
            coupled_decay=settings.weight_decay,
        ),
        loss=training.crossentropy(settings.label_smoothing),
        weighted_metrics=["accuracy"],
    )
    return model


def main(arguments):
    """Train one network and leave everything about it in one folder."""
    settings = settle(arguments)
    import keras

    from keras_resnet import plots

    backend = keras.backend.backend()
    devices = fitting.use_devices(arguments)
    if devices.count > 1 and hasattr(arguments, "gradients"):
        raise cli.UsageError("--gradients is for one device: no --devices")
    devices.check_batch(settings.batch_size)
    input_name = fitting.choose_input(getattr(arguments, "input", "auto"))
    data = fitting.load(
        devices, settings.dataset, getattr(arguments, "data_dir", None)
    )
    batch_size = settings.batch_size
    steps = settings.steps or settings.epochs * fitting.steps_per_epoch(
        len(data.train), batch_size
    )
    # Raises, before there is a folder, if there are too few steps for it.
    learning_rate(settings, steps)

    run = fitting.open_run(
        arguments, name_of(settings, backend), settings, devices
    )
    if fitting.said_finished(run):
        return

    model = fitting.fit(
        run,
        lambda: build(settings, data, steps),
        data,
        batch_size=batch_size,
        steps=steps,
        seed=settings.seed,
        input_name=input_name,
        every=settings.every,
        callbacks=gradient_flow(arguments, run, data),
        interrupted=lambda: draw(plots, run, settings),
    )
    evaluation = fitting.evaluate(model, data.test, devices)
    if not devices.is_first:
        return
    history = curve(run, settings)
    test_error = round(1 - evaluation["accuracy"], 4)
    # Before the line that ends the run: with it nothing is made any more.
    draw(plots, run, settings, test_error=test_error)
    result = run.finish(
        model,
        input=input_name,
        training_error=round(history["error"][-1], 4),
        validation_error=round(history["val_error"][-1], 4),
        best_validation_error=round(min(history["val_error"]), 4),
        test_error=test_error,
        test_loss=round(evaluation["loss"], 4),
        test_images=len(data.test),
    )
    print(
        f"test error {100 * result['test_error']:.2f} % "
        f"({result['test_images']:,} images), validation error "
        f"{100 * result['validation_error']:.2f} %, "
        f"{result['images_per_second']:.0f} images/s, "
        f"{result['seconds']:.0f} s; everything is in {run.path}"
    )


def gradient_flow(arguments, run, data):
    """Return the callbacks that `--gradients` asks for."""
    if not hasattr(arguments, "gradients"):
        return []
    from keras_resnet import analysis

    batch = data.train[:128]
    return [
        analysis.GradientFlow(
            batch.images, batch.labels, arguments.gradients, run / GRADIENTS
        )
    ]


def curve(folder, settings):
    """Return the history of errors: by epoch, or by `--every` steps."""
    from keras_resnet import training

    name = "steps.csv" if settings.every else "history.csv"
    return training.read_history(folder / name)


def draw(plots, run, settings, **point):
    """Draw the learning curves of a run, if it has any yet."""
    history = curve(run, settings)
    fitting.draw_curves(plots, run, settings, history, **point)


if __name__ == "__main__":
    cli.run(make_parser(), main)
