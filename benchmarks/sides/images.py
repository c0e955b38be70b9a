"""Other ways from JPEG files to the batches of a training."""

import concurrent.futures
import math
import random
from pathlib import Path

import numpy as np
from compare import cores


def make(folder, n=64, rows=375, columns=500):
    """Writes pictures of ImageNet's usual size, and returns the folder."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    path = Path(folder) / "pictures"
    path.mkdir()
    y, x = np.mgrid[:rows, :columns][..., None] / 60
    for i in range(n):
        a, b, c = rng.uniform(0.3, 2, (3, 1, 1, 3))
        image = 128 + 60 * np.sin(a * y + b * x + c)
        image += rng.normal(0, 12, image.shape)
        image = image.clip(0, 255).astype("uint8")
        contents = tf.io.encode_jpeg(image, quality=90).numpy()
        (path / f"{i}.JPEG").write_bytes(contents)
    return folder


def plain(paths, batch_size, size, box):
    """tf.data as most tutorials have it: the whole image, then a part."""
    import tensorflow as tf

    def prepared(path):
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
            part = tf.slice(image, begin, extent)
            part = tf.image.resize(part, (size, size), antialias=True)
        else:
            shape = tf.shape(image)[:2]
            side = tf.random.uniform((), 256, 481, tf.int32)
            whole = side * shape // tf.reduce_min(shape)
            image = tf.image.resize(image, whole, antialias=True)
            part = tf.image.random_crop(image, (size, size, 3))
        part = tf.ensure_shape(part, (size, size, 3))
        return tf.image.random_flip_left_right(part)

    return (
        tf.data.Dataset.from_tensor_slices(list(map(str, paths)))
        .shuffle(len(paths))
        .repeat()
        .map(prepared, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )


def pillow(paths, batch_size, size, box):
    """Pillow as torchvision uses it, on a thread for each core."""
    with concurrent.futures.ThreadPoolExecutor(len(cores())) as pool:
        while True:
            chosen = random.choices(paths, k=batch_size)
            images = pool.map(lambda path: _prepared(path, size, box), chosen)
            yield np.stack(list(images))


def _prepared(path, size, box):
    from PIL import Image

    bilinear = Image.Resampling.BILINEAR
    with Image.open(path) as file:
        image = file.convert("RGB")
    if box == "inception":
        place = _inception_box(*image.size)
        image = image.crop(place).resize((size, size), bilinear)
    else:
        side = random.randint(256, 480)
        shorter = min(image.size)
        whole = [n * side // shorter for n in image.size]
        image = image.resize(whole, bilinear)
        left, top = (random.randint(0, n - size) for n in image.size)
        image = image.crop((left, top, left + size, top + size))
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
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
