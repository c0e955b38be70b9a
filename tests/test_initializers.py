"""The paper's initializer draws the same values on every backend."""

import keras
import numpy as np
import pytest

from keras_resnet.initializers import HeGaussian


def _values(initializer, shape=(3, 3, 16, 32), **kwargs):
    return keras.ops.convert_to_numpy(initializer(shape, **kwargs))


def test_values_are_numpys():
    expected = np.random.default_rng(7).standard_normal((2, 2, 3, 4), "float32")
    np.testing.assert_allclose(
        _values(HeGaussian(7), (2, 2, 3, 4)), expected * np.sqrt(2 / 12), 1e-6
    )


@pytest.mark.once
@pytest.mark.parametrize("shape", [(3, 3, 64, 128), (512, 1000)])
def test_values_are_gaussian_of_variance_2_by_fan_in(shape):
    values = _values(HeGaussian(0), shape).astype("float64")
    values /= np.sqrt(2 / np.prod(shape[:-1]))
    n = values.size
    assert abs(values.mean()) < 4 / np.sqrt(n)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / n)
    # The tails are there: 4.6 % beyond two deviations, 0.27 % beyond three.
    assert (abs(values) > 2).mean() == pytest.approx(0.0455, rel=0.05)
    assert (abs(values) > 3).mean() == pytest.approx(0.0027, rel=0.2)


@pytest.mark.once
def test_keras_seed_is_the_seed():
    keras.utils.set_random_seed(3)
    first, second = HeGaussian(), HeGaussian()
    assert (_values(first) == _values(first)).all()
    assert (_values(first) != _values(second)).any()
    keras.utils.set_random_seed(3)
    assert (_values(first) == _values(HeGaussian())).all()


def test_a_seed_generator_gives_new_values_each_time():
    values = [
        _values(g) for g in [HeGaussian(keras.random.SeedGenerator(5))] * 2
    ]
    assert (values[0] != values[1]).any()
    again = HeGaussian(keras.random.SeedGenerator(5))
    assert (_values(again) == values[0]).all()


@pytest.mark.once
def test_it_is_configured_as_any_initializer():
    initializer = HeGaussian(9)
    config = keras.initializers.serialize(initializer)
    again = keras.initializers.deserialize(config)
    assert (_values(again) == _values(initializer)).all()
    assert _values(HeGaussian(), (0, 4)).shape == (0, 4)
    assert _values(initializer, dtype="float16").dtype == np.float16
    clone = HeGaussian().clone()
    assert (_values(clone) != _values(HeGaussian())).any()
