"""Files that are replaced whole or not at all, by one process at a time."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keras_resnet.types import PathLike

# New files have names that begin so until they are whole. A process that is
# killed leaves them.
PARTIAL = ".partial-"


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` at the end.

    The new file is beside `path`, which need not exist yet, and has the same
    suffix. If the process fails or is killed before the end, the old file
    stays. Two processes may replace one file, because each writes to a name of
    its own. An `OSError` names `path`.
    """
    path = Path(path)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        # Windows flushes only what is open for writing.
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        # That of a full disk names no file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: PathLike, text: str) -> None:
    """Write a text file so that `path` holds the old text or the new one."""
    with replacing(path) as partial:
        partial.write_text(text, "utf-8")


@contextlib.contextmanager
def locked(path: PathLike) -> Iterator[None]:
    """Wait until no other thread or process makes the file or folder `path`."""
    # Imported here because most uses of this package make none.
    from filelock import FileLock

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def remove_partial(folder: PathLike) -> None:
    """Remove the partial files that killed processes left below a folder.

    Call it only where no other process writes.
    """
    for path in Path(folder).rglob(f"{PARTIAL}*"):
        if path.is_file():
            path.unlink(missing_ok=True)
