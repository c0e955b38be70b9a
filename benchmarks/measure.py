"""Times several sides in turn, and says what came out."""

import dataclasses
import gc
import random
import statistics
import sys
import time

# Some sides compile or trace a model only after a few batches of a shape.
WARMUP_BATCHES = 4
# In the order of tables. They are in works.py, which waits for Keras.
WORKS = (
    "train20",
    "infer50",
    "train50",
    "host",
    "pipeline",
    "decode",
    "recipe",
    "import",
    "depth",
    "batch",
    "start",
)


@dataclasses.dataclass
class Case:
    """What was measured of several sides in the same rounds.

    Attributes:
        name: What was measured, such as "ResNet-20, training, batch 128".
        unit: Unit of the values.
        rate: Whether more is better.
        reference: The side that the others are compared with.
        values: By side, a value for each round.
        differences: By side, the largest difference of its logits from those
            of the reference, from the same weights.
        left_out: By side, why it is missing.
    """

    name: str
    unit: str
    rate: bool
    reference: str
    values: dict
    differences: dict = dataclasses.field(default_factory=dict)
    left_out: dict = dataclasses.field(default_factory=dict)

    def ratios(self, side):
        """Returns round by round how many times the reference is better."""
        pairs = zip(self.values[self.reference], self.values[side], strict=True)
        return [a / b if self.rate else b / a for a, b in pairs]

    def lines(self):
        """Returns lines for a terminal."""
        lines = [f"{self.name} ({self.unit}):"]
        for side, values in self.values.items():
            line = f"  {side:20} {spread(values):30}"
            if side != self.reference:
                line += f" {self.reference} is {spread(self.ratios(side))}x"
            if side in self.differences:
                line += f", logits differ by {self.differences[side]:.1e}"
            lines.append(line)
        lines += [
            f"  {side:20} left out: {reason}"
            for side, reason in self.left_out.items()
        ]
        return lines


def number(value):
    """Returns a number with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """Returns the median with the lowest and the highest value."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{number(middle)} ({number(low)} to {number(high)})"


def alternate(runs, rounds, label, warmup=1):
    """Runs all sides once per round, in a random order, and keeps the values.

    The order is random because a side that always came after the same other
    one would always find the same caches and the same clock rate.

    Args:
        runs: By side, a function that measures it once.
        rounds: Integer, rounds to keep.
        label: String for the progress lines.
        warmup: Integer, rounds before those, which are not kept.

    Returns:
        By side, a list of what the function returned.
    """
    order = random.Random(0)
    values = {side: [] for side in runs}
    for i in range(1 - warmup, rounds + 1):
        found = {}
        for side in order.sample(list(runs), len(runs)):
            # Not while the next side is timed.
            gc.collect()
            found[side] = runs[side]()
        if i > 0:
            for side, value in found.items():
                values[side].append(value)
        done = f"round {i} of {rounds}" if i > 0 else "warm-up round"
        progress(f"{label}: {done}")
    return values


def progress(line):
    """Prints a line where it does not mix with the results."""
    print(line, file=sys.stderr, flush=True)


def rate(run, n, prepare=lambda: None):
    """Returns a function that measures `run()` as `n` per second.

    `run` returns the `time.perf_counter()` at which it was done. `prepare` is
    called before, and is not timed.
    """

    def measure():
        prepare()
        begin = time.perf_counter()
        return n / (run() - begin)

    return measure


def milliseconds(run, n, prepare=lambda: None):
    """Returns a function that measures `run()` in milliseconds per `n`th.

    Arguments are those of `rate`.
    """

    def measure():
        prepare()
        begin = time.perf_counter()
        return 1e3 * (run() - begin) / n

    return measure
