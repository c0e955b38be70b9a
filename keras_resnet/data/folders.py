"""Images in files: folders of classes, and decoding."""

import concurrent.futures
import functools
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.data.datasets import DataUnavailableError
from keras_resnet.types import PathLike

# TensorFlow decodes no larger file.
MAX_BYTES = 2**30
# Largest ratio of the longer side to the shorter one. Beyond it, an image takes
# gigabytes when its shorter side is resized to a few hundred pixels.
MAX_PROPORTION = 100
PALETTE = "a BMP with a palette; convert it to PNG"


class UnreadableImageError(ValueError):
    """A file is missing, broken, or not an image."""


def class_folders(folder: PathLike) -> dict[str, list[Path]]:
    """List the files of a folder that has a folder for each class.

    Every file in a class's folder counts, at any depth and whatever its name.
    Only names that begin with a dot are left out.

    Args:
        folder: Path.

    Returns:
        A dictionary from the names of classes to sorted lists of paths. The
        classes are sorted, too: by number if their names are the integers from
        0 on, because class 10 of a network comes after class 9.

    Raises:
        DataUnavailableError: If there is no such folder, if no class has a
            file, if the folder has folders `train` and `val` instead of
            classes, if a link leads to a folder that contains it, or if an
            entry is neither file nor folder, such as a named pipe.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataUnavailableError(f"There is no folder {str(folder)!r}.")
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if {"train", "val"} <= {*names}:
        raise DataUnavailableError(
            f"{folder} has folders train and val, which are no classes: take "
            f"{folder / 'train'} or {folder / 'val'}."
        )
    if set(names) == {str(i) for i in range(len(names))}:
        names.sort(key=int)
    above = (os.path.realpath(folder),)
    files = {name: sorted(files_in(folder / name, above)) for name in names}
    if not any(files.values()):
        raise DataUnavailableError(
            f"{folder} has no files in folders of classes, such as "
            f"{folder / 'cat' / '1.jpg'}."
        )
    return files


def files_in(folder: PathLike, above: Sequence[str] = ()) -> Iterator[Path]:
    """Yield all files below a folder, except hidden ones.

    `above` has the real paths of the folders that the walk came through.
    """
    # Links are followed, because collections of links to folders are common.
    real = os.path.realpath(folder)
    if any(Path(path).is_relative_to(real) for path in above):
        raise DataUnavailableError(
            f"{printable(folder)} is a link to a folder that contains it, and "
            "has no end: remove the link."
        )
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files_in(entry.path, (*above, real))
                continue
            # A broken link counts as an image that cannot be read.
            if not entry.is_file() and os.path.exists(entry.path):
                raise DataUnavailableError(
                    f"{printable(entry.path)} is {_kind(entry.path)} and no "
                    "file: remove it."
                )
            yield Path(entry.path)


def _kind(path: PathLike) -> str:
    """Return the kind of a path that is not a file."""
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(os.stat(path).st_mode), "a device")


def read_contents(path: PathLike) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UnreadableImageError: If the file cannot be read, if it is a pipe or a
            device, which may have no end, or if it is too large.
    """
    try:
        if not os.path.isfile(path) and os.path.exists(path):
            reason = f"{_kind(path)} and no file"
        elif os.path.getsize(path) > MAX_BYTES:
            reason = (
                f"{os.path.getsize(path):,} bytes, and an image has at most "
                f"{MAX_BYTES:,}"
            )
        else:
            return Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror
    raise UnreadableImageError(f"{printable(path)}: {reason}")


