"""Preprocessing of images for published weights, and names of classes."""

import dataclasses
import json
import sys
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_resnet.types import Config, Tensor

INTERPOLATIONS = ("bilinear", "bicubic", "nearest")
CLASS_INDEX_URL = (
    "https://storage.googleapis.com/download.tensorflow.org/data/"
    "imagenet_class_index.json"
)
CLASS_INDEX_MD5 = "c2c37ea517e94d9795004a39431a14cb"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images that a network was trained with.

    Pixels of 0 to 255 become `(pixel * scale - mean) / std`, with channels in
    the order `channels`. With resizing, the shorter side of the image first
    becomes `resize` pixels, and the central `size` x `size` pixels are kept.

    Networks have it as `model.preprocessing`, and `.keras` files store it.

    Args:
        mean: Sequence of floats, one for each channel in the order of
            `channels`, in units of `pixel * scale`.
        std: Sequence of floats, as `mean`.
        scale: Float, factor of the pixels. Defaults to `1 / 255`.
        channels: `"RGB"` (default), or `"BGR"` for weights that came from
            Caffe. The images to be prepared are always RGB.
        size: Integer, rows and columns of the network's input. Defaults to
            `224`.
        resize: Integer, shorter side in pixels before the crop, at least
            `size`. Defaults to `256`.
        interpolation: `"bilinear"` (default), `"bicubic"` or `"nearest"`.

    Raises:
        ValueError: For invalid values. The message names them.
    """

    mean: Sequence[float]
    std: Sequence[float]
    scale: float = 1 / 255
    channels: str = "RGB"
    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            object.__setattr__(self, name, values)
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                "`mean` and `std` must have one entry per channel. Received: "
                f"mean={self.mean}, std={self.std}"
            )
        if not np.isfinite(self.mean).all() or not all(
            0 < v < np.inf for v in (*self.std, self.scale)
        ):
            raise ValueError(
                "`mean` must be finite, `std` and `scale` positive. Received: "
                f"mean={self.mean}, std={self.std}, scale={self.scale}"
            )
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(
                "`channels` must be 'RGB' or 'BGR'. "
                f"Received: channels={self.channels!r}"
            )
        if self.channels == "BGR" and len(self.mean) != 3:
            raise ValueError(
                "`channels='BGR'` needs three channels. "
                f"Received: mean={self.mean}"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"`interpolation` must be one of {INTERPOLATIONS}. "
                f"Received: interpolation={self.interpolation!r}"
            )
        if not 0 < self.size <= self.resize:
            raise ValueError(
                "`size` must be positive and at most `resize`. Received: "
                f"size={self.size}, resize={self.resize}"
            )

    def get_config(self) -> Config:
        """Return the fields as a dictionary that JSON can hold."""
        config = dataclasses.asdict(self)
        return {**config, "mean": list(self.mean), "std": list(self.std)}

    def for_channels(self, count: int) -> "Preprocessing":
        """Return the preprocessing for images with `count` channels.

        For one channel, the statistics are averaged. For other numbers, they
        are repeated in the order red, green, blue.
        """
        if count == len(self.mean):
            return self
        repeat = [i % len(self.mean) for i in range(count)]
        if self.channels == "BGR":
            repeat = [2 - i for i in repeat]
        mean, std = (
            (float(np.mean(values)),)
            if count == 1
            else tuple(values[i] for i in repeat)
            for values in (self.mean, self.std)
        )
        return dataclasses.replace(self, mean=mean, std=std, channels="RGB")


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PREPROCESSINGS = {
    # For torchvision's first weights ("V1").
    "imagenet": Preprocessing(IMAGENET_MEAN, IMAGENET_STD),
    # For keras.applications, whose ResNet-50, 101 and 152 come from Caffe.
    "keras": Preprocessing(
        (103.939, 116.779, 123.68), (1, 1, 1), scale=1.0, channels="BGR"
    ),
    # For the CIFAR networks published by akamaster.
    "cifar": Preprocessing(IMAGENET_MEAN, IMAGENET_STD, size=32, resize=32),
}


def resolve(
    preprocessing: str | Config | Preprocessing | keras.Model,
) -> Preprocessing:
    """Return the `Preprocessing` of a name, a dictionary or a model.

    Raises:
        ValueError: If the name is unknown or the model has none.
    """
    if isinstance(preprocessing, Preprocessing):
        return preprocessing
    if isinstance(preprocessing, str) and preprocessing in PREPROCESSINGS:
        return PREPROCESSINGS[preprocessing]
    if isinstance(preprocessing, dict):
        return Preprocessing(**preprocessing)
    if isinstance(preprocessing, keras.Model):
        of_model = getattr(preprocessing, "preprocessing", None)
        if of_model is None:
            raise ValueError(
                f"Model {preprocessing.name!r} does not say how its images "
                "are prepared: set its `preprocessing`, for example to "
                "'imagenet'."
            )
        return of_model
    raise ValueError(
        "`preprocessing` must be a `Preprocessing`, a model that has one, or "
        f"one of {', '.join(map(repr, PREPROCESSINGS))}. "
        f"Received: preprocessing={preprocessing!r}"
    )


def preprocess_input(
    x: np.ndarray | Tensor,
    preprocessing: str | Preprocessing | keras.Model = "imagenet",
    *,
    resize: bool = False,
    data_format: str | None = None,
) -> np.ndarray | Tensor:
    """Prepare RGB images of 0 to 255 as a network's weights expect them.

    `x` is not modified. On every backend, this also works inside tf.data.

    Args:
        x: Image of any real dtype, `(rows, columns, channels)`, or a batch of
            them; for channels first see `data_format`. A NumPy array, a
            tensor of the backend, a Keras tensor, or a tensor of TensorFlow.
        preprocessing: A model, a `Preprocessing`, or `"imagenet"` (default;
            torchvision's), `"keras"` (`keras.applications`') or `"cifar"`.
        resize: Boolean, whether to also resize the images with antialiasing,
            keeping their proportions, and to crop the centre, as in evaluation
            with one crop. Defaults to `False`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            Keras's global setting.

    Returns:
        Float32 images, of the same kind as `x`: an array or a tensor.

    Raises:
        ValueError: If images and statistics have different numbers of
            channels, and for an unknown data format.

    Reference: He et al. 2015, section 3.4.
    """
    preprocessing = resolve(preprocessing)
    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format!r}"
        )
    x, kind = _floats(x)
    rank = len(x.shape)
    if rank not in (3, 4):
        raise ValueError(
            "`x` must be an image or a batch of images, of rank 3 or 4. "
            f"Received: shape {tuple(x.shape)}"
        )
    if data_format == "channels_first":
        x = kind.transpose(x, (1, 2, 0) if rank == 3 else (0, 2, 3, 1))
    if x.shape[-1] != len(preprocessing.mean):
        raise ValueError(
            f"The statistics are those of {len(preprocessing.mean)} channels, "
            f"and the images have {x.shape[-1]} ({data_format})."
        )
    if resize:
        x = resize_shorter_side(
            x, preprocessing.resize, preprocessing.interpolation
        )
        x = center_crop(x, preprocessing.size)
    if preprocessing.channels == "BGR":
        take = kind.take if kind in (np, ops) else kind.gather
        x = take(x, np.array([2, 1, 0]), axis=-1)
    mean, std = (
        np.array(v, "float32") for v in (preprocessing.mean, preprocessing.std)
    )
    scale = np.float32(preprocessing.scale)
    x = kind.divide(kind.subtract(kind.multiply(x, scale), mean), std)
    if data_format == "channels_first":
        x = kind.transpose(x, (2, 0, 1) if rank == 3 else (0, 3, 1, 2))
    return x


def _floats(x):
    """Return `x` in float32, and the namespace that computes with it."""
    # `x` can be a TensorFlow tensor only if TensorFlow is imported.
    tf = sys.modules.get("tensorflow")
    if tf is not None and tf.is_tensor(x):
        return tf.cast(x, "float32"), tf
    if keras.utils.is_keras_tensor(x) or ops.is_tensor(x):
        return ops.cast(x, "float32"), ops
    return np.asarray(x).astype("float32"), np


def resize_shorter_side(
    x: np.ndarray | Tensor, side: int, interpolation: str = "bilinear"
) -> np.ndarray | Tensor:
    """Resize images so that the shorter side is `side`, keeping proportions.

    It antialiases, like Pillow. The longer side is rounded down, as in
    torchvision. `x` is as in `preprocess_input`, channels last, and is not
    modified. `interpolation` is `"bilinear"`, `"bicubic"` or `"nearest"`.

    Raises:
        ValueError: If the size of the images is unknown.
    """
    x, kind = _floats(x)
    height, width = x.shape[-3:-1]
    if kind not in (np, ops):
        # Inside tf.data the size may be known only when it runs.
        shape = kind.shape(x)
        height = shape[-3] if height is None else height
        width = shape[-2] if width is None else width
        shorter = kind.minimum(height, width)
        size = (side * height // shorter, side * width // shorter)
        x = kind.image.resize(x, size, interpolation, antialias=True)
        # Bicubic interpolation overshoots the range of pixels.
        return kind.clip_by_value(x, 0.0, 255.0)
    if height is None or width is None:
        raise ValueError(
            "`resize=True` needs images whose size is known. "
            f"Received: shape {tuple(x.shape)}"
        )
    shorter = min(height, width)
    size = (side * height // shorter, side * width // shorter)
    if kind is np:
        for axis, n in zip((-3, -2), size, strict=True):
            weights = _resize_weights(x.shape[axis], n, interpolation)
            x = np.moveaxis(np.moveaxis(x, axis, -1) @ weights, -1, axis)
        return np.clip(x, 0, 255)
    x = ops.image.resize(
        x,
        size,
        interpolation=interpolation,
        antialias=interpolation != "nearest",
        data_format="channels_last",
    )
    return ops.clip(x, 0, 255)


def _resize_weights(before, after, interpolation):
    """Return the weight of each old pixel in each new one, `(before, after)`.

    This uses NumPy, because a forked process, such as a data loader's worker,
    cannot use the backend's threads and GPU.
    """
    scale = before / after
    centers = (np.arange(after) + 0.5) * scale - 0.5
    pixels = np.arange(before)[:, None]
    if interpolation == "nearest":
        weights = pixels == np.floor(centers + 0.5)
        return weights.astype("float32")
    # A smaller image averages over more pixels.
    x = np.abs(pixels - centers) / max(scale, 1)
    if interpolation == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:
        # Keys's cubic convolution with a = -0.5, as in Pillow.
        near = (1.5 * x - 2.5) * x**2 + 1
        far = ((2.5 - 0.5 * x) * x - 4) * x + 2
        weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return (weights / weights.sum(0)).astype("float32")


def center_crop(x: np.ndarray | Tensor, size: int) -> np.ndarray | Tensor:
    """Return the central `size` x `size` pixels of images, channels last."""
    height, width = x.shape[-3:-1]
    if None in (height, width):
        # Inside tf.data the size may be known only when it runs.
        shape = sys.modules["tensorflow"].shape(x)
        height, width = shape[-3], shape[-2]
    top, left = half(height - size), half(width - size)
    x = x[..., top : top + size, left : left + size, :]
    if None in x.shape:
        x = sys.modules["tensorflow"].ensure_shape(
            x, (*x.shape[:-3], size, size, x.shape[-1])
        )
    return x


def half(n: int) -> int:
    """Return n / 2, rounded half to even, as in torchvision's crop."""
    return n // 2 + (n % 2) * (n // 2 % 2)


