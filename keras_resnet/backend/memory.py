"""Memory of a process that trains on a CPU."""

import ctypes
import sys

# Of the GNU C library's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep():
    """Keeps memory that this process frees for its next use.

    Each step asks for the same hundreds of MB again, which the GNU C library
    by default gets from the system and gives back. The system then hands it
    out page by page, each cleared first. From here on the process stays as
    large as it has ever been. Where there is another C library nothing
    happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_MMAP_MAX, 0)
