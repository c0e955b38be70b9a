"""The layers' fast paths give the numbers of the stock Keras layers."""

import keras
import numpy as np
import pytest
from conftest import gradients
from keras import layers, ops

import keras_resnet


def _images(shape=(4, 9, 8, 16), seed=0, data_format="channels_last"):
    images = np.random.default_rng(seed).normal(size=shape)
    images = (images * 2 + 1).astype("float32")
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1)
    return np.ascontiguousarray(images)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_keras_with_explicit_padding(size, stride):
    ours = keras_resnet.Convolution(32, size, strides=stride)
    stock = keras.Sequential(
        [
            layers.ZeroPadding2D(size // 2),
            layers.Conv2D(32, size, strides=stride, use_bias=False),
        ]
    )
    x = ops.convert_to_tensor(_images())
    ours.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)),
        ops.convert_to_numpy(stock(x)),
        atol=2e-5,
    )
    for mine, theirs in zip(
        gradients(ours, x), gradients(stock, x), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolution_with_groups_and_dilation(groups, dilation):
    arguments = {"groups": groups, "dilation_rate": dilation}
    ours = keras_resnet.Convolution(32, 3, use_bias=True, **arguments)
    stock = layers.Conv2D(32, 3, padding="same", **arguments)
    x = ops.convert_to_tensor(_images())
    ours.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)),
        ops.convert_to_numpy(stock(x)),
        atol=2e-5,
    )


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rows", [8, 9])
def test_max_pooling_is_the_largest_within_a_window(rows, data_format):
    ours = keras_resnet.MaxPooling(3, strides=2, data_format=data_format)
    images = _images((2, rows, 7, 4)) - 5  # mostly below the zeros of padding
    padded = np.pad(
        images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf
    )
    expected = np.stack(
        [
            np.stack(
                [
                    padded[:, r : r + 3, c : c + 3].max(axis=(1, 2))
                    for c in range(0, 7, 2)
                ],
                axis=1,
            )
            for r in range(0, rows, 2)
        ],
        axis=1,
    )
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1)
        expected = np.moveaxis(expected, -1, 1)
    x = ops.convert_to_tensor(np.ascontiguousarray(images))
    y = ops.convert_to_numpy(ours(x))
    np.testing.assert_array_equal(y, expected)
    assert ours.compute_output_shape(images.shape) == expected.shape
    # Each output passes its gradient to one input.
    (gradient,) = gradients(ours, x)
    weights = np.random.default_rng(7).normal(size=expected.shape)
    np.testing.assert_allclose(gradient.sum(), weights.sum(), rtol=1e-4)


@pytest.mark.parametrize("arguments", [{"padding": "valid"}, {"pool_size": 2}])
def test_max_pooling_refuses_what_it_cannot_pad_alike(arguments):
    with pytest.raises(ValueError, match=r"padding.*pool_size"):
        keras_resnet.MaxPooling(**{"pool_size": 3} | arguments)


@pytest.mark.parametrize(
    "arguments", [{"padding": "valid"}, {"kernel_size": 2}]
)
def test_convolution_refuses_what_it_cannot_pad_alike(arguments):
    with pytest.raises(ValueError, match=r"padding.*kernel_size"):
        keras_resnet.Convolution(**{"filters": 4, "kernel_size": 3} | arguments)


def _normalizations(axis, **kwargs):
    rng = np.random.default_rng(1)
    weights = [
        rng.uniform(0.5, 1.5, 16),  # gamma
        rng.normal(size=16),  # beta
        rng.normal(size=16),  # moving mean
        rng.uniform(0.5, 1.5, 16),  # moving variance
    ]
    ours = keras_resnet.BatchNormalization(axis=axis, **kwargs)
    stock = layers.BatchNormalization(
        axis=axis, momentum=0.9, epsilon=1e-5, **kwargs
    )
    shape = (None, None, None, 16) if axis == -1 else (None, 16, None, None)
    for layer in (ours, stock):
        layer.build(shape)
        layer.set_weights(weights)
    return ours, stock


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("training", [True, False])
def test_batch_normalization_is_keras(axis, training):
    ours, stock = _normalizations(axis)
    data_format = "channels_last" if axis == -1 else "channels_first"
    x = ops.convert_to_tensor(_images(data_format=data_format))
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x, training=training)),
        ops.convert_to_numpy(stock(x, training=training)),
        atol=1e-5,
    )
    for mine, theirs in zip(
        ours.get_weights(), stock.get_weights(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
    for mine, theirs in zip(
        gradients(ours, x, training=training),
        gradients(stock, x, training=training),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=5e-4, rtol=1e-4)


def test_moving_variance_is_the_biased_one():
    ours, _ = _normalizations(-1)
    x = _images()
    ours(x, training=True)
    before = _normalizations(-1)[0].get_weights()
    mean, variance = ours.get_weights()[2:]
    expected = 0.9 * before[3] + 0.1 * x.var(axis=(0, 1, 2))
    np.testing.assert_allclose(variance, expected, atol=1e-6)
    expected = 0.9 * before[2] + 0.1 * x.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(mean, expected, atol=1e-6)


def test_frozen_batch_normalization_keeps_its_statistics():
    ours, stock = _normalizations(-1, trainable=False)
    before = ours.get_weights()
    x = ops.convert_to_tensor(_images())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x, training=True)),
        ops.convert_to_numpy(stock(x, training=False)),
        atol=1e-5,
    )
    for now, then in zip(ours.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_batch_normalization_under_mixed_precision(policy):
    ours, stock = _normalizations(-1, dtype=policy)
    x = ops.convert_to_tensor(_images())
    for training in (True, False):
        mine = ours(x, training=training)
        theirs = stock(x, training=training)
        assert keras.backend.standardize_dtype(mine.dtype) == policy[6:]
        np.testing.assert_allclose(
            ops.convert_to_numpy(ops.cast(mine, "float32")),
            ops.convert_to_numpy(ops.cast(theirs, "float32")),
            atol=0.05,
        )
    for mine, theirs in zip(
        ours.get_weights(), stock.get_weights(), strict=True
    ):
        assert mine.dtype == "float32"
        np.testing.assert_allclose(mine, theirs, atol=5e-3)


def test_other_shapes_and_options_are_still_normalized():
    x = _images((6, 5, 16))
    for arguments in ({}, {"scale": False}, {"center": False}):
        ours = keras_resnet.BatchNormalization(**arguments)
        stock = layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, **arguments
        )
        np.testing.assert_allclose(
            ops.convert_to_numpy(ours(x, training=True)),
            ops.convert_to_numpy(stock(x, training=True)),
            atol=1e-5,
        )
