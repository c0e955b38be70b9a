"""ImageNet by the paper's procedure (He et al. 2015, section 3.4), and others.

KERAS_BACKEND=jax python recipes/imagenet.py                  # ResNet-50
python recipes/imagenet.py --preset goyal --batch-size 1024
python recipes/imagenet.py --preset a3 --precision bfloat16
python recipes/imagenet.py --preset fast --depth 18
python recipes/imagenet.py --manual-dir TARS                  # prepares it
python recipes/imagenet.py --dataset imagenette --epochs 20
python recipes/imagenet.py --dataset folder --folder DIR      # DIR/train, val

paper: shorter sides of 256 to 480, the mean of each pixel, PCA colours, rate
0.1 divided by 10 on plateaus. goyal: 90 epochs, rate in proportion to the
batch, warm-up (76 % for ResNet-50 in arXiv:1706.02677). a3: LAMB, binary
losses, mixup, cutmix, RandAugment, 100 epochs at 160 pixels (78 % in
arXiv:2110.00476). fast: 16 epochs of growing images. The percentages are
those of the papers; nobody has run these presets to their end here.
"""

import dataclasses

import cli
import fitting
from settings import add_flags, given, setting

DEPTHS = (18, 34, 50, 101, 152)
# From this depth on blocks are bottlenecks.
BOTTLENECKS = 50
DATASETS = ("imagenet2012", "imagenette", "folder")
# The paper does not say what a plateau is: this many epochs without a
# validation error lower by this much.
PATIENCE, MIN_DELTA = 5, 1e-3


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a run. The defaults are the paper's procedure."""

    preset: str = "paper"
    dataset: str = setting(
        "imagenet2012",
        "TensorFlow Datasets' imagenet2012 or imagenette, or a folder",
        choices=DATASETS,
    )
    depth: int = setting(50, "weighted layers", type=cli.positive_int)
    shortcut: str = setting("B", "see cifar10.py", choices=("A", "B", "C"))
    plain: bool = setting(False, "the plain twin, without shortcuts")
    bottleneck_stride: str = setting(
        "1x1",
        f"which convolution of a bottleneck strides, from --depth "
        f"{BOTTLENECKS} on",
        choices=("1x1", "3x3"),
    )
    zero_init: bool = setting(False, "every block begins as its shortcut alone")
    steps: int | None = setting(
        600_000, "optimizer steps in all", type=cli.positive_int
    )
    epochs: int | None = setting(
        None,
        "epochs of training, instead of --steps",
        type=cli.positive_int,
    )
    batch_size: int = setting(
        256,
        "images per optimizer step, on all devices together",
        type=cli.positive_int,
    )
    accumulate: int = setting(
        1,
        "parts of a batch that are computed one after another; normalization "
        "is by part; not on several TensorFlow devices",
        type=cli.positive_int,
    )
    optimizer: str = setting(
        "sgd", "with momentum 0.9; or LAMB", choices=("sgd", "lamb")
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
        type=cli.non_negative_float,
    )
    warmup_rate: float = setting(
        0, "rate at the first step", type=cli.non_negative_float
    )
    learning_rate: float | None = setting(
        0.1,
        "initial rate, after warm-up; none: 0.1 for each 256 images of a batch",
        type=cli.positive_float,
    )
    weight_decay: float = setting(
        1e-4, "in the gradient", type=cli.non_negative_float
    )
    decay_norm_and_bias: bool = setting(
        True, "normalization's weights and biases decay too (SGD only)"
    )
    momentum_correction: bool = setting(
        False,
        "a change of the rate applies to earlier gradients too, as in PyTorch "
        "(SGD only)",
    )
    loss: str = setting(
        "softmax",
        "cross-entropy of the softmax, or of each class by itself",
        choices=("softmax", "binary"),
    )
    label_smoothing: float = setting(
        0, "share of each class that is spread over all of them", type=cli.share
    )
    ema: float | None = setting(
        None,
        "validate and keep the moving average of the weights with this "
        "momentum",
        type=cli.share,
    )
    sampling: str = setting(
        "paper",
        "paper: shorter side of 256 to 480, then a crop of 224; inception: "
        "any 8 to 100 %% of the area, 3:4 to 4:3",
        choices=("paper", "inception"),
    )
    mean: str = setting(
        "pixel",
        "what is subtracted: the mean of each pixel, found first; or "
        "ImageNet's of each channel, divided by its deviation",
        choices=("pixel", "channel"),
    )
    color: bool = setting(
        True, "shift colours along ImageNet's principal components"
    )
    rand_augment: float | None = setting(
        None, "magnitude, 0 to 10", type=cli.non_negative_float
    )
    mixup: float = setting(0, "parameter of mixup", type=cli.non_negative_float)
    cutmix: float = setting(0, "parameter of cutmix", type=cli.share)
    image_size: int = setting(224, "pixels, in training", type=cli.positive_int)
    first_size: int | None = setting(
        None,
        "pixels in the first epoch; from there they grow to --image-size",
        type=cli.positive_int,
    )
    test_size: int = setting(
        224, "pixels, in evaluation", type=cli.positive_int
    )
    test_resize: int = setting(
        256,
        "shorter side from whose centre those are cut",
        type=cli.positive_int,
    )
    interpolation: str = setting(
        "bilinear", "when images are resized", choices=("bilinear", "bicubic")
    )
    cache_side: int | None = setting(
        None,
        "shorter side of the copies, in pixels; for sampling like the paper's "
        "at least 480, else 400 will do",
        type=cli.positive_int,
    )
    seed: int = setting(0, "of weights, order and augmentation", type=cli.seed)
    precision: str = setting(
        "float32", "of the computation", choices=("float32", "bfloat16")
    )
    every: int | None = setting(
        None,
        "evaluate every N steps, within epochs too, into steps.csv; a "
        "multiple of --steps-per-execution; none: after each epoch, into "
        "history.csv",
        type=cli.positive_int,
    )


