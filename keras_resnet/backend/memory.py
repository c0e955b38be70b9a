"""Memory of a process that computes on a CPU, where the C library is GNU's.

Each step allocates the same hundreds of MB again. By default that library
returns freed memory to the system, which clears each page before it hands it
out again. This takes a tenth of a training step.
"""

import ctypes
import os
import sys

# Parameters of `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
# The values that the library sets itself in a process with large arrays.
_DEFAULTS = {
    _TRIM_THRESHOLD: 64 << 20,
    _MMAP_THRESHOLD: 32 << 20,
    _MMAP_MAX: 65536,
}


def keep() -> None:
    """Keep freed memory in this process, for its next use.

    The process then never shrinks. This does nothing with another C library,
    or if the environment variable `KERAS_RESNET_KEEP_MEMORY` is 0.
    """
    _set({_TRIM_THRESHOLD: -1, _MMAP_MAX: 0})


def give_back() -> None:
    """Return kept memory to the system, and keep no more."""
    if _set(_DEFAULTS):
        _library().malloc_trim(0)


def share() -> None:
    """Let all threads allocate from the same memory, which `keep` keeps.

    Otherwise each thread has at most 64 MB of its own, and asks the system
    for more. Call this before a framework starts its threads, because running
    threads stay with their own memory.
    """
    _set({_ARENA_MAX: 1})


def _set(parameters):
    """Set parameters of `mallopt`, and return whether there are any."""
    if os.environ.get("KERAS_RESNET_KEEP_MEMORY") == "0":
        return False
    if not hasattr(_library(), "mallopt"):
        return False
    for parameter, value in parameters.items():
        _library().mallopt(parameter, value)
    return True


def _library():
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
