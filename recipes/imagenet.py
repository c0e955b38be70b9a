"""ImageNet by the paper's procedure (He et al. 2015, section 3.4).

KERAS_BACKEND=jax python recipes/imagenet.py                  # ResNet-50
python recipes/imagenet.py --preset goyal --batch-size 1024
python recipes/imagenet.py --preset a3 --precision bfloat16
python recipes/imagenet.py --preset fast --depth 18
python recipes/imagenet.py --manual-dir TARS                  # prepares it
python recipes/imagenet.py --dataset imagenette --epochs 20
python recipes/imagenet.py --dataset folder --folder DIR      # DIR/train, val
python recipes/imagenet.py --preset finetune --folder DIR     # DIR/CLASS/

paper     shorter sides of 256 to 480, the mean of each pixel, PCA colours, rate
          0.1 divided by 10 on plateaus
goyal     90 epochs, rate in proportion to the batch, warm-up (76 % for
          ResNet-50 in arXiv:1706.02677)
a3        LAMB, binary losses, mixup, cutmix, RandAugment, 100 epochs at 160
          pixels (78 % in arXiv:2110.00476)
fast      16 epochs of growing images
finetune  10 epochs from published weights on a folder of images

The percentages are those of the papers. The first four presets have not been
run to their end here.
"""

import contextlib
import dataclasses
import functools
from pathlib import Path

from keras_resnet_recipes.experiment import (
    POLICIES,
    Job,
    NetSettings,
    RunSettings,
    UsageError,
    block_setting,
    data_dir_option,
    execution_option,
    main,
    non_negative_float,
    option,
    precision_setting,
    seed_setting,
    setting,
    share,
    shortcut_setting,
)
from keras_resnet_recipes.experiment.command import flag
from keras_resnet_recipes.experiment.report import show

# From this depth on blocks are bottlenecks.
BOTTLENECKS = 50
# The paper does not define a plateau. Here a plateau is PATIENCE epochs without
# a fall of the validation error by MIN_DELTA.
PATIENCE, MIN_DELTA = 5, 1e-3
# Goyal et al. divide the rate after 30, 60 and 80 of 90 epochs.
DIVISIONS = 30 / 90, 60 / 90, 80 / 90
# Share of the rate at the end of an exponential schedule.
EXPONENTIAL_END = 1e-3
# With binary losses a class counts as present above this share, as in timm's
# recipes.
PRESENT = 0.2
# Share of the epochs after which growing images have their full size.
GROWN = 0.75

# Share of each class to validate on in a folder without validation images.
VALIDATION_SHARE = 0.2

