"""Memory of a process that computes on a CPU, where the C library is GNU's.

Each step asks for the same hundreds of MB again, which that library gets from
the system and gives back. The system then hands it out page by page, each
cleared first, which takes a tenth of a training step.
"""

import ctypes
import os
import sys

# Parameters of mallopt.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
# What the library comes to by itself in a process with large arrays.
_DEFAULTS = {
    _TRIM_THRESHOLD: 64 << 20,
    _MMAP_THRESHOLD: 32 << 20,
    _MMAP_MAX: 65536,
}


def keep():
    """Keep memory that this process frees for its next use.

    From here on the process stays as large as it has ever been. Where there
    is another C library nothing happens, nor where the environment variable
    `KERAS_RESNET_KEEP_MEMORY` is 0.
    """
    _set({_TRIM_THRESHOLD: -1, _MMAP_MAX: 0})


def give_back():
    """Give back what `keep` has kept, and keep nothing from here on."""
    if _set(_DEFAULTS):
        _library().malloc_trim(0)


def share():
    """Let all threads allocate from the same memory, which `keep` reaches.

    Otherwise a thread has at most 64 MB of its own, and asks the system for
    all that is larger. For frameworks that allocate in threads of theirs;
    those that run already keep what they have, so this must come first.
    """
    _set({_ARENA_MAX: 1})


def _set(parameters):
    """Set parameters of mallopt where there are any, and say whether."""
    if os.environ.get("KERAS_RESNET_KEEP_MEMORY") == "0":
        return False
    if not hasattr(_library(), "mallopt"):
        return False
    for parameter, value in parameters.items():
        _library().mallopt(parameter, value)
    return True


def _library():
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None
