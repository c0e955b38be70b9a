"""Kills recipes, resumes them, and compares their endings bit by bit.

    KERAS_BACKEND=torch python tests/faults.py --kills 40

A run that nobody stops is compared with chains: the same command is killed
three times and resumed each time, then it runs to its end. The moments are
uniform over the run after its first checkpoint. Each kill has its own way:

moment   SIGKILL at that moment
write    SIGKILL at the next time that a file is half written
SIGTERM  the recipe saves, and exits with status 143

The ending of a chain is the same if both folders have the same files, in them
the same weights to the last bit, and the same numbers in tables and results but
for those of the clock.
"""

import argparse
import csv
import dataclasses
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import keras
from imagenet_files import image_folder

from keras_resnet.training import write_atomically
from keras_resnet_recipes.experiment import provenance, report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/faults"
WAYS = ("moment", "write", "SIGTERM")
# A process that has no checkpoint by then hangs.
SECONDS = 600
# Values that differ between two runs of the same settings. The log that this
# script leaves makes the checkout differ from its commit.
CLOCK = {"seconds", "images_per_second", "command", "commit"}

RECIPES = {
    "cifar10": (
        *("--dataset", "digits", "--preset", "fast", "--depth", "8"),
        *("--epochs", "2", "--save-every", "5"),
    ),
    "mnist": (
        *("--dataset", "digits", "--train-images", "320", "--epochs", "2"),
        *("--every", "4", "--save-every", "2"),
    ),
    "tune": (
        *("--dataset", "digits", "--depths", "8", "--epochs", "1"),
        *("--max-trials", "3", "--save-every", "5"),
    ),
    "imagenet": (
        *("--dataset", "folder", "--preset", "fast", "--depth", "18"),
        *("--image-size", "32", "--first-size", "32", "--test-size", "32"),
        *("--test-resize", "32", "--batch-size", "8", "--epochs", "4"),
        *("--warmup-epochs", "1", "--learning-rate", "0.1"),
        *("--save-every", "3"),
    ),
}


