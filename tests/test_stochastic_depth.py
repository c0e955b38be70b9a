"""`StochasticDepthBlock`: which branches are dropped, and what that costs."""

import functools
import json

import keras
import numpy as np
import pytest
from keras import ops
from networks import assert_close, batch, call, draw_weights, small, to_numpy

import keras_resnet
from keras_resnet import ResidualBlock, StochasticDepthBlock, analysis

LOSS = "sparse_categorical_crossentropy"


def rates(model):
    return [b.rate for b in keras_resnet.blocks.residual_blocks(model)]


@pytest.mark.once
def test_rates_rise_linearly_with_depth():
    model = small(depths=(2, 3), block=StochasticDepthBlock)
    assert rates(model) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    other = functools.partial(StochasticDepthBlock, drop_rate=0.2)
    assert rates(small(block=other))[-1] == pytest.approx(0.2)
    # The place is a part of the configuration, so that copies need no network.
    block = model.get_layer("stage2_block1")
    config = json.loads(json.dumps(block.get_config()))
    assert StochasticDepthBlock.from_config(config).rate == block.rate
    plain = small(block=StochasticDepthBlock, residual=False)
    assert rates(plain) == [0, 0, 0]
    assert rates(analysis.grow(model, 1))[-2:] == [0.5, 0.5]


@pytest.mark.once
@pytest.mark.parametrize("rate", [-0.1, 1, 2.0])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match=f"drop_rate={rate}"):
        StochasticDepthBlock(8, drop_rate=rate)


def join(block, branch, shortcut):
    return to_numpy(
        block.join(
            ops.convert_to_tensor(branch),
            ops.convert_to_tensor(shortcut),
            training=True,
        )
    )


def test_blocks_of_one_seed_drop_different_images():
    dropped = []
    for number in (1, 2):
        # The same rate in both places.
        block = StochasticDepthBlock(
            4, drop_rate=0.8 / number, place=(number, 2), seed=0
        )
        block.build((None, 2, 2, 4))
        ones = np.ones((64, 2, 2, 4), "float32")
        dropped.append(join(block, ones, 0 * ones)[:, 0, 0, 0] == 0)
    assert (dropped[0] != dropped[1]).any()


def test_an_image_keeps_its_whole_branch_or_none_and_the_mean_stays():
    n, rate = 2000, 0.3
    block = StochasticDepthBlock(4, drop_rate=rate, seed=0)
    block.build((None, 2, 2, 4))
    rng = np.random.default_rng(0)
    branch = rng.uniform(1, 2, (n, 2, 2, 4)).astype("float32")
    shortcut = rng.uniform(1, 2, branch.shape).astype("float32")
    first, second = (join(block, branch, shortcut) for _ in range(2))
    dropped = np.isclose(first, shortcut).all((1, 2, 3))
    kept = ~dropped
    np.testing.assert_allclose(
        first[kept], (shortcut + branch / (1 - rate))[kept], rtol=1e-5
    )
    # Five standard errors.
    deviation = (rate * (1 - rate) / n) ** 0.5
    assert abs(dropped.mean() - rate) < 5 * deviation
    again = np.isclose(second, shortcut).all((1, 2, 3))
    assert 0 < (again & dropped).sum() < dropped.sum()
    mean, expected = first.mean(), (branch + shortcut).mean()
    assert abs(mean - expected) < 5 * 1.5 / (1 - rate) * deviation


def test_at_rate_zero_and_in_inference_it_is_a_residual_block():
    models = [
        small(block=block, classifier_activation=None)
        for block in (
            ResidualBlock,
            functools.partial(StochasticDepthBlock, drop_rate=0),
            StochasticDepthBlock,
        )
    ]
    usual, at_zero, random = models
    for model in models:
        draw_weights(model, seed=1) if model is usual else model.set_weights(
            usual.get_weights()
        )
    x, _ = batch(usual, 8)
    expected = call(usual, x, training=False)
    np.testing.assert_array_equal(call(at_zero, x, training=False), expected)
    np.testing.assert_array_equal(call(random, x, training=False), expected)
    expected = call(usual, x, training=True)
    np.testing.assert_array_equal(call(at_zero, x, training=True), expected)
    assert np.abs(call(random, x, training=True) - expected).max() > 1e-3
    assert at_zero.count_params() == random.count_params()
    assert random.count_params() == usual.count_params()


@pytest.mark.filterwarnings("ignore:.*trains layer by layer")
@pytest.mark.parametrize("way", ["keras", "weights.h5"])
def test_a_training_goes_on_with_the_next_draws(way, tmp_path):
    keras.utils.set_random_seed(3)
    model = small(block=StochasticDepthBlock)
    x, labels = batch(model, 8)

    def train(model, steps):
        losses = [model.train_on_batch(x, labels) for _ in range(steps)]
        return [*map(float, losses)]

    model.compile(keras.optimizers.SGD(0.05), LOSS)
    train(model, 3)
    path = tmp_path / f"net.{way}"
    if way == "keras":
        model.save(path)
        loaded = keras.saving.load_model(path)
    else:
        model.save_weights(path)
        loaded = small(block=StochasticDepthBlock, weights=str(path))
        loaded.compile(keras.optimizers.SGD(0.05), LOSS)
    assert rates(loaded) == rates(model)
    again, expected = train(loaded, 3), train(model, 3)
    np.testing.assert_allclose(again, expected, rtol=1e-5)
    assert_close(
        model.get_weights(), loaded.get_weights(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:.*trains layer by layer")
def test_it_learns_is_folded_and_gives_its_weights():
    model = small(block=StochasticDepthBlock, classifier_activation=None)
    x, labels = batch(model, 16)
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(True),
    )
    before = model.evaluate(x, labels, verbose=0)
    model.fit(x, labels, epochs=30, verbose=0)
    assert model.evaluate(x, labels, verbose=0) < 0.5 * before
    folded = keras_resnet.fold_batch_norm(model)
    np.testing.assert_allclose(
        call(folded, x, training=False),
        call(model, x, training=False),
        atol=1e-4,
    )
    usual = small(classifier_activation=None)
    usual.set_weights(model.get_weights())
    np.testing.assert_allclose(
        call(usual, x, training=False),
        call(model, x, training=False),
        atol=1e-5,
    )
