"""The paper's deepest network: it builds, and it takes a training step."""

import keras
import numpy as np
import pytest
from test_counts import CIFAR, printed, trainable

import keras_resnet

# Measured for a batch of two on two cores, building included.
TOO_SLOW = {
    "jax": (
        "XLA did not finish compiling the step in 10 minutes; run operation "
        "by operation it takes about 2"
    )
}
# The graph of 1202 layers takes TensorFlow over 10 minutes to make, its
# operations one by one half a minute.
RUN_EAGERLY = {"tensorflow": True, "torch": True}


@pytest.fixture(scope="module")
def model():
    return keras_resnet.ResNet1202(classifier_activation=None)


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="no backend changes it, and PyTorch builds 1202 layers in 3 seconds",
)
def test_builds(model):
    row = CIFAR["ResNet1202"]
    assert trainable(model) == row["A"]
    assert model.count_params() == row["total"]
    blocks = [x for x in model.layers if x.name.startswith("stage")]
    assert len(blocks) == 600
    assert blocks[-1].name == "stage3_block200"
    assert model.output_shape == (None, 10)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() in TOO_SLOW,
    reason=TOO_SLOW.get(keras.backend.backend(), ""),
)
def test_training_step(model):
    stem = model.get_layer("stem_conv").kernel
    last = model.get_layer("stage3_block200").conv2.kernel
    before = [keras.ops.convert_to_numpy(v).copy() for v in (stem, last)]
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        run_eagerly=RUN_EAGERLY[keras.backend.backend()],
    )
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
    loss = model.train_on_batch(x.astype("float32"), np.array([3, 7]))
    assert np.isfinite(loss)
    # The gradient came all the way down.
    for old, variable in zip(before, (stem, last), strict=True):
        new = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(new).all()
        assert np.abs(new - old).max() > 1e-6
    cost = keras_resnet.complexity(model)
    row = CIFAR["ResNet1202"]
    assert cost.trainable_parameters == row["A"]
    assert printed(cost.macs, 1e6, row["macs"]) == row["macs"]
