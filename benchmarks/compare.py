"""Compare this package with other ways to compute the same networks.

    KERAS_BACKEND=torch python benchmarks/compare.py --threads 1 --case train20

Implementations: this package; the same graph of Keras's own layers;
keras.applications and KerasHub (ResNet-50); and plain code of the backend's
framework. They take turns in random order, round by round, in one process, or
each in fresh processes. Each gets the same weights and must give the same
logits before it is timed.

For each case the folder OUTPUT/benchmarks gets CASE-BACKEND-Nthreads.json,
with every round's value. README.md (tables) and the figures there are then
made from all such files.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))

import cli  # noqa: E402
from comparison import cores, report  # noqa: E402
from comparison.cases import CASES, Settings  # noqa: E402
from comparison.measure import WARMUP_BATCHES  # noqa: E402


def make_parser():
    """Return the parser of this command's flags."""
    lines = [f"  {name:10}{f.__doc__}" for name, f in CASES.items()]
    parser = cli.Parser(
        description=__doc__, epilog="\n".join(["cases:", *lines])
    )
    add = parser.add_argument
    count = {"type": cli.positive_int, "metavar": "N"}
    add(
        "--case",
        nargs="+",
        choices=CASES,
        metavar="CASE",
        help="cases to measure (default: all)",
    )
    add("--threads", **count, help="processor cores to use (default: all)")
    add("--rounds", **count, help="timed rounds, after warm-up (default: 7)")
    add(
        "--steps",
        **count,
        help="batches per round (default: the case's own number)",
    )
    add(
        "--full",
        action="store_true",
        help="let the case depth train the 1202-layer network too",
    )
    add(
        "--images",
        metavar="DIR",
        help="folder of folders of images for the case decode (default: "
        "pictures made for it, of ImageNet's usual size)",
    )
    add(
        "--output",
        metavar="DIR",
        default="docs/results",
        help="folder of results (default: docs/results)",
    )
    add(
        "--table",
        action="store_true",
        help="measure nothing, only make tables and figures again",
    )
    return parser


def check(given):
    """Raise `cli.UsageError` for flags that do not fit together."""
    if "table" in given:
        others = [n for n in given if n not in ("table", "output")]
        if others:
            raise cli.UsageError(
                f"--table measures nothing: leave out --{others[0]}"
            )
        return
    cases = given.get("case", CASES)
    for flag, case in (("full", "depth"), ("images", "decode")):
        if flag in given and case not in cases:
            raise cli.UsageError(
                f"--{flag} is for the case {case}: add it to --case"
            )
    if "steps" in given and set(cases) == {"import"}:
        raise cli.UsageError("--steps: an import has none: leave it out")
    steps = given.get("steps", WARMUP_BATCHES)
    if steps < WARMUP_BATCHES and {"start", "recipe"} & set(cases):
        raise cli.UsageError(
            f"--steps {steps}: the cases start and recipe need "
            f"{WARMUP_BATCHES}: give more, or name other cases by --case"
        )
    n = len(cores.available())
    if given.get("threads", 1) > n:
        raise cli.UsageError(
            f"--threads {given['threads']}: there are {n} cores"
        )


def main(arguments):
    """Measure the cases one by one, and make tables and figures."""
    given = vars(arguments)
    check(given)
    output = Path(arguments.output) / "benchmarks"
    if "table" not in given:
        measure(given, output)
    report.write(output)


def measure(given, output):
    """Measure each case and write its file."""
    threads = given.get("threads", len(cores.available()))
    if "threads" in given:
        cores.pin(threads)

    import keras

    from keras_resnet import devices
    from keras_resnet.training import runs

    # For processes and implementations that do not import Keras.
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    devices.use()  # before any implementation computes
    settings = Settings(
        rounds=given.get("rounds", 7),
        steps=given.get("steps"),
        full="full" in given,
        images=given.get("images"),
    )
    output.mkdir(parents=True, exist_ok=True)
    for case in given.get("case", CASES):
        load = os.getloadavg()[0]
        comparisons = CASES[case](settings)
        for comparison in comparisons:
            print("\n".join(comparison.lines()), flush=True)
        line = {
            "command": runs.command(),
            "commit": runs.commit(),
            **runs.environment(),
            "case": case,
            "threads": threads,
            "load_before": round(load, 2),
            "settings": dataclasses.asdict(settings),
            "comparisons": [dataclasses.asdict(c) for c in comparisons],
        }
        path = output / f"{case}-{line['backend']}-{threads}threads.json"
        runs.write_atomically(path, json.dumps(line) + "\n")
        keras.utils.clear_session(free_memory=True)


if __name__ == "__main__":
    cli.run(make_parser(), main)
