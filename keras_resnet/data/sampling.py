"""Boxes, flips, colours and mixtures: ImageNet's augmentation, in tf.data.

Each function takes a seed, two integers, and gives the same for the same
seed: what an image of a training looks like is a function of its place.
"""

import functools

import keras
import tensorflow as tf

from keras_resnet.data.randaugment import rand_augment

# Shorter sides between which the paper draws, and the crop they are for.
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


def paper_box(size, seed):
    """Draw the part of an image that the paper crops.

    The paper resizes an image to a shorter side drawn from [256, 480] and
    crops 224 x 224 anywhere. This function returns that crop in the pixels of
    the original image, rounded to whole ones, so that nothing else must be
    decoded or resized. For networks of other sizes it is the same share of the
    image.

    Args:
        size: `(2,)` int32 tensor, rows and columns.
        seed: `(2,)` int64 tensor.

    Returns:
        `(4,)` int32 tensor: first row, first column, rows, columns.

    Reference: He et al. 2015, section 3.4.
    """
    drawn = tf.random.stateless_uniform((3,), seed)
    low, high = SHORTER_SIDES
    # Whole numbers, each as likely.
    shorter = low + tf.floor(drawn[0] * (high - low + 1))
    shortest = tf.cast(tf.reduce_min(size), tf.float32)
    side = tf.cast(tf.round(shortest * PAPER_CROP / shorter), tf.int32)
    side = tf.maximum(side, 1)
    room = tf.cast(size - side + 1, tf.float32)
    corner = tf.cast(tf.floor(drawn[1:] * room), tf.int32)
    # A number just below one, times the room, may be rounded up to it.
    corner = tf.minimum(corner, size - side)
    return tf.concat([corner, [side, side]], 0)


def inception_box(size, seed, area=(0.08, 1.0)):
    """Draw a part of an image by area and proportions.

    Any share of the area between `area`, at proportions from 3:4 to 4:3; the
    whole image where ten attempts do not fit into it.

    Args and returns: see `paper_box`.

    Reference: Szegedy et al. 2014, "Going Deeper with Convolutions".
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([size, [3]], 0),
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=area,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], extent[:2]], 0)


BOXES = {"paper": paper_box, "inception": inception_box}


def color_shift(seed):
    """Draw what the paper adds to all pixels of an image, 0 to 255.

    Along each principal component of ImageNet's colours, its eigenvalue times
    a Gaussian number with deviation 0.1.

    Args:
        seed: `(2,)` int64 tensor.

    Returns:
        `(3,)` float32 tensor: red, green, blue.

    Reference: Krizhevsky et al. 2012, "ImageNet Classification with Deep
    Convolutional Neural Networks", section 4.1.
    """
    drawn = tf.random.stateless_normal((3,), seed, stddev=COLOR_DEVIATION)
    return 255 * tf.linalg.matvec(
        tf.constant(EIGENVECTORS), drawn * tf.constant(EIGENVALUES)
    )


def augmented(
    image, for_flip, for_augment, for_color, *, magnitude=None, color=False
):
    """Flips an image or not, and changes it further as asked.

    Args:
        image: `(rows, columns, 3)` float32 tensor, 0 to 255.
        for_flip: `(2,)` int64 tensor, a seed.
        for_augment: The same.
        for_color: The same.
        magnitude: Number from 0 to 10, of `rand_augment`. Defaults to `None`,
            none of it.
        color: Boolean, whether to add a `color_shift`. Defaults to `False`.

    Returns:
        What `image` is.
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
    """Seeds for Keras's layers that count from a seed instead of a state.

    Layers of Keras take a generator, whose state in tf.data is that of the
    process: a resumed training would draw others.
    """

    def __init__(self, seed):
        self._seed = seed
        self._drawn = 0

    def next(self, ordered=True):
        self._drawn += 1
        seed = tf.random.fold_in(self._seed, self._drawn)
        return tf.bitcast(tf.cast(seed, tf.int32), tf.int32)


def mixer(mixup=0.0, cutmix=0.0):
    """Return a function that mixes the images of a batch with each other.

    By Keras's `MixUp` or `CutMix`, each time one of them if both are asked
    for. Labels are mixed likewise. Must be called outside tf.data, where
    Keras's layers cannot make their variables on TensorFlow.

    Args:
        mixup: Float, shares are drawn from Beta(mixup, mixup). Defaults to
            `0`, no mixup.
        cutmix: Float, areas likewise. Defaults to `0`, no cutmix.

    Returns:
        A function from images, `(batch, rows, columns, channels)` float32 of
        known rows and columns, labels, `(batch, classes)` float32, and a
        seed, `(2,)` int64, to images and labels.

    Reference: Zhang et al. 2017, "mixup"; Yun et al. 2019, "CutMix".
    """
    layers = []
    if mixup:
        layers.append(keras.layers.MixUp(mixup, data_format="channels_last"))
    if cutmix:
        # From one number to the same: the parameter itself is not drawn.
        layers.append(
            keras.layers.CutMix((cutmix, cutmix), data_format="channels_last")
        )

    def mix(images, labels, seed):
        for_choice, for_layer = tf.unstack(tf.random.split(seed, 2))
        choices = [
            functools.partial(_apply, layer, images, labels, for_layer)
            for layer in layers
        ]
        if len(choices) < 2:
            return choices[0]() if choices else (images, labels)
        return tf.cond(
            tf.random.stateless_uniform((), for_choice) < 0.5, *choices
        )

    return mix


def _apply(layer, images, labels, seed):
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
