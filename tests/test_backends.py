"""The active backend against every other that is installed.

The other one computes in a fresh process, as do both sides where a file
written by one is read by the other: see `backend_worker.py`. Any two backends
must agree to 1e-4, and each environment of the test matrix compares with
TensorFlow, so every pair gets half of that.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from backend_worker import draw_weights, outputs, step
from conftest import INSTALLED_BACKENDS

from keras_resnet import ResNet20, ResNet50

WORKER = Path(__file__).with_name("backend_worker.py")
TOLERANCE = 5e-5
ACTIVE = keras.backend.backend()
OTHERS = [b for b in INSTALLED_BACKENDS if b != ACTIVE] or [
    pytest.param(
        None,
        marks=pytest.mark.skip(reason=f"no backend beside {ACTIVE} installed"),
    )
]
NETWORKS = {
    "ResNet20": lambda: ResNet20(classifier_activation=None, classes=1000),
    "ResNet50": lambda: ResNet50(
        classifier_activation=None, input_shape=(96, 96, 3)
    ),
}

pytestmark = pytest.mark.parametrize("other", OTHERS)


@pytest.fixture(autouse=True)
def _channels_last():
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    yield
    keras.config.set_image_data_format(data_format)


@pytest.fixture
def work(run_python, tmp_path):
    """Runs a task of the worker on a backend; returns its arrays."""

    def run(task, model_path, backend):
        result = tmp_path / f"{task}-{backend}.npz"
        run_python(WORKER, task, model_path, result, backend=backend)
        with np.load(result) as arrays:
            arrays = dict(arrays)
        assert arrays.pop("backend") == backend
        return arrays

    return run


def compare(ours, theirs, tolerance=TOLERANCE):
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        difference = np.abs(value - theirs[name]).max()
        # Written so that a NaN fails.
        assert difference <= tolerance, f"{name}: {difference:.2e}"


@pytest.mark.parametrize("network", NETWORKS)
def test_logits(work, tmp_path, network, other):
    path = tmp_path / "model.keras"
    model = NETWORKS[network]()
    draw_weights(model, seed=0)
    # This is also: a file written here, read there.
    model.save(path)
    theirs = work("outputs", path, other)
    ours = outputs(model)
    assert ours["inference"].shape == (4, 1000)
    for logits in ours.values():
        assert 0.3 < logits.std() < 3
    # The two modes are not the same computation.
    assert np.abs(ours["inference"] - ours["training"]).max() > 0.1
    compare(ours, theirs)


def test_training_step(work, tmp_path, other):
    path = tmp_path / "model.keras"
    model = ResNet20(classifier_activation=None)
    draw_weights(model, seed=0)
    model.save(path)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    before = {name: value.copy() for name, value in before.items()}
    theirs = work("step", path, other)
    ours = step(model)
    # Every variable took part, and by more than is tolerated.
    for name, value in before.items():
        assert np.abs(ours[name] - value).max() > 2 * TOLERANCE, name
    compare(ours, theirs)


def test_file_written_there_is_read_here(work, tmp_path, other):
    path = tmp_path / "model.keras"
    theirs = work("write", path, other)
    compare(work("outputs", path, ACTIVE), theirs)
    # And the seed draws the same weights on both.
    model = ResNet20(classifier_activation=None)
    draw_weights(model, seed=0)
    read = keras.saving.load_model(path)
    for a, b in zip(model.get_weights(), read.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
