"""What is compared: each work returns the cases that it measured."""

import dataclasses
import functools
import itertools
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import sides
from compare import cores
from measure import (
    WARMUP_BATCHES,
    Case,
    alternate,
    milliseconds,
    progress,
    rate,
)
from sides.network import cifar, resnet50

import keras_resnet
from keras_resnet.backend import memory

FRESH = Path(__file__).with_name("fresh.py")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the command line sets for all works.

    Attributes:
        rounds: Timed rounds.
        steps: Batches per round, or `None` for the work's own number.
        full: Whether to train the 1202-layer network too.
        images: Folder of images for the work decode, or `None`.
    """

    rounds: int
    steps: int | None = None
    full: bool = False
    images: str | None = None


def model_case(
    settings, name, network, side_names, batch_size, steps, *, work, host=False
):
    """Measures sides that compute the same network.

    Args:
        settings: `Settings`.
        name: Name of the case.
        network: `sides.network.Network`.
        side_names: Names of the sides. The first is the reference.
        batch_size: Integer.
        steps: Batches per round.
        work: "train" or "predict".
        host: Whether to measure milliseconds per step, not images a second.

    Raises:
        sides.Mismatch: If two sides have different logits.
    """
    steps = settings.steps or steps
    weights = network.draw()
    images, labels = network.random_batches(batch_size * steps)
    # The batch that is timed, too: torch.compile compiles for its shape.
    sample = images[:batch_size]
    left_out, differences, runs = {}, {}, {}
    expected = None
    for side_name in sides.names(*side_names):
        progress(f"{name}: building {side_name}")
        try:
            side = sides.build(side_name, network, weights)
        except sides.Unavailable as error:
            left_out[side_name] = str(error)
            continue
        if expected is None:
            expected = side.predict(sample, batch_size)
        else:
            differences[side_name] = sides.difference(side, expected, sample)
        run = _run(side, work, images, labels, batch_size)
        # As it is in a process of its own.
        prepare = memory.keep if side.keeps_memory else memory.give_back
        runs[side_name] = (
            milliseconds(run, steps, prepare)
            if host
            else rate(run, len(images), prepare)
        )
    warmup = math.ceil(WARMUP_BATCHES / steps)
    values = alternate(runs, settings.rounds, name, warmup)
    unit = "ms per step" if host else "images/s"
    return Case(
        name, unit, not host, side_names[0], values, differences, left_out
    )


def _run(side, work, images, labels, batch_size):
    """Returns a function that does the work and returns when it was done."""

    def run():
        if work == "train":
            side.train(images, labels, batch_size)
        else:
            side.predict(images, batch_size)
        return side.finished

    return run


def train20(settings):
    """ResNet-20, training, batch 128."""
    return [
        model_case(
            settings,
            "ResNet-20, training, batch 128",
            cifar(20),
            ("ours", "stock Keras", "native", "torch.compile"),
            batch_size=128,
            steps=6,
            work="train",
        )
    ]


def host(settings):
    """ResNet-20, time per training step at batch 2: mostly the host's."""
    return [
        model_case(
            settings,
            "ResNet-20, training, batch 2",
            cifar(20),
            ("ours", "stock Keras", "native", "torch.compile"),
            batch_size=2,
            steps=40,
            work="train",
            host=True,
        )
    ]


def infer50(settings):
    """ResNet-50, inference, batch 16, against the peers too."""
    return _resnet50(settings, "inference", "predict", batch_size=16, steps=2)


def train50(settings):
    """ResNet-50, training, batch 8, against the peers too."""
    return _resnet50(settings, "training", "train", batch_size=8, steps=2)


def _resnet50(settings, title, work, batch_size, steps):
    folded = ("ours, folded",) if work == "predict" else ()
    # keras.applications strides in the first 1x1 convolution, KerasHub in
    # the 3x3, which is more to compute.
    return [
        model_case(
            settings,
            f"ResNet-50, {title}, batch {batch_size}, stride in the 1x1",
            resnet50(bottleneck_stride="1x1", epsilon=1.001e-5),
            (
                "ours",
                *folded,
                "stock Keras",
                "keras.applications",
                "native",
                "torch.compile",
            ),
            batch_size,
            steps,
            work=work,
        ),
        model_case(
            settings,
            f"ResNet-50, {title}, batch {batch_size}, stride in the 3x3",
            resnet50(),
            ("ours", *folded, "KerasHub"),
            batch_size,
            steps,
            work=work,
        ),
    ]