# Settings of all presets but the paper's.
LATER = {
    "bottleneck_stride": "3x3",
    "decay_norm_and_bias": False,
    "sampling": "inception",
    "mean": "channel",
    "color": False,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NetSettings, RunSettings):
    """Settings of a run. The defaults are the paper's procedure."""

    # A preset has only the differences from the paper.
    PRESETS = {
        "goyal": LATER
        | {
            "epochs": 90,
            "zero_init": True,
            "schedule": "step-decay",
            "warmup_epochs": 5,
            "warmup_rate": 0.1,
            "learning_rate": None,
            "momentum_correction": True,
        },
        "a3": LATER
        | {
            "epochs": 100,
            "batch_size": 2048,
            "optimizer": "lamb",
            "schedule": "cosine",
            "warmup_epochs": 5,
            "learning_rate": 8e-3,
            "weight_decay": 0.02,
            "loss": "binary",
            "rand_augment": 6,
            "mixup": 0.1,
            "cutmix": 1.0,
            "image_size": 160,
            # The crop is 0.95 of the shorter side: floor(224 / 0.95), as in
            # timm.
            "test_resize": 235,
            "interpolation": "bicubic",
        },
        "fast": LATER
        | {
            "epochs": 16,
            "batch_size": 1024,
            "zero_init": True,
            "schedule": "cosine",
            "warmup_epochs": 2,
            "learning_rate": 2.0,
            "weight_decay": 5e-5,
            "label_smoothing": 0.1,
            "first_size": 128,
            "image_size": 192,
        },
        "finetune": LATER
        | {
            "dataset": "folder",
            "weights": "imagenet",
            "mean": "weights",
            "epochs": 10,
            "batch_size": 32,
            "schedule": "cosine",
            "warmup_epochs": 1,
            "learning_rate": 0.01,
        },
    }

    preset: str = setting(
        "paper",
        "see above",
        choices=("paper", "goyal", "a3", "fast", "finetune"),
    )
    dataset: str = setting(
        "imagenet2012",
        "TensorFlow Datasets' imagenet2012 or imagenette, or a folder",
        choices=("imagenet2012", "imagenette", "folder"),
    )
    depth: int = setting(50, "weighted layers", choices=(18, 34, 50, 101, 152))
    shortcut: str = shortcut_setting("B")
    plain: bool = setting(False, "the plain twin, without shortcuts")
    block: str | None = block_setting()
    weights: str | None = setting(
        None,
        "initial weights: imagenet, keras, a repository of the Hugging Face "
        "hub, or a file; none: random",
    )
    freeze: int | None = setting(
        None,
        "freeze the stem and the first N stages; 0: only the stem; none: "
        "nothing",
        choices=(0, 1, 2, 3, 4),
        needs=("--weights", lambda s: s.weights),
    )
    bottleneck_stride: str = setting(
        "1x1",
        f"which convolution of a bottleneck strides, from --depth "
        f"{BOTTLENECKS} on",
        choices=("1x1", "3x3"),
        needs=(
            f"--depth {BOTTLENECKS} or more",
            lambda s: s.depth >= BOTTLENECKS,
        ),
    )
    zero_init: bool = setting(
        False,
        "every block begins as its shortcut alone",
        needs=(
            "shortcuts and random weights: leave out --plain and --weights",
            lambda s: not s.plain and not s.weights,
        ),
    )
    steps: int | None = setting(600_000, "optimizer steps in all")
    epochs: int | None = setting(
        None, "epochs of training, instead of --steps", instead_of="steps"
    )
    batch_size: int = setting(
        256, "images per optimizer step, on all devices together"
    )
    accumulate: int = setting(
        1,
        "split each batch into N parts and add up their gradients; each part "
        "is normalized by itself; not on several TensorFlow devices",
    )
    optimizer: str = setting(
        "sgd", "sgd: with momentum 0.9; lamb: LAMB", choices=("sgd", "lamb")
    )
    schedule: str = setting(
        "plateau",
        f"plateau: divided by 10 after {PATIENCE} epochs without a better "
        "validation error; step-decay: after 1/3, 2/3 and 8/9 of the steps; "
        "cosine: to 0; exponential: to 1/1000",
        choices=("plateau", "step-decay", "cosine", "exponential"),
    )
    warmup_epochs: float = setting(
        0,
        "epochs in which the rate goes up from --warmup-rate, fewer than the "
        "run has",
        type=non_negative_float,
        needs=("another --schedule", lambda s: s.schedule != "plateau"),
    )
    warmup_rate: float = setting(
        0,
        "rate at the first step",
        type=non_negative_float,
        needs=("--warmup-epochs", lambda s: s.warmup_epochs),
    )
    learning_rate: float | None = setting(
        0.1,
        "initial rate, after warm-up; none: 0.1 for each 256 images of a batch",
    )
    weight_decay: float = setting(
        1e-4, "in the gradient", type=non_negative_float
    )
    decay_norm_and_bias: bool = setting(
        True,
        "normalization's weights and biases decay too (SGD only)",
        needs=("--optimizer sgd", lambda s: s.optimizer == "sgd"),
    )
    momentum_correction: bool = setting(
        False,
        "a new rate also rescales the velocity, as in PyTorch (SGD only)",
        needs=("--optimizer sgd", lambda s: s.optimizer == "sgd"),
    )
    loss: str = setting(
        "softmax",
        "cross-entropy of the softmax, or binary cross-entropy of each class",
        choices=("softmax", "binary"),
    )
    label_smoothing: float = setting(
        0, "share of each class that is spread over all of them", type=share
    )
    ema: float | None = setting(
        None,
        "validate and keep the moving average of the weights with this "
        "momentum",
        type=share,
    )
    sampling: str = setting(
        "paper",
        "paper: shorter side of 256 to 480, then a crop of 224; inception: "
        "any 8 to 100 % of the area, 3:4 to 4:3",
        choices=("paper", "inception"),
    )
    mean: str = setting(
        "pixel",
        "mean to subtract: that of each pixel, computed first; ImageNet's of "
        "each channel, divided by its deviation; or as for --weights",
        choices=("pixel", "channel", "weights"),
    )
    color: bool = setting(
        True, "shift colours along ImageNet's principal components"
    )
    rand_augment: float | None = setting(
        None, "magnitude, 0 to 10", type=non_negative_float
    )
    mixup: float = setting(0, "parameter of mixup", type=non_negative_float)
    cutmix: float = setting(0, "parameter of cutmix", type=share)
    image_size: int = setting(224, "pixels, in training")
    first_size: int | None = setting(
        None, "pixels in the first epoch; from there they grow to --image-size"
    )
    test_size: int = setting(224, "pixels, in evaluation")
    test_resize: int = setting(
        256, "resize the shorter side to this before the centre is cut"
    )
    interpolation: str = setting(
        "bilinear", "when images are resized", choices=("bilinear", "bicubic")
    )
    cache_side: int | None = setting(
        None,
        "shorter side of the copies, in pixels; for sampling like the paper's "
        "at least 480, otherwise 400 is enough",
        needs=("--cache", lambda s: s.cache),
    )
    seed: int = seed_setting()
    precision: str = precision_setting()
    every: int | None = setting(
        None,
        "evaluate every N steps, within epochs too, into steps.csv; a "
        "multiple of --steps-per-execution; none: after each epoch, into "
        "history.csv",
    )
    validation_share: float | None = setting(
        None,
        "share of each class to validate on where --folder has no val; none: "
        f"{VALIDATION_SHARE}",
        type=share,
        needs=("--dataset folder", lambda s: s.dataset == "folder"),
    )
    folder: Path | None = option(
        None,
        "for --dataset folder: has folders train and val, each with a folder "
        "of images for each class; or only the class folders, from which "
        "--validation-share is held out",
        needs=("--dataset folder", lambda s: s.dataset == "folder"),
    )
    data_dir: Path | None = data_dir_option(
        "--dataset imagenet2012 or imagenette", lambda s: s.dataset != "folder"
    )
    manual_dir: Path | None = option(
        None,
        "folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, to "
        "prepare imagenet2012 from (default: downloads/manual in the folder "
        "of TensorFlow Datasets)",
        needs=("--dataset imagenet2012", lambda s: s.dataset == "imagenet2012"),
    )
    cache: Path | None = option(
        None,
        "train on smaller copies of the images, in this folder; they are made "
        "first if they are not there",
        needs=("--cache-side", lambda s: s.cache_side),
    )
    max_unreadable: float = option(
        0.01,
        "share of the images that may be unreadable: those are named and "
        "skipped; more end the run",
        type=share,
    )
    steps_per_execution: int = execution_option()
    profile: bool = option(False, "write a trace of some steps for TensorBoard")

    def resolve(self, given):
        s = self
        if s.learning_rate is None:
            rate = 0.1 * s.batch_size / 256
            s = dataclasses.replace(s, learning_rate=rate)
        if "warmup_rate" not in given:
            # The rate of a small batch may be below the preset's warm-up rate.
            rate = min(s.warmup_rate, s.learning_rate)
            s = dataclasses.replace(s, warmup_rate=rate)
        if s.weights and "mean" not in given:
            s = dataclasses.replace(s, mean="weights")
        for wrong, message in conflicts(s):
            if wrong:
                raise UsageError(message)
        return super(Settings, s).resolve(given)

    def base(self):
        folder = {} if self.folder is None else {"folder": self.folder}
        return super().base() | folder


