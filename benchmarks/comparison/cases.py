"""The cases: each is a function that returns the comparisons it measured.

Frameworks and Keras are imported only when a case runs, so that the command
line knows all cases at once.
"""

import contextlib
import dataclasses
import functools
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from comparison import cores
from comparison.implementation import (
    Unavailable,
    build,
    difference,
    of_backend,
)
from comparison.measure import (
    WARMUP_BATCHES,
    Comparison,
    alternate,
    compare,
    progress,
)
from comparison.network import IMAGENET, cifar, imagenet

FRESH = Path(__file__).resolve().parent.parent / "fresh.py"


def keep_memory_if_ours(name):
    """Keep freed memory on our turns, and give it back on others' turns.

    Each implementation then finds the memory of a process of its own.
    """
    from keras_resnet.backend import memory

    (memory.keep if name.startswith("ours") else memory.give_back)()


def _full_float32():
    """Return the context of a comparison of numbers: a GPU without TF32."""
    from keras_resnet.backend import accelerators, full_float32

    return full_float32() if accelerators() else contextlib.nullcontext()


def compare_models(
    settings,
    name,
    network,
    implementations,
    batch_size,
    steps,
    training=True,
    by_step=False,
):
    """Compare implementations of the same network, the first of which is ours.

    `by_step` measures milliseconds per step, not images per second.

    Raises:
        Mismatch: If an implementation has other logits than ours.
    """
    steps = settings.steps or steps
    weights = network.draw()
    images, labels = network.random_batches(batch_size * steps)
    # As large as the batches that are timed, because torch.compile compiles
    # for their shape.
    sample = images[:batch_size]

    def seconds(implementation):
        begin = time.perf_counter()
        if training:
            implementation.train(images, labels, batch_size)
        else:
            implementation.predict(images, batch_size)
        return implementation.finished - begin

    left_out, differences, runs = {}, {}, {}
    expected = None
    for key in of_backend(*implementations):
        progress(f"{name}: building {key}")
        try:
            implementation = build(key, network, weights)
        except Unavailable as error:
            left_out[key] = str(error)
            continue
        with _full_float32():
            if expected is None:
                expected = implementation.predict(sample, batch_size)
            else:
                differences[key] = difference(implementation, expected, sample)
        runs[key] = functools.partial(seconds, implementation)
    comparison = compare(
        name,
        "ms per step" if by_step else "images/s",
        runs,
        settings.rounds,
        lambda s: 1e3 * s / steps if by_step else len(images) / s,
        warmup=math.ceil(WARMUP_BATCHES / steps),
        prepare=keep_memory_if_ours,
    )
    comparison.differences, comparison.left_out = differences, left_out
    return comparison


# Where keras.applications strides, and by which number it divides.
APPLICATIONS = {"bottleneck_stride": "1x1", "epsilon": 1.001e-5}
BASIC = ("ours", "stock Keras", "native")
WITH_COMPILE = (*BASIC, "torch.compile", "ours, layer by layer")


def train20(settings):
    """ResNet-20, training, batch 128."""
    name = "ResNet-20, training, batch 128"
    return [compare_models(settings, name, cifar(20), WITH_COMPILE, 128, 6)]


def infer50(settings):
    """ResNet-50, inference, batch 16, against the peers too."""
    return _resnet50(settings, "inference", 16, ("ours, folded",))


def models(settings):
    """Inference of each ImageNet network, batch 8, for docs/models.py."""
    return [
        compare_models(
            settings,
            f"ResNet-{depth}, inference, batch 8",
            imagenet(depth, **APPLICATIONS),
            ("ours", "ours, folded", "stock Keras", "keras.applications"),
            8,
            steps=2,
            training=False,
        )
        for depth in IMAGENET
    ]