def depth(settings):
    """Training step against depth: ResNet-20, 56, 110, batch 32."""
    depths = (20, 56, 110, 1202) if settings.full else (20, 56, 110)
    return [
        model_case(
            settings,
            f"Depth {d}, training, batch 32",
            cifar(d),
            ("ours", "stock Keras", "native"),
            batch_size=32,
            steps=3,
            work="train",
            host=True,
        )
        for d in depths
    ]


def batch(settings):
    """Training step against batch size: ResNet-20, batches 8 to 256."""
    return [
        model_case(
            settings,
            f"Batch size {n}, ResNet-20, training",
            cifar(20),
            ("ours", "stock Keras", "native"),
            batch_size=n,
            steps=max(2, 256 // n),
            work="train",
        )
        for n in (8, 32, 128, 256)
    ]


def random_split(n, size=32, seed=0):
    """Returns random uint8 images and labels, as CIFAR-10's."""
    from keras_resnet.data import Split

    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, size, size, 3), dtype="uint8")
    return Split(images, rng.integers(0, 10, n))


def per_image_pipeline(split, batch_size, mean, padding=4):
    """Returns the pipeline of most tutorials, which augments each image."""
    import tensorflow as tf

    size = split.images.shape[1]
    mean = tf.constant(mean)

    def augmented(image, label):
        image = tf.cast(image, tf.float32) - mean
        image = tf.image.resize_with_crop_or_pad(
            image, size + 2 * padding, size + 2 * padding
        )
        image = tf.image.random_crop(image, (size, size, 3))
        return tf.image.random_flip_left_right(image) + mean, label

    return (
        tf.data.Dataset.from_tensor_slices((split.images, split.labels))
        .shuffle(len(split))
        .repeat()
        .map(augmented, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def pipeline(settings):
    """Input pipeline: crop and flip by batch, or by image."""
    from keras_resnet import data

    steps = settings.steps or 200
    split = random_split(10_000)
    mean = split.images.mean(axis=0, dtype="float64").astype("float32")
    arguments = {"mean": mean, "padding": 4, "horizontal_flip": True}
    datasets = {
        "ours": data.pipeline.training_batches(split, 128, **arguments),
        "tf.data per image": per_image_pipeline(split, 128, mean),
    }
    if keras.backend.backend() != "tensorflow":
        datasets["ours, on the device"] = data.resident.training_batches(
            split, 128, **arguments
        )

    def measure(dataset):
        # From its first batch on: what it has prefetched while the other was
        # timed would come for nothing, and what it prefetches then slows the
        # other down. So each round has an iterator of its own.
        iterator = iter(dataset)
        next(iterator)
        begin = time.perf_counter()
        for images, _ in itertools.islice(iterator, steps):
            if hasattr(images, "block_until_ready"):
                images.block_until_ready()
        return 128 * steps / (time.perf_counter() - begin)

    def run(side):
        # As it is in a process that trains.
        (memory.keep if side.startswith("ours") else memory.give_back)()
        return measure(datasets[side])

    runs = {side: functools.partial(run, side) for side in datasets}
    name = "Input pipeline, 32x32, batch 128"
    values = alternate(runs, settings.rounds, name)
    return [Case(name, "images/s", True, "ours", values)]


def decode(settings, size=224, batch_size=32):
    """Images per second and core: decoded, cut, resized, flipped."""
    from sides import images as image_sides

    from keras_resnet import data

    steps = settings.steps or 8
    with tempfile.TemporaryDirectory() as made:
        folder = settings.images or image_sides.make(made)
        source = data.Folder(folder)
        threads = len(cores())
        cases = []
        for box, title in (
            ("inception", "8 to 100 % of the area"),
            ("paper", "shorter side 256 to 480"),
        ):
            makers = {
                "ours": functools.partial(
                    data.imagenet.training_batches,
                    source,
                    batch_size,
                    image_size=size,
                    box=box,
                ),
                "tf.data": functools.partial(
                    image_sides.plain, source.paths, batch_size, size, box
                ),
                "Pillow": functools.partial(
                    image_sides.pillow, source.paths, batch_size, size, box
                ),
            }

            def measure(make):
                iterator = iter(make())
                next(iterator)
                begin = time.perf_counter()
                for _ in itertools.islice(iterator, steps):
                    pass
                seconds = time.perf_counter() - begin
                return batch_size * steps / seconds / threads

            name = f"From JPEG to {size}x{size}, {title}"
            runs = {
                side: functools.partial(measure, make)
                for side, make in makers.items()
            }
            values = alternate(runs, settings.rounds, name)
            cases.append(Case(name, "images/s per core", True, "ours", values))
    return cases


class Stopwatch(keras.callbacks.Callback):
    """Times an epoch from the end of its first step to its own.

    The first step waits for the pipeline to start, which happens once in a
    training of hours.
    """

    def on_train_batch_end(self, step, logs=None):
        if step == 0:
            float(logs["loss"])
            self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.begin


def recipe(settings, batch_size=128):
    """`fit` as the recipe does it, against one batch that is there already."""
    import tensorflow as tf

    from keras_resnet import data

    steps = settings.steps or 8
    split = random_split(10_000)
    mean = split.images.mean(axis=0, dtype="float64").astype("float32")
    fed = data.training_batches(
        split, batch_size, mean=mean, padding=4, horizontal_flip=True
    )
    one = tf.data.Dataset.from_tensors(next(iter(fed))).repeat()
    model = keras_resnet.ResNet20(classifier_activation=None)
    model.compile(
        keras_resnet.training.CoupledSGD(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def measure(dataset):
        watch = Stopwatch()
        model.fit(
            dataset,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[watch],
        )
        return (steps - 1) * batch_size / watch.seconds

    runs = {
        "ours": lambda: measure(fed),
        "resident batch": lambda: measure(one),
    }
    name = f"ResNet-20, fit with pipeline, batch {batch_size}"
    values = alternate(runs, settings.rounds, name)
    return [Case(name, "images/s", True, "ours", values)]


IMPORT = """
import time
begin = time.perf_counter()
import {module}
keras.backend.backend()
print(time.perf_counter() - begin)
"""


def imports(settings):
    """Import time of keras_resnet and of Keras, in fresh processes."""

    def measure(module):
        code = IMPORT.format(module=module)
        return float(_python("-c", code).splitlines()[-1])

    runs = {
        "ours": lambda: measure("keras_resnet, keras"),
        "Keras alone": lambda: measure("keras"),
    }
    name = "Import"
    values = alternate(runs, settings.rounds, name)
    return [Case(name, "s", False, "ours", values)]


def start(settings, network=None, batch_size=128):
    """Time to the first training step and peak memory, in fresh processes."""
    network = network or cifar(20)
    request = {
        "network": dataclasses.asdict(network),
        "batch_size": batch_size,
        "steps": settings.steps or WARMUP_BATCHES,
    }

    def measure(side):
        asked = request | {"side": side, "begin": time.time()}
        printed = _python(FRESH, json.dumps(asked))
        return json.loads(printed.splitlines()[-1])

    wanted = sides.names("ours", "stock Keras", "native", "torch.compile")
    # Each is a process of its own, so the first round warms the disk alone.
    found = alternate(
        {side: lambda side=side: measure(side) for side in wanted},
        settings.rounds,
        "Start",
    )
    left_out = {
        side: values[0]["left_out"]
        for side, values in found.items()
        if "left_out" in values[0]
    }
    title = f"ResNet-{network.depth}, training, batch {batch_size}"
    return [
        Case(
            f"{title}, {what}",
            unit,
            False,
            "ours",
            {
                side: [value[key] for value in values]
                for side, values in found.items()
                if side not in left_out
            },
            left_out=left_out,
        )
        for key, what, unit in (
            ("first_step", "from process start to first step", "s"),
            ("peak_memory", "peak memory of the process", "MiB"),
        )
    ]


def _python(*args):
    """Runs Python and returns what it printed; errors carry its last line."""
    process = subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, encoding="utf-8"
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"a process ended with status {process.returncode}: {lines[-1]}"
        )
    return process.stdout


WORKS = {
    "train20": train20,
    "infer50": infer50,
    "train50": train50,
    "host": host,
    "pipeline": pipeline,
    "decode": decode,
    "recipe": recipe,
    "import": imports,
    "depth": depth,
    "batch": batch,
    "start": start,
}