# What the procedures after the paper's have in common.
LATER = {
    "steps": None,
    "bottleneck_stride": "3x3",
    "decay_norm_and_bias": False,
    "sampling": "inception",
    "mean": "channel",
    "color": False,
}
# A preset states only what differs from the paper.
PRESETS = {
    "paper": {},
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
        # The centre's share of the shorter side is 0.95, rounded as timm does:
        # floor(224 / 0.95).
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
}

# Goyal et al. divide after 30, 60 and 80 of 90 epochs.
DIVISIONS = 30 / 90, 60 / 90, 80 / 90
# What is left of the rate at the end of an exponential schedule.
EXPONENTIAL_END = 1e-3
# Shares from which a class counts as present, for binary losses, as in timm's
# recipes.
PRESENT = 0.2
# Growing images are as large as they get after this share of the epochs.
GROWN = 0.75


def make_parser():
    """Return the parser of this recipe's flags."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add("--preset", choices=PRESETS, help="see above (default: paper)")
    add_flags(parser, Settings, PRESETS)
    add(
        "--folder",
        metavar="DIR",
        help="for --dataset folder: has folders train and val, each with a "
        "folder of images for each class",
    )
    cli.add_data_dir(parser)
    add(
        "--manual-dir",
        metavar="DIR",
        help="folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, "
        "to prepare imagenet2012 from (default: downloads/manual in the "
        "folder of TensorFlow Datasets)",
    )
    add(
        "--cache",
        metavar="DIR",
        help="train on smaller copies of the images, in this folder; they are "
        "made first if they are not there (default: none)",
    )
    add(
        "--max-unreadable",
        type=cli.share,
        default=0.01,
        metavar="S",
        help="share of the images that may be unreadable: those are named "
        "and skipped; more end the run (default: 0.01)",
    )
    add(
        "--steps-per-execution",
        type=cli.positive_int,
        default=1,
        metavar="N",
        help="steps between two returns to Python: fewer are slower on an "
        "accelerator with TensorFlow; no gain on JAX, not on PyTorch "
        "(default: 1)",
    )
    add(
        "--profile",
        action="store_true",
        help="write a trace of some steps for TensorBoard",
    )
    cli.add_run_flags(
        parser,
        "runs/DATASET-NET-PRESET-BACKEND-seedN, other flags after the preset",
    )
    return parser


def name_of(settings, backend):
    """Return the name of a run's folder."""
    usual = settled({"preset": settings.preset})
    return fitting.folder_name(settings, usual, backend)