def conflicts(s):
    """Yield pairs: whether settings conflict, and the error message."""
    yield (
        s.dataset == "folder" and s.folder is None,
        "--dataset folder needs --folder",
    )
    yield (
        s.batch_size % s.accumulate,
        f"--batch-size {s.batch_size} cannot be divided into --accumulate "
        f"{s.accumulate} parts",
    )
    for name, value in (("accumulate", s.accumulate > 1), ("ema", s.ema)):
        yield s.every and value, f"--every and --{name} exclude each other"
    yield (
        s.warmup_rate > s.learning_rate,
        f"--warmup-rate {s.warmup_rate:g} must not be above --learning-rate "
        f"{s.learning_rate:g}",
    )
    yield (
        s.schedule == "plateau" and s.every,
        "--schedule plateau needs a validation after each epoch: leave out "
        "--every",
    )
    yield (
        s.epochs and s.warmup_epochs >= s.epochs,
        f"--warmup-epochs {s.warmup_epochs:g} must be fewer than --epochs "
        f"{s.epochs}",
    )
    yield (
        s.mean == "pixel" and sizes(s, 2) != [s.test_size] * 2,
        f"--mean pixel is for images of one size: --image-size is "
        f"{s.image_size}, --first-size {s.first_size}, --test-size "
        f"{s.test_size}; or take --mean channel",
    )
    yield (
        s.mean == "weights" and not s.weights,
        "--mean weights needs --weights",
    )
    yield (
        s.test_resize < s.test_size,
        f"--test-resize {s.test_resize} is below --test-size {s.test_size}",
    )
    for name in ("ema", "validation_share"):
        value = getattr(s, name)
        yield (
            value is not None and not 0 < value < 1,
            f"argument {flag(name)}: must be above 0 and below 1",
        )
    yield (
        (s.rand_augment or 0) > 10,
        "argument --rand-augment: must be at most 10",
    )


