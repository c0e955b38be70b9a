"""Jobs that train on a small dataset in memory, and checks of its size."""

import math
import os

import keras

from keras_resnet import data as data_
from keras_resnet.backend import accelerators

from .command import UsageError
from .job import Job
from .terminal import EvaluationBar
from .training import first_alone


def load(settings, devices):
    """Return the `keras_resnet.data.ImageData` that settings ask for."""
    return first_alone(
        devices, lambda: data_.load(settings.dataset, settings.data_dir)
    )


def memory():
    """Return the bytes of this machine's memory, `2**60` if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return 2**60


def check_batch(batch_size, shape, images=math.inf, processes=1):
    """Raise `UsageError` for a batch that is too large to train on.

    A batch has at most all images of an epoch. Its images, of this shape, must
    fit into the memory of the processes that share the batch.
    """
    each = 4 * math.prod(shape)
    fitting = memory() // each * processes
    if batch_size <= min(images, fitting):
        return
    size = "x".join(map(str, shape))
    if fitting < 1:
        raise UsageError(
            f"an image of {size} takes {each:,} bytes, and this machine has "
            f"{memory():,}: take a smaller --image-size or --test-size"
        )
    reason = (
        f"an epoch has {images:,} images"
        if images < fitting
        else f"more images of {size} do not fit into this machine's memory"
    )
    raise UsageError(
        f"argument --batch-size: {batch_size:,} is too large, because {reason}"
        f": take at most {min(images, fitting):,}"
    )


def check_scales(scales):
    """Raise `UsageError` for image sides that do not fit into the memory."""
    largest = math.isqrt(memory() // 12)
    too_large = [side for side in scales if side > largest]
    if too_large:
        raise UsageError(
            f"argument --scales: {too_large[0]:,} is too large for the memory "
            f"of this machine: take at most {largest:,}"
        )


def steps_per_epoch(images, batch_size):
    """Return the steps of an epoch, about one pass over all images."""
    return max(1, round(images / batch_size))


def steps_in_all(settings, images):
    """Return the steps of a run by its settings `steps` or `epochs`."""
    if settings.steps:
        return settings.steps
    return settings.epochs * steps_per_epoch(images, settings.batch_size)


def batches_by(input):
    """Return the name of the input, by `--input` or for this machine."""
    backend = keras.backend.backend()
    if input == "device" and backend == "tensorflow":
        raise UsageError(
            "argument --input: TensorFlow takes batches only from tf.data; "
            "leave out --input device, or set KERAS_BACKEND to jax or torch"
        )
    if input != "auto":
        return input
    on_device = backend != "tensorflow" and accelerators()
    return "device" if on_device else "tf.data"


def job(settings, data, devices, build, *, steps, mean=None, **more):
    """Return the `Job` of training on a dataset in memory.

    Args:
        settings: `RunSettings` and `ImageSettings` with fields `batch_size`
            and `seed`.
        data: `keras_resnet.data.ImageData`. If its `validation` is `None`,
            nothing is evaluated, and no best model is kept.
        devices: `keras_resnet.devices.Devices`.
        build: Callable that returns the compiled model of a new run. It takes
            raw pixels, and has the metric "accuracy".
        steps: Integer, number of all steps.
        mean: Array of the shape of an image, the mean of each pixel that the
            model subtracts: the colours of padding. Defaults to the mean of
            the training images.
        **more: Other attributes of the `Job`, such as `report`, which
            defaults to `test` on the test images.
    """
    devices.check_batch(settings.batch_size)
    check_batch(
        settings.batch_size,
        data.train.images.shape[1:],
        len(data.train),
        devices.processes,
    )
    name = batches_by(settings.input)
    source = data_.INPUTS[name]
    validation = None
    if data.validation is not None:
        validation = source.evaluation_batches(
            data.validation,
            shard=devices.shard,
            pad_to_multiple_of=devices.pad_to_multiple_of,
        )

    def batches(start):
        return source.training_batches(
            data.train,
            settings.batch_size,
            mean=data.mean if mean is None else mean,
            padding=settings.padding,
            horizontal_flip=settings.horizontal_flip,
            seed=settings.seed,
            start=start,
            shard=devices.shard,
        )

    usual = {
        "report": lambda model, run: (
            {"input": name} | test(model, data.test, devices)
        ),
        "every": settings.every,
        "steps_per_execution": settings.steps_per_execution,
        "label": settings.label,
        "plain": settings.plain,
        "title": settings.caption(settings.seed),
    }
    return Job(
        build=build,
        batches=batches,
        steps=steps,
        steps_per_epoch=steps_per_epoch(len(data.train), settings.batch_size),
        batch_size=settings.batch_size,
        validation=validation,
        **usual | more,
    )


def evaluate(model, batches, devices, title):
    """Return the loss and the metrics of a model, behind a progress bar."""
    with devices.scope():
        return model.evaluate(
            batches,
            return_dict=True,
            verbose=0,
            callbacks=[EvaluationBar(title, show=devices.is_first)],
        )


def test(model, split, devices):
    """Return `test_error`, `test_loss` and `test_images` of a model."""
    batches = data_.evaluation_batches(
        split,
        shard=devices.shard,
        pad_to_multiple_of=devices.pad_to_multiple_of,
    )
    logs = evaluate(model, batches, devices, "testing")
    return {
        "test_error": round(1 - logs["accuracy"], 4),
        "test_loss": round(logs["loss"], 4),
        "test_images": len(split),
    }