def decode_predictions(
    predictions: np.ndarray | Tensor,
    top: int = 5,
    class_names: Sequence[str] | None = None,
) -> list[list[tuple[str | int, str, float]]]:
    """Return the names of the classes with the highest scores.

    Args:
        predictions: Scores, `(images, classes)`: probabilities or logits, of
            NumPy or any backend. They are not modified.
        top: Integer, number of classes per image. Defaults to `5`.
        class_names: Sequence of strings, the classes in order. Defaults to
            ImageNet's 1000, which are downloaded once (about 35 kB).

    Returns:
        For each image a list of `(identifier, name, score)`, the highest
        score first. The identifier is the class's WordNet id, or its index if
        `class_names` are given.

    Raises:
        ValueError: If scores and names differ in the number of classes.
    """
    if ops.is_tensor(predictions):
        predictions = ops.convert_to_numpy(predictions)
    predictions = np.asarray(predictions)
    if not isinstance(top, int) or top < 1:
        raise ValueError(
            f"`top` must be a positive integer. Received: top={top!r}"
        )
    count = 1000 if class_names is None else len(class_names)
    if predictions.ndim != 2 or predictions.shape[1] != count:
        raise ValueError(
            f"`predictions` must be of shape (images, {count}), a score for "
            "each class name. `class_names` gives other classes than "
            f"ImageNet's. Received: shape {predictions.shape}"
        )
    classes: Sequence[tuple[str | int, str]] = (
        imagenet_classes()
        if class_names is None
        else list(enumerate(class_names))
    )
    order = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    return [
        [(*classes[i], float(scores[i])) for i in best]
        for scores, best in zip(predictions, order, strict=True)
    ]


def imagenet_classes() -> list[tuple[str, str]]:
    """Return the (WordNet id, name) of each class of ImageNet, in order.

    Raises:
        ValueError: If the file is not cached and cannot be downloaded.
    """
    # In Keras's own cache, where keras.applications keeps the same file.
    try:
        path = keras.utils.get_file(
            "imagenet_class_index.json",
            CLASS_INDEX_URL,
            cache_subdir="models",
            file_hash=CLASS_INDEX_MD5,
        )
    # `get_file` raises plain `Exception` if there is no network.
    except Exception as error:
        raise ValueError(
            f"ImageNet's class names could not be downloaded: {error}. "
            "`class_names` can give them."
        ) from None
    with open(path, encoding="utf-8") as file:
        index = json.load(file)
    return [tuple(index[str(i)]) for i in range(len(index))]
