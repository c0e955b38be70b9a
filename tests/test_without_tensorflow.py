"""The models need Keras, the package's dependencies and one backend.

Run by `tox -e notf`, where TensorFlow is not installed.
"""

import importlib.util
import re

import keras
import numpy as np
import pytest

import keras_resnet

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None,
    reason="TensorFlow is installed; `tox -e notf` has none",
)


def test_predicts_and_trains():
    model = keras_resnet.ResNet20()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(4, 32, 32, 3)).astype("float32")
    labels = np.arange(4)
    probabilities = model.predict(images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    before = [w.copy() for w in model.get_weights()]
    from keras_resnet.training import CoupledSGD

    model.compile(CoupledSGD(0.1), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=4, verbose=0)
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert all((a != b).any() for a, b in zip(before, after, strict=True))


def test_the_input_on_the_device_is_there():
    from keras_resnet import data

    rng = np.random.default_rng(0)
    split = data.Split(
        rng.integers(0, 256, (8, 8, 8, 3), "uint8"), np.arange(8)
    )
    assert list(data.INPUTS) == ["device"]
    batches = data.INPUTS["device"].training_batches(
        split, 4, padding=1, horizontal_flip=True
    )
    images, labels = next(batches)
    assert images.shape == (4, 8, 8, 3)
    assert set(np.asarray(labels)) < set(range(8))
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        data.pipeline.training_batches(split, 4)
    with pytest.raises(AttributeError, match="nothing"):
        data.nothing  # noqa: B018


def test_counts_without_computing():
    assert keras_resnet.complexity(keras_resnet.ResNet18()).macs == 1814073344


def test_recipe_says_what_is_missing(run_python):
    result = run_python(
        "recipes/cifar10.py", "--dataset", "digits", check=False
    )
    assert result.returncode == 1
    # Whatever comes first of what this environment lacks.
    missing = re.findall("No module named '(\\w+)'", result.stderr)
    assert missing[0] in ("tensorflow", "matplotlib")
    assert "recipes" in result.stderr
    assert "Traceback" not in result.stderr
    assert keras.backend.backend() == "jax"
