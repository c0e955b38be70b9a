"""Where a result comes from: command, commit, versions and machine."""

import os
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import keras

from keras_resnet.backend import accelerators
from keras_resnet.version import __version__


def command():
    """Return the command line that runs this process, with its backend."""
    return (
        f"KERAS_BACKEND={keras.backend.backend()} python {shlex.join(sys.argv)}"
    )


def commit():
    """Return the git commit of the running script, `None` outside git.

    "-dirty" is appended where files differ from that commit.
    """
    folder = Path(sys.argv[0]).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def origin():
    """Return command, commit, backend, versions and device, JSON values."""
    backend = keras.backend.backend()
    distributions = {
        "tensorflow": ("tensorflow", "tensorflow-cpu"),
        "jax": ("jax", "jaxlib"),
        "torch": ("torch",),
    }[backend]
    versions = {
        "python": platform.python_version(),
        "keras_resnet": __version__,
        "keras": keras.__version__,
        "numpy": metadata.version("numpy"),
    }
    for name in distributions:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": command(),
        "commit": commit(),
        "backend": backend,
        "versions": versions,
        "device": _device(),
    }


def _device():
    cores = os.cpu_count()
    return "; ".join([*accelerators(), f"{_processor()}, {cores} cores"])


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
