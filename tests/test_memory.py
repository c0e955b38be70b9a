"""Memory that a process keeps: pages that the system need not clear again."""

import ctypes
import sys

import pytest

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        not sys.platform.startswith("linux")
        or not hasattr(ctypes.CDLL(None), "mallopt"),
        reason="the C library is not GNU's",
    ),
]

_CODE = """
import importlib.util, resource, sys, threading

# By its path: the package would bring a framework.
spec = importlib.util.spec_from_file_location("memory", sys.argv[1])
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        # NumPy would ask for large pages.
        b"x" * 20_000_000
        b"x" * 100_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def in_a_thread():
    counts = []
    thread = threading.Thread(target=lambda: counts.append((pages(), pages())))
    thread.start()
    thread.join()
    return counts[0][1]

memory.share()
print(pages())
memory.keep()
pages()
print(pages())
print(in_a_thread())
memory.give_back()
print(pages())
"""


def _pages(run_python):
    printed = run_python(
        "-c", _CODE, "keras_resnet/backend/memory.py"
    ).stdout.split()
    return [int(number) for number in printed]


def test_kept_memory_is_not_asked_for_again(run_python):
    before, kept, in_a_thread, given_back = _pages(run_python)
    # 100 MB are 24,414 pages of 4 kB, or 1,526 of 64 kB.
    assert before > 5 * 1_500
    assert kept < 100
    assert in_a_thread < 100
    assert given_back > 5 * 1_500


def test_the_environment_can_forbid_it(run_python, monkeypatch):
    monkeypatch.setenv("KERAS_RESNET_KEEP_MEMORY", "0")
    _, kept, in_a_thread, _ = _pages(run_python)
    assert min(kept, in_a_thread) > 5 * 1_500
