"""Compares this package with the other ways to compute the same networks.

    KERAS_BACKEND=torch python benchmarks/compare.py --threads 1

Sides: this package; the same graph of Keras's own layers; keras.applications
and KerasHub (ResNet-50); and plain code of the backend's framework. They take
turns in random order, round by round, in one process; those that measure
processes take turns in fresh ones. Each side is given the same weights and
must give the same logits before it is timed.

For each work the folder OUTPUT/benchmarks gets WORK-BACKEND-Nthreads.json,
with every round's value. README.md (tables) and the figures there are then
made from all such files.

Works: train20 (ResNet-20, batch 128), infer50 and train50 (ResNet-50), host
(milliseconds per step at batch 2), pipeline (images per second of the input
pipeline), decode (images per second and core from JPEG files), recipe (fit
with that pipeline, against one resident batch), import (seconds), depth and
batch (growth), start (time to the first step and peak memory of fresh
processes).
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import cli  # noqa: E402
from measure import WARMUP_BATCHES, WORKS  # noqa: E402


def make_parser():
    """Returns the parser of this command's flags."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "--work",
        nargs="+",
        choices=WORKS,
        metavar="WORK",
        help=f"what to measure, of {', '.join(WORKS)} (default: all)",
    )
    parser.add_argument(
        "--threads",
        type=cli.positive_int,
        metavar="N",
        help="processor cores to use (default: all)",
    )
    parser.add_argument(
        "--rounds",
        type=cli.positive_int,
        metavar="N",
        help="timed rounds, after one that warms up (default: 7)",
    )
    parser.add_argument(
        "--steps",
        type=cli.positive_int,
        metavar="N",
        help="batches per round (default: the work's own number)",
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="let the work depth train the 1202-layer network too",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="folder of folders of images for the work decode (default: "
        "pictures made for it, of ImageNet's usual size)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="docs/results",
        help="folder of results (default: docs/results)",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="measure nothing, only make tables and figures again",
    )
    return parser


def check(arguments):
    """Raises `cli.UsageError` for flags that do not fit together."""
    given = vars(arguments)
    if "table" in given:
        others = [n for n in given if n not in ("table", "output")]
        if others:
            raise cli.UsageError(
                f"--table measures nothing: leave out --{others[0]}"
            )
        return
    if "full" in given and "depth" not in given.get("work", WORKS):
        raise cli.UsageError("--full is for the work depth: add it to --work")
    if "images" in given and "decode" not in given.get("work", WORKS):
        raise cli.UsageError(
            "--images is for the work decode: add it to --work"
        )
    measured = set(given.get("work", WORKS))
    if "steps" in given and measured == {"import"}:
        raise cli.UsageError("--steps: an import has none: leave it out")
    if measured & {"start", "recipe"} and (
        given.get("steps", WARMUP_BATCHES) < WARMUP_BATCHES
    ):
        raise cli.UsageError(
            f"--steps {arguments.steps}: the works start and recipe need "
            f"{WARMUP_BATCHES}, and --work names others"
        )
    available = cores()
    if given.get("threads", 1) > len(available):
        raise cli.UsageError(
            f"--threads {arguments.threads}: there are {len(available)} cores"
        )


def cores():
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count()))


def pin(threads):
    """Makes every framework use `threads` cores. Must come before them all.

    Their thread pools are as large as the number of cores that the process
    may use, so this alone would do where the system can set it. The variables
    are for those that count otherwise.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[-threads:])
    for variable in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
    ):
        os.environ[variable] = str(threads)
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = (
            f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        )


def main(arguments):
    """Measures the works one by one, and makes tables and figures."""
    check(arguments)
    output = Path(arguments.output) / "benchmarks"
    given = vars(arguments)
    if "table" not in given:
        measure_works(given, output)
    import report

    report.write(output)


def measure_works(given, output):
    """Measures each work and writes its file."""
    threads = given.get("threads", len(cores()))
    if "threads" in given:
        pin(threads)

    import keras

    # For processes and sides that do not import Keras.
    os.environ["KERAS_BACKEND"] = keras.backend.backend()

    from keras_resnet import devices

    devices.use()  # before any side computes
    from works import WORKS as FUNCTIONS
    from works import Settings

    from keras_resnet.training import runs

    settings = Settings(
        rounds=given.get("rounds", 7),
        steps=given.get("steps"),
        full="full" in given,
        images=given.get("images"),
    )
    output.mkdir(parents=True, exist_ok=True)
    for work in given.get("work", WORKS):
        load = os.getloadavg()[0]
        cases = FUNCTIONS[work](settings)
        for case in cases:
            print("\n".join(case.lines()), flush=True)
        line = {
            "command": runs.command(),
            "commit": runs.commit(),
            **runs.environment(),
            "work": work,
            "threads": threads,
            "load_before": round(load, 2),
            "settings": dataclasses.asdict(settings),
            "cases": [dataclasses.asdict(case) for case in cases],
        }
        name = f"{work}-{line['backend']}-{threads}threads"
        path = output / f"{name}.json"
        runs.write_atomically(path, json.dumps(line) + "\n")
        keras.utils.clear_session(free_memory=True)


if __name__ == "__main__":
    cli.run(make_parser(), main)
