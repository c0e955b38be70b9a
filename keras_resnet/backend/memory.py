"""Settings of the GNU C library's memory allocation, for training on a CPU.

Each step allocates the same hundreds of MB again. By default the library
returns freed memory to the system, and the system clears each page before its
next use. This takes a tenth of a training step.
"""

import ctypes
import os
import sys

# Parameters of `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
# The values that the library itself reaches in a process with large arrays.
_DEFAULTS = {
    _TRIM_THRESHOLD: 64 << 20,
    _MMAP_THRESHOLD: 32 << 20,
    _MMAP_MAX: 65536,
}


def keep() -> None:
    """Keep freed memory in this process for later use.

    The memory of the process then never shrinks. This does nothing with another
    C library, or if the environment variable `KERAS_RESNET_KEEP_MEMORY` is 0.
    """
    _set({_TRIM_THRESHOLD: -1, _MMAP_MAX: 0})


def give_back() -> None:
    """Return kept memory to the system, and stop keeping it."""
    if _set(_DEFAULTS):
        _library().malloc_trim(0)


def share() -> None:
    """Let all threads allocate from the same memory, which `keep` keeps.

    Otherwise each thread has an area of at most 64 MB, and gets more from the
    system. Call this before a framework starts its threads, because running
    threads keep their own area.
    """
    _set({_ARENA_MAX: 1})


def _set(parameters):
    """Set parameters of `mallopt`, and return whether this is possible."""
    if os.environ.get("KERAS_RESNET_KEEP_MEMORY") == "0":
        return False
    if not hasattr(_library(), "mallopt"):
        return False
    for parameter, value in parameters.items():
        _library().mallopt(parameter, value)
    return True


def _library():
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
