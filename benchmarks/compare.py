"""Compare this package with other ways to compute the same networks.

    KERAS_BACKEND=torch python benchmarks/compare.py --threads 1 --case train20

Implementations: this package; the same graph of Keras's own layers;
keras.applications and KerasHub (ResNet-50); and plain code of the backend's
framework. They take turns in random order, round by round, in one process, or
each in fresh processes. Each gets the same weights and must give the same
logits before it is timed.

For each case the folder OUTPUT/benchmarks gets CASE-BACKEND-Nthreads.json,
with every round's value. README.md (tables) and the figures there are then
made from all such files. history.csv beside them keeps what earlier runs
measured, and --history says what got slower.
"""

import dataclasses
import json
import os
from pathlib import Path

from comparison import cores, history, report
from comparison.cases import CASES
from comparison.measure import WARMUP_BATCHES
from keras_resnet_recipes.experiment import (
    CommandSettings,
    UsageError,
    execute,
    option,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CommandSettings):
    """Flags of this command."""

    case: tuple[str, ...] = option(
        tuple(CASES),
        "cases to measure (default: all): "
        + "; ".join(f"{name}: {f.__doc__}" for name, f in CASES.items()),
        choices=tuple(CASES),
        metavar="CASE",
    )
    threads: int = option(
        len(cores.available()), "processor cores to use (default: all)"
    )
    rounds: int = option(7, "timed rounds, after warm-up")
    steps: int | None = option(
        None, "batches per round (default: the case's own number)"
    )
    full: bool = option(
        False,
        "let the case depth train the 1202-layer network too",
        needs=("--case depth", lambda s: "depth" in s.case),
    )
    images: Path | None = option(
        None,
        "folder of folders of images for the case decode (default: pictures "
        "made for it, of ImageNet's usual size)",
        needs=("--case decode", lambda s: "decode" in s.case),
    )
    output: Path = option(Path("docs/results"), "folder of results")
    table: bool = option(
        False, "measure nothing, only make tables and figures again"
    )
    history: bool = option(
        False,
        "measure nothing, only say what got slower since the last release, or "
        "without one since another commit, on the same machine and backend",
    )

    def resolve(self, given):
        for flag in ("table", "history"):
            others = set(given) - {flag, "output", "debug"}
            if getattr(self, flag) and others:
                raise UsageError(
                    f"--{flag} measures nothing: leave out --{min(others)}"
                )
        steps = self.steps or WARMUP_BATCHES
        if self.steps and set(self.case) == {"import"}:
            raise UsageError("--steps: an import has none: leave it out")
        if steps < WARMUP_BATCHES and {"start", "recipe"} & set(self.case):
            raise UsageError(
                f"--steps {steps}: the cases start and recipe need "
                f"{WARMUP_BATCHES}: give more, or name other cases by --case"
            )
        n = len(cores.available())
        if self.threads > n:
            raise UsageError(f"--threads {self.threads}: there are {n} cores")
        return self


def main(settings):
    """Measure the cases one by one, and make tables and figures."""
    output = settings.output / "benchmarks"
    if settings.history:
        print(history.slower(output))
        return
    if not settings.table:
        measure(settings, output)
    report.write(output)


def measure(settings, output):
    """Measure each case and write its file."""
    threads = settings.threads
    if threads < len(cores.available()):
        cores.pin(threads)

    import keras

    from keras_resnet import devices, training
    from keras_resnet_recipes.experiment.provenance import origin

    # For processes and implementations that do not import Keras.
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    devices.use()  # before any implementation computes
    output.mkdir(parents=True, exist_ok=True)
    for case in settings.case:
        load = os.getloadavg()[0]
        comparisons = CASES[case](settings)
        for comparison in comparisons:
            print("\n".join(comparison.lines()), flush=True)
        line = {
            **origin(),
            "case": case,
            "threads": threads,
            "load_before": round(load, 2),
            "settings": {
                "rounds": settings.rounds,
                "steps": settings.steps,
                "full": settings.full,
                "images": settings.images and str(settings.images),
            },
            "comparisons": list(map(dataclasses.asdict, comparisons)),
        }
        path = output / f"{case}-{line['backend']}-{threads}threads.json"
        training.write_atomically(path, json.dumps(line) + "\n")
        history.append(output, line | {"comparisons": comparisons})
        keras.utils.clear_session(free_memory=True)


if __name__ == "__main__":
    execute(Settings, main)
