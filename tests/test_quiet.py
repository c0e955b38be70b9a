"""TensorFlow's notes about its own start, as the recipes hide them."""

import os

import pytest

pytestmark = pytest.mark.once

# A TensorFlow that logs as 2.21 does on a processor with AVX-512 VNNI, that
# has something to say besides, and that ends the process if it is told to.
TENSORFLOW = """
import os

os.write(
    2,
    b"WARNING: All log messages before absl::InitializeLog() is called are "
    b"written to STDERR\\n"
    b"I0000 00:00:1795664227.232818    2642 port.cc:153] oneDNN custom "
    b"operations are on. You may see slightly different results.\\n"
    b"I0000 00:00:1795664227.307586    2642 cpu_feature_guard.cc:227] This "
    b"binary is optimized to use available CPU instructions.\\n"
    b"To enable the following instructions: AVX2 FMA, rebuild TensorFlow.\\n"
    b"W0000 00:00:1795664227.307586    2642 gpu_device.cc:1] a warning\\n"
    b"no log line at all\\n",
)
if "TENSORFLOW_ABORTS" in os.environ:
    os.abort()
"""
IMPORT = """
from keras_resnet_recipes.experiment import quiet
quiet.hide_tensorflow_notes()
import tensorflow
"""
LEFT = [
    "W0000 00:00:1795664227.307586    2642 gpu_device.cc:1] a warning",
    "no log line at all",
]


@pytest.fixture
def start(run_python, tmp_path, monkeypatch):
    """Import a pretended TensorFlow as a command does; returns its errors."""
    (tmp_path / "tensorflow.py").write_text(TENSORFLOW, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def run(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return run_python("-c", IMPORT, check=False).stderr.splitlines()

    return run


def test_notes_are_hidden_and_all_else_is_shown(start):
    assert start() == LEFT
    # The last words of a process, too.
    assert start(TENSORFLOW_ABORTS="1") == LEFT


def test_notes_may_be_asked_for(start):
    assert len(start(TF_CPP_MIN_LOG_LEVEL="0")) == 6


@pytest.mark.usefixtures("start")
def test_standard_error_may_be_closed(run_python, tmp_path):
    (tmp_path / "tensorflow.py").write_text("", "utf-8")
    code = f"import os; os.close(2)\n{IMPORT}print('loaded')"
    assert run_python("-c", code).stdout == "loaded\n"