def sizes(settings, epochs):
    """Return the size of the training images in each epoch."""
    last, first = settings.image_size, settings.first_size
    if first is None:
        return [last] * epochs
    grown = max(1, round(GROWN * epochs) - 1)
    ways = [min(1, epoch / grown) for epoch in range(epochs)]
    # Multiples of the stride 32, because a backend compiles for each size.
    return [
        last if way == 1 else first + round(way * (last - first) / 32) * 32
        for way in ways
    ]


def load(settings):
    """Return the training and the validation images."""
    from keras_resnet import data

    if settings.dataset == "folder":
        folder, share = settings.folder, settings.validation_share
        train, val = folder / "train", folder / "val"
        if not val.is_dir():
            # "train" without folders is a class, beside "bus" and "car".
            apart = any(path.is_dir() for path in train.glob("[!.]*"))
            whole = data.Folder(train if apart else folder)
            return whole.split(share or VALIDATION_SHARE)
        if share is not None:
            raise UsageError(
                f"--validation-share: {val} has the validation images; leave "
                "it out"
            )
        images = data.Folder(train)
        return images, data.Folder(val, images.class_names)
    return tuple(
        data.from_tfds(
            settings.dataset, split, settings.data_dir, settings.manual_dir
        )
        for split in ("train", "validation")
    )


def learning_rate(settings, steps, per_epoch):
    """Return the learning rate, a number or a function of the step."""
    from keras.optimizers import schedules

    from keras_resnet import training

    rate = settings.learning_rate
    if settings.schedule == "plateau":
        return rate
    if settings.schedule == "step-decay":
        schedule = training.step_decay(rate, steps, DIVISIONS)
    elif settings.schedule == "cosine":
        schedule = schedules.CosineDecay(rate, steps)
    else:
        schedule = schedules.ExponentialDecay(rate, steps, EXPONENTIAL_END)
    up = round(settings.warmup_epochs * per_epoch)
    if up >= steps:
        raise UsageError(
            f"--warmup-epochs {settings.warmup_epochs:g} are {up} steps of "
            f"{steps} in all, and leave none for the rest: take fewer, or "
            "more --epochs or --steps"
        )
    if not up:
        return schedule
    return training.WarmUp(schedule, up, settings.warmup_rate)


def optimizer(settings, rate):
    """Return the optimizer."""
    from keras_resnet import training

    common = {
        "coupled_decay": settings.weight_decay,
        "gradient_accumulation_steps": (
            settings.accumulate if settings.accumulate > 1 else None
        ),
    }
    if settings.ema is not None:
        common |= {"use_ema": True, "ema_momentum": settings.ema}
    if settings.optimizer == "lamb":
        return training.Lamb(rate, global_clipnorm=1.0, **common)
    return training.CoupledSGD(
        rate,
        momentum=0.9,
        decay_norm_and_bias=settings.decay_norm_and_bias,
        momentum_correction=settings.momentum_correction,
        **common,
    )


def prepared(settings, image, mean, trained):
    """Return the prepared image, in float32, because raw pixels need it.

    Args:
        settings: `Settings`.
        image: Keras tensor.
        mean: The mean image for `--mean pixel`.
        trained: The network for `--mean weights`, with its weights.
    """
    import keras
    import numpy as np

    from keras_resnet import preprocessing

    name, axis = "per_channel_statistics", -1
    if settings.mean == "pixel":
        name, axis, std = "per_pixel_mean", (1, 2, 3), np.ones_like(mean)
    elif settings.mean == "channel":
        mean = 255 * np.array(preprocessing.IMAGENET_MEAN, "float32")
        std = 255 * np.array(preprocessing.IMAGENET_STD, "float32")
    else:
        how = trained.preprocessing
        if how is None:
            raise UsageError(
                f"{settings.weights} does not say how its images were "
                "prepared: give --mean channel or pixel"
            )
        if how.channels == "BGR":
            image = keras.ops.flip(image, axis=-1)
        mean, std = (np.array(x) / how.scale for x in (how.mean, how.std))
    return keras.layers.Normalization(
        axis=axis,
        mean=mean,
        variance=np.square(std),
        dtype="float32",
        name=name,
    )(image)


