"""Files that are replaced whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_resnet.types import PathLike


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` at the end.

    If the process fails or is killed before the end, the old file stays.

    Args:
        path: Path of a file, which need not exist yet.

    Yields:
        Path to write to, beside `path` and with the same suffix.
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
