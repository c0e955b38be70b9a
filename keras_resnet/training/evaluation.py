"""Evaluation as in the paper: one crop, 10-crop, fully convolutional.

`one_crop`, `ten_crop` and `multi_scale` each return a function for `evaluate`:
from a list of images, of any sizes, to their probabilities.
"""

import collections
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_resnet import preprocessing as images_before
from keras_resnet.types import Tensor

# A function from images to their probabilities.
Score = Callable[[Sequence[np.ndarray]], np.ndarray]
# The shorter sides of the paper's fully convolutional testing.
SCALES = (224, 256, 384, 480, 640)
BATCH_SIZE = 32


class EvaluationError(ValueError):
    """A network or images that cannot be evaluated as asked."""


def ten_crops(image: np.ndarray, size: int) -> np.ndarray:
    """Return the four corners and the centre of an image, and their flips.

    Args:
        image: `(rows, columns, channels)` array, at least `size` x `size`.
        size: Integer, rows and columns of a crop.

    Returns:
        `(10, size, size, channels)` array: top left, top right, bottom left,
        bottom right, centre, then the same flipped.

    Raises:
        EvaluationError: If the image is too small.

    Reference: He et al. 2015, section 3.4; Krizhevsky et al. 2012, "ImageNet
    Classification with Deep Convolutional Neural Networks", section 4.1.
    """
    image = np.asarray(image)
    rows, columns = image.shape[0] - size, image.shape[1] - size
    if rows < 0 or columns < 0:
        raise EvaluationError(
            f"Crops of {size} x {size} need an image of at least that size. "
            f"Received: shape {image.shape}"
        )
    corners = [(top, left) for top in (0, rows) for left in (0, columns)]
    corners.append((images_before.half(rows), images_before.half(columns)))
    crops = np.stack(
        [image[top : top + size, left : left + size] for top, left in corners]
    )
    return np.concatenate([crops, crops[:, :, ::-1]])


def fully_convolutional(
    model: keras.Model, size: int | None = None
) -> keras.Model:
    """Return a network that classifies images of any size at every position.

    The global average pooling is replaced by an average pooling with stride 1,
    whose window is the size of the feature maps of `size` x `size` images. The
    classifier reads every position, and the probabilities are averaged. Images
    of `size` x `size` have one position, so both networks give them the same
    probabilities. The new network shares its layers with `model`.

    If `model` normalizes each pixel by its own mean and variance, their
    averages over all pixels replace them, because images of other sizes have
    other pixels. The networks then differ for images of `size` x `size` too.

    The paper does not say whether scores are averaged before or after the
    softmax. This function averages them after it, as `ten_crop` does.

    Args:
        model: A network of this package with its top, for square images; it
            may be folded. Layers before it must take images of any size.
        size: Integer, the size of images that it was trained for. Defaults to
            that of `model.preprocessing`, else to that of the model's input.

    Returns:
        A `keras.Model` from `(batch, rows, columns, channels)`, or channels
        first, to `(batch, classes)` probabilities.

    Raises:
        EvaluationError: If the model is not such a network.

    Reference: He et al. 2015, section 3.4.
    """
    names = [layer.name for layer in getattr(model, "layers", ())]
    if not {"avg_pool", "head"} <= {*names} or len(model.inputs) != 1:
        raise EvaluationError(
            f"Model {getattr(model, 'name', model)!r} cannot be made fully "
            "convolutional: it has no layers 'avg_pool' and 'head', as the "
            "networks of this package with their top have."
        )
    size = size or _input_size(model)
    logits = _gives_logits(model)
    first = channels_first(model)
    channels = model.inputs[0].shape[1 if first else -1]

    def rebuilt(rows, call):
        shape = (channels, rows, rows) if first else (rows, rows, channels)
        image = layers.Input(shape, name="image")
        # A plain `keras.Model`, because tracing many sizes costs more.
        clone = keras.models.clone_model(
            keras.Model(model.inputs[0], model.outputs[0]),
            input_tensors=image,
            clone_function=lambda layer: layer,
            call_function=call,
        )
        return keras.Model(image, clone.outputs[0], name=model.name)

    window = []

    def measure(layer, *args, **kwargs):
        if layer.name == "avg_pool":
            window.extend(args[0].shape[2:] if first else args[0].shape[1:3])
        return layer(*args, **kwargs)

    def everywhere(layer, *args, **kwargs):
        normalizes = isinstance(layer, layers.Normalization)
        if normalizes and np.size(layer.axis) > 1:
            # Its mean differs by pixel.
            return _averaged_over_pixels(layer, 1 if first else -1)(args[0])
        if layer.name == "avg_pool":
            x = layers.Permute((2, 3, 1))(args[0]) if first else args[0]
            return layers.AveragePooling2D(
                tuple(window),
                strides=1,
                dtype=layer.dtype_policy,
                data_format="channels_last",
                name="window_pool",
            )(x)
        x = layer(*args, **kwargs)
        if layer.name != "head":
            return x
        if logits:
            x = layers.Softmax(dtype="float32")(x)
        return layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype="float32", name="mean"
        )(x)

    rebuilt(size, measure)
    return rebuilt(None, everywhere)


