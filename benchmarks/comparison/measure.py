"""Time several implementations in turn, and describe the results."""

import dataclasses
import gc
import random
import statistics
import sys

# Some implementations compile or trace only after a few batches of a shape.
WARMUP_BATCHES = 4


@dataclasses.dataclass
class Comparison:
    """Values of several implementations, measured in the same rounds."""

    name: str  # such as "ResNet-20, training, batch 128"
    unit: str
    # By implementation: a value for each round. One is "ours".
    values: dict
    # The largest difference of its logits from those of ours.
    differences: dict = dataclasses.field(default_factory=dict)
    # Why it is missing.
    left_out: dict = dataclasses.field(default_factory=dict)

    @property
    def others(self):
        """Name of the implementations that ours is compared with."""
        return [name for name in self.values if name != "ours"]

    def ratios(self, other):
        """Return how many times better ours is than another in each round."""
        pairs = zip(self.values["ours"], self.values[other], strict=True)
        # More is better per second; of seconds, less.
        more = "/s" in self.unit
        return [a / b if more else b / a for a, b in pairs]

    def lines(self):
        """Return lines for a terminal."""
        lines = [f"{self.name} ({self.unit}):"]
        for name, values in self.values.items():
            line = f"  {name:20} {spread(values):30}"
            if name != "ours":
                line += f" ours is {spread(self.ratios(name))}x"
            if name in self.differences:
                line += f", logits differ by {self.differences[name]:.1e}"
            lines.append(line)
        for name, reason in self.left_out.items():
            lines.append(f"  {name:20} left out: {reason}")
        return lines


def number(value):
    """Return a number as text, with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """Return the median with the lowest and the highest value, as text."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{number(middle)} ({number(low)} to {number(high)})"


def progress(line):
    """Print a line on standard error, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def alternate(runs, rounds, label, warmup=1, prepare=lambda name: None):
    """Run the functions of all implementations once per round, in random order.

    The order is random because an implementation that always came after the
    same other one would always find the same caches and the same clock rate.
    `prepare` is called with a name before its run. Returns the list of results
    by name, without those of `warmup` rounds before the others.
    """
    order = random.Random(0)
    values = {name: [] for name in runs}
    for i in range(1 - warmup, rounds + 1):
        for name in order.sample(list(runs), len(runs)):
            # Collect now, or else it may happen while the run is timed.
            gc.collect()
            prepare(name)
            value = runs[name]()
            if i > 0:
                values[name].append(value)
        done = f"round {i} of {rounds}" if i > 0 else "warm-up round"
        progress(f"{label}: {done}")
    return values


def compare(name, unit, runs, rounds, convert=lambda s: s, **kwargs):
    """Time implementations in turn, and return the `Comparison`.

    `runs` return seconds, and `convert` makes values of them.
    """
    seconds = alternate(runs, rounds, name, **kwargs)
    values = {key: [convert(s) for s in kept] for key, kept in seconds.items()}
    return Comparison(name, unit, values)
