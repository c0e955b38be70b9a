"""The command line of a recipe: errors and exit statuses.

Exit status 0: done. 1: failed. 2: wrong usage. 130: interrupted by Ctrl-C. 143:
ended by SIGTERM. 129: ended by SIGHUP. An error is one line with the cause and
a remedy; `--debug` adds the traceback.
"""

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import sys

from . import quiet

# The words of the installed command that called the recipe, such as
# "keras-resnet" and "cifar10". Empty if the recipe was called by its file.
installed = ()

# The flag for each argument that an error of `keras_resnet` names.
FLAGS = {
    "`data_dir`": "--data-dir",
    "`manual_dir`": "--manual-dir",
    '`name="digits"`': "--dataset digits",
    "`folder`": "--cache",
    '`devices="all"`': "--devices all",
    "`synchronized=False`": "--normalization per-device",
}


# Messages of backends and NumPy when memory runs out.
NO_MEMORY = re.compile(
    "ResourceExhausted|RESOURCE_EXHAUSTED|out of memory|can't allocate memory|"
    "MemoryError",
    re.IGNORECASE,
)
# Ways to use less memory, by setting.
SMALLER = {
    "batch_size": "a smaller --batch-size",
    "accumulate": "--accumulate, which computes a batch in parts",
    "image_size": "a smaller --image-size",
    "depth": "a smaller --depth",
}
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UsageError(Exception):
    """Flags that do not fit together."""


class Failure(Exception):
    """An error whose message is clear without the name of an exception."""


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that reports errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(
            prog=" ".join(installed) or None,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A missing flag is absent, because a preset may set its value.
            argument_default=argparse.SUPPRESS,
            **kwargs,
        )

    def error(self, message):
        self.exit(
            2, f"{self.prog}: error: {message} (--help lists the flags)\n"
        )


def call(recipe):
    """Return the words that call a recipe in the way this one was called."""
    if installed:
        return [installed[0], recipe]
    return ["python", f"recipes/{recipe}.py"]


def flag(name):
    """Return the flag of a field of settings."""
    return f"--{name.replace('_', '-')}"


@contextlib.contextmanager
def interrupted_by_signals():
    """Context in which SIGTERM and SIGHUP act like Ctrl-C.

    They raise `KeyboardInterrupt`, whose argument is the number of the signal.
    A process that ignores a signal, as under `nohup`, continues to ignore it.
    """

    def interrupt(number, frame):
        raise KeyboardInterrupt(number)

    # Windows has no SIGHUP.
    numbers = [
        number
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", None))
        if number and signal.getsignal(number) == signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def keras_json():
    """Return the path of Keras's own settings."""
    home = os.path.expanduser("~")
    home = home if os.access(home, os.W_OK) else "/tmp"
    home = os.environ.get("KERAS_HOME", os.path.join(home, ".keras"))
    return os.path.expanduser(os.path.join(home, "keras.json"))


def backend():
    """Return the backend that Keras will use, without loading Keras."""
    chosen = os.environ.get("KERAS_BACKEND")
    if chosen:
        return chosen
    try:
        with open(keras_json(), encoding="utf-8") as file:
            return json.load(file).get("backend", "tensorflow")
    except (OSError, ValueError):
        return "tensorflow"


def check_backend():
    """Raise `UsageError` if Keras is set to a backend that cannot train."""
    chosen = backend()
    if chosen not in ("tensorflow", "jax", "torch"):
        source = "KERAS_BACKEND"
        if not os.environ.get(source):
            source = f"the backend in {keras_json()}"
        raise UsageError(
            f"{source} is {chosen!r}: set it to tensorflow, jax or torch"
        )


def explain(error, settings):
    """Return the line with the cause of an error and a remedy.

    Args:
        error: Exception.
        settings: `CommandSettings`, or `None` if the flags were not yet read.
    """
    message = " ".join(str(error).split())
    # Errors of this project are clear without their exception's name.
    if isinstance(error, Failure) or type(error).__module__.startswith(
        "keras_resnet"
    ):
        for argument, shown in FLAGS.items():
            message = message.replace(argument, shown)
        return message
    name = type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{message}: install what the recipes need, pip install "
            "'keras3-resnet[recipes]', and the backend"
        )
    debug = "--debug shows the traceback"
    if NO_MEMORY.search(f"{name}: {message}"):
        fields = [f for f in SMALLER if getattr(settings, f, None) is not None]
        tried = " ".join(f"{flag(f)} {getattr(settings, f)}" for f in fields)
        remedy = " or ".join(SMALLER[field] for field in fields)
        return (
            f"memory ran out with {tried or 'these images'}: take "
            f"{remedy or 'fewer or smaller ones'} ({name}; {debug})"
        )
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
        if error.filename:
            message = f"{error.filename}: {message}"
        if error.errno in NO_SPACE:
            again = " with --resume" if hasattr(settings, "resume") else ""
            message += f": make room, and run the command again{again}"
        return f"{message} ({debug})"
    return f"{name}: {message or 'no message'} ({debug})"


def execute(settings, main, argv=None):
    """Parse the command line, call `main` with its settings, and exit.

    Args:
        settings: Subclass of `CommandSettings`.
        main: Callable that takes an instance of it.
        argv: List of flags. Defaults to those of this process.
    """
    parser = settings.parser()
    # Before the flags are parsed, because --block imports Keras.
    quiet.hide_tensorflow_notes()
    given = vars(parser.parse_args(argv))
    debug = given.get("debug", False)
    # TensorFlow Datasets warns of missing folders. The error that follows says
    # more.
    logging.getLogger("absl").setLevel(logging.ERROR)
    for name in ("stdout", "stderr"):
        # The caller may have closed it.
        if getattr(sys, name) is None:
            nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, nothing)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The encoding of a terminal or pipe may lack "±".
        sys.stdout.reconfigure(errors="replace")
    chosen = None
    try:
        check_backend()
        chosen = settings.settle(given)
        with interrupted_by_signals():
            main(chosen)
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        message = None
        if number != signal.SIGINT:
            name = signal.Signals(number).name
            message = f"{parser.prog}: ended by {name}\n"
        # The exit status that a shell reports for a signal.
        parser.exit(128 + number, message)
    except UsageError as error:
        parser.error(str(error))
    except Exception as error:
        if debug:
            raise
        parser.exit(1, f"{parser.prog}: error: {explain(error, chosen)}\n")
