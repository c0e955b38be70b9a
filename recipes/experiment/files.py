"""The files of a run: each is checked when it is read, and named if broken."""

import contextlib
import csv
import json
import os
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
        remedy: String, what to do.
    """

    def __init__(self, path, reason, remedy=RESTORE):
        super().__init__(f"{path} is broken: {reason}; {remedy}")
        self.path = path
        self.reason = reason


class RunInProgressError(Failure):
    """Another process works in the folder of a run."""


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
        # On Windows nobody else may open a locked file.
        with contextlib.suppress(OSError):
            path.write_text(
                f"process {os.getpid()} on host {socket.gethostname()}", "utf-8"
            )
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def read_json(path, remedy=RESTORE):
    """Read a file that holds a JSON object.

    Args:
        path: Path.
        remedy: String, what to do if it is broken.

    Returns:
        Dictionary.

    Raises:
        BrokenFileError: If it holds no JSON object.
    """
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenFileError(path, _reason(error), remedy) from None
    if not isinstance(value, dict):
        raise BrokenFileError(path, "it holds no JSON object", remedy)
    return value


def read_result(path):
    """Return the result line of a run, a dictionary, see `read_json`."""
    return read_json(
        path, "delete it, and the run's command with --resume writes it again"
    )


def read_history(path):
    """Read a history that a run has left, such as `history.csv`.

    Args:
        path: Path of the CSV file. There may be none yet.

    Returns:
        Dictionary of lists of floats, a value for each line.

    Raises:
        BrokenFileError: If a line lacks a value, or has another than a number.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            names, *rows = list(csv.reader(file, strict=True)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise BrokenFileError(path, _reason(error)) from None
    columns = {name: [] for name in names}
    if names and "iterations" not in columns:
        raise BrokenFileError(path, 'it has no column "iterations"')
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise BrokenFileError(
                path,
                f"line {number} has {len(row)} values for {len(names)} names",
            )
        for name, value in zip(names, row, strict=True):
            try:
                # Keras's columns for a validation after epochs that there is
                # not.
                columns[name].append(None if value == "NA" else float(value))
            except ValueError as error:
                raise BrokenFileError(
                    path, f"line {number}, {name}: {error}"
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
    if path.name in HISTORIES:
        if not read_history(path):
            raise BrokenFileError(path, "it is empty")
        return
    try:
        contents = path.read_bytes()
        if path.suffix == ".png":
            whole = contents.startswith(PNG[0]) and contents.endswith(PNG[1])
        else:
            whole = contents.decode("utf-8").endswith("\n")
    except (OSError, ValueError) as error:
        raise BrokenFileError(path, _reason(error)) from None
    if not whole:
        raise BrokenFileError(path, "it is not whole")


def check_model(path):
    """Check the checksums of a `.keras` file.

    Raises:
        BrokenFileError: If it is not whole.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BrokenFileError(path, _reason(error)) from None
    if damaged is not None:
        raise BrokenFileError(path, f"{damaged} in it is damaged")


def _reason(error):
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
