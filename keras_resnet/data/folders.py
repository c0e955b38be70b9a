"""Images in files: folders of classes, and decoding."""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_resnet.data.datasets import DataUnavailableError
from keras_resnet.types import PathLike

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
        classes are sorted, too: by number where their names are the integers
        from 0 on, because 10 comes after 9 in the classes of a network.

    Raises:
        DataUnavailableError: If there is no such folder, or no class with a
            file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataUnavailableError(f"There is no folder {str(folder)!r}.")
    names = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if set(names) == {str(i) for i in range(len(names))}:
        names.sort(key=int)
    files = {name: sorted(_files(folder / name)) for name in names}
    if not any(files.values()):
        raise DataUnavailableError(
            f"{folder} has no files in folders of classes, such as "
            f"{folder / 'cat' / '1.jpg'}."
        )
    return files


def _files(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, except hidden ones."""
    # Collections of links to folders are common.
    for path, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield Path(path) / name


def read_image(path: PathLike, channels: int = 3) -> tf.Tensor:
    """Decode a JPEG, PNG, BMP or GIF file, by its content.

    The first of several frames is taken. Transparency is ignored, and so is
    the orientation that cameras note.

    Args:
        path: Path.
        channels: `3` (default), RGB; `1`, grey. Images of the other kind are
            converted.

    Returns:
        A uint8 tensor of TensorFlow, `(rows, columns, channels)`.

    Raises:
        UnreadableImageError: If the file cannot be read or decoded whole.
    """
    try:
        contents = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableImageError(
            f"{printable(path)}: {error.strerror}"
        ) from None
    return decode_image(contents, printable(path), channels)


def printable(path: PathLike) -> str:
    """Return a path as text that can be written, which not every name is."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def decode_image(
    contents: bytes, name: PathLike, channels: int = 3
) -> tf.Tensor:
    """Decode the contents of a file: see `read_image`.

    Args:
        contents: Bytes.
        name: Name of the image in errors.
        channels: See `read_image`.
    """
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
    return image if channels == 3 else tf.image.rgb_to_grayscale(image)


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Decode an image of any format that TensorFlow knows, in a graph.

    Args:
        contents: String tensor, the contents of a file.

    Returns:
        `(rows, columns, 3)` uint8 tensor.

    Raises:
        tf.errors.OpError: If the contents cannot be decoded, and for a BMP
            with a palette, whose colours TensorFlow would not look up.
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
        return tf.io.decode_image(contents, 3, expand_animations=False)


def _has_palette(contents: bytes) -> bool:
    """Return whether the pixels of a BMP are numbers of colours."""
    header, bits = (
        int.from_bytes(contents[i:j], "little") for i, j in ((14, 18), (28, 30))
    )
    palette = contents[14 + header :][:1024]
    # Blue, green and red of each shade of grey, and a byte that means nothing.
    grey = all(palette[i::4] == bytes(range(256)) for i in range(3))
    return bits < 8 or (bits == 8 and not grey)


def image_batches(
    paths: Sequence,
    batch_size: int = 32,
    *,
    channels: int = 3,
    on_error: Callable[[UnreadableImageError], object] | None = None,
    read: Callable[[Any], Any] | None = None,
) -> Iterator[tuple[list, list[int]]]:
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
        A list of images and a list of their places in `paths`. Each readable
        file comes once. A batch may be smaller than `batch_size`, or empty.
    """
    paths = list(paths)
    read = read or functools.partial(read_image, channels=channels)
    with concurrent.futures.ThreadPoolExecutor() as pool:

        def submit(places):
            return [(i, pool.submit(read, paths[i])) for i in places]

        batches = (
            range(start, min(start + batch_size, len(paths)))
            for start in range(0, len(paths), batch_size)
        )
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
