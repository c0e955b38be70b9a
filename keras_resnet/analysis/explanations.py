"""Explanations: the parts of an image that a class's score depends on."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.analysis import network
from keras_resnet.types import Numbers, Progress, Tensor

BATCH_SIZE = 32
# Shares of an image's pixels in a deletion curve.
SHARES = tuple(i / 10 for i in range(11))


class _Scores:
    """The score of a class, and its gradient by the outputs of a layer.

    The score is the logit, because the gradient of a probability vanishes if
    the network is sure.

    Args:
        model: A classifier of this package.
        layer: String, name of the layer. Defaults to `None`: the gradient is
            by the image.
    """

    def __init__(self, model: keras.Model, layer: str | None = None) -> None:
        layers = network.chain(model)
        # A quantized kernel lacks its scales, and has no gradient.
        network.check_weights(model, lora=True)
        if not isinstance(layers[-1], keras.layers.Dense):
            raise ValueError(
                "An explanation needs a classifier: a network that ends in a "
                f"dense layer. Received: {layers[-1].name!r} as the last layer "
                f"of {model.name!r}"
            )
        names = [x.name for x in layers]
        if layer is not None and layer not in names[:-1]:
            raise ValueError(
                f"`layer` must be one of {', '.join(names[:-1])}. "
                f"Received: layer={layer!r}"
            )
        after = names.index(layer) + 1 if layer else 0
        self.below, self.above = layers[:after], layers[after:]
        self._values = network.values_of(model)
        self._forward = network.compiled(
            model, lambda x: _outputs(self.below, x)
        )
        self._scores = network.compiled(model, self._above)
        stateless = network.pure(
            model, lambda x, chosen: ops.sum(self._above(x) * chosen)
        )
        self._gradient = backend.value_and_gradients(
            lambda x, values, chosen: stateless(values, x[0], chosen)
        )

    def _above(self, x):
        *layers, head = self.above
        x = ops.cast(_outputs(layers, x), "float32")
        x = ops.matmul(x, ops.cast(head.kernel, "float32"))
        return x + ops.cast(head.bias, "float32") if head.use_bias else x

    def outputs(self, images: np.ndarray) -> np.ndarray:
        """Return the layer's outputs for some images."""
        if not self.below:
            return images
        return self._forward(images, values=self._values)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the scores of all classes, given the layer's outputs."""
        return self._scores(x, values=self._values)

    def gradient(self, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Return the gradient of a class's score for each image."""
        count = self.above[-1].units
        chosen = np.eye(count, dtype="float32")[classes]
        _, (gradient,) = self._gradient(
            [ops.convert_to_tensor(x)],
            self._values,
            ops.convert_to_tensor(chosen),
        )
        return ops.convert_to_numpy(gradient)


def _outputs(layers: list[keras.Layer], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x, training=False)
    return x


def _last_feature_map(model: keras.Model) -> str:
    """Return the name of the last layer whose output has rows and columns."""
    shape, name = model.inputs[0].shape, None
    for layer in network.chain(model):
        shape = layer.compute_output_shape(shape)
        if len(shape) == 4:
            name = layer.name
    return name


def _channels(model: keras.Model) -> int:
    """Return the axis of the channels of a model's images."""
    return backend.channel_axis(network.blocks(model)[0].data_format)


def _batches(model, scores, images, classes, batch_size, progress):
    """Yield batches of images, the layer's outputs, and their classes."""
    if classes is not None and len(classes) != len(images):
        raise ValueError(
            "`classes` must have a class for each image. Received: "
            f"{len(classes)} classes, {len(images)} images"
        )
    count = scores.above[-1].units
    for chosen in () if classes is None else classes:
        if not 0 <= chosen < count:
            raise ValueError(
                f"`classes` must be from 0 to {count - 1}, the classes of "
                f"{model.name!r}. Received: {chosen}"
            )
    batches = network.batches(images, batch_size=batch_size)
    start = 0
    for (batch,) in progress(list(batches)):
        outputs = scores.outputs(batch)
        part = slice(start, start + len(batch))
        start += len(batch)
        if classes is None:
            chosen = scores(outputs).argmax(axis=-1)
        else:
            chosen = np.asarray(classes, "int32")[part]
        yield batch, outputs, chosen


def grad_cam(
    model: keras.Model,
    images: np.ndarray,
    classes: Numbers | None = None,
    layer: str | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress = iter,
) -> np.ndarray:
    """Return for each image a map of the places that support a class.

    A map is the sum of the channels of a layer, each weighted by the mean
    gradient of the class's score. Negative values are set to zero, and
    bilinear interpolation enlarges the map to the image. Maps are in units of
    the score; divide one by its maximum to compare places.

    Args:
        model: A classifier of this package; also with layers that prepare
            images, within another model, or with a head of your own that ends
            in a dense layer.
        images: `(n, rows, columns, channels)` array of what the model takes,
            `(n, channels, rows, columns)` for a model that is channels-first.
        classes: `(n,)` integers, the class to explain for each image.
            Defaults to the class with the highest score.
        layer: String, name of the layer to look at, such as
            `"stage3_block6"`. Defaults to the last one with rows and columns.
        batch_size: Integer, images at a time. Defaults to `32`.
        progress: Function that wraps the list of batches, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.

    Returns:
        `(n, rows, columns)` float32 array, zero or positive.

    Raises:
        ValueError: If the model is not a classifier of this package, is
            quantized, or has no such layer or class.

    Reference: Selvaraju et al. 2017, "Grad-CAM", section 3.
    """
    axis = _channels(model)
    scores = _Scores(model, layer or _last_feature_map(model))
    maps = []
    for batch, outputs, chosen in _batches(
        model, scores, images, classes, batch_size, progress
    ):
        if outputs.ndim != 4:
            raise ValueError(
                f"`layer` must have rows and columns. Received: layer={layer!r}"
            )
        gradient = scores.gradient(outputs, chosen)
        # NumPy would sum in half precision.
        outputs, gradient, image = (
            np.moveaxis(x, axis, -1).astype("float32")
            for x in (outputs, gradient, batch)
        )
        weights = gradient.mean(axis=(1, 2), keepdims=True)
        small = np.maximum((outputs * weights).sum(axis=-1, keepdims=True), 0)
        large = ops.image.resize(
            ops.convert_to_tensor(small),
            image.shape[1:3],
            data_format="channels_last",
        )
        maps.append(ops.convert_to_numpy(large)[..., 0])
    return np.concatenate(maps)


def integrated_gradients(
    model: keras.Model,
    images: np.ndarray,
    classes: Numbers | None = None,
    baseline: float | np.ndarray = 0.0,
    points: int = 32,
    batch_size: int = BATCH_SIZE,
    progress: Progress = iter,
) -> np.ndarray:
    """Return how much each value of an image adds to the score of a class.

    The gradient of the score is integrated along the line from a baseline to
    the image, by Gauss-Legendre quadrature, and multiplied by their
    difference. The attributions of an image add up to the score of the image
    minus that of the baseline, as far as the points resolve the line.

    Args:
        model: See `grad_cam`.
        images: See `grad_cam`.
        classes: See `grad_cam`.
        baseline: Number or array that can be broadcast to an image, in the
            units of the images: an image without the object to explain.
            Defaults to `0.0`, which is the mean image if images are normalized
            before the model, and black if the model takes raw pixels.
        points: Integer, points on the line. Defaults to `32`.
        batch_size: Integer, images at a time. Defaults to `32`.
        progress: See `grad_cam`.

    Returns:
        float32 array of the shape of `images`.

    Raises:
        ValueError: If the model is not a classifier of this package, is
            quantized, or has no such class.

    Reference: Sundararajan et al. 2017, "Axiomatic Attribution for Deep
    Networks", section 3.
    """
    network.at_least_one("points", points)
    scores = _Scores(model)
    places, weights = np.polynomial.legendre.leggauss(points)
    places, weights = (places + 1) / 2, weights / 2  # from [-1, 1] to [0, 1]
    results = []
    for batch, _, chosen in _batches(
        model, scores, images, classes, batch_size, progress
    ):
        difference = batch - np.asarray(baseline, "float32")
        total = np.zeros_like(batch, "float64")
        for place, weight in zip(places, weights, strict=True):
            x = (batch - (1 - place) * difference).astype("float32")
            total += weight * scores.gradient(x, chosen)
        results.append((total * difference).astype("float32"))
    return np.concatenate(results)


def deletion_curve(
    model: keras.Model,
    images: np.ndarray,
    maps: np.ndarray,
    classes: Numbers,
    shares: Numbers = SHARES,
    fill: float | np.ndarray = 0.0,
    batch_size: int = BATCH_SIZE,
    progress: Progress = iter,
) -> np.ndarray:
    """Return a class's probability as its most important pixels are removed.

    With a map that finds the important pixels the probability falls early.
    Compare the curve with that of a random map.

    Args:
        model: See `grad_cam`.
        images: See `grad_cam`.
        maps: `(n, rows, columns)` array, the importance of each pixel, such
            as that of `grad_cam`.
        classes: `(n,)` integers, the class of each image.
        shares: Numbers from 0 to 1, the shares of the pixels that are
            replaced. Defaults to 0, 0.1, ... 1.
        fill: Number or array that can be broadcast to an image, the values
            that replace pixels. Defaults to `0.0`.
        batch_size: Integer, images at a time. Defaults to `32`.
        progress: See `grad_cam`.

    Returns:
        `(n, len(shares))` float32 array of probabilities.

    Raises:
        ValueError: If the model is not a classifier of this package, is
            quantized, or has no such class.

    Reference: Petsiuk et al. 2018, "RISE", section 4.3.
    """
    axis = _channels(model)
    scores = _Scores(model)
    softmax: Callable = keras.activations.softmax
    curves, start = [], 0
    for batch, _, chosen in _batches(
        model, scores, images, classes, batch_size, progress
    ):
        part = maps[start : start + len(batch)].reshape(len(batch), -1)
        start += len(batch)
        # Rank 0 is the most important pixel of an image.
        rank = (-part).argsort(axis=1, kind="stable").argsort(axis=1)
        rank = rank.reshape(len(batch), *maps.shape[1:])
        rank = np.expand_dims(rank, axis)
        filling = np.asarray(fill, "float32")
        curve = []
        for share in shares:
            gone = rank < round(share * part.shape[1])
            x = np.where(gone, filling, batch).astype("float32")
            probabilities = softmax(ops.convert_to_tensor(scores(x)))
            probabilities = ops.convert_to_numpy(probabilities)
            curve.append(probabilities[np.arange(len(batch)), chosen])
        curves.append(np.stack(curve, axis=1))
    return np.concatenate(curves)
