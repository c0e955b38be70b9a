"""One part of `benchmarks/gpu.py`, in a process of its own.

    KERAS_BACKEND=jax python benchmarks/gpu_parts.py profile '{"quick": true}'

It prints each number as soon as it is there, as a line of JSON: name, value and
unit; or name, `null` and the reason why there is no value.
"""

import dataclasses
import gc
import gzip
import json
import re
import statistics
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from comparison import network as networks
from comparison.implementation import backend, build, of_backend
from comparison.keras_models import KerasModel, epoch_seconds
from keras_resnet import data, training
from keras_resnet.backend import accelerators, full_float32
from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment.provenance import origin

# Steps after which everything is compiled, traced or recorded; and steps of a
# profile.
WARMUP = PROFILED = 16
# Other ways to run this package, each on one backend.
ALONE = ["ours, without a CUDA graph", "ours, scanned"]
GRAPHS = ["torch.compile, reduce-overhead"]


class Size(NamedTuple):
    """Sizes of the measurements."""

    depth: int  # of the small network
    batch: int
    steps: int  # of an epoch
    epochs: int
    validation: int  # images
    image: int  # rows and columns of large images
    large_batch: int
    large_steps: int


FULL = Size(20, 128, 352, 4, 5000, 224, 256, 16)
QUICK = Size(8, 2, 16, 2, 20, 32, 2, 2)


def emit(name, value, unit):
    """Print a number."""
    print(json.dumps([name, value, unit]), flush=True)


def each(title, names, network, measure):
    """Build implementations one after another, and measure each.

    One that fails costs only its own number.
    """
    for name in of_backend(*names):
        try:
            value = measure(build(name, network, network.draw()))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            value = None, f"{type(error).__name__}: {reason}"
        emit(f"{title}: {name}", *value)
        keras.utils.clear_session(free_memory=True)
        gc.collect()
        if backend() == "torch":
            import torch

            torch.cuda.empty_cache()


def on_device(network, n, batch, steps):
    """Return `steps` batches, which repeat those of `n` random images."""
    few = [
        tuple(keras.ops.convert_to_tensor(x[i : i + batch]) for x in arrays)
        for arrays in [network.random_batches(n)]
        for i in range(0, n, batch)
    ]
    return [few[i % len(few)] for i in range(steps)]


def of_recipe(network, batch, steps):
    """Return the training batches of `recipes/cifar10.py --input device`."""
    rng = np.random.default_rng(0)
    shape = steps * batch, network.size, network.size, 3
    split = data.Split(
        rng.integers(0, 256, shape, "uint8"),
        rng.integers(0, network.classes, shape[0]),
    )
    return data.resident.training_batches(
        split, batch, padding=4, horizontal_flip=True
    )


def numerics(size, reference):
    """Weights after 16 float32 steps, compared with a CPU's and with ours."""
    network = networks.cifar(size.depth)
    images, labels = network.random_batches(WARMUP * 8)
    expected = dict(np.load(reference)) if Path(reference).exists() else None
    ours = {}

    def measure(implementation):
        implementation.train(images, labels, 8)
        weights = implementation.weights()
        if expected is None:
            np.savez(reference, **weights)
            return None, "kept to compare with"
        ours.update({} if ours else weights)
        # Native normalizations may keep the unbiased variance.
        keep = "" if isinstance(implementation, KerasModel) else "variance"
        names = [n for n in weights if not keep or not n.endswith(keep)]
        by_cpu, by_ours = (
            max(float(abs(weights[n] - other[n]).max()) for n in names)
            for other in (expected, ours)
        )
        unit = f"at most beside the CPU's weights, {by_ours:.2g} beside ours"
        return by_cpu, unit

    others = (*ALONE, "ours, layer by layer", "native")
    with full_float32():
        each(
            "numerics",
            ("ours", *(() if expected is None else others)),
            network,
            measure,
        )