def one_crop(
    model: keras.Model,
    preprocessing: str | images_before.Preprocessing | None = None,
    *,
    batch_size: int = BATCH_SIZE,
) -> Score:
    """Return a function that scores images by their centre crop.

    Args:
        model: A network whose output is probabilities or logits of classes.
        preprocessing: A `Preprocessing`, or the name of one. Defaults to
            `model.preprocessing`.
        batch_size: Integer, images that the model gets at once. Defaults to
            `32`.

    Returns:
        A function from a sequence of RGB images of 0 to 255, `(rows, columns,
        channels)` each, to `(images, classes)` probabilities in NumPy.

    Raises:
        EvaluationError: If the model's outputs are neither probabilities nor
            logits.
        ValueError: If neither argument says how images are prepared.

    Reference: He et al. 2015, section 3.4.
    """

    def centre(image, size):
        return images_before.center_crop(image, size)[None]

    return _score_of_crops(model, preprocessing, batch_size, centre)


def ten_crop(
    model: keras.Model,
    preprocessing: str | images_before.Preprocessing | None = None,
    *,
    batch_size: int = BATCH_SIZE,
) -> Score:
    """Return a function that scores images by ten crops.

    It averages the probabilities (after the softmax) of `ten_crops`.

    Args, returns and raises: see `one_crop`; `batch_size` counts crops.

    Reference: He et al. 2015, section 3.4.
    """
    return _score_of_crops(model, preprocessing, batch_size, ten_crops)


def _score_of_crops(model, preprocessing, batch_size, crops_of):
    """Return a function that scores images by the mean over their crops."""
    how = images_before.resolve(preprocessing or model)
    predict = _predictor(model, how, batch_size)

    def score(images):
        crops = [
            crops_of(_resize(image, how.resize, how), how.size)
            for image in images
        ]
        scores = predict(np.concatenate(crops))
        return scores.reshape(len(crops), len(crops[0]), -1).mean(axis=1)

    return score


def multi_scale(
    model: keras.Model,
    preprocessing: str | images_before.Preprocessing | None = None,
    *,
    scales: Sequence[int] = SCALES,
    batch_size: int = BATCH_SIZE,
) -> Score:
    """Return a function that scores whole images at several scales.

    At each scale the shorter side of an image is resized to the scale, and
    nothing is cut off: see `fully_convolutional`. The probabilities of all
    scales are averaged. Images of one shape are computed together. JAX
    compiles the network for every shape.

    Args:
        model: A network as `fully_convolutional` takes.
        preprocessing: See `one_crop`.
        scales: Sequence of integers, shorter sides in pixels, at least the
            size of images that the network was trained for. Defaults to the
            paper's, `(224, 256, 384, 480, 640)`.
        batch_size: Integer, images of the trained size at once. A batch of
            larger images has fewer, in proportion. Defaults to `32`.

    Returns:
        See `one_crop`.

    Raises:
        EvaluationError: As `one_crop` and `fully_convolutional`, and if a
            scale is too small.

    Reference: He et al. 2015, section 3.4.
    """
    how = images_before.resolve(preprocessing or model)
    scales = tuple(scales)
    if not scales or min(scales) < how.size:
        raise EvaluationError(
            "`scales` must be shorter sides of at least the network's size, "
            f"{how.size}. Received: scales={scales}"
        )
    everywhere = fully_convolutional(model, how.size)

    def score(images):
        total = 0
        for side in scales:
            groups = collections.defaultdict(list)
            resized = [_resize(image, side, how) for image in images]
            for i, image in enumerate(resized):
                groups[image.shape].append(i)
            scores = {}
            for (rows, columns, _), group in groups.items():
                share = how.size**2 / (rows * columns)
                at_once = max(1, int(batch_size * share))
                predict = _predictor(everywhere, how, at_once, logits=False)
                batch = np.stack([resized[i] for i in group])
                scores.update(zip(group, predict(batch), strict=True))
            total = total + np.stack([scores[i] for i in range(len(images))])
        return total / len(scales)

    return score


