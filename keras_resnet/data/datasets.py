"""The small image datasets: CIFAR, MNIST, and scikit-learn's digits."""

import dataclasses
import re
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from keras_resnet.types import PathLike

NAMES = ("cifar10", "cifar100", "digits", "mnist")
# Number of training images that become validation images.
HELD_OUT = 5000


class DataUnavailableError(RuntimeError):
    """The data are not on disk and cannot be downloaded."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Part of a dataset.

    Attributes:
        images: uint8 array, `(n, rows, columns, channels)`.
        labels: Integer array, `(n,)`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Split":
        return Split(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A dataset in memory.

    Attributes:
        name: Name of the dataset.
        train: `Split` to train on.
        validation: `Split` to choose settings by, taken from the training
            images, or `None`.
        test: `Split` to evaluate on once, at the end.
        class_names: Tuple of strings.
    """

    name: str
    train: Split
    validation: Split | None
    test: Split
    class_names: tuple[str, ...]

    @property
    def mean(self) -> np.ndarray:
        """Mean of each pixel over the training images, float32."""
        return self.train.images.mean(axis=0, dtype="float64").astype("float32")


def load(name: str, data_dir: PathLike | None = None) -> ImageData:
    """Load a dataset by name.

    - `"cifar10"` and `"cifar100"`: 45k / 5k / 10k images of 32x32x3, by
      TensorFlow Datasets; `"cifar100"` has the 100 fine classes;
    - `"mnist"`: 55k / 5k / 10k images of 28x28x1, by TensorFlow Datasets;
    - `"digits"`: 1257 / 180 / 360 images of 8x8x1, which come with
      scikit-learn (the test set of UCI's "Optical Recognition of Handwritten
      Digits"), split at random, in the same way each time.

    The last 5,000 training images, in the order of TensorFlow Datasets, are
    the validation images.

    Args:
        name: `"cifar10"`, `"cifar100"`, `"digits"` or `"mnist"`.
        data_dir: Folder of TensorFlow Datasets. Defaults to the environment
            variable `TFDS_DATA_DIR`, else to `~/tensorflow_datasets`.

    Returns:
        An `ImageData`.

    Raises:
        DataUnavailableError: If the data are not prepared and cannot be
            downloaded, or are damaged.
        ValueError: For an unknown name.

    Reference: He et al. 2015, section 4.2.
    """
    if name not in NAMES:
        raise ValueError(
            f"`name` must be one of {', '.join(NAMES)}. Received: {name!r}"
        )
    return _digits() if name == "digits" else _from_tfds(name, data_dir)


def _digits() -> ImageData:
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype("uint8")[..., None]
    data = Split(images, source.target)
    data = data[np.random.default_rng(0).permutation(len(data))]
    return ImageData(
        name="digits",
        train=data[:1257],
        validation=data[1257:1437],
        test=data[1437:],
        class_names=tuple(map(str, source.target_names)),
    )


def builder_of(name: str, data_dir: PathLike | None) -> Any:
    """Return the `tfds.core.DatasetBuilder` of a dataset.

    Raises:
        DataUnavailableError: If the description in its folder is broken.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    try:
        return tfds.builder(name, data_dir=data_dir)
    except ParseError as error:
        folder = Path(data_dir or tfds.core.constants.DATA_DIR, name)
        raise _damaged(
            folder, str(error).rpartition("Failed to load ")[2]
        ) from None


def _damaged(folder, reason):
    # TensorFlow puts the place in its graph before and after the reason.
    words = " ".join(re.sub(r"{{.*?}}", "", reason).split())
    words = words.partition(" [")[0].rstrip(".")
    return DataUnavailableError(
        f"{folder} is damaged ({words}): move it away and prepare it again."
    )


def _from_tfds(name: str, data_dir: PathLike | None) -> ImageData:
    builder = builder_of(name, data_dir)
    if not builder.is_prepared():
        check_download(
            builder, '; or take `name="digits"`, which needs no download'
        )
        builder.download_and_prepare()
    import tensorflow as tf

    try:
        train, test = (
            Split(*map(np.asarray, pair))
            for pair in builder.as_dataset(
                split=["train", "test"], batch_size=-1, as_supervised=True
            )
        )
    except tf.errors.OpError as error:
        raise _damaged(builder.data_path, error.message) from None
    classes = builder.info.features["label"].names
    labels = np.concatenate([train.labels, test.labels])
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if wrong.size:
        reason = f"{len(classes)} classes, and a label {wrong.max()}"
        raise _damaged(builder.data_path, reason)
    return ImageData(
        name=name,
        train=train[:-HELD_OUT],
        validation=train[-HELD_OUT:],
        test=test,
        class_names=tuple(classes),
    )


def check_download(builder: Any, instead: str = "") -> None:
    """Raise within seconds if a download fails: TFDS retries it for minutes.

    `instead` is another remedy, to add to the message.

    Raises:
        DataUnavailableError: If the first URL of the dataset does not answer.
    """
    url = next(iter(builder.url_infos))
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        folder = builder.data_path.parent.parent
        raise DataUnavailableError(
            f"{builder.name} is not prepared in {folder} and cannot be "
            f"downloaded from {url} ({reason}). Connect to the internet; or "
            f"name a folder that holds {builder.name}/{builder.version} by "
            f"`data_dir` or TFDS_DATA_DIR{instead}."
        ) from error