def resnet20(size):
    """ResNet-20, batch 128, bfloat16: milliseconds per step."""
    network = dataclasses.replace(
        networks.cifar(size.depth), precision="bfloat16"
    )
    steps, epochs = size.steps, size.epochs
    batches = on_device(network, 8 * size.batch, size.batch, steps)

    def measure(implementation):
        # The first epoch compiles.
        seconds = implementation.train_epochs(batches, epochs)[1:]
        return 1e3 * statistics.median(seconds) / steps, "ms per step"

    names = ["ours", *ALONE, "stock Keras", "native"]
    each("ResNet-20", names, network, measure)
    # The paper validates on 5,000 images, here after each epoch.
    n = size.validation
    validation = on_device(network, n, n // 10, 10)
    model = recipe(network)
    for at_a_time in (1, WARMUP) if backend() == "jax" else (1,):
        model.steps_per_execution = at_a_time
        model.make_train_function(force=True)
        model.make_test_function(force=True)
        drawn = of_recipe(network, size.batch, steps)
        epoch = statistics.median(
            epoch_seconds(model, drawn, steps, epochs)[1:]
        )
        evaluations = []
        for _ in range(3):
            begin = time.perf_counter()
            model.evaluate((pair for pair in validation), verbose=0)
            evaluations.append(time.perf_counter() - begin)
        name = "the recipe, scanned" if at_a_time > 1 else "the recipe"
        emit(f"ResNet-20: {name}", 1e3 * epoch / steps, "ms per step")
        total = 64_000 / steps * (epoch + min(evaluations))
        emit(f"64,000 iterations of {name}", total, "s, projected")
    # Last, because compiling takes long.
    each("ResNet-20", GRAPHS[size is QUICK :], network, measure)


def recipe(network):
    """Return the compiled model of `recipes/cifar10.py` for a network."""
    settings = cifar10.Settings(
        depth=6 * network.depths[0] + 2, precision=network.precision
    )
    shape = (network.size, network.size, 3)
    images = types.SimpleNamespace(
        train=types.SimpleNamespace(images=np.empty((0, *shape), "uint8")),
        mean=np.zeros(shape, "float32"),
        class_names=range(network.classes),
    )
    rate = cifar10.learning_rate(settings, settings.steps)
    return cifar10.build(settings, images, rate)


def profile(size):
    """The work of GPU and host in a step of `recipes/cifar10.py`."""
    network = dataclasses.replace(
        networks.cifar(size.depth), precision="bfloat16"
    )
    steps = WARMUP + PROFILED
    batches = of_recipe(network, size.batch, steps)
    # The profile must have nothing of the steps before.
    wait = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: (
            dict(logs) if batch == WARMUP - 1 else None
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        trace = training.Profile(folder, first=WARMUP, batches=PROFILED)
        epoch_seconds(recipe(network), batches, steps, 1, [wait, trace])
        events = []
        for path in Path(folder).rglob("*.trace.json*"):
            read = gzip.open if path.suffix == ".gz" else open
            with read(path, "rt", encoding="utf-8") as file:
                events += json.load(file)["traceEvents"]
    counts = counted(events)
    if not counts["kernels"]:
        emit("profile", None, f"of {len(events)} events none is on a GPU")
        return
    for name, value in counts.items():
        emit(f"profile: {name}", value / PROFILED, "per step")


def counted(events):
    """Count the GPU's work and waits in a Chrome trace of PyTorch or JAX."""
    labels = {
        (e["name"], e["pid"], e.get("tid")): str(e["args"].get("name"))
        for e in events
        if e.get("ph") == "M" and "args" in e
    }
    processes = {pid: x for (kind, pid, _), x in labels.items() if "pr" in kind}
    counts = dict.fromkeys(
        ("kernels", "busy ms", "copies", "waits", "graph launches"), 0
    )
    for event in events:
        if event.get("ph") != "X":
            continue
        name, category, pid = event["name"], event.get("cat", ""), event["pid"]
        thread = labels.get(("thread_name", pid, event.get("tid")), "")
        by_jax = "GPU" in processes.get(pid, "") and "Stream" in thread
        if by_jax or category in ("kernel", "gpu_memcpy", "gpu_memset"):
            counts["busy ms"] += event.get("dur", 0) / 1e3
            between = re.search("HtoD|DtoH|H2D|D2H", name)
            counts["copies" if between else "kernels"] += 1
        elif "Synchronize" in name:
            counts["waits"] += 1
        elif "GraphLaunch" in name:
            counts["graph launches"] += 1
    return counts


def resnet50(size):
    """ResNet-50, batch 256, bfloat16, synthetic images."""
    network = large(size, (3, 4, 6, 3))
    batch, steps = size.large_batch, size.large_steps
    batches = on_device(network, 2 * batch, batch, steps)

    def measure(implementation):
        seconds = implementation.train_epochs(batches, 3)[1:]
        return batch * steps / statistics.median(seconds), "images/s"

    names = ["ours", "native", "stock Keras"]
    each("ResNet-50", names + GRAPHS[size is QUICK :], network, measure)


def small(size):
    """Return a network for CIFAR-10 in bfloat16."""
    network = networks.cifar(size.depth)
    return dataclasses.replace(network, precision="bfloat16")


def large(size, depths):
    """Return a network with bottlenecks in bfloat16."""
    network = networks.imagenet(50, size.image, precision="bfloat16")
    if size is QUICK:
        return dataclasses.replace(network, depths=(1,), widths=(64,))
    return dataclasses.replace(network, depths=depths)


def memory(size):
    """Peak memory of the training of ResNet-152, batch 256, bfloat16."""
    network = large(size, (3, 8, 36, 3))
    batch = size.large_batch
    batches = on_device(network, batch, batch, size.large_steps)

    def measure(implementation):
        implementation.train_epochs(batches, 1)
        if not accelerators():
            return None, "trained, and there is no GPU"
        if backend() == "torch":
            import torch

            # A CUDA graph reserves memory in which nothing is allocated later.
            reserved = torch.cuda.max_memory_reserved() / 2**30
            allocated = torch.cuda.max_memory_allocated() / 2**30
            return allocated, f"GiB, and {reserved:.4g} reserved"
        import jax

        statistics_ = jax.local_devices()[0].memory_stats()
        return statistics_["peak_bytes_in_use"] / 2**30, "GiB"

    each("ResNet-152, peak memory", ["ours"], network, measure)


def inputs(size):
    """Batches of CIFAR-10's size: from the device, and from tf.data."""
    try:
        from comparison import inputs as ways
    except ModuleNotFoundError as error:
        emit("input", None, f"left out, because tf.data: {error}")
        return
    pipelines = ways.pipelines(ways.random_split(10_000), size.batch)
    for name, batches in pipelines.items():
        seconds = min(ways.seconds(batches, size.steps) for _ in range(2))
        emit(f"input: {name}", 1e3 * seconds / size.steps, "ms per batch")


if __name__ == "__main__":
    line = origin()
    versions = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
    emit("machine", None, f"{line['device']}; {versions}; {line['commit']}")
    part, arguments = sys.argv[1], json.loads(sys.argv[2])
    size = QUICK if arguments.pop("quick") else FULL
    globals()[part](size, **arguments)
