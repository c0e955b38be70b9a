"""Atomic replacement of files, and locks between processes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_resnet.types import PathLike

# Prefix of a new file's name until the file is complete. A killed process
# leaves such files behind.
PARTIAL = ".partial-"


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` at the end.

    The new file is in the folder of `path`, which need not exist yet, and has
    the same suffix. If the process fails or is killed before the end, the old
    file stays. Two processes may replace the same file, because each writes to
    its own new file. An `OSError` names `path`.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        # Windows flushes only files that are open for writing.
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # The error for a full disk names no file, others name the new file.
        unclear = error.filename in (None, str(partial))
        if error.errno is not None and unclear:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: PathLike, text: str) -> None:
    """Write a text file so that `path` holds the old text or the new one.

    Paths in the text may hold bytes that are no UTF-8. They are escaped.
    """
    with replacing(path) as partial:
        partial.write_text(text, "utf-8", "backslashreplace")


@contextlib.contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Lock `path`, a file or folder, against other threads and processes."""
    # Imported here because most uses of this package need no lock.
    from filelock import FileLock

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def remove_partial(folder: PathLike) -> None:
    """Remove the partial files that killed processes left below a folder.

    Call it only if no other process writes there.
    """
    for path in Path(folder).rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)