def infer20(settings):
    """ResNet-20, inference, milliseconds per batch of 2, 32 and 128."""
    return [
        compare_models(
            settings,
            f"ResNet-20, inference, batch {n}",
            cifar(20),
            WITH_COMPILE,
            n,
            steps=max(2, 80 // n),
            training=False,
            by_step=True,
        )
        for n in (2, 32, 128)
    ]


def train50(settings):
    """ResNet-50, training, batch 8, against the peers too."""
    return _resnet50(settings, "training", 8, ())


def _resnet50(settings, title, batch_size, folded):
    # keras.applications strides in the first 1x1 convolution, KerasHub in
    # the 3x3 convolution, which is more to compute.
    at_1x1 = imagenet(50, **APPLICATIONS)
    plain = "stock Keras", "keras.applications", "native", "torch.compile"
    return [
        compare_models(
            settings,
            f"ResNet-50, {title}, batch {batch_size}, stride in the {stride}",
            network,
            ("ours", *folded, *others),
            batch_size,
            steps=2,
            training=title == "training",
        )
        for stride, network, others in (
            ("1x1", at_1x1, plain),
            ("3x3", imagenet(50), ("KerasHub",)),
        )
    ]


def host(settings):
    """ResNet-20, milliseconds per training step at batch 2: the host's work."""
    name = "ResNet-20, training, batch 2"
    return [
        compare_models(
            settings, name, cifar(20), WITH_COMPILE, 2, 40, by_step=True
        )
    ]


def pipeline(settings):
    """Images per second of the input pipeline, by batch and by image."""
    from comparison import inputs

    steps = settings.steps or 200
    datasets = inputs.pipelines(inputs.random_split(10_000))
    return [
        compare(
            "Input pipeline, 32x32, batch 128",
            "images/s",
            {
                name: functools.partial(inputs.seconds, dataset, steps)
                for name, dataset in datasets.items()
            },
            settings.rounds,
            lambda s: 128 * steps / s,
            prepare=keep_memory_if_ours,
        )
    ]


def decode(settings, size=224, batch_size=32):
    """Images per second and core: decoded from JPEG, cut, resized, flipped."""
    from comparison import inputs

    steps = settings.steps or 8
    threads = len(cores.available())
    with tempfile.TemporaryDirectory() as made:
        folder = settings.images or inputs.make_pictures(made)
        return [
            compare(
                f"From JPEG to {size}x{size}, {title}",
                "images/s per core",
                {
                    name: lambda make=make: inputs.seconds(make(), steps)
                    for name, make in inputs.decoders(
                        folder, batch_size, size, box
                    ).items()
                },
                settings.rounds,
                lambda s: batch_size * steps / s / threads,
            )
            for box, title in (
                ("inception", "8 to 100 % of the area"),
                ("paper", "shorter side 256 to 480"),
            )
        ]


def recipe(settings):
    """`fit` with the input pipeline, against `fit` with one resident batch."""
    from comparison import inputs

    steps = settings.steps or 8
    return [
        compare(
            "ResNet-20, fit with pipeline, batch 128",
            "images/s",
            inputs.fits(128, steps),
            settings.rounds,
            lambda s: (steps - 1) * 128 / s,
        )
    ]


IMPORT = """
import time
begin = time.perf_counter()
import {modules}
keras.backend.backend()
print(time.perf_counter() - begin)
"""


def imports(settings):
    """Seconds to import this package, and Keras, in fresh processes."""

    def seconds(modules):
        return float(_python("-c", IMPORT.format(modules=modules)))

    runs = {
        "ours": lambda: seconds("keras_resnet, keras"),
        "Keras alone": lambda: seconds("keras"),
    }
    return [compare("Import", "s", runs, settings.rounds)]


def depth(settings):
    """Training step against depth: ResNet-20, 56, 110, batch 32."""
    return [
        compare_models(
            settings,
            f"Depth {n}, training, batch 32",
            cifar(n),
            BASIC,
            32,
            steps=3,
            by_step=True,
        )
        for n in ((20, 56, 110, 1202) if settings.full else (20, 56, 110))
    ]


def batch(settings):
    """Training step against batch size: ResNet-20, batches of 8 to 256."""
    return [
        compare_models(
            settings,
            f"Batch size {n}, ResNet-20, training",
            cifar(20),
            WITH_COMPILE,
            n,
            steps=max(2, 256 // n),
        )
        for n in (8, 32, 128, 256)
    ]


def start(settings):
    """Time to the first step, and peak memory, of fresh processes."""
    request = {
        "network": dataclasses.asdict(cifar(20)),
        "batch_size": 128,
        "steps": settings.steps or WARMUP_BATCHES,
    }

    def measure(name):
        request_now = request | {"name": name, "begin": time.time()}
        return json.loads(_python(FRESH, json.dumps(request_now)))

    # The first round warms nothing but the disk.
    names = of_backend(*WITH_COMPILE)
    runs = {name: functools.partial(measure, name) for name in names}
    measured = alternate(runs, settings.rounds, "Start")
    left_out = {
        name: measured.pop(name)[0]["left_out"]
        for name in names
        if "left_out" in measured[name][0]
    }
    return [
        Comparison(
            f"ResNet-20, training, batch 128, {title}",
            unit,
            {n: [v[key] for v in rounds] for n, rounds in measured.items()},
            left_out=left_out,
        )
        for key, title, unit in (
            ("first_step", "from process start to first step", "s"),
            ("peak_memory", "peak memory of the process", "MiB"),
        )
    ]


def _python(*args):
    """Run Python and return the last line that it printed.

    Raises:
        RuntimeError: With the last line of its errors, if it fails.
    """
    process = subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, encoding="utf-8"
    )
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"a process ended with status {process.returncode}: {lines[-1]}"
        )
    return process.stdout.splitlines()[-1]


# In the order of the tables.
CASES = {
    "train20": train20,
    "infer50": infer50,
    "infer20": infer20,
    "train50": train50,
    "models": models,
    "host": host,
    "pipeline": pipeline,
    "decode": decode,
    "recipe": recipe,
    "import": imports,
    "depth": depth,
    "batch": batch,
    "start": start,
}
