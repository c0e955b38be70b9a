"""The files of a run. They are checked when read; errors name a broken file."""

import contextlib
import csv
import json
import os
import re
import socket
import zipfile
from pathlib import Path

from .command import Failure

HISTORIES = ("history.csv", "steps.csv")
LOCK = ".lock"
# Every PNG file begins and ends with these bytes.
PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
RESTORE = "put back a copy of it, or train again in another folder"


class BrokenFileError(Failure):
    """A file of a run cannot be read.

    Args:
        path: Path of the file.
        reason: String.
        remedy: String, advice to the user.
    """

    def __init__(self, path, reason, remedy=RESTORE):
        super().__init__(f"{path} is broken: {reason}; {remedy}")
        self.path = path
        self.reason = reason


class RunInProgressError(Failure):
    """Another process uses the folder of a run."""


def as_name(text):
    """Return a text without what would make folders of a file's name."""
    return re.sub(r"[/\\:]", ".", text)


@contextlib.contextmanager
def locked(folder):
    """Keep all other processes out of the folder of a run.

    The lock of a process that was killed does not count.

    Args:
        folder: Path of a folder.

    Raises:
        RunInProgressError: If another process has the lock.
    """
    # Imported here, because `--help` must not wait for it.
    from filelock import FileLock, Timeout

    path = Path(folder) / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = "another process"
        with contextlib.suppress(OSError):
            holder = path.read_text("utf-8") or holder
        raise RunInProgressError(
            f"the run in {folder} is in progress ({holder}): wait for its end, "
            "or end that process first"
        ) from None
    try:
        # On Windows no other process may open a locked file.
        with contextlib.suppress(OSError):
            path.write_text(
                f"process {os.getpid()} on host {socket.gethostname()}", "utf-8"
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


@contextlib.contextmanager
def _broken(path, remedy=RESTORE):
    """Raise errors about the contents of a file as `BrokenFileError`."""
    try:
        yield
    except (OSError, ValueError, csv.Error, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or " ".join(
            str(error).split()
        )
        raise BrokenFileError(
            path, reason or type(error).__name__, remedy
        ) from None


def read_json(path, remedy=RESTORE):
    """Read a file that holds a JSON object, and return a dictionary.

    Raises:
        BrokenFileError: If it holds no JSON object. The error ends with
            `remedy`, a string.
    """
    with _broken(path, remedy):
        value = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no JSON object")
    return value


def read_result(path):
    """Return the result line of a run, a dictionary: see `read_json`."""
    return read_json(
        path,
        "delete it, then run the same command with --resume to write it again",
    )


def read_history(path):
    """Read a history of a run, such as `history.csv`.

    Args:
        path: Path of the CSV file, which may not exist yet.

    Returns:
        Dictionary of lists of floats, a value for each line.

    Raises:
        BrokenFileError: If a line lacks a value, or a value is not a number.
    """
    path = Path(path)
    if not path.exists():
        return {}
    with _broken(path):
        with open(path, newline="", encoding="utf-8") as file:
            names, *rows = list(csv.reader(file, strict=True)) or [[]]
        if names and "iterations" not in names:
            raise ValueError('it has no column "iterations"')
        columns = {name: [] for name in names}
        for number, row in enumerate(rows, 2):
            if len(row) != len(names):
                raise ValueError(
                    f"line {number} has {len(row)} values for {len(names)} "
                    "names"
                )
            for name, value in zip(names, row, strict=True):
                try:
                    # Keras writes NA for an epoch without a validation.
                    columns[name].append(
                        None if value == "NA" else float(value)
                    )
                except ValueError as error:
                    raise ValueError(
                        f"line {number}, {name}: {error}"
                    ) from None
    return {k: values for k, values in columns.items() if None not in values}


def check(path):
    """Check a text, table, picture or result line of a run, by its suffix.

    Raises:
        BrokenFileError: If it is broken.
    """
    path = Path(path)
    if path.suffix == ".json":
        read_json(path)
        return
    with _broken(path):
        if path.name in HISTORIES:
            if not read_history(path):
                raise ValueError("it is empty")
            return
        contents = path.read_bytes()
        if path.suffix == ".png":
            whole = contents.startswith(PNG[0]) and contents.endswith(PNG[1])
        else:
            whole = contents.decode("utf-8").endswith("\n")
        if not whole:
            raise ValueError("it is incomplete")


def check_model(path):
    """Check the checksums of a `.keras` file.

    Raises:
        BrokenFileError: If it is incomplete.
    """
    with _broken(path), zipfile.ZipFile(path) as file:
        damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} in it is damaged")
