"""Files that are replaced whole or not at all."""

import contextlib
import os
from pathlib import Path

from keras_resnet.types import PathLike


@contextlib.contextmanager
def replacing(path):
    """Give the path of a new file, which takes the place of `path` at the end.

    A process that is killed meanwhile, or fails, leaves the old one.

    Args:
        path: Path of a file, which need not be there yet.

    Yields:
        Path beside it, with the same suffix, to be written to.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{path.name}")
    yield partial
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_atomically(path: PathLike, text: str) -> None:
    """Write a text file so that `path` holds the old text or the new one."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")
