"""Types of flags: functions from a text to a value.

Each raises `argparse.ArgumentTypeError`, whose message describes valid values.
"""

import argparse
import dataclasses
import math
import os
from pathlib import Path

LAST_SEED = 2**31 - 1
# The same as in `keras_resnet.table1`.
MAX_DEPTH = 9998


def _number(kind, words, holds):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not holds(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no {words}")
        return value

    return parse


positive_int = _number(int, "positive whole number", lambda n: n >= 1)
"""Parse a whole number of at least 1."""
non_negative_int = _number(int, "whole number of at least 0", lambda n: n >= 0)
"""Parse a whole number of at least 0."""
positive_float = _number(float, "positive number", lambda x: 0 < x < math.inf)
"""Parse a finite number above 0."""
non_negative_float = _number(
    float, "number of at least 0", lambda x: 0 <= x < math.inf
)
"""Parse a finite number of at least 0."""
share = _number(float, "number from 0 to 1", lambda x: 0 <= x <= 1)
"""Parse a number from 0 to 1."""
seed = _number(
    int, f"whole number from 0 to {LAST_SEED}", lambda n: 0 <= n <= LAST_SEED
)


def depth_among(*imagenet):
    """Return the parser of a depth: one of these, or one for CIFAR-10."""
    others = f"none of {', '.join(map(str, imagenet))} and " if imagenet else ""

    def parse(text):
        depth = positive_int(text)
        if depth in imagenet:
            return depth
        if depth < 8 or depth % 6 != 2:
            raise argparse.ArgumentTypeError(
                f"{depth} is {others}not 6n+2: 8, 14, 20, 26, 32, ..."
            )
        if depth > MAX_DEPTH:
            raise argparse.ArgumentTypeError(
                f"{depth} layers could not be built: take at most {MAX_DEPTH}"
            )
        return depth

    return parse


cifar_depth = depth_among()
"""Parse a depth for CIFAR-10, 6n+2 from 8 on."""


def path(text):
    """Parse a path, in which "~" is the home folder."""
    return Path(os.path.expanduser(text))


def device_count(text):
    """Parse a number of devices, or "all"."""
    return text if text == "all" else positive_int(text)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number of steps, or of seconds."""

    steps: int | None = None
    seconds: float | None = None

    def __str__(self):
        return str(self.steps) if self.steps else f"{self.seconds / 60:g}m"


SAVE_EVERY = Interval(seconds=600)


def interval(text):
    """Parse a number of steps, or of minutes with an "m" behind it."""
    try:
        if text.endswith("m"):
            return Interval(seconds=60 * positive_float(text[:-1]))
        return Interval(steps=positive_int(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of steps, such as 500, nor of minutes, "
            "such as 10m"
        ) from None