def build(settings, classes, rate, mean=None):
    """Return the compiled model. It takes raw pixels and returns logits.

    `mean` is the mean image for `--mean pixel`.
    """
    import keras

    import keras_resnet
    from keras_resnet import preprocessing, training
    from keras_resnet_recipes.experiment import block

    keras.utils.set_random_seed(settings.seed)
    keras.config.set_dtype_policy(POLICIES[settings.precision])
    one_size = sizes(settings, 2) == [settings.test_size] * 2
    size = settings.test_size if one_size else None
    network = functools.partial(
        keras_resnet.ResNetImageNet,
        settings.depth,
        classes=classes,
        classifier_activation=None,
        shortcut=settings.shortcut,
        residual=not settings.plain,
        bottleneck_stride=settings.bottleneck_stride,
        zero_init_residual=settings.zero_init,
        block=block.load(settings.block),
    )
    trained = None
    if settings.weights:
        trained = network(input_shape=(size, size, 3), weights=settings.weights)
    # The model prepares images, so a loaded model needs no statistics.
    image = keras.Input((size, size, 3), name="image")
    model = network(input_tensor=prepared(settings, image, mean, trained))
    if trained is not None:
        # Both have the same weights, because the preparation adds none.
        model.set_weights(trained.get_weights())
    if settings.freeze is not None:
        keras_resnet.freeze(model, settings.freeze)
    model.preprocessing = preprocessing.Preprocessing(
        (0.0,) * 3,
        (1.0,) * 3,
        scale=1.0,
        size=settings.test_size,
        resize=settings.test_resize,
        interpolation=settings.interpolation,
    )
    losses = {
        "softmax": keras.losses.CategoricalCrossentropy,
        "binary": training.SmoothedBinaryCrossentropy,
    }
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    # With fewer than ten classes top-5 accuracy says little.
    if classes >= 10:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top5"))
    model.compile(
        optimizer=optimizer(settings, rate),
        loss=losses[settings.loss](
            from_logits=True, label_smoothing=settings.label_smoothing
        ),
        weighted_metrics=metrics,
    )
    return model


