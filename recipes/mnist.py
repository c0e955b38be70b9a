"""A net with and without shortcuts, side by side on MNIST.

python recipes/mnist.py                            # 2,000 images, 5 epochs
python recipes/mnist.py --preset deep              # 56 layers instead of 18
python recipes/mnist.py --preset batch128 --seeds 5
python recipes/mnist.py --full                     # all images
python recipes/mnist.py --dataset digits           # no download
"""

import dataclasses
import statistics
import textwrap

from keras_resnet_recipes.experiment import (
    ImageSettings,
    RunSettings,
    SeedSettings,
    UsageError,
    block_setting,
    dataset_setting,
    files,
    main,
    non_negative_float,
    option,
    report,
    setting,
    share,
)
from keras_resnet_recipes.experiment.values import depth_among

SIZE = 32
NETS = {"resnet": "ResNet", "plain": "plain"}
# Number of test images in the picture of predictions.
DRAWN = 18
# Smallest difference of the nets' training errors, in points, to mention.
FAILURE = 5
# Highest training error, in percent, of a net that has begun to learn.
LEARNED = 40
# The depths of table 1 with basic blocks, like those of CIFAR nets.
IMAGENET_DEPTHS = (18, 34)
# Pixels of padding for random shifts, by dataset.
PADDING = {"mnist": 3, "digits": 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(RunSettings, ImageSettings, SeedSettings):
    """Settings of the runs of both nets and all seeds."""

    # A preset has only the differences from batch64.
    PRESETS = {
        "batch128": {"batch_size": 128, "learning_rate": 0.01},
        "deep": {"depth": 56, "learning_rate": 0.02, "momentum": 0.9},
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
    # There are 1,257 / 180 / 360 digits.
    DATASETS = {"digits": {"train_images": None, "validation_images": None}}
    NAMED = ("dataset", "preset")

    preset: str = setting(
        "batch64",
        "batch64: rate 0.005, batches of 64; batch128: rate 0.01, batches of "
        "128; deep: 56 layers, rate 0.02, momentum 0.9, with which the plain "
        "net fails; all with a constant rate",
        choices=("batch64", "batch128", "deep"),
    )
    full: bool = option(
        False,
        "all images instead of 2,000/200/200, shifted at random; batches of "
        "128, one cycle with rate 0.1, momentum 0.9, weight decay 5e-4",
        preset="full",
    )
    dataset: str = dataset_setting("mnist", "digits")
    depth: int = setting(
        18,
        "weighted layers: 18 or 34 as for ImageNet, 6n+2 as for CIFAR-10",
        type=depth_among(*IMAGENET_DEPTHS),
    )
    block: str | None = block_setting()
    train_images: int | None = setting(2000, "the first N training images")
    validation_images: int | None = setting(
        200, "the first N validation images"
    )
    test_images: int | None = setting(200, "the first N test images")
    epochs: int = setting(5, "epochs of the training images")
    batch_size: int = setting(64, "images per step")
    learning_rate: float = setting(0.005, "rate, or the cycle's peak")
    schedule: str = setting(
        "constant",
        "constant; one-cycle: up, then down to 0",
        choices=("constant", "one-cycle"),
    )
    momentum: float = setting(0.0, "of the optimizer", type=share)
    weight_decay: float = setting(
        0.0, "part of the gradient", type=non_negative_float
    )
    augment: bool = setting(False, "shift images at random")
    every: int = setting(
        15, "steps between two evaluations on the validation images"
    )
    seeds: int = option(
        1,
        "number of seeds to train with, starting at --seed; the table has "
        "mean and standard deviation over them",
    )

    @property
    def padding(self):
        """Pixels of padding for the random crop."""
        return PADDING[self.dataset] if self.augment else 0

    def title(self):
        return [self.dataset, f"resnet{self.depth}", self.preset]

    def net_name(self, net):
        """Return the name of a net, for tables and figures."""
        return f"{NETS[net]}-{self.depth}"


def select(settings, data):
    """Return the first images of each split, enlarged to 32x32.

    Each pixel becomes the largest possible square. A black border is added.
    """
    from keras_resnet.data import augmentation

    def part(name):
        split = getattr(data, name)
        count = getattr(settings, f"{name}_images")
        if count is not None and count > len(split):
            raise UsageError(
                f"--{name}-images {count} is too large: there are only "
                f"{len(split):,}"
            )
        images = split.images[:count]
        factor = SIZE // images.shape[1]
        images = images.repeat(factor, axis=1).repeat(factor, axis=2)
        images = augmentation.pad(images, (SIZE - images.shape[1]) // 2)
        return type(split)(images, split.labels[:count])

    return dataclasses.replace(
        data, **{name: part(name) for name in ("train", "validation", "test")}
    )


def build(settings, data, steps, net, seed):
    """Return a compiled net. It takes raw pixels and returns logits.

    The plain net begins with the weights of the residual one.
    """
    import keras

    import keras_resnet
    from keras_resnet import training
    from keras_resnet_recipes.experiment import block

    pixels = data.train.images

    def network(residual):
        keras.utils.set_random_seed(seed)
        image = keras.Input(pixels.shape[1:], name="image")
        standardized = keras.layers.Normalization(
            axis=None,
            mean=float(pixels.mean(dtype="float64")),
            variance=float(pixels.var(dtype="float64")),
            name="standardize",
        )(image)
        large = settings.depth in IMAGENET_DEPTHS
        factory = "ResNetImageNet" if large else "ResNetCIFAR"
        return getattr(keras_resnet, factory)(
            settings.depth,
            input_tensor=standardized,
            classes=len(data.class_names),
            classifier_activation=None,
            residual=residual,
            block=block.load(settings.block),
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
        training.CoupledSGD(
            rate,
            momentum=settings.momentum,
            coupled_decay=settings.weight_decay,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def jobs(settings, devices):
    """Return the jobs of both nets with each seed."""
    import numpy as np

    from keras_resnet_recipes.experiment import images

    data = select(settings, images.load(settings, devices))
    steps = images.steps_in_all(settings, len(data.train))
    # Padding is black, as the border is. The nets subtract one number, so the
    # mean of each pixel would leave its own shape in a shifted image.
    black = np.zeros(data.train.images.shape[1:])

    def job(net, settings):
        seed = settings.seed

        def make():
            return build(settings, data, steps, net, seed)

        return images.job(
            settings,
            data,
            devices,
            make,
            steps=steps,
            mean=black,
            report=lambda model, run: test_best(run, make, data),
            label=settings.net_name(net),
            plain=net == "plain",
            folder=f"seed{seed}/{net}",
            identity={"net": net, "seed": seed},
        )

    return [job(net, s) for s in settings.each_seed() for net in NETS]


def test_best(run, build, data):
    """Return the results of a run's best model on the test images."""
    import keras_resnet
    from keras_resnet_recipes.experiment import images
    from keras_resnet_recipes.experiment.run import load_model

    model = run.devices.model(build, lambda: load_model(run / "best.keras"))
    results = images.test(model, data.test, run.devices)
    if not run.devices.is_first:
        return results
    history = run.history("steps.csv")
    best = history["val_error"].index(min(history["val_error"]))
    return results | {
        "multiply_adds": keras_resnet.complexity(model).macs,
        "best_step": round(history["iterations"][best]),
        "best_validation_accuracy": round(1 - history["val_error"][best], 4),
        "test_accuracy": round(1 - results["test_error"], 4),
    }


def table(settings, lines):
    """Return the Markdown table of both nets.

    Args:
        settings: `Settings`.
        lines: Dictionary from (seed, net) to a run's result line.
    """
    head = ["net", "parameters", "multiply-adds", "best step"]
    head += ["validation accuracy", "test accuracy", "test loss"]

    def row(net):
        of_net = [line for (_, name), line in lines.items() if name == net]

        def mean(key, scale=1, unit=""):
            values = [scale * line[key] for line in of_net]
            return report.mean_and_deviation(values, unit)

        return [
            settings.net_name(net),
            f"{of_net[0]['parameters']:,}",
            f"{of_net[0]['multiply_adds']:,}",
            ", ".join(str(line["best_step"]) for line in of_net),
            mean("best_validation_accuracy", scale=100, unit="%"),
            mean("test_accuracy", scale=100, unit="%"),
            mean("test_loss"),
        ]

    return report.table(head, map(row, NETS))


def summarize(settings, study):
    """Write table, comparison, result lines and pictures to the folder."""
    from keras_resnet.devices import Devices
    from keras_resnet_recipes.experiment import images
    from keras_resnet_recipes.experiment.study import leave, result_lines

    data = select(settings, images.load(settings, Devices()))
    lines = result_lines(study, tuple(NETS))
    seeds = [*dict.fromkeys(seed for seed, _ in lines)]
    several = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation"
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}"
    caption = (
        f"{settings.dataset}, {len(data.train):,} / {len(data.validation):,} / "
        f"{len(data.test):,} images of 32x32, {epochs}, SGD, "
        f"batch {settings.batch_size}, learning rate {settings.learning_rate:g}"
        f" ({settings.schedule}), momentum {settings.momentum:g}, weight decay "
        f"{settings.weight_decay:g}, "
        f"{'random shifts, ' if settings.augment else ''}"
        f"{several if len(seeds) > 1 else f'seed {seeds[0]}'}, "
        f"{lines[seeds[0], 'resnet']['backend']}"
    )
    histories = {
        net: [
            files.read_history(study / f"seed{seed}" / net / "steps.csv")
            for seed in seeds
        ]
        for net in NETS
    }
    # With several seeds, only the images in the picture need predictions.
    looked_at = data.test if len(seeds) == 1 else data.test[:DRAWN]
    probabilities = {
        net: predict(study / f"seed{seeds[0]}" / net / "best.keras", looked_at)
        for net in NETS
    }
    right = {
        net: p.argmax(1) == looked_at.labels for net, p in probabilities.items()
    }
    paragraphs = [
        f"{caption}. The tested model is that of the best step: the first with "
        "the highest validation accuracy.",
        difference_of_images(settings, right)
        if len(seeds) == 1
        else difference_of_seeds(settings, lines, seeds),
        lesson(settings, histories),
    ]
    text = "\n\n".join(
        [table(settings, lines), *map(textwrap.fill, paragraphs)]
    )
    leave(study, lines, f"{text}\n\n")
    draw(settings, study, caption, histories, probabilities, data)


def predict(path, split):
    """Return the class probabilities of images by a run's model."""
    import keras

    from keras_resnet_recipes.experiment.run import load_model
    from keras_resnet_recipes.experiment.terminal import EvaluationBar

    logits = load_model(path).predict(
        split.images, verbose=0, callbacks=[EvaluationBar("predicting")]
    )
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


def difference_of_images(settings, right):
    """Return a sentence about the test images that only one net gets right.

    Args:
        settings: `Settings`.
        right: Dictionary from net to a boolean array: its correct images.
    """
    from scipy.stats import binomtest

    resnet, plain = map(settings.net_name, NETS)
    count = len(right["resnet"])
    won = int((right["resnet"] & ~right["plain"]).sum())
    lost = int((right["plain"] & ~right["resnet"]).sum())
    text = (
        f"Of {count:,} test images, only {resnet} is right on {won:,} and only "
        f"{plain} on {lost:,}: a difference of {won - lost:+,} images or "
        f"{100 * (won - lost) / count:+.1f} points"
    )
    # McNemar's exact test uses only the images on which the nets differ.
    if not won + lost:
        return (
            f"{text}. There is no confidence interval, because it is computed "
            "from the images on which the nets differ."
        )
    test = binomtest(won, won + lost)
    points = 100 * (won + lost) / count
    low, high = (points * (2 * p - 1) for p in test.proportion_ci())
    return (
        f"{text} (95 % confidence interval {low:+.1f} to {high:+.1f}; "
        f"p = {test.pvalue:.2g}, McNemar's exact test)."
    )


def difference_of_seeds(settings, lines, seeds):
    """Return a sentence about the nets' accuracies over several seeds."""
    from keras_resnet_recipes.experiment.statistics import paired_difference

    difference = paired_difference(
        *(
            [100 * lines[seed, net]["test_accuracy"] for seed in seeds]
            for net in NETS
        )
    )
    low, high = difference.interval
    count = lines[seeds[0], "resnet"]["test_images"]
    resnet, plain = map(settings.net_name, NETS)
    return (
        f"The test accuracy of {resnet} minus that of {plain}, paired by seed, "
        f"is {difference.mean:+.2f} points (95 % confidence interval {low:+.2f}"
        f" to {high:+.2f}; p = {difference.p:.2g}, paired t-test), or "
        f"{difference.mean * count / 100:+.1f} of {count:,} images."
    )


def lesson(settings, histories):
    """Return a text about the fit of the nets to their training images.

    Args:
        settings: `Settings`.
        histories: Dictionary from net to a list of histories, one for each
            seed.
    """
    resnet, plain = (
        100 * statistics.mean(1 - h["accuracy"][-1] for h in histories[net])
        for net in NETS
    )
    text = (
        f"At the end the training error of {settings.net_name('resnet')} is "
        f"{resnet:.1f} %, that of {settings.net_name('plain')} {plain:.1f} %: "
    )
    if min(resnet, plain) > LEARNED:
        return text + (
            "neither has learned the images that it is trained on yet. Take "
            "more --epochs."
        )
    if plain - resnet >= FAILURE and plain <= LEARNED:
        return text + (
            "the plain net learns more slowly. Take more --epochs to see "
            "whether it catches up."
        )
    if plain - resnet >= FAILURE:
        return text + (
            "the plain net does not even fit the images that it is trained on,"
            " so it does not overfit. Deep nets without shortcuts are harder "
            "to train, which the paper calls degradation (section 1)."
        )
    if resnet - plain >= FAILURE:
        return text + "the plain net fits the images it is trained on better."
    text += (
        "both fit the images that they are trained on about alike. At "
        f"{settings.depth} layers a plain net can still be trained, as with 18 "
        "in section 4.1 of the paper"
    )
    if settings.preset != "deep":
        text += "; --preset deep has one that cannot"
    return f"{text}."


def draw(settings, study, caption, histories, probabilities, data):
    """Draw curves over all seeds, and predictions of the first."""
    from keras_resnet import plots
    from keras_resnet_recipes.experiment.study import curves_over_seeds, style

    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    curves = [
        style(settings.net_name(net), net == "plain")
        | curves_over_seeds(histories[net], names)
        for net in NETS
    ]
    plots.draw(study / "curves.png", plots.step_curves, curves, caption)
    shown = data.test[:DRAWN]
    plots.draw(
        study / "predictions.png",
        plots.predictions,
        shown.images,
        [data.class_names[i] for i in shown.labels],
        {
            settings.net_name(net): [
                (data.class_names[p.argmax()], float(p.max()))
                for p in probabilities[net][: len(shown)]
            ]
            for net in NETS
        },
        f"{caption}. The first test images, and the predictions of the best "
        "models of the first seed, with their probability.",
    )


if __name__ == "__main__":
    main(Settings, jobs, summarize)
