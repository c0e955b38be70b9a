"""RandAugment, one image at a time, in tf.data.

Keras's `RandAugment` (3.15) computes all of its operations and keeps two, the
same two for a whole batch. It also ignores the seed that it is given. This
module computes only the operations that it draws.
"""

import functools
import math

import tensorflow as tf

from keras_resnet.types import Tensor

# Colour of pixels from outside the image: ImageNet's mean.
FILL = 124.0, 116.0, 104.0
PROBABILITY = 0.5
DEVIATION = 0.5
OPERATIONS = 2


def rand_augment(
    image: tf.Tensor, seed: tf.Tensor, magnitude: float
) -> tf.Tensor:
    """Draw two of fifteen operations, and apply each with probability 1/2.

    The operations are timm's "increasing" set: a larger magnitude always
    changes more. The magnitude of each operation is Gaussian around
    `magnitude`, with deviation 0.5, within 0 and 10. Pixels are float32, from
    0 to 255.

    Reference: Cubuk et al. 2019, "RandAugment"; Wightman et al. 2021, "ResNet
    strikes back" ("6 / 0.5").
    """
    magnitude = tf.constant(magnitude, tf.float32)
    for step in tf.unstack(tf.random.split(seed, OPERATIONS)):
        image = _one(image, step, magnitude)
    return image


# As a `tf.function` it is in the graph once for both operations.
@tf.function(autograph=False)
def _one(image, seed, magnitude):
    choose, how_much = tf.unstack(tf.random.split(seed, 2))
    drawn = tf.random.stateless_uniform((3,), choose)
    level = magnitude + DEVIATION * tf.random.stateless_normal((), how_much)
    level = tf.clip_by_value(level, 0, 10) / 10
    sign = tf.where(drawn[1] < 0.5, -1.0, 1.0)
    place = tf.cast(drawn[0] * len(CHANGES), tf.int32)
    changes = [functools.partial(f, image, level, sign) for f in CHANGES]
    return tf.cond(
        drawn[2] < PROBABILITY,
        lambda: tf.switch_case(place, changes),
        lambda: image,
    )


def auto_contrast(image: tf.Tensor, *_: Tensor) -> tf.Tensor:
    """Stretch each channel from 0 to 255."""
    low = tf.reduce_min(image, (0, 1))
    high = tf.reduce_max(image, (0, 1))
    scale = tf.where(high > low, 255 / (high - low), 1.0)
    return tf.where(high > low, (image - low) * scale, image)


def equalize(image: tf.Tensor, *_: Tensor) -> tf.Tensor:
    """Make the values of each channel equally frequent."""
    channels = tf.unstack(tf.cast(tf.round(image), tf.int32), axis=-1)
    return tf.stack([_equalize_channel(x) for x in channels], axis=-1)


def _equalize_channel(x):
    counts = tf.math.bincount(
        tf.reshape(x, (-1,)), minlength=256, maxlength=256
    )
    last = counts[tf.reduce_max(x)]
    step = (tf.size(x) - last) // 255
    before = tf.cumsum(counts, exclusive=True)
    table = (before + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.cast(tf.gather(table, x), tf.float32)


def invert(image: tf.Tensor, *_: Tensor) -> tf.Tensor:
    """Turn black into white."""
    return 255 - image


def rotate(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Rotate by up to 30 degrees."""
    angle = sign * level * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    shape = tf.cast(tf.shape(image)[:2] - 1, tf.float32) / 2
    y, x = shape[0], shape[1]
    return _move(
        image,
        (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y),
    )


def shear_x(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Shift rows by up to 0.3 of their distance from the top."""
    shear = sign * level * 0.3
    return _move(image, (1.0, shear, shear / 2, 0.0, 1.0, 0.0))


def shear_y(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Shift columns by up to 0.3 of their distance from the left."""
    shear = sign * level * 0.3
    return _move(image, (1.0, 0.0, 0.0, shear, 1.0, shear / 2))


def translate_x(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Shift to the side by up to 0.45 of the columns."""
    shift = sign * level * 0.45 * tf.cast(tf.shape(image)[1], tf.float32)
    return _move(image, (1.0, 0.0, shift, 0.0, 1.0, 0.0))


def translate_y(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Shift up or down by up to 0.45 of the rows."""
    shift = sign * level * 0.45 * tf.cast(tf.shape(image)[0], tf.float32)
    return _move(image, (1.0, 0.0, 0.0, 0.0, 1.0, shift))


def _move(image, places):
    """Move pixels: (x, y) gets the pixel at (ax + by + c, dx + ey + f).

    `places` is (a, b, c, d, e, f). Coordinates are those of the centres of
    pixels, from 0.
    """
    transform = tf.stack([*map(tf.convert_to_tensor, places), 0.0, 0.0])
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=(image - FILL)[None],
        transforms=transform[None],
        output_shape=tf.shape(image)[:2],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return moved[0] + FILL


def posterize(image: tf.Tensor, level: Tensor, *_: Tensor) -> tf.Tensor:
    """Keep 4 to 0 bits of each value."""
    lost = 2.0 ** (4 + tf.floor(level * 4))
    return tf.floor(image / lost) * lost


def solarize(image: tf.Tensor, level: Tensor, *_: Tensor) -> tf.Tensor:
    """Invert the brightest values."""
    threshold = 256 - tf.floor(level * 256)
    return tf.where(image < threshold, image, 255 - image)


def solarize_add(image: tf.Tensor, level: Tensor, *_: Tensor) -> tf.Tensor:
    """Add up to 110 to values below 128."""
    added = tf.minimum(image + tf.floor(level * 110), 255.0)
    return tf.where(image < 128, added, image)


def color(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Weaken or strengthen colours."""
    return _blend(tf.image.rgb_to_grayscale(image), image, level, sign)


def contrast(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Move values towards the mean grey or away from it."""
    grey = tf.reduce_mean(tf.image.rgb_to_grayscale(image))
    return _blend(grey, image, level, sign)


def brightness(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Darken or brighten."""
    return _blend(0.0, image, level, sign)


def sharpness(image: tf.Tensor, level: Tensor, sign: Tensor) -> tf.Tensor:
    """Smooth or sharpen."""
    weights = tf.constant([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    kernel = tf.tile(weights[:, :, None, None], (1, 1, 3, 1))
    inside = tf.nn.depthwise_conv2d(image[None], kernel, (1, 1, 1, 1), "VALID")
    edge = ((0, 0), (1, 1), (1, 1), (0, 0))
    smooth = tf.pad(inside, edge)[0]
    within = tf.pad(tf.ones_like(inside), edge)[0] > 0
    return _blend(tf.where(within, smooth, image), image, level, sign)


def _blend(other, image, level, sign):
    """Blend: factor 0 gives `other`, 1 gives `image`, more goes beyond."""
    factor = tf.maximum(1 + sign * level * 0.9, 0.1)
    return tf.clip_by_value(other + factor * (image - other), 0.0, 255.0)


CHANGES = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    solarize_add,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
)
