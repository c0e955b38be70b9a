"""The active backend against another that is installed.

The other one computes in a fresh process, see `backend_worker.py`. Any two
backends must agree to 1e-4, and each environment of the test matrix compares
with TensorFlow, so every pair gets half of that tolerance.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from backend_worker import TASKS, outputs, run
from conftest import INSTALLED_BACKENDS
from networks import draw_weights, small
from test_folding import randomize

from keras_resnet import ResNet20, ResNet50, fold_batch_norm

WORKER = Path(__file__).with_name("backend_worker.py")
TOLERANCE = 5e-5
OTHERS = [b for b in INSTALLED_BACKENDS if b != keras.backend.backend()]

pytestmark = pytest.mark.skipif(not OTHERS, reason="no other backend installed")


def _drawn(model):
    draw_weights(model, seed=0)
    return model


def _folded():
    model = small(bottleneck=True, shortcut="C", classifier_activation=None)
    randomize(model)
    return fold_batch_norm(model)


MODELS = {
    "outputs-ResNet20": lambda: _drawn(
        ResNet20(classifier_activation=None, classes=1000)
    ),
    "outputs-ResNet50": lambda: _drawn(
        ResNet50(classifier_activation=None, input_shape=(96, 96, 3))
    ),
    "outputs-folded": _folded,
    "explanations-ResNet20": lambda: _drawn(ResNet20()),
    "step-ResNet20": lambda: _drawn(ResNet20(classifier_activation=None)),
}


@pytest.fixture(scope="module")
def theirs(run_python, tmp_path_factory):
    """Read what the other backend made of our files, and its own file."""
    folder = tmp_path_factory.mktemp("backends")
    for name, build in MODELS.items():
        build().save(folder / f"{name}.keras")
    run_python(WORKER, folder, backend=OTHERS[0])

    def read(name):
        with np.load(folder / f"{name}.npz") as arrays:
            return dict(arrays), folder / f"{name}.keras"

    return read


def _compare(ours, theirs, tolerance=TOLERANCE):
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert value.shape == theirs[name].shape
        difference = np.abs(value - theirs[name]).max()
        # Written so that a NaN fails.
        assert difference <= tolerance, f"{name}: {difference:.2e}"


@pytest.mark.parametrize("network", ["ResNet20", "ResNet50"])
def test_logits(theirs, network):
    name = f"outputs-{network}"
    expected, _ = theirs(name)
    ours = outputs(MODELS[name]())
    assert ours["inference"].shape == (4, 1000)
    for logits in ours.values():
        assert 0.3 < logits.std() < 3
    # The two modes are not the same computation.
    assert np.abs(ours["inference"] - ours["training"]).max() > 0.1
    _compare(ours, expected)


def test_a_folded_network(theirs):
    expected, _ = theirs("outputs-folded")
    ours = outputs(MODELS["outputs-folded"]())
    _compare(ours, expected, 1e-5 * np.abs(ours["inference"]).max())
    # Without normalizations, training and inference are the same.
    for arrays in (ours, expected):
        np.testing.assert_array_equal(arrays["inference"], arrays["training"])


def test_explanations(theirs):
    expected, _ = theirs("explanations-ResNet20")
    ours = TASKS["explanations"](MODELS["explanations-ResNet20"]())
    for name, value in ours.items():
        # Half of 1e-5, because both are compared with a third.
        largest = np.abs(value).max()
        _compare({name: value}, {name: expected[name]}, 5e-6 * largest)


def test_training_step(theirs):
    expected, _ = theirs("step-ResNet20")
    model = MODELS["step-ResNet20"]()
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.variables}
    before = {name: value.copy() for name, value in before.items()}
    ours = TASKS["step"](model)
    # Every variable took part, and by more than is tolerated.
    for name, value in before.items():
        assert np.abs(ours[name] - value).max() > 2 * TOLERANCE, name
    _compare(ours, expected)


def test_one_seed_is_one_run(theirs):
    """The same weights, batches and curve, but for rounding."""
    pytest.importorskip("sklearn")
    expected, _ = theirs("run")
    ours = run()
    assert ours["losses"][-1] < 0.8 * ours["losses"][0]
    _compare(ours, expected, 1e-4)


def test_file_written_there_is_read_here(theirs):
    expected, path = theirs("written")
    assert expected.pop("backend") == OTHERS[0]
    read = keras.saving.load_model(path)
    # The seed draws the same weights on both.
    model = _drawn(ResNet20(classifier_activation=None))
    np.testing.assert_equal(model.get_weights(), read.get_weights())
    _compare(outputs(read), expected)