def settle(arguments):
    """Return the `Settings` that flags and preset add up to."""
    settings = settled(given(arguments, Settings))
    check(settings, vars(arguments))
    return settings


def settled(flags):
    """Return the `Settings` of a preset with other values."""
    values = dict(PRESETS[flags.get("preset", "paper")])
    if "steps" in flags or "epochs" in flags:
        values |= {"steps": None, "epochs": None}
    if flags.get("schedule") == "plateau":
        values |= {"warmup_epochs": 0, "warmup_rate": 0}
    if flags.get("plain"):
        # Without shortcuts nothing would be left of a block.
        values |= {"zero_init": False}
    settings = Settings(**values | flags)
    if settings.learning_rate is None:
        rate = 0.1 * settings.batch_size / 256
        settings = dataclasses.replace(settings, learning_rate=rate)
    if "warmup_rate" not in flags and settings.warmup_rate > 0:
        # Of a small batch the rate is below that of the first step.
        rate = min(settings.warmup_rate, settings.learning_rate)
        settings = dataclasses.replace(settings, warmup_rate=rate)
    return settings


def check(s, given):
    """Raise `cli.UsageError` for settings that do not fit together."""
    if s.depth not in DEPTHS:
        raise cli.UsageError(
            f"argument --depth: {s.depth} is none of "
            f"{', '.join(map(str, DEPTHS))}"
        )
    folder = s.dataset == "folder"
    from_tfds = "--dataset imagenet2012 or imagenette"
    for flag, needed, fits in (
        ("folder", "--dataset folder", folder),
        ("data_dir", from_tfds, not folder),
        ("manual_dir", "--dataset imagenet2012", s.dataset == "imagenet2012"),
        ("cache", "--cache-side", s.cache_side),
        ("cache_side", "--cache", "cache" in given),
        ("warmup_epochs", "another --schedule", s.schedule != "plateau"),
        ("warmup_rate", "--warmup-epochs", s.warmup_epochs),
        ("decay_norm_and_bias", "--optimizer sgd", s.optimizer == "sgd"),
        ("momentum_correction", "--optimizer sgd", s.optimizer == "sgd"),
        ("zero_init", "shortcuts: leave out --plain", not s.plain),
        ("bottleneck_stride", "--depth 50 or more", s.depth >= BOTTLENECKS),
    ):
        if flag in given and not fits:
            raise cli.UsageError(f"--{flag.replace('_', '-')} needs {needed}")
    if folder and "folder" not in given:
        raise cli.UsageError("--dataset folder needs --folder")
    if s.batch_size % s.accumulate:
        raise cli.UsageError(
            f"--batch-size {s.batch_size} cannot be divided into "
            f"--accumulate {s.accumulate} parts"
        )
    for flag, value in (("accumulate", s.accumulate > 1), ("ema", s.ema)):
        if s.every and value:
            raise cli.UsageError(f"--every and --{flag} exclude each other")
    if s.every and s.every % given["steps_per_execution"]:
        raise cli.UsageError(
            f"--every {s.every} is no multiple of --steps-per-execution "
            f"{given['steps_per_execution']}, between which nothing is "
            "evaluated"
        )
    if s.warmup_rate > s.learning_rate:
        raise cli.UsageError(
            f"--warmup-rate {s.warmup_rate:g} is above the --learning-rate "
            f"{s.learning_rate:g} that it leads up to"
        )
    if s.schedule == "plateau" and s.every:
        raise cli.UsageError(
            "--schedule plateau needs a validation after each epoch: leave "
            "out --every"
        )
    if s.epochs and s.warmup_epochs >= s.epochs:
        raise cli.UsageError(
            f"--warmup-epochs {s.warmup_epochs:g} leaves nothing of --epochs "
            f"{s.epochs}: take fewer, or more --epochs"
        )
    if s.mean == "pixel" and not sizes(s, 2) == [s.test_size] * 2:
        raise cli.UsageError(
            "--mean pixel is for images of one size: --image-size is "
            f"{s.image_size}, --first-size {s.first_size}, --test-size "
            f"{s.test_size}; or take --mean channel"
        )
    if s.test_resize < s.test_size:
        raise cli.UsageError(
            f"--test-resize {s.test_resize} is below --test-size {s.test_size}"
        )
    if s.ema is not None and not 0 < s.ema < 1:
        raise cli.UsageError("argument --ema: must be above 0 and below 1")
    if s.rand_augment is not None and s.rand_augment > 10:
        raise cli.UsageError("argument --rand-augment: must be at most 10")


