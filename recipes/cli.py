"""Common flags, errors and exit statuses of the recipes.

Exit status 0: done. 1: failed. 2: wrong usage. 130: interrupted. An error is
one line that says what is wrong and what to do; `--debug` adds the traceback.
Nothing here imports Keras, so that `--help` and a mistyped flag answer at
once.
"""

import argparse
import io
import logging
import sys

import quiet

# The flags for the arguments that errors of the package name.
FLAGS = {
    "`resume=True`": "--resume",
    "`path`": "--output",
    "`data_dir`": "--data-dir",
    "`manual_dir`": "--manual-dir",
    '`name="digits"`': "--dataset digits",
    "`folder`": "--cache",
    '`devices="all"`': "--devices all",
    "`synchronized=False`": "--normalization per-device",
}


class UsageError(Exception):
    """Flags that do not fit together."""


class Failure(Exception):
    """An error of a recipe's own, whose message says all there is to say."""


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that reports errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A flag that was not given is absent: a preset may set it.
            argument_default=argparse.SUPPRESS,
            **kwargs,
        )
        self.add_argument(
            "--debug",
            action="store_true",
            default=False,
            help="show the traceback of an error",
        )

    def error(self, message):
        self.exit(
            2, f"{self.prog}: error: {message} (--help lists the flags)\n"
        )


def positive_int(text):
    """Parse an integer above zero."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def positive_float(text):
    """Parse a finite number above zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def non_negative_float(text):
    """Parse a finite number, zero or above."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


def share(text):
    """Parse a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


LAST_SEED = 2**31 - 1


def seed(text):
    """Parse a seed: an integer from 0 to `LAST_SEED`."""
    value = int(text)
    if not 0 <= value <= LAST_SEED:
        raise ValueError
    return value


def device_count(text):
    """Parse a number of devices, or "all"."""
    return text if text == "all" else positive_int(text)


device_count.__name__ = 'number of devices, or "all"'
positive_int.__name__ = "positive whole number"
positive_float.__name__ = "positive number"
non_negative_float.__name__ = "number of at least 0"
share.__name__ = "number from 0 to 1"
seed.__name__ = "seed (whole number from 0 to 2147483647)"


def add_data_flags(parser):
    """Add `--data-dir` and `--input`."""
    add_data_dir(parser)
    parser.add_argument(
        "--input",
        choices=("auto", "tf.data", "device"),
        help="where batches are prepared, the same ones either way: tf.data, "
        "on the processor; device, where the network trains, not on "
        "TensorFlow; auto: device on JAX and PyTorch with an accelerator "
        "(default: auto)",
    )


def add_data_dir(parser):
    """Add `--data-dir`."""
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of TensorFlow Datasets (default: TFDS_DATA_DIR, else "
        "~/tensorflow_datasets)",
    )


def add_device_flags(parser):
    """Add `--devices` and `--normalization`."""
    parser.add_argument(
        "--devices",
        type=device_count,
        metavar="N",
        help="train on N devices, or on all of them: those of this machine, "
        "or of all processes that were started together; batch and learning "
        "rate stay those of the run (default: one device)",
    )
    parser.add_argument(
        "--normalization",
        choices=("synchronized", "per-device"),
        help="statistics of batch normalization on several devices: those of "
        "the whole batch, as on one device; or of each device's shard of it, "
        "which is faster, and which JAX does not have (default: synchronized)",
    )


def add_run_flags(parser, default):
    """Add `--devices`, `--normalization`, `--output` and `--resume`."""
    add_device_flags(parser)
    parser.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder for what the run leaves (default: {default})",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in that folder, from its last whole epoch",
    )


def with_flags(message):
    """Return a message of the package with flags in place of arguments."""
    for argument, flag in FLAGS.items():
        message = message.replace(argument, flag)
    return message


def run(parser, main, argv=None):
    """Parse the command line, call `main(arguments)`, and exit."""
    arguments = parser.parse_args(argv)
    debug = arguments.debug
    del arguments.debug
    quiet.hide_tensorflow_notes()
    # TensorFlow Datasets warns of folders that it does not find. The error
    # that follows says more.
    logging.getLogger("absl").setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or a pipe may have no "±" in its encoding.
        sys.stdout.reconfigure(errors="replace")
    try:
        main(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except UsageError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        if debug:
            raise
        parser.exit(
            1,
            f"{parser.prog}: error: {error}: install what the recipes need, "
            "pip install 'keras3-resnet[recipes]', and the backend\n",
        )
    except Exception as error:
        if debug:
            raise
        kind = type(error).__name__
        # Errors of this project say all there is to say; others need a name.
        known = isinstance(error, Failure) or type(error).__module__.startswith(
            "keras_resnet"
        )
        message = " ".join(str(error).split())
        message = with_flags(message) if known else f"{kind}: {message}"
        hint = "" if known else " (--debug shows the traceback)"
        parser.exit(1, f"{parser.prog}: error: {message}{hint}\n")
