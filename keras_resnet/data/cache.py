"""Smaller copies of images in TFRecord files, because they decode faster."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.atomic import locked
from keras_resnet.data.datasets import DataUnavailableError
from keras_resnet.data.folders import decode
from keras_resnet.data.pipeline import cores, untuned
from keras_resnet.data.records import Folder, Records, Source
from keras_resnet.data.unreadable import GROUP, Unreadable, reader
from keras_resnet.types import PathLike, Progress

CACHE_INFO = "cache.json"
IMAGES_PER_FILE = 10_000


def cached(
    source: Source,
    folder: PathLike,
    side: int,
    unreadable: Unreadable,
    quality: int = 95,
    progress: Progress = iter,
) -> Records:
    """Return smaller copies of images, which are made at the first call.

    Images whose shorter side is over `side` pixels are resized to it, with
    antialiasing, and stored as JPEG. Others are stored as they are. TFRecord
    files in `folder` hold them. If `folder` is missing, one process makes it,
    under another name until it is complete, and other processes wait.

    Args:
        source: `Folder` or `Records`.
        folder: Path.
        side: Integer, pixels.
        unreadable: `Unreadable`, which notes the images that are left out.
        quality: Integer, quality of the JPEG files. Defaults to `95`.
        progress: Function that wraps the numbers of the images that are
            copied, such as `tqdm.tqdm`. Defaults to showing nothing.

    Returns:
        `Records`.

    Raises:
        DataUnavailableError: If `folder` holds something else.
    """
    folder = Path(folder)
    asked: dict[str, Any] = {
        "side": side,
        "quality": quality,
        "images": len(source),
    }
    if isinstance(source, Folder):
        # A changed folder may have as many images as before.
        asked["names"] = source.describe()
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                _write_cache(source, folder, asked, unreadable, progress)
    try:
        info = json.loads((folder / CACHE_INFO).read_text("utf-8"))
    except (OSError, ValueError):
        raise DataUnavailableError(
            f"{folder} exists and is no cache of images: choose another "
            "`folder`."
        ) from None
    if {key: info.get(key) for key in asked} != asked or tuple(
        info["class_names"]
    ) != source.class_names:
        raise DataUnavailableError(
            f"{folder} is a cache of other images: {info['images']:,} of "
            f"{len(info['class_names'])} classes at {info['side']} pixels. "
            "Remove it, or choose another `folder`."
        )
    return Records(sorted(folder.glob("*.tfrecord")), source.class_names)


def _write_cache(
    source: Source,
    folder: Path,
    asked: dict,
    unreadable: Unreadable,
    progress: Progress,
) -> None:
    def smaller(contents):
        image = decode(contents)
        size = tf.shape(image)[:2]
        shorter = tf.reduce_min(size)

        def resize():
            resized = tf.image.resize(
                image, size * asked["side"] // shorter, antialias=True
            )
            resized = tf.round(tf.clip_by_value(resized, 0, 255))
            return tf.io.encode_jpeg(
                tf.cast(resized, "uint8"), quality=asked["quality"]
            )

        return tf.cond(shorter > asked["side"], resize, lambda: contents)

    read = reader(source, smaller, tf.TensorSpec((), tf.string), unreadable)
    images = (
        tf.data.Dataset.range(len(source))
        .batch(GROUP)
        .map(read, num_parallel_calls=cores())
        .unbatch()
        .with_options(untuned())
        .as_numpy_iterator()
    )
    # A killed process may have left this folder.
    partial = folder.with_name(f".partial-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    writer = None
    count = 0
    try:
        each = zip(progress(range(len(source))), images, strict=True)
        for i, (contents, label, readable) in each:
            if not readable:
                continue
            if count % IMAGES_PER_FILE == 0:
                if writer:
                    writer.close()
                file = partial / f"{count // IMAGES_PER_FILE:05}.tfrecord"
                writer = tf.io.TFRecordWriter(str(file))
            writer.write(_example(contents, label, source.name(i)))
            count += 1
        writer.close()
        info = asked | {"class_names": source.class_names}
        (partial / CACHE_INFO).write_text(json.dumps(info) + "\n", "utf-8")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _example(contents: bytes, label: int, name: str) -> bytes:
    feature, of_bytes = tf.train.Feature, tf.train.BytesList
    features = {
        "image": feature(bytes_list=of_bytes(value=[contents])),
        "label": feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": feature(bytes_list=of_bytes(value=[name.encode()])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()
