"""Ways from images in memory, or from JPEG files, to the batches of a fit."""

import concurrent.futures
import functools
import itertools
import math
import random
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_resnet
from comparison import cores
from keras_resnet import data


def seconds(batches, steps):
    """Return the seconds that so many batches take, after the first one.

    Each call makes a new iterator. One that had been kept would have fetched
    batches in advance while others were timed, and would have slowed them.
    """
    iterator = iter(batches)
    next(iterator)
    begin = time.perf_counter()
    for batch in itertools.islice(iterator, steps):
        if hasattr(batch[0], "block_until_ready"):
            batch[0].block_until_ready()
    return time.perf_counter() - begin


# Images in memory.


def random_split(n, size=32):
    """Return random uint8 images and labels, like those of CIFAR-10."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, size, size, 3), dtype="uint8")
    return data.Split(images, rng.integers(0, 10, n))


def augmentation(split):
    """Return arguments for the batches that the paper trains on."""
    mean = split.images.mean(axis=0, dtype="float64").astype("float32")
    return {"mean": mean, "padding": 4, "horizontal_flip": True}


def pipelines(split, batch_size=128):
    """Return datasets of training batches by the name of who makes them."""
    arguments = augmentation(split)
    datasets = {
        "ours": data.pipeline.training_batches(split, batch_size, **arguments),
        "tf.data per image": by_image(split, batch_size, arguments["mean"]),
    }
    if keras.backend.backend() != "tensorflow":
        datasets["ours, on the device"] = data.resident.training_batches(
            split, batch_size, **arguments
        )
    return datasets


def by_image(split, batch_size, mean, padding=4):
    """Return the pipeline of most tutorials, which augments each image."""
    padded = split.images.shape[1] + 2 * padding
    mean = tf.constant(mean)

    def augment(image, label):
        image = tf.cast(image, tf.float32) - mean
        image = tf.image.resize_with_crop_or_pad(image, padded, padded)
        image = tf.image.random_crop(image, mean.shape)
        return tf.image.random_flip_left_right(image) + mean, label

    return _usual((split.images, split.labels), augment, batch_size)


def _usual(tensors, prepare, batch_size):
    """Return batches by tf.data, as tutorials write it."""
    dataset = tf.data.Dataset.from_tensor_slices(tensors)
    return (
        dataset.shuffle(len(dataset))
        .repeat()
        .map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


class Stopwatch(keras.callbacks.Callback):
    """Times an epoch from the end of its first step to its own end.

    The first step waits for the pipeline to start, which happens once in a
    training of hours.
    """

    def on_train_batch_end(self, step, logs=None):
        if step == 0:
            float(logs["loss"])
            self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self.begin


def fits(batch_size, steps):
    """Return functions that `fit` ResNet-20 and return the seconds."""
    split = random_split(10_000)
    batches = data.training_batches(split, batch_size, **augmentation(split))
    one = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    model = keras_resnet.ResNet20(classifier_activation=None)
    model.compile(
        keras_resnet.training.CoupledSGD(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )

    def fit(dataset):
        watch = Stopwatch()
        model.fit(
            dataset,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=[watch],
        )
        return watch.seconds

    return {
        "ours": functools.partial(fit, batches),
        "resident batch": functools.partial(fit, one),
    }


# Images in files.


def make_pictures(folder, n=64, rows=375, columns=500):
    """Write pictures of ImageNet's usual size, and return the folder."""
    rng = np.random.default_rng(0)
    (Path(folder) / "pictures").mkdir()
    y, x = np.mgrid[:rows, :columns][..., None] / 60
    for i in range(n):
        a, b, c = rng.uniform(0.3, 2, (3, 1, 1, 3))
        image = 128 + 60 * np.sin(a * y + b * x + c)
        image += rng.normal(0, 12, image.shape)
        image = image.clip(0, 255).astype("uint8")
        contents = tf.io.encode_jpeg(image, quality=90).numpy()
        Path(folder, "pictures", f"{i}.JPEG").write_bytes(contents)
    return folder


def decoders(folder, batch_size, size, box):
    """Return functions that make batches, whose first item is the images.

    `box` is how the part of an image is drawn, `"inception"` or `"paper"`.
    """
    source = data.Folder(folder)
    others = list(map(str, source.paths)), batch_size, size, box
    return {
        "ours": lambda: data.imagenet.training_batches(
            source, batch_size, image_size=size, box=box
        ),
        "tf.data": lambda: tf_data_batches(*others),
        "Pillow": lambda: pillow_batches(*others),
    }


def tf_data_batches(paths, batch_size, size, box):
    """Return batches as most tutorials make them, which decode whole images."""

    def prepare(path):
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        if box == "inception":
            begin, extent, _ = tf.image.sample_distorted_bounding_box(
                tf.shape(image),
                tf.zeros((1, 0, 4)),
                aspect_ratio_range=(3 / 4, 4 / 3),
                area_range=(0.08, 1.0),
                max_attempts=10,
                use_image_if_no_bounding_boxes=True,
            )
            image = tf.slice(image, begin, extent)
            image = tf.image.resize(image, (size, size), antialias=True)
        else:
            shape = tf.shape(image)[:2]
            shorter = tf.random.uniform((), 256, 481, tf.int32)
            shape = shorter * shape // tf.reduce_min(shape)
            image = tf.image.resize(image, shape, antialias=True)
            image = tf.image.random_crop(image, (size, size, 3))
        image = tf.ensure_shape(image, (size, size, 3))
        return (tf.image.random_flip_left_right(image),)

    return _usual(paths, prepare, batch_size)


def pillow_batches(paths, batch_size, size, box):
    """Yield batches by Pillow as torchvision uses it, on a thread per core."""
    threads = len(cores.available())
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            chosen = random.choices(paths, k=batch_size)
            images = pool.map(lambda path: _by_pillow(path, size, box), chosen)
            yield (np.stack(list(images)),)


def _by_pillow(path, size, box):
    from PIL import Image, ImageOps

    bilinear = Image.Resampling.BILINEAR
    with Image.open(path) as file:
        image = file.convert("RGB")
    if box == "inception":
        place = _inception_box(*image.size)
        image = image.crop(place).resize((size, size), bilinear)
    else:
        shorter = random.randint(256, 480)
        shape = [n * shorter // min(image.size) for n in image.size]
        image = image.resize(shape, bilinear)
        left, top = (random.randint(0, n - size) for n in image.size)
        image = image.crop((left, top, left + size, top + size))
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    return np.asarray(image, "float32")


def _inception_box(width, height):
    """Left, upper, right, lower, as torchvision's RandomResizedCrop."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w = round(math.sqrt(area * ratio))
        h = round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = random.randint(0, width - w)
            top = random.randint(0, height - h)
            return left, top, left + w, top + h
    return 0, 0, width, height
