"""Hides the lines that TensorFlow logs when it starts.

TensorFlow 2.21 logs while it is imported, before it reads
`TF_CPP_MIN_LOG_LEVEL`. On processors with AVX-512 VNNI, every command would
begin with four lines about oneDNN.
"""

import contextlib
import importlib.abc
import importlib.machinery
import os
import subprocess
import sys

# The filter is a separate process, because an import of TensorFlow may end this
# one, and its last error must still be shown. The filter drops log lines of
# severity INFO, a line that follows one of them, and the line that announces
# them. It passes on everything else.
_FILTER = r"""
import re, signal, sys

signal.signal(signal.SIGINT, signal.SIG_IGN)
note = re.compile(
    rb"I\d{4} |To enable the following instructions: "
    rb"|WARNING: All log messages before absl::InitializeLog"
)
for line in sys.stdin.buffer:
    if not note.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


@contextlib.contextmanager
def without_notes():
    """Drop log lines of severity INFO from standard error in this context."""
    try:
        stderr = os.dup(2)
    except OSError:
        # There is no standard error.
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _FILTER], stdin=subprocess.PIPE
    ) as process:
        os.dup2(process.stdin.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow, and loads it without its notes."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tensorflow":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None:
            load = spec.loader.exec_module
            spec.loader.exec_module = without_notes()(load)
        return spec


_FINDER = _Finder()


def hide_tensorflow_notes():
    """Hide TensorFlow's notes if this process imports it later.

    `TF_CPP_MIN_LOG_LEVEL=0` shows the notes.
    """
    shown = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0"
    if not shown and _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
