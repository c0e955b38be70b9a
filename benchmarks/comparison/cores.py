"""The processor cores that a measurement uses."""

import os


def available():
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count()))


def pin(threads):
    """Make every framework use `threads` cores. Call it before importing one.

    Frameworks make as many threads as the process may use cores. The variables
    are for those that count cores in another way.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available()[-threads:])
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