def start(recipe, backend, flags):
    return subprocess.Popen(
        [sys.executable, f"recipes/{recipe}.py", *map(str, flags)],
        cwd=ROOT,
        # Other packages do not state their encodings.
        env=os.environ
        | {"KERAS_BACKEND": backend, "PYTHONWARNDEFAULTENCODING": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def wait(process, holds):
    """Wait until `holds()`, and return whether the process still runs."""
    deadline = time.monotonic() + SECONDS
    while process.poll() is None:
        if holds():
            return True
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError(f"no sign of life in {SECONDS} s")
        time.sleep(0.0005)
    return False


def has_checkpoint(folder, begun):
    """Return whether a process has left a checkpoint since it was begun.

    The checkpoint of a search is the state of a trial.
    """
    paths = [*folder.rglob("last.keras"), *folder.rglob("trial.json")]
    try:
        return any(path.stat().st_mtime > begun for path in paths)
    except FileNotFoundError:
        return False


def half_written(folder):
    """Return the partial files in a folder that have contents."""
    try:
        return [p for p in folder.rglob(".partial-*") if p.stat().st_size]
    except FileNotFoundError:
        return []


@dataclasses.dataclass
class Kill:
    """A process that was killed.

    Attributes:
        way: One of `WAYS`.
        after: Float, seconds from the first checkpoint of the process.
        left: List of the names of half written files that it left.
        status: Integer, its exit status.
    """

    way: str
    after: float
    left: list[str]
    status: int


def end(process):
    """Wait for the end of a process that should not fail."""
    out, _ = process.communicate(timeout=SECONDS)
    if process.returncode:
        raise AssertionError(f"exit status {process.returncode}\n{out}")


def kill(process, way, after, folder, begun):
    """Kill a process some seconds after its first checkpoint.

    Returns:
        Whether it was killed before it ended.
    """
    if not wait(process, lambda: has_checkpoint(folder, begun)):
        return False
    moment = time.monotonic() + after
    if not wait(process, lambda: time.monotonic() >= moment):
        return False
    if way == "write" and not wait(process, lambda: half_written(folder)):
        return False
    number = signal.SIGTERM if way == "SIGTERM" else signal.SIGKILL
    process.send_signal(number)
    out, _ = process.communicate(timeout=SECONDS)
    if process.returncode not in (0, 128 + number, -number):
        raise AssertionError(f"exit status {process.returncode}\n{out}")
    return process.returncode != 0


def ending(folder):
    """Return what a run has left, in a form that can be compared."""
    return {
        str(path.relative_to(folder)): contents(path)
        for path in folder.rglob("*")
        if path.is_file()
        # A resumed run continues TensorBoard's log in a file of its own.
        and "tensorboard" not in path.parts
        # After a SIGTERM all checkpoints but the last are of other steps.
        and path.name != "previous.keras"
    }


def contents(path):
    """Return weights, tables and numbers of a file, without times."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            weights = archive.read("model.weights.h5")
        arrays = {}
        with h5py.File(io.BytesIO(weights)) as file:
            file.visititems(
                lambda name, item: (
                    arrays.update({name: item[()].tobytes()})
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
        return arrays
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8") as file:
            return [timeless(row) for row in csv.DictReader(file)]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text("utf-8")))
    # Pictures and tables of words are made from the others, and show seconds.
    return None


def timeless(value):
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in CLOCK}
        if "tried_so_far" in value:
            # A set of KerasTuner's, written in any order.
            value["tried_so_far"] = sorted(value["tried_so_far"])
        return {k: timeless(v) for k, v in value.items()}
    return [*map(timeless, value)] if isinstance(value, list) else value


class Reference:
    """A run that nobody stops, to compare chains of killed runs with.

    Args:
        recipe: String, a key of `RECIPES`.
        backend: String.
        folder: `Path` of a folder for all runs.
    """

    def __init__(self, recipe, backend, folder):
        self.recipe, self.backend, self.folder = recipe, backend, folder
        self.flags = [*RECIPES[recipe]]
        if recipe == "imagenet":
            for part in ("train", "val"):
                image_folder(folder / "images" / part, classes=3, each=10)
            self.flags += ["--folder", folder / "images"]
        self.chains = 0
        straight = folder / "straight"
        begun = time.time()
        process = start(recipe, backend, [*self.flags, "--output", straight])
        wait(process, lambda: has_checkpoint(straight, begun))
        first = time.monotonic()
        end(process)
        self.seconds = time.monotonic() - first
        self.ending = ending(straight)

    def chain(self, ways, moments):
        """Kill a run in these ways, and let it end.

        Args:
            ways: Sequence of some of `WAYS`.
            moments: Sequence of as many rising floats from 0 to 1, shares of
                the run.

        Returns:
            List of `Kill`, and a list of the names of the files in which the
            ending differs.
        """
        self.chains += 1
        output = self.folder / f"chain{self.chains}"
        flags = [*self.flags, "--output", output]
        steps = itertools.pairwise([0, *moments])
        kills = []
        for way, (before, moment) in zip(ways, steps, strict=True):
            begun, after = time.time(), (moment - before) * self.seconds
            resume = ["--resume"] if output.exists() else []
            process = start(self.recipe, self.backend, [*flags, *resume])
            if not kill(process, way, after, output, begun):
                end(process)
                break
            kills.append(
                Kill(
                    way,
                    round(after, 2),
                    [path.name for path in half_written(output)],
                    process.returncode,
                )
            )
        end(start(self.recipe, self.backend, [*flags, "--resume"]))
        there = ending(output)
        return kills, sorted(
            name
            for name in {*there, *self.ending}
            if there.get(name, "missing") != self.ending.get(name, "missing")
        )


def cells(chains):
    """Return the cells of a row of the table about some chains."""
    kills = [kill for chain in chains for kill in chain["kills"]]
    return [
        *(sum(kill["way"] == way for kill in kills) for way in WAYS),
        sum(bool(kill["left"]) for kill in kills),
        len(chains),
        sum(not chain["different"] for chain in chains),
    ]


def page(lines):
    head = ["backend", "recipe", *WAYS, "left a partial file", "chains"]
    head.append("ended bit-equal")
    rows = [
        [line["backend"], recipe, *cells(chains)]
        for line in lines
        for recipe, chains in line["chains"].items()
    ]
    every = [
        c for line in lines for each in line["chains"].values() for c in each
    ]
    rows.append(["all", "", *cells(every)])
    kills = sum(len(chain["kills"]) for chain in every)
    equal = f"{rows[-1][-1]} of {len(every)}"
    if rows[-1][-1] == len(every):
        equal = f"All {len(every)}"
    made = [
        f"- `{line['command']}`  \n  {report.origin(line)}" for line in lines
    ]
    return "\n".join(
        [
            "# Faults",
            "",
            f"{equal} chains ended bit-equal after {kills} kills.",
            "",
            "Processes that were killed, by the way of the kill, and how runs",
            "ended that were resumed after each: `tests/faults.py` says how.",
            "",
            report.table(head, rows),
            "",
            *made,
            "",
        ]
    )


def main():
    """Kill as often as asked, and leave the log and its page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    rng = random.Random(flags.seed)
    backend = keras.backend.backend()
    # Before the log makes the checkout differ from its commit.
    origin = provenance.origin()
    chains = {recipe: [] for recipe in RECIPES}
    kills, references = 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for recipe in itertools.cycle(RECIPES):
            if kills >= flags.kills:
                break
            if recipe not in references:
                own = Path(folder, recipe)
                own.mkdir()
                references[recipe] = Reference(recipe, backend, own)
            ways = rng.sample(WAYS, len(WAYS))
            moments = sorted(rng.random() for _ in ways)
            killed, different = references[recipe].chain(ways, moments)
            kills += len(killed)
            chains[recipe].append(
                {
                    "kills": [dataclasses.asdict(kill) for kill in killed],
                    "different": different,
                }
            )
            print(recipe, json.dumps(chains[recipe][-1]), flush=True)
            leave(backend, origin | {"chains": chains})


def leave(backend, line):
    """Leave the log of a backend, and the page of all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / f"{backend}.json", json.dumps(line) + "\n")
    lines = [
        json.loads(path.read_text("utf-8"))
        for path in sorted(RESULTS.glob("*.json"))
    ]
    write_atomically(RESULTS / "README.md", page(lines))


if __name__ == "__main__":
    main()
