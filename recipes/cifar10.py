"""CIFAR-10 by the paper's procedure (He et al. 2015, section 4.2).

KERAS_BACKEND=jax python recipes/cifar10.py                   # ResNet-20
python recipes/cifar10.py --depth 110 --seed 1
python recipes/cifar10.py --plain --depth 56 --seeds 5         # seeds 0 to 4
python recipes/cifar10.py --preset fast                       # for a CPU
python recipes/cifar10.py --preset fast --dataset digits      # no download
python recipes/cifar10.py --dataset cifar100

The preset "fast" trains ResNet-20 for 16 epochs in 34 minutes on two cores of
an AMD EPYC with PyTorch: 11.49 ± 0.19 % test error (n = 3). The paper reports
8.75 % for ResNet-20 (table 6); its 64,000 steps need an accelerator.
"""

import dataclasses

from keras_resnet_recipes.experiment import (
    IMAGE_DATASETS,
    POLICIES,
    ImageSettings,
    NetSettings,
    RunSettings,
    SeedSettings,
    UsageError,
    block_setting,
    cifar_depth,
    dataset_setting,
    execution_option,
    main,
    non_negative_float,
    non_negative_int,
    option,
    precision_setting,
    setting,
    share,
    shortcut_setting,
)

# The paper finds 0.1 "slightly too large to start converging" for ResNet-110.
# That net therefore begins with 0.01 for about 400 iterations.
WARMUP_STEPS = 400
WARMUP_FROM_DEPTH = 110

# Test errors of the paper's residual nets in percent (table 6), by depth.
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}

GRADIENTS = "gradients.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NetSettings, RunSettings, ImageSettings, SeedSettings):
    """Settings of a run. The defaults are the paper's procedure."""

    # A preset has only the differences from the paper.
    PRESETS = {
        "fast": {
            "epochs": 16,
            "schedule": "one-cycle",
            "learning_rate": 0.2,
            "weight_decay": 5e-4,
        }
    }
    # Flipping would change the shape of a digit. The 1,257 images of "digits"
    # need smaller batches, because else an epoch has few steps.
    DATASETS = {
        "mnist": {"padding": 3, "horizontal_flip": False},
        "digits": {"padding": 1, "horizontal_flip": False, "batch_size": 32},
    }

    preset: str = setting(
        "paper",
        "paper: section 4.2; fast: one short cycle, for a CPU",
        choices=("paper", "fast"),
    )
    dataset: str = dataset_setting(*IMAGE_DATASETS)
    depth: int = setting(
        20,
        f"weighted layers, 6n+2; from {WARMUP_FROM_DEPTH} on, step-decay "
        f"begins with {WARMUP_STEPS} steps of a tenth of the rate",
        type=cifar_depth,
    )
    shortcut: str = shortcut_setting("A")
    plain: bool = setting(False, "the plain twin, without shortcuts")
    block: str | None = block_setting()
    steps: int | None = setting(64_000, "optimizer steps in all")
    epochs: int | None = setting(
        None,
        "epochs of the training images, instead of --steps",
        instead_of="steps",
    )
    batch_size: int = setting(128, "images per step")
    padding: int = setting(
        4, "pixels of padding for the random crop", type=non_negative_int
    )
    horizontal_flip: bool = setting(True, "flip half of the images")
    schedule: str = setting(
        "step-decay",
        "step-decay: divided by 10 after 1/2 and 3/4 of the steps; one-cycle: "
        "up for --warmup, then down to 0",
        choices=("step-decay", "one-cycle"),
    )
    warmup: float = setting(
        0.15,
        "share of the steps in which one cycle goes up",
        type=share,
        needs=("--schedule one-cycle", lambda s: s.schedule == "one-cycle"),
    )
    learning_rate: float = setting(0.1, "initial rate, or the cycle's peak")
    weight_decay: float = setting(
        1e-4, "added to the gradient, as in the paper", type=non_negative_float
    )
    label_smoothing: float = setting(
        0.0,
        "share of each label that is spread over all classes",
        type=share,
    )
    precision: str = precision_setting()
    every: int | None = setting(
        None,
        "evaluate on the validation images every so many steps, within epochs "
        "too, into steps.csv; a multiple of --steps-per-execution; none: after "
        "each epoch, into history.csv",
    )
    steps_per_execution: int = execution_option()
    gradients: int | None = option(
        None,
        "write the gradient norm of each layer to gradients.csv every N "
        "steps; changes nothing in the training",
        needs=("one device: no --devices", lambda s: s.devices in (None, 1)),
    )


def warmup_steps(settings, steps):
    """Return the number of warm-up steps, 0 if the net needs none.

    Raises:
        UsageError: If they are not fewer than half of all steps.
    """
    if settings.schedule != "step-decay" or settings.depth < WARMUP_FROM_DEPTH:
        return 0
    if steps // 2 <= WARMUP_STEPS:
        raise UsageError(
            f"argument --depth: {settings.depth} layers begin with "
            f"{WARMUP_STEPS} steps of a lower rate, which must be fewer than "
            f"half of {steps} steps in all: take more --steps or --epochs, or "
            "--schedule one-cycle"
        )
    return WARMUP_STEPS


def learning_rate(settings, steps):
    """Return the learning rate as a function of the step."""
    from keras_resnet import training

    rate = settings.learning_rate
    if settings.schedule == "one-cycle":
        return training.one_cycle(rate, steps, warmup=settings.warmup)
    return training.step_decay(
        rate,
        steps,
        divisions=(1 / 2, 3 / 4),
        warmup_steps=warmup_steps(settings, steps),
        warmup_rate=rate / 10,
    )


def build(settings, data, rate):
    """Return the compiled model. It takes raw pixels and returns logits."""
    import keras
    import numpy as np

    import keras_resnet
    from keras_resnet import training
    from keras_resnet_recipes.experiment import block

    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(POLICIES[settings.precision])
    image = keras.Input(data.train.images.shape[1:], name="image")
    # The model subtracts the per-pixel mean itself, so a loaded model needs no
    # statistics. Raw pixels need float32.
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
        block=block.load(settings.block),
    )
    model.compile(
        training.CoupledSGD(
            rate, momentum=0.9, coupled_decay=settings.weight_decay
        ),
        training.crossentropy(settings.label_smoothing),
        weighted_metrics=["accuracy"],
    )
    return model


def jobs(settings, devices):
    """Return the job of one run, or a list with a job for each seed."""
    from keras_resnet_recipes.experiment import images

    data = images.load(settings, devices)
    steps = images.steps_in_all(settings, len(data.train))
    rate = learning_rate(settings, steps)

    def job(settings, **more):
        return images.job(
            settings,
            data,
            devices,
            lambda: build(settings, data, rate),
            steps=steps,
            callbacks=lambda run: gradient_flow(settings, data, run),
            **more,
        )

    if settings.seeds is None:
        return job(settings)
    return [
        job(s, folder=f"seed{s.seed}", identity={"seed": s.seed})
        for s in settings.each_seed()
    ]


def gradient_flow(settings, data, run):
    """Return the callbacks that `--gradients` asks for."""
    if settings.gradients is None:
        return []
    from keras_resnet import analysis

    images, labels = data.train.images[:128], data.train.labels[:128]
    path = run / GRADIENTS
    return [analysis.GradientFlow(images, labels, settings.gradients, path)]


if __name__ == "__main__":
    main(Settings, jobs)