def sizes(settings, epochs):
    """Return the size of the training images in each epoch."""
    last, first = settings.image_size, settings.first_size
    if first is None:
        return [last] * epochs
    grown = max(1, round(GROWN * epochs) - 1)
    ways = [min(1, epoch / grown) for epoch in range(epochs)]
    # Of whole positions in the last stage; a backend compiles for each size.
    return [
        last if way == 1 else first + round(way * (last - first) / 32) * 32
        for way in ways
    ]


def load(arguments, settings):
    """Return the training and the validation images."""
    from pathlib import Path

    from keras_resnet import data

    if settings.dataset == "folder":
        folder = Path(arguments.folder)
        train = data.Folder(folder / "train")
        return train, data.Folder(folder / "val", train.class_names)
    return tuple(
        data.from_tfds(
            settings.dataset,
            split,
            getattr(arguments, "data_dir", None),
            getattr(arguments, "manual_dir", None),
        )
        for split in ("train", "validation")
    )


def learning_rate(settings, steps, per_epoch):
    """Return the learning rate, a number or a function of the step.

    Args:
        settings: `Settings`.
        steps: Integer, batches in all.
        per_epoch: Integer, batches per epoch.

    Raises:
        cli.UsageError: If warm-up leaves no steps after it.
    """
    from keras.optimizers import schedules

    from keras_resnet import training

    rate = settings.learning_rate
    if settings.schedule == "plateau":
        return rate
    if settings.schedule == "step-decay":
        # Keras counts from 0 and changes after the boundary.
        schedule = schedules.PiecewiseConstantDecay(
            [max(0, round(share * steps) - 1) for share in DIVISIONS],
            [rate / 10**i for i in range(4)],
        )
    elif settings.schedule == "cosine":
        schedule = schedules.CosineDecay(rate, steps)
    else:
        schedule = schedules.ExponentialDecay(rate, steps, EXPONENTIAL_END)
    up = round(settings.warmup_epochs * per_epoch)
    if up >= steps:
        raise cli.UsageError(
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


def build(settings, classes, rate, mean=None):
    """Return the compiled model. It takes raw pixels and returns logits.

    Args:
        settings: `Settings`.
        classes: Integer.
        rate: Learning rate, a number or a schedule.
        mean: `(size, size, 3)` array, the mean of each pixel, for
            `--mean pixel`.
    """
    import keras
    import numpy as np

    import keras_resnet
    from keras_resnet import preprocessing, training

    keras.utils.set_random_seed(settings.seed)
    policy = settings.precision
    keras.config.set_dtype_policy(
        policy if policy == "float32" else f"mixed_{policy}"
    )
    if mean is not None:
        name, statistics = "per_pixel_mean", (mean, np.ones_like(mean))
    else:
        name = "per_channel_statistics"
        statistics = (
            255 * np.array(preprocessing.IMAGENET_MEAN, "float32"),
            np.square(255 * np.array(preprocessing.IMAGENET_STD, "float32")),
        )
    one_size = sizes(settings, 2) == [settings.test_size] * 2
    size = settings.test_size if one_size else None
    image = keras.Input((size, size, 3), name="image")
    # Inside the model: whoever loads it later needs no statistics. In
    # float32, which raw pixels need.
    centered = keras.layers.Normalization(
        axis=-1 if mean is None else (1, 2, 3),
        mean=statistics[0],
        variance=statistics[1],
        dtype="float32",
        name=name,
    )(image)
    model = keras_resnet.ResNetImageNet(
        settings.depth,
        input_tensor=centered,
        classes=classes,
        classifier_activation=None,
        shortcut=settings.shortcut,
        residual=not settings.plain,
        bottleneck_stride=settings.bottleneck_stride,
        zero_init_residual=settings.zero_init,
    )
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
    # Below ten classes it says little.
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


def training_batches(
    settings, source, steps, per_epoch, start, shard, unreadable
):
    """Return the batches of a training, from the batch `start` on."""
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
        start=start,
        shard=shard,
        unreadable=unreadable,
    )
    if settings.loss == "binary" and (settings.mixup or settings.cutmix):
        return batches.map(
            lambda images, labels: (
                images,
                tf.cast(labels > PRESENT, tf.float32),
            )
        )
    return batches


