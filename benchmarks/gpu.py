"""Measure everything on a GPU by one command, in at most ten minutes.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --quick           # tiny, on any machine
    python benchmarks/gpu.py --backend torch --part resnet20 profile

It needs PyTorch or JAX, Keras and NumPy, and no dataset. Each part runs in a
process of its own with a time-out, and each number is printed as soon as it is
there. A table beside the goals comes last.
"""

import contextlib
import dataclasses
import importlib.util
import json
import math
import operator
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from keras_resnet_recipes.experiment import (
    CommandSettings,
    Failure,
    execute,
    option,
)
from keras_resnet_recipes.experiment.report import table

WORKER = Path(__file__).resolve().parent / "gpu_parts.py"
# Seconds that all parts may take together, and the shares of each.
PARTS = {"resnet20": 150, "profile": 60, "resnet50": 150, "numerics": 120}
PARTS |= {"memory": 60, "inputs": 60}
IN_ALL = 600
ON_THE_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "JAX_PLATFORMS": "cpu",
    "KERAS_TORCH_DEVICE": "cpu",
}


def installed():
    """Return the backends that are installed."""
    return tuple(b for b in ("torch", "jax") if importlib.util.find_spec(b))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CommandSettings):
    """Flags of this command."""

    backend: tuple[str, ...] = option(
        (),
        "backends to measure (default: those that are installed)",
        choices=("torch", "jax"),
    )
    part: tuple[str, ...] = option(
        tuple(PARTS), "parts to measure (default: all)", choices=tuple(PARTS)
    )
    quick: bool = option(False, "take tiny sizes, which say nothing of speed")


def main(settings):
    """Measure part by part, and end with the table of the goals."""
    backends = settings.backend or installed()
    # A processor may be slow, and busy.
    patience = 10 if settings.quick else 1
    begin = time.monotonic()
    values = {backend: {} for backend in backends}
    with tempfile.TemporaryDirectory() as folder:
        for part, backend, end in turns(settings.part, backends):
            arguments, environments = {"quick": settings.quick}, [{}]
            if part == "numerics":
                arguments["reference"] = f"{folder}/{backend}.npz"
                environments = [ON_THE_CPU, {}]
            for environment in environments:
                variables = {"KERAS_BACKEND": backend, **environment}
                seconds = begin + patience * end - time.monotonic()
                for line in run(part, arguments, variables, seconds):
                    if not (environment and line[0] == "machine"):
                        show(backend, values[backend], *line)
    head = "", "goal", "backend", "measured", "reached"
    print(f"\n{table(head, goals(values))}")
    if not any(v is not None for x in values.values() for v in x.values()):
        raise Failure("nothing was measured: see the lines above")


def turns(parts, backends):
    """Yield each part on each backend, and the second at which it must end.

    What one leaves of its time is for those after it.
    """
    unit = IN_ALL / (len(backends) * sum(PARTS[part] for part in parts))
    end = 0
    for part in parts:
        for backend in backends:
            end += unit * PARTS[part]
            yield part, backend, end


def run(part, arguments, variables, seconds, worker=WORKER):
    """Yield the lines of a process, and one that says how it failed.

    It is stopped after so many seconds.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, str(worker), part, json.dumps(arguments)],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            # A compiler's processes must end with it.
            start_new_session=True,
        )

        def stop():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(seconds, 0), stop)
        timer.start()
        try:
            with process.stdout:
                for line in process.stdout:
                    # Libraries may print, too.
                    with contextlib.suppress(json.JSONDecodeError):
                        yield json.loads(line)
            status = process.wait()
        except BaseException:
            stop()
            raise
        finally:
            timer.cancel()
        if status == -signal.SIGKILL:
            yield part, None, f"stopped after {max(seconds, 0):.0f} s"
        elif status:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or ["no message"]
            yield part, None, f"failed with status {status}: {lines[-1][:200]}"


def show(backend, values, name, value, unit):
    """Print a number, or why there is none, and keep it."""
    number = "" if value is None else f"{value:,.4g} "
    if name != "machine" or name not in values:
        print(f"{backend:6} {name:43} {number}{unit}", flush=True)
    values[name] = value


def goals(values):
    """Return the rows of the goals, each beside what was measured."""
    rows = []
    for backend, measured in values.items():

        def least(*names, measured=measured):
            known = [v for n in names if (v := measured.get(n)) is not None]
            return min(known, default=math.nan)

        step = least("ResNet-20: ours", "ResNet-20: ours, scanned")
        stock = least("ResNet-20: stock Keras")
        graphs = least("ResNet-20: torch.compile, reduce-overhead")
        recipe = "64,000 iterations of the recipe"
        images, native = least("ResNet-50: ours"), least("ResNet-50: native")
        for title, value, bound, goal in (
            ("ResNet-20, ms per step", step, "<=", 1.0),
            (recipe, least(recipe, f"{recipe}, scanned"), "<=", 70),
            ("ResNet-20 against torch.compile", graphs / step, ">=", 1.0),
            ("ResNet-20 against stock Keras", stock / step, ">=", 2.0),
            ("ResNet-50, images/s", images, ">=", 4000),
            ("ResNet-50 against native", images / native, ">=", 1.0),
            # The profiler itself waits once in 16 steps.
            ("copies per step", least("profile: copies"), "<=", 0.1),
            ("waits per step", least("profile: waits"), "<=", 0.1),
        ):
            compare = operator.le if bound == "<=" else operator.ge
            shown = f"{value:,.4g}", ("no", "yes")[compare(value, goal)]
            if math.isnan(value):
                shown = "", ""
            rows.append((title, f"{bound} {goal:,}", backend, *shown))
    return rows


if __name__ == "__main__":
    execute(Settings, main)