def in_top(
    scores: np.ndarray, labels: Sequence[int] | np.ndarray, k: int
) -> np.ndarray:
    """Return for each image whether its class is among the `k` best.

    `scores` are `(images, classes)`. Of classes with equal scores the one of
    lower index is better, as in `decode_predictions`, so that a network with
    equal scores for all classes is right only by chance.

    Raises:
        EvaluationError: If a score is not finite, or a label is not a class.
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if not np.isfinite(scores).all():
        raise EvaluationError(
            "The network gives scores that are not finite: its weights or "
            "the preprocessing are broken."
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise EvaluationError(
            f"Labels must be from 0 to {scores.shape[1] - 1}, the network's "
            f"classes. Received: {labels.min()} to {labels.max()}"
        )
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return (best == labels[:, None]).any(axis=1)


def evaluate(
    score: Score,
    batches: Iterable[tuple[Sequence[np.ndarray], Sequence[int] | np.ndarray]],
    *,
    on_batch: Callable[[int, dict[str, float]], object] | None = None,
) -> dict[str, float]:
    """Return the top-1 and top-5 accuracies of a function that scores images.

    Args:
        score: Function from images to probabilities, as `one_crop` returns.
        batches: Iterable of pairs, a sequence of images and their labels.
            Each image is counted once. Batches may differ in size.
        on_batch: Function that is called after each batch with the number of
            its images and the result so far. Defaults to `None`.

    Returns:
        A dictionary: `"images"`, their number; `"top1"` and `"top5"`, the
        shares of them whose right class is the best, or among the best five.
        Below ten classes `"top5"` says little and is left out.

    Raises:
        EvaluationError: If there are no images, and as `in_top`.
    """
    counts: collections.Counter[str] = collections.Counter()
    result = None
    for images, labels in batches:
        if not len(images):
            continue
        scores = score(images)
        counts["images"] += len(labels)
        for k in (1, 5) if scores.shape[1] >= 10 else (1,):
            counts[f"top{k}"] += int(in_top(scores, labels, k).sum())
        n = counts["images"]
        result = {k: v if k == "images" else v / n for k, v in counts.items()}
        if on_batch is not None:
            on_batch(len(labels), result)
    if result is None:
        raise EvaluationError("There are no images to evaluate on.")
    return result


def channels_first(model: keras.Model) -> bool:
    """Return whether a model takes images with their channels first.

    The first layer with a data format decides, because a model keeps the
    format in which it was built. Without such a layer Keras's setting decides.
    """
    for layer in model._flatten_layers():
        data_format = getattr(layer, "data_format", None)
        if data_format is not None:
            return data_format == "channels_first"
    return keras.config.image_data_format() == "channels_first"


def _input_size(model: keras.Model) -> int:
    """Return the rows of images that a network was trained for."""
    how = getattr(model, "preprocessing", None)
    if how is not None:
        return how.size
    shape = model.inputs[0].shape
    rows, columns = shape[2:] if channels_first(model) else shape[1:3]
    if rows is None or rows != columns:
        raise EvaluationError(
            f"Model {model.name!r} does not say for which size of images it "
            f"was trained: give `size`. Its input: {shape}"
        )
    return rows


def _averaged_over_pixels(
    layer: layers.Normalization, axis: int
) -> layers.Normalization:
    """Return a normalization by a layer's statistics, averaged over pixels."""
    mean, variance = (
        np.moveaxis(ops.convert_to_numpy(value), axis, -1).mean(axis=(0, 1, 2))
        for value in (layer.mean, layer.variance)
    )
    return layers.Normalization(
        axis=axis,
        mean=mean,
        variance=variance,
        dtype=layer.dtype_policy,
        name=layer.name,
    )


def _gives_logits(model: keras.Model) -> bool:
    """Return whether a network ends without softmax."""
    output = model.outputs[0]._keras_history.operation
    activation = getattr(output, "activation", None)
    if activation not in (
        keras.activations.linear,
        keras.activations.softmax,
    ) or not isinstance(output, (layers.Dense, layers.Activation)):
        raise EvaluationError(
            f"Model {model.name!r} ends in neither a softmax nor the logits "
            f"of one, but in layer {output.name!r}."
        )
    return activation is keras.activations.linear


def _resize(
    image: np.ndarray | Tensor, side: int, how: images_before.Preprocessing
) -> np.ndarray:
    """Return an image with the shorter side `side`, as a float32 array."""
    if min(image.shape[:2]) != side:
        image = images_before.resize_shorter_side(
            image, side, how.interpolation
        )
    # It is a NumPy array, or a tensor of TensorFlow or of the backend.
    if ops.is_tensor(image):
        image = ops.convert_to_numpy(image)
    return np.asarray(image).astype("float32")


def centre(
    image: np.ndarray | Tensor, how: images_before.Preprocessing
) -> np.ndarray:
    """Return the centre crop of an image, of 0 to 255, for `one_crop`."""
    return images_before.center_crop(_resize(image, how.resize, how), how.size)


def prepared(
    images: np.ndarray, model: keras.Model, how: images_before.Preprocessing
) -> np.ndarray:
    """Preprocess images of 0 to 255, channels last, for a model."""
    x = images_before.preprocess_input(images, how, data_format="channels_last")
    if channels_first(model):
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def _predictor(
    model: keras.Model,
    how: images_before.Preprocessing,
    batch_size: int,
    logits: bool | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from raw crops of one size to probabilities."""
    if logits is None:
        logits = _gives_logits(model)

    def predict(crops):
        outputs = []
        for start in range(0, len(crops), batch_size):
            x = prepared(crops[start : start + batch_size], model, how)
            outputs.append(np.asarray(model.predict_on_batch(x), "float64"))
        scores = np.concatenate(outputs)
        if logits:
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        return scores

    return predict