def execution(arguments, backend, per_epoch, steps):
    """Return the steps per execution, or raise for those that do not fit."""
    each = arguments.steps_per_execution
    if each > 1 and backend == "torch":
        raise cli.UsageError(
            "--steps-per-execution: Keras does not know it on PyTorch; leave "
            "it out"
        )
    if per_epoch % each or steps % each:
        fitting_ = [
            n
            for n in range(2, min(per_epoch, 1000) + 1)
            if per_epoch % n == 0 and steps % n == 0
        ]
        raise cli.UsageError(
            f"--steps-per-execution {each} divides neither {per_epoch} steps "
            f"of an epoch nor {steps} in all evenly; these do: "
            f"{', '.join(map(str, fitting_[:10])) or 'none'}"
        )
    return each


def main(arguments):
    """Train one network and leave everything about it in one folder."""
    settings = settle(arguments)
    import keras

    from keras_resnet import data, plots

    backend = keras.backend.backend()
    devices = fitting.use_devices(arguments)
    if (
        settings.accumulate > 1
        and devices.count > 1
        and backend == "tensorflow"
    ):
        raise cli.UsageError(
            f"--accumulate {settings.accumulate}: not on several TensorFlow "
            "devices, where Keras cannot accumulate; leave it or --devices "
            "out, or set KERAS_BACKEND to jax or torch"
        )
    batch_size = settings.batch_size // settings.accumulate
    devices.check_batch(batch_size)
    train, validation = fitting.first_alone(
        devices, lambda: load(arguments, settings)
    )
    share = arguments.max_unreadable
    unreadable = [data.Unreadable(s, share) for s in (train, validation)]

    per_epoch = settings.accumulate * fitting.steps_per_epoch(
        len(train), settings.batch_size
    )
    steps = (settings.steps or 0) * settings.accumulate
    steps = steps or settings.epochs * per_epoch
    each = execution(arguments, backend, min(per_epoch, steps), steps)
    # Raises, before there is a folder, if warm-up would be all of the run.
    learning_rate(settings, steps, per_epoch)

    # Of a folder the settings say no more than that it is one.
    images = {}
    if settings.dataset == "folder":
        images = {"train": train.describe(), "val": validation.describe()}
    run = fitting.open_run(
        arguments, name_of(settings, backend), settings, devices, **images
    )
    if fitting.said_finished(run):
        return

    evaluation = evaluation_batches(
        settings, validation, devices, unreadable[1]
    )
    try:
        if hasattr(arguments, "cache"):
            original = train
            train = fitting.first_alone(
                devices,
                lambda: data.cached(
                    original,
                    arguments.cache,
                    settings.cache_side,
                    unreadable[0],
                ),
            )
        model = fitting.train(
            run,
            lambda: new(settings, train, steps, per_epoch, run, unreadable[0]),
            lambda start: training_batches(
                settings,
                train,
                steps,
                per_epoch,
                start,
                devices.shard,
                unreadable[0],
            ),
            evaluation,
            per_epoch=per_epoch,
            batch_size=batch_size,
            steps=steps,
            every=settings.every,
            average=settings.ema is not None,
            callbacks=callbacks(settings, run, hasattr(arguments, "profile")),
            steps_per_execution=each,
            interrupted=lambda: draw(plots, run, settings),
        )
        with devices.scope():
            found = model.evaluate(evaluation, return_dict=True, verbose=0)
    except Exception as error:
        # TensorFlow puts it among lines of its own.
        errors = [images.error for images in unreadable]
        raise next(filter(None, errors), error) from None
    unread = [sorted(set().union(*devices.gather([*u]))) for u in unreadable]
    if devices.is_first:
        finish(run, settings, model, found, (train, validation), unread)


