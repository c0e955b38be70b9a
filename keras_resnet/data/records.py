"""Encoded images by index: files in folders of classes, or TFRecord files.

Training reads images in any order, so both can read any image directly.
"""

import concurrent.futures
import copy
import hashlib
import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from keras_resnet.data.datasets import (
    DataUnavailableError,
    builder_of,
    check_download,
)
from keras_resnet.data.folders import (
    UnreadableImageError,
    class_folders,
    decode_image,
    printable,
    read_contents,
)
from keras_resnet.types import PathLike

# A record has a length and its checksum, then the data and their checksum.
HEADER, FOOTER = 12, 4
TARS = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


class Folder:
    """The images in a folder that has a folder for each class.

    Args:
        folder: Path.
        class_names: Sequence of strings, the classes in order. The folder may
            lack some of them. Defaults to the folder's own, in the order of
            `class_folders`.

    Raises:
        DataUnavailableError: If there are no images, or images of another
            class.
    """

    def __init__(
        self, folder: PathLike, class_names: Sequence[str] | None = None
    ) -> None:
        by_class = class_folders(folder)
        self.class_names: tuple[str, ...] = tuple(class_names or by_class)
        unknown = sorted({*by_class} - {*self.class_names})
        if unknown:
            raise DataUnavailableError(
                f"{folder} has class folders that the training images lack: "
                f"{', '.join(unknown[:5])}{', ...' * (len(unknown) > 5)}"
            )
        self.paths: list[str] = [
            str(file) for files in by_class.values() for file in files
        ]
        number = {name: i for i, name in enumerate(self.class_names)}
        self.labels: np.ndarray = np.repeat(
            np.array([number[name] for name in by_class], "int32"),
            [len(files) for files in by_class.values()],
        )
        self._constants: Any = None

    def __len__(self) -> int:
        return len(self.paths)

    def split(self, share: float, seed: int = 0) -> tuple["Folder", "Folder"]:
        """Hold out a random share of each class.

        Args:
            share: Float above 0 and below 1. At least one image of a class is
                held out, and at least one stays.
            seed: Integer. Defaults to `0`.

        Returns:
            The `Folder` of the images that stay, and that of the others.

        Raises:
            DataUnavailableError: If a class has fewer than two images.
        """
        rng = np.random.default_rng(seed)
        aside = np.zeros(len(self), bool)
        for number, name in enumerate(self.class_names):
            (places,) = np.nonzero(self.labels == number)
            if len(places) < 2:
                raise DataUnavailableError(
                    f"Class {name!r} has {len(places)} images, and needs at "
                    "least two: one to train on and one to validate on."
                )
            count = round(share * len(places))
            count = min(max(count, 1), len(places) - 1)
            aside[rng.permutation(places)[:count]] = True
        return self._chosen(~aside), self._chosen(aside)

    def _chosen(self, chosen):
        part = copy.copy(self)
        part.paths = [self.paths[i] for i in np.flatnonzero(chosen)]
        part.labels = self.labels[chosen]
        part._constants = None
        return part

    def name(self, i: int) -> str:
        """Return the name of an image, for people."""
        return printable(self.paths[i])

    def describe(self) -> str:
        """Return a text that identifies these images, in any folder.

        The text has their number, and a hash of their names and classes, not
        of their contents.
        """
        names = [os.path.basename(path) for path in self.paths]
        hashed = json.dumps([self.class_names, self.labels.tolist(), names])
        digest = hashlib.sha256(hashed.encode()).hexdigest()[:16]
        return f"{len(names)} images, SHA-256 of names {digest}"

    def contents(self, i: int) -> bytes:
        """Return the bytes of an image."""
        return read_contents(self.paths[i])

    def label(self, i: int) -> int:
        """Return the class of an image, an integer."""
        return int(self.labels[i])

    def read(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return bytes and class of an image, for tf.data."""
        if self._constants is None:
            with tf.init_scope():
                # As bytes, because a name need not be UTF-8.
                paths = [os.fsencode(path) for path in self.paths]
                self._constants = tf.constant(paths), self.labels
        paths, labels = self._constants
        return tf.io.read_file(tf.gather(paths, i)), tf.gather(labels, i)


class Records:
    """The images in TFRecord files of `tf.train.Example`s.

    It reads the headers of all records once, because they say where each
    record is. The files must be on a disk, not behind a URL.

    Args:
        files: Sequence of paths, in order.
        class_names: Sequence of strings.

    Raises:
        DataUnavailableError: If a file is missing or ends within a record.
    """

    def __init__(
        self, files: Sequence[PathLike], class_names: Sequence[str]
    ) -> None:
        self.class_names: tuple[str, ...] = tuple(class_names)
        self._files = [os.fspath(file) for file in files]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            places = list(pool.map(_places, self._files))
        self._file = np.repeat(
            np.arange(len(places), dtype="int32"), [len(p) for p in places]
        )
        self._places = np.concatenate([np.zeros((0, 2), "int64"), *places])

    def __len__(self) -> int:
        return len(self._places)

    def _record(self, i: int) -> bytes:
        offset, length = map(int, self._places[i])
        try:
            with open(self._files[self._file[i]], "rb", buffering=0) as file:
                read = os.pread(file.fileno(), length + FOOTER, offset)
        except OSError as error:
            raise UnreadableImageError(
                f"{self._place(i)}: {error.strerror}"
            ) from None
        if not _is_intact(read):
            raise UnreadableImageError(
                f"{self._place(i)}: its contents do not match its checksum"
            )
        return read[:-FOOTER]

    def _features(self, i: int) -> Any:
        return tf.train.Example.FromString(self._record(i)).features.feature

    def _place(self, i: int) -> str:
        return f"record {i}, in {Path(self._files[self._file[i]]).name}"

    def name(self, i: int) -> str:
        """Return the name of an image, for people."""
        try:
            names = self._features(i)["file_name"].bytes_list.value
        except UnreadableImageError:
            names = ()
        return printable(names[0]) if names else self._place(i)

    def contents(self, i: int) -> bytes:
        """Return the bytes of an image."""
        return self._features(i)["image"].bytes_list.value[0]

    def label(self, i: int) -> int:
        """Return the class of an image, an integer."""
        return self._features(i)["label"].int64_list.value[0]

    def read(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return bytes and class of an image, for tf.data."""
        record = tf.numpy_function(self._record, [i], tf.string, stateful=False)
        example = tf.io.parse_single_example(
            tf.ensure_shape(record, ()),
            {
                "image": tf.io.FixedLenFeature((), tf.string),
                "label": tf.io.FixedLenFeature((), tf.int64),
            },
        )
        return example["image"], tf.cast(example["label"], tf.int32)


Source = Folder | Records


def _places(file: str) -> np.ndarray:
    """Return offset and length of each record's data, `(records, 2)`."""
    try:
        size = os.path.getsize(file)
        places, offset = [], 0
        with open(file, "rb", buffering=0) as source:
            while offset < size:
                header = os.pread(source.fileno(), HEADER, offset)
                if len(header) == HEADER and not _is_intact(header):
                    raise DataUnavailableError(
                        f"{file} is damaged at byte {offset}, or is not a "
                        "TFRecord file: the length of a record does not match "
                        "its checksum. Prepare it again."
                    )
                (length,) = struct.unpack("<Q", header[:8].ljust(8, b"\xff"))
                places.append((offset + HEADER, length))
                offset += HEADER + length + FOOTER
    except OSError as error:
        raise DataUnavailableError(f"{file}: {error.strerror}") from None
    if offset != size:
        raise DataUnavailableError(
            f"{file} ends in the middle of record {len(places)}: it was not "
            "written to its end, or is not a TFRecord file."
        )
    return np.array(places, "int64").reshape(-1, 2)


def _is_intact(data: bytes) -> bool:
    """Return whether data end in their checksum, masked as in TFRecords."""
    crc = google_crc32c.value(data[:-FOOTER])
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return data[-FOOTER:] == struct.pack("<I", masked)


def from_tfds(
    name: str,
    split: str,
    data_dir: PathLike | None = None,
    manual_dir: PathLike | None = None,
) -> Records:
    """Return the images of a dataset of TensorFlow Datasets.

    If a dataset is not prepared yet, `imagenet2012` is prepared from its two
    original tar files, and others are downloaded.

    Args:
        name: String, `"imagenet2012"`, `"imagenette"`, or any other with
            images and labels, as `tfds.builder` takes it.
        split: String, `"train"` or `"validation"`.
        data_dir: Folder of TensorFlow Datasets. Defaults to the environment
            variable `TFDS_DATA_DIR`, else to `~/tensorflow_datasets`.
        manual_dir: Folder of the tar files. Defaults to
            `downloads/manual` in `data_dir`.

    Returns:
        `Records`.

    Raises:
        DataUnavailableError: If the data cannot be prepared or read.
    """
    import tensorflow_datasets as tfds

    builder = builder_of(name, data_dir)
    if not builder.is_prepared():
        _prepare(builder, manual_dir)
    info = builder.info
    if split not in info.splits:
        raise DataUnavailableError(
            f"{builder.data_path} has no images of the split {split!r}, only "
            f"{', '.join(map(repr, info.splits))}. Move the folder away and "
            "prepare it again with all tar files."
        )
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise DataUnavailableError(
            f"{builder.data_path} is of the format {info.file_format.value!r}, "
            "and only 'tfrecord' can be read: convert it with tfds "
            "convert_format."
        )
    records = Records(
        info.splits[split].filepaths, info.features["label"].names
    )
    if len(records) != info.splits[split].num_examples:
        raise DataUnavailableError(
            f"{builder.data_path} has {len(records):,} images of the split "
            f"{split!r} and should have "
            f"{info.splits[split].num_examples:,}: prepare it again."
        )
    return records


def _prepare(builder: Any, manual_dir: PathLike | None) -> None:
    import tensorflow_datasets as tfds

    folder = builder.data_path.parent.parent
    if builder.name == "imagenet2012":
        manual = Path(manual_dir or folder / "downloads" / "manual")
        missing = [tar for tar in TARS if not (manual / tar).is_file()]
        if missing:
            raise DataUnavailableError(
                f"imagenet2012 is not prepared in {folder}, and {manual} has "
                f"no {' and no '.join(missing)} to prepare it from. Register "
                "at https://image-net.org/download-images, download them, and "
                "give their folder as `manual_dir`; or give a folder of "
                "prepared data as `data_dir` or TFDS_DATA_DIR."
            )
        manual_dir = manual
    else:
        check_download(builder)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            manual_dir=manual_dir and os.fspath(manual_dir),
            compute_stats=tfds.download.ComputeStatsMode.SKIP,
            try_download_gcs=False,
        )
    )


def read_image_of(source: Source, i: int, channels: int = 3) -> tf.Tensor:
    """Decode the i-th image of a `Folder` or `Records`: see `read_image`.

    Raises:
        UnreadableImageError: If it cannot be decoded whole.
    """
    return decode_image(source.contents(i), source.name(i), channels)
