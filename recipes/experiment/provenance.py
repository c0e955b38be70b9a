"""Where a result comes from: command, commit, versions and machine."""

import contextlib
import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import keras

from keras_resnet.backend import accelerators, tensor_float32
from keras_resnet.version import __version__

from . import command

# The names under which a backend may be installed.
DISTRIBUTIONS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "jax": ("jax", "jaxlib"),
    "torch": ("torch",),
}


def commit():
    """Return the git commit of the running script, `None` outside git.

    "-dirty" is appended if files differ from that commit. An installed
    command belongs to no commit.
    """
    if command.installed:
        return None
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(sys.argv[0]).resolve().parent,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def origin():
    """Return command, commit, backend, versions and device, JSON values."""
    backend = keras.backend.backend()
    versions = {
        "python": platform.python_version(),
        "keras_resnet": __version__,
        "keras": keras.__version__,
    }
    for name in ("numpy", *DISTRIBUTIONS[backend]):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    called = [*command.installed, *sys.argv[1:]]
    if not command.installed:
        called = ["python", *sys.argv]
    return {
        "command": f"KERAS_BACKEND={backend} {shlex.join(called)}",
        "commit": commit(),
        "backend": backend,
        "versions": versions,
        "device": device(),
    }


def device():
    """Return the names of accelerators and processor, as text.

    TF32 is named because it rounds the inputs of float32 operations.
    """
    names = accelerators()
    if names and tensor_float32():
        names[-1] += " with TF32"
    processor = f"{_processor()}, {os.cpu_count()} cores"
    return "; ".join([*names, processor])


def _processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