def new(settings, train, steps, per_epoch, run, unreadable):
    """Return a new compiled model."""
    from keras_resnet.data import imagenet

    mean = None
    if settings.mean == "pixel":
        mean = run.devices.on_first(
            lambda: imagenet.mean_image(
                train,
                image_size=settings.test_size,
                resize=settings.test_resize,
                unreadable=unreadable,
            )
        )
    rate = learning_rate(settings, steps, per_epoch)
    return build(settings, len(train.class_names), rate, mean)


def callbacks(settings, run, profile):
    """Return the callbacks that a run's settings ask for."""
    from keras_resnet import training

    found = []
    if settings.schedule == "plateau":
        found.append(
            training.PlateauDivision(
                lambda: run.devices.on_first(run.history),
                monitor="val_accuracy",
                mode="max",
                factor=0.1,
                patience=PATIENCE,
                min_delta=MIN_DELTA,
            )
        )
    if profile and run.devices.is_first:
        found.append(training.Profile(run / "tensorboard"))
    return found


def evaluation_batches(settings, source, devices, unreadable):
    """Return the batches of an evaluation."""
    from keras_resnet.data import imagenet

    return imagenet.evaluation_batches(
        source,
        image_size=settings.test_size,
        resize=settings.test_resize,
        interpolation=settings.interpolation,
        shard=devices.shard,
        pad_to_multiple_of=devices.pad_to_multiple_of,
        unreadable=unreadable,
    )


def finish(run, settings, model, found, sources, unreadable):
    """Leave and print the result of a trained network.

    Args:
        run: `keras_resnet.training.Run`.
        settings: `Settings`.
        model: Trained `keras.Model`.
        found: Dictionary, loss and metrics of the validation images.
        sources: Pair of the training and the validation images.
        unreadable: Pair of lists, the names of those that are unreadable.
    """
    from keras_resnet import plots

    history = curve(run, settings)
    top5 = (
        {"validation_top5_error": round(1 - found["top5"], 4)}
        if "top5" in found
        else {}
    )
    # Before the line that ends the run: with it nothing is made any more.
    draw(plots, run, settings)
    result = run.finish(
        model,
        training_error=round(history["error"][-1], 4),
        validation_error=round(1 - found["accuracy"], 4),
        **top5,
        best_validation_error=round(min(history["val_error"]), 4),
        validation_images=len(sources[1]) - len(unreadable[1]),
        training_images=len(sources[0]),
        unreadable=[name for names in unreadable for name in names],
    )
    print(
        f"validation error {100 * result['validation_error']:.2f} % "
        + "".join(f"(top 5: {100 * v:.2f} %) " for v in top5.values())
        + f"({result['validation_images']:,} images), "
        f"{result['images_per_second']:.0f} images/s, "
        f"{result['seconds']:.0f} s; everything is in {run.path}"
    )
    if result["unreadable"]:
        print(f"{len(result['unreadable'])} images could not be decoded")


def curve(folder, settings):
    """Return the history of errors: by epoch, or by `--every` steps."""
    from keras_resnet import training

    name = "steps.csv" if settings.every else "history.csv"
    return training.read_history(folder / name)


def draw(plots, run, settings):
    """Draw the learning curves of a run, if it has any yet."""
    history = curve(run, settings)
    fitting.draw_curves(plots, run, settings, history)


if __name__ == "__main__":
    cli.run(make_parser(), main)