def training_batches(settings, source, steps, per_epoch, **where):
    """Return training batches. `where` has start, shard and `unreadable`."""
    import tensorflow as tf

    from keras_resnet.data import imagenet

    by_epoch = sizes(settings, -(-steps // per_epoch))
    grows = settings.first_size is not None
    batches = imagenet.training_batches(
        source,
        settings.batch_size // settings.accumulate,
        image_size=by_epoch if grows else settings.image_size,
        steps_per_size=per_epoch if grows and len(by_epoch) > 1 else None,
        box=settings.sampling,
        interpolation=settings.interpolation,
        magnitude=settings.rand_augment,
        color=settings.color,
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        seed=settings.seed,
        **where,
    )
    if settings.loss == "binary" and (settings.mixup or settings.cutmix):
        return batches.map(lambda x, y: (x, tf.cast(y > PRESENT, tf.float32)))
    return batches


def check_devices(settings, devices):
    """Raise an error for batches that these devices cannot share."""
    import keras

    if (
        settings.accumulate > 1
        and devices.count > 1
        and keras.backend.backend() == "tensorflow"
    ):
        raise UsageError(
            f"--accumulate {settings.accumulate}: not on several TensorFlow "
            "devices, where Keras cannot accumulate; leave it or --devices "
            "out, or set KERAS_BACKEND to jax or torch"
        )
    devices.check_batch(settings.batch_size // settings.accumulate)


def job(settings, devices):
    """Return the training of one net."""
    from keras_resnet import data
    from keras_resnet.data import imagenet
    from keras_resnet_recipes.experiment import images, training
    from keras_resnet_recipes.experiment.terminal import Progress

    check_devices(settings, devices)
    batch_size = settings.batch_size // settings.accumulate
    train, validation = training.first_alone(devices, lambda: load(settings))
    side = max(settings.image_size, settings.test_size)
    images.check_batch(
        batch_size, (side, side, 3), len(train), devices.processes
    )
    unreadable = [
        data.Unreadable(source, settings.max_unreadable)
        for source in (train, validation)
    ]
    per_epoch = settings.accumulate * images.steps_per_epoch(
        len(train), settings.batch_size
    )
    steps = settings.accumulate * images.steps_in_all(settings, len(train))
    rate = learning_rate(settings, steps, per_epoch)

    @functools.cache
    def source():
        if settings.cache is None:
            return train
        return training.first_alone(
            devices,
            lambda: data.cached(
                train,
                settings.cache,
                settings.cache_side,
                unreadable[0],
                progress=functools.partial(
                    Progress, desc="caching", unit="image"
                ),
            ),
        )

    def make():
        mean = None
        if settings.mean == "pixel":
            mean = devices.on_first(
                lambda: imagenet.mean_image(
                    source(),
                    image_size=settings.test_size,
                    resize=settings.test_resize,
                    unreadable=unreadable[0],
                    progress=functools.partial(
                        Progress, desc="mean image", unit="batch"
                    ),
                )
            )
        return build(settings, len(train.class_names), rate, mean)

    def batches(start):
        return training_batches(
            settings,
            source(),
            steps,
            per_epoch,
            start=start,
            shard=devices.shard,
            unreadable=unreadable[0],
        )

    evaluation = imagenet.evaluation_batches(
        validation,
        image_size=settings.test_size,
        resize=settings.test_resize,
        interpolation=settings.interpolation,
        shard=devices.shard,
        pad_to_multiple_of=devices.pad_to_multiple_of,
        unreadable=unreadable[1],
    )

    def report(model, run):
        logs = images.evaluate(model, evaluation, devices, "validating")
        return results(logs, (source(), validation), unreadable, devices)

    # The settings do not say which folder it is.
    folders = {}
    if settings.dataset == "folder":
        show(sentence(train, validation))
        folders = {"train": train.describe(), "val": validation.describe()}
    return Job(
        build=make,
        batches=batches,
        steps=steps,
        steps_per_epoch=per_epoch,
        batch_size=batch_size,
        report=report,
        validation=evaluation,
        every=settings.every,
        callbacks=lambda run: callbacks(settings, run),
        average=settings.ema is not None,
        steps_per_execution=settings.steps_per_execution,
        context=lambda: naming(unreadable),
        label=settings.label,
        plain=settings.plain,
        title=settings.caption(settings.seed),
        identity=folders,
    )


def sentence(train, validation):
    """Return a text about images of folders, which shows a mistaken folder."""
    names = train.class_names
    some = ", ".join(names[:5]) + ", ..." * (len(names) > 5)
    return (
        f"{len(train):,} training and {len(validation):,} validation images of "
        f"{len(names):,} classes: {some}"
    )


@contextlib.contextmanager
def naming(unreadable):
    """Raise the error about unreadable images instead of any other."""
    try:
        yield
    except Exception as error:
        # TensorFlow hides the message among its own lines.
        raise next((u.error for u in unreadable if u.error), error) from None


def results(logs, sources, unreadable, devices):
    """Return the results of a validation for the result line.

    `sources` and `unreadable` are pairs, of training and of validation.
    """
    names = [sorted(set().union(*devices.gather([*u]))) for u in unreadable]
    results = {"validation_error": round(1 - logs["accuracy"], 4)}
    if "top5" in logs:
        results["validation_top5_error"] = round(1 - logs["top5"], 4)
    if sum(map(len, names)):
        print(f"{sum(map(len, names))} images could not be decoded")
    return results | {
        "validation_images": len(sources[1]) - len(names[1]),
        "training_images": len(sources[0]),
        "unreadable": sum(names, []),
    }


def callbacks(settings, run):
    """Return the callbacks that a run's settings ask for."""
    from keras_resnet import training

    callbacks = []
    if settings.schedule == "plateau":
        callbacks.append(
            training.PlateauDivision(
                lambda: run.devices.on_first(run.history),
                monitor="val_accuracy",
                mode="max",
                factor=0.1,
                patience=PATIENCE,
                min_delta=MIN_DELTA,
            )
        )
    if settings.profile and run.devices.is_first:
        callbacks.append(training.Profile(run / "tensorboard"))
    return callbacks


if __name__ == "__main__":
    main(Settings, job)