def read_image(path: PathLike, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, BMP or GIF file, whatever its name.

    Of several frames the first one is decoded. Transparency and the
    orientation that cameras note are ignored.

    Args:
        path: Path.
        channels: `3` (default), RGB; `1`, grey. Images of the other kind are
            converted.

    Returns:
        A uint8 tensor of TensorFlow, `(rows, columns, channels)`.

    Raises:
        UnreadableImageError: If the file cannot be read or decoded whole.
    """
    return decode_image(read_contents(path), printable(path), channels)


def printable(path: PathLike) -> str:
    """Return a path as printable text, because it may be invalid UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decode_image(
    contents: bytes, name: PathLike, channels: int = 3
) -> tf.Tensor:
    """Decode the contents of a file of this name: see `read_image`."""
    if contents.startswith(b"BM") and _has_palette(contents):
        raise UnreadableImageError(f"{name}: {PALETTE}")
    try:
        # TensorFlow converts only JPEG files to grey.
        image = tf.io.decode_image(
            contents, channels=3, dtype=tf.uint8, expand_animations=False
        )
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())
        reason = reason.removeprefix("{{function_node __wrapped__DecodeImage_")
        reason = reason.partition("}}")[2].strip() or reason
        raise UnreadableImageError(
            f"{name}: {reason.partition(' [Op:')[0]}"
        ) from None
    if not tf.size(image):
        raise UnreadableImageError(f"{name}: an image without pixels")
    rows, columns = image.shape[:2]
    if max(rows, columns) > MAX_PROPORTION * min(rows, columns):
        raise UnreadableImageError(
            f"{name}: {rows} x {columns} pixels, and the longer side may be "
            f"at most {MAX_PROPORTION} times the shorter one"
        )
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decode an image as `decode_image` does, in a graph.

    Images that `decode_image` refuses raise `tf.errors.OpError`.
    """
    palette = tf.cond(
        tf.strings.substr(contents, 0, 2) == b"BM",
        lambda: tf.numpy_function(
            _has_palette, [contents], tf.bool, stateful=False
        ),
        lambda: False,
    )
    refused = tf.debugging.Assert(tf.logical_not(palette), [PALETTE])
    with tf.control_dependencies([refused]):
        image = tf.io.decode_image(contents, 3, expand_animations=False)
    sides = tf.shape(image)[:2]
    longest = MAX_PROPORTION * tf.reduce_min(sides)
    refused = tf.debugging.Assert(tf.reduce_max(sides) <= longest, [sides])
    with tf.control_dependencies([refused]):
        return tf.identity(image)


def _has_palette(contents: bytes) -> bool:
    """Return whether a BMP has a palette, other than 256 shades of grey."""
    header, bits = (
        int.from_bytes(contents[i:j], "little") for i, j in ((14, 18), (28, 30))
    )
    palette = contents[14 + header :][:1024]
    # An entry of the palette is blue, green, red and an unused byte.
    grey = all(palette[i::4] == bytes(range(256)) for i in range(3))
    return bits < 8 or (bits == 8 and not grey)


def image_batches(
    paths: Sequence[Any],
    batch_size: int = 32,
    *,
    channels: int = 3,
    on_error: Callable[[UnreadableImageError], object] | None = None,
    read: Callable[[Any], Any] | None = None,
) -> Iterator[tuple[list[Any], list[int]]]:
    """Decode files in order, on several threads, ahead of their use.

    Args:
        paths: Sequence of paths, or of other values that `read` takes.
        batch_size: Integer. Defaults to `32`.
        channels: See `read_image`.
        on_error: Function that gets the `UnreadableImageError` of each file
            that cannot be read and is left out. Defaults to `None`, which
            raises the error.
        read: Function from an entry of `paths` to its image, for images that
            have no files of their own. Defaults to `read_image`.

    Yields:
        A list of images and a list of their indices in `paths`. Each readable
        file comes once. A batch may be smaller than `batch_size`, or empty.
    """
    paths = list(paths)
    read = read or functools.partial(read_image, channels=channels)
    with concurrent.futures.ThreadPoolExecutor() as pool:

        def submit(places):
            return [(i, pool.submit(read, paths[i])) for i in places]

        every = range(len(paths))
        batches = (every[i : i + batch_size] for i in every[::batch_size])
        coming = [submit(b) for b in itertools.islice(batches, 2)]
        while coming:
            images, places = [], []
            for i, future in coming.pop(0):
                try:
                    images.append(future.result())
                    places.append(i)
                except UnreadableImageError as error:
                    if on_error is None:
                        raise
                    on_error(error)
            coming += [submit(b) for b in itertools.islice(batches, 1)]
            yield images, places
