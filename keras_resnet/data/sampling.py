"""Boxes, flips, colours and mixtures: ImageNet's augmentation, in tf.data.

Each function takes a seed of two integers and gives the same result for the
same seed, so that an augmented image is a function of its place in the order.
"""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_resnet.data.randaugment import rand_augment

# The paper draws the shorter side from this range and then crops 224 x 224.
SHORTER_SIDES = 256, 480
PAPER_CROP = 224
# The principal components of the RGB values, 0 to 1, of ImageNet's training
# images, as published with fb.resnet.torch (datasets/imagenet.lua): the
# eigenvalues, and the eigenvectors as columns.
EIGENVALUES = 0.2175, 0.0188, 0.0045
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)
COLOR_DEVIATION = 0.1


def paper_box(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw the part of an image that the paper crops.

    The paper resizes an image to a shorter side drawn from [256, 480] and
    crops 224 x 224 anywhere. This function returns that crop in pixels of the
    original image, rounded to whole ones, so that only the crop must be
    decoded and resized. For networks of other sizes it is the same share of
    the image.

    `size` has rows and columns, `(2,)` int32. The result is first row, first
    column, rows, columns, `(4,)` int32.

    Reference: He et al. 2015, section 3.4.
    """
    drawn = tf.random.stateless_uniform((3,), seed)
    low, high = SHORTER_SIDES
    # Every integer is equally likely.
    shorter = low + tf.floor(drawn[0] * (high - low + 1))
    shortest = tf.cast(tf.reduce_min(size), tf.float32)
    side = tf.cast(tf.round(shortest * PAPER_CROP / shorter), tf.int32)
    side = tf.maximum(side, 1)
    room = tf.cast(size - side + 1, tf.float32)
    corner = tf.cast(tf.floor(drawn[1:] * room), tf.int32)
    # Rounding may turn a number just below 1, times `room`, into `room`.
    corner = tf.minimum(corner, size - side)
    return tf.concat([corner, [side, side]], 0)


def inception_box(size: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw 8 to 100 % of an image's area, with proportions from 3:4 to 4:3.

    If ten attempts do not fit into the image, the result is the whole image.

    Args and returns: see `paper_box`.

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [3]], 0),
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(0.08, 1.0),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], 0)


BOXES = {"paper": paper_box, "inception": inception_box}


def color_shift(seed: tf.Tensor) -> tf.Tensor:
    """Draw the RGB value that the paper adds to all pixels of an image.

    It is the sum of the principal components of ImageNet's colours, each
    times its eigenvalue and a Gaussian number with deviation 0.1, for pixels
    of 0 to 255.

    Reference: Krizhevsky et al. 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 4.1.
    """
    drawn = tf.random.stateless_normal((3,), seed, stddev=COLOR_DEVIATION)
    return 255 * tf.linalg.matvec(
        tf.constant(EIGENVECTORS), drawn * tf.constant(EIGENVALUES)
    )


def augmented(
    image: tf.Tensor,
    for_flip: tf.Tensor,
    for_augment: tf.Tensor,
    for_color: tf.Tensor,
    magnitude: float | None,
    color: bool,
) -> tf.Tensor:
    """Flip an image at random, and change it further if asked.

    Each change has its own seed. See `imagenet.training_batches` for the rest.
    """
    flipped = tf.random.stateless_uniform((), for_flip) < 0.5
    # A slice with a negative stride takes several times as long.
    image = tf.cond(flipped, lambda: tf.reverse(image, [1]), lambda: image)
    if magnitude is not None:
        image = rand_augment(image, for_augment, magnitude)
    if color:
        image += color_shift(for_color)
    return image


class _Seeds(keras.random.SeedGenerator):
    """Seed generator for Keras's layers that counts from a given seed.

    Keras's own generator has a state, which tf.data keeps in the process: a
    resumed training would draw other seeds.
    """

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed
        self._drawn = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._drawn += 1
        seed = tf.random.fold_in(self._seed, self._drawn)
        return tf.bitcast(tf.cast(seed, tf.int32), tf.int32)


def mixer(
    mixup: float = 0.0, cutmix: float = 0.0
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return a function that mixes the images of a batch with each other.

    Keras's `MixUp` or `CutMix` mixes them and their labels. If both are asked
    for, each batch gets one of them at random. Call `mixer` outside tf.data,
    because on TensorFlow Keras's layers cannot make their variables inside.

    Args:
        mixup: Float, images are mixed in shares from Beta(mixup, mixup).
            Defaults to `0`, no mixup.
        cutmix: Float, areas are cut in shares from Beta(cutmix, cutmix).
            Defaults to `0`, no cutmix. At least one must be above 0.

    Returns:
        A function from images, `(batch, rows, columns, channels)` float32 of
        known rows and columns, labels, `(batch, classes)` float32, and a
        seed, `(2,)` int64, to images and labels.

    Reference: Zhang et al. 2017, "mixup"; Yun et al. 2019, "CutMix".
    """
    # In float32 always, as the images are: under a policy of bfloat16 the
    # layers would draw in bfloat16, which Keras's own sampling refuses.
    options = {"data_format": "channels_last", "dtype": "float32"}
    layers = []
    if mixup:
        layers.append(keras.layers.MixUp(mixup, **options))
    if cutmix:
        # Two equal numbers, because Keras draws the parameter from a range.
        layers.append(keras.layers.CutMix((cutmix, cutmix), **options))

    def mix(images, labels, seed):
        for_choice, for_layer = tf.unstack(tf.random.split(seed, 2))
        choices = [
            functools.partial(_apply, layer, images, labels, for_layer)
            for layer in layers
        ]
        if len(choices) == 1:
            return choices[0]()
        return tf.cond(
            tf.random.stateless_uniform((), for_choice) < 0.5, *choices
        )

    return mix


def _apply(
    layer: Any, images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    layer.backend.set_backend("tensorflow")
    try:
        drawn = layer.get_random_transformation(
            {"images": images, "labels": labels},
            training=True,
            seed=_Seeds(seed),
        )
        return (
            layer.transform_images(images, drawn, training=True),
            layer.transform_labels(labels, drawn, training=True),
        )
    finally:
        layer.backend.reset()
