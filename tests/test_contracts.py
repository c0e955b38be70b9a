"""The contracts of Keras, KerasHub and timm for layers and networks."""

import json
import pickle

import keras
import networks
import numpy as np
import pytest
from keras import ops
from networks import draw_weights, only, small

import keras_resnet

# Layer, arguments, channels in, channels out, weights trained and not.
LAYERS = {
    "convolution": (
        keras_resnet.Convolution,
        {"filters": 6, "kernel_size": 3, "strides": 2},
        (4, 6, 2),
        (1, 0),
    ),
    "normalization": (keras_resnet.BatchNormalization, {}, (4, 4, 1), (2, 2)),
    "pooling": (
        keras_resnet.MaxPooling,
        {"pool_size": 3, "strides": 2},
        (4, 4, 2),
        (0, 0),
    ),
    "basic block": (
        keras_resnet.ResidualBlock,
        {"filters": 8, "stride": 2},
        (4, 8, 2),
        (9, 6),
    ),
    "bottleneck": (
        keras_resnet.ResidualBlock,
        {"filters": 4, "stride": 2, "bottleneck": True, "shortcut": "A"},
        (4, 16, 2),
        (9, 6),
    ),
    "pre-activation": (
        keras_resnet.PreactivationBlock,
        {"filters": 8, "stride": 2},
        (4, 8, 2),
        (7, 4),
    ),
}
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "bfloat16")


@pytest.fixture(params=LAYERS)
def case(request):
    return LAYERS[request.param]


def pictures(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def values(layer):
    return [
        ops.convert_to_numpy(ops.cast(v.value, "float32")).copy()
        for v in layer.variables
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_layer_keeps_to_its_policy_and_its_shapes(case, policy):
    kind, arguments, (channels, out, stride), counts = case
    layer = kind(dtype=policy, name="layer", **arguments)
    x = pictures(2, 7, 8, channels)
    expected = (2, -(-7 // stride), -(-8 // stride), out)
    symbolic = layer(keras.Input((7, 8, channels)))
    assert symbolic.shape == (None, *expected[1:])
    assert layer.compute_output_shape(x.shape) == expected
    open_shape = layer.compute_output_shape((None, None, None, channels))
    assert tuple(open_shape) == (None, None, None, out)
    outputs = layer(x)
    assert outputs.shape == expected
    dtype = keras.dtype_policies.get(policy)
    for tensor in (symbolic, outputs):
        assert (
            keras.backend.standardize_dtype(tensor.dtype) == dtype.compute_dtype
        )
    assert {v.dtype for v in layer.variables} <= {dtype.variable_dtype}
    assert counts == (
        len(layer.trainable_variables),
        len(layer.non_trainable_variables),
    )
    assert not layer.losses


def test_a_layer_comes_back_from_its_configuration(case):
    kind, arguments, (channels, *_), _ = case
    layer = kind(dtype="mixed_bfloat16", name="layer", **arguments)
    layer.build((None, 8, 8, channels))
    config = json.loads(json.dumps(layer.get_config()))
    twin = kind.from_config(config)
    assert json.loads(json.dumps(twin.get_config())) == config
    twin.build_from_config(json.loads(json.dumps(layer.get_build_config())))
    assert [(v.path, v.shape, v.dtype) for v in twin.variables] == [
        (v.path, v.shape, v.dtype) for v in layer.variables
    ]
    serialized = keras.saving.serialize_keras_object(layer)
    assert type(keras.saving.deserialize_keras_object(serialized)) is kind


@pytest.mark.filterwarnings("ignore:.*not have any trainable weights")
def test_a_layer_trains_is_saved_and_changes_nothing_in_inference(
    case, tmp_path
):
    kind, arguments, (channels, *_), _ = case
    layer = kind(**arguments)
    model = keras.Sequential([keras.Input((8, 8, channels)), layer])
    x = pictures(6, 8, 8, channels)
    model.compile("sgd", "mse")
    before = values(layer)
    y = np.zeros((6, *model.output_shape[1:]), "float32")
    assert np.isfinite(model.train_on_batch(x, y))
    for variable, old, new in zip(
        layer.variables, before, values(layer), strict=True
    ):
        assert np.isfinite(new).all()
        assert (new != old).any(), variable.path
    before = values(layer)
    expected = model.predict(x, verbose=0)
    np.testing.assert_equal(before, values(layer))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        again.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )


# Networks.

NETWORKS = networks.VARIANTS | {
    "zero scales": {"zero_init_residual": True},
    "pre-activation": {"block": keras_resnet.PreactivationBlock},
}


@pytest.mark.parametrize("variant", NETWORKS)
def test_every_weight_gets_a_finite_gradient(variant):
    model = small(**NETWORKS[variant])
    x = pictures(8, *model.input_shape[1:])
    # Two steps, because the first one moves scales away from zero.
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.train_on_batch(x, np.arange(8) % 5)
    before = values(model)
    model.train_on_batch(x, np.arange(8) % 5)
    for variable, old, new in zip(
        model.variables, before, values(model), strict=True
    ):
        assert np.isfinite(new).all(), variable.path
        assert (new != old).any(), variable.path


OPTIMIZERS = ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad"]
OPTIMIZERS += ["Adamax", "Adafactor", "Nadam", "Ftrl", "Lion", "Lamb", "Muon"]


@only("torch")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_under_replay(name):
    model, layer_by_layer = small(), small()
    x, y = pictures(8, 16, 16, 3), np.arange(8) % 5
    losses = []
    for net in (model, layer_by_layer):
        draw_weights(net, 0)
        net.compile(
            getattr(keras.optimizers, name)(),
            "sparse_categorical_crossentropy",
            run_eagerly=net is layer_by_layer,
        )
        losses.append([float(net.train_on_batch(x, y)) for _ in range(5)])
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_the_head_may_be_quantized(mode):
    model = small()
    draw_weights(model, 0)
    x = pictures(4, 16, 16, 3)
    expected = model.predict(x, verbose=0)
    model.get_layer("head").quantize(mode)
    atol = {"int8": 0.02, "int4": 0.2, "float8": 0.1}[mode]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=atol)


def test_lora_trains_every_convolution(tmp_path):
    model = small()
    x, y = pictures(8, 16, 16, 3), np.arange(8) % 5
    for layer in model._flatten_layers():
        if isinstance(layer, keras_resnet.Convolution):
            layer.enable_lora(2)
    model.compile("adam", "sparse_categorical_crossentropy")
    before = {v.path: v.numpy().copy() for v in model.trainable_variables}
    for _ in range(3):
        model.train_on_batch(x, y)
    adapted = [v for v in model.trainable_variables if "lora" in v.path]
    assert len(adapted) == 2 * 8
    assert all((v.numpy() != before[v.path]).any() for v in adapted)
    expected = model.predict(x, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(x, verbose=0), expected, atol=1e-5)


@pytest.mark.parametrize("way", ["pickle", "shards", "folder"])
def test_a_network_is_kept_in_every_way_of_keras(way, tmp_path):
    model = small()
    x = pictures(4, 16, 16, 3)
    expected = model.predict(x, verbose=0)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(model))
    elif way == "shards":
        path = tmp_path / "model.weights.json"
        model.save_weights(path, max_shard_size=0.0001)
        assert len(list(tmp_path.glob("*.h5"))) > 1
        again = small()
        again.load_weights(path)
    else:
        keras.saving.save_model(model, tmp_path / "model", zipped=False)
        again = keras.saving.load_model(tmp_path / "model")
    assert type(again) is keras_resnet.ResidualNetwork
    np.testing.assert_allclose(
        again.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-6
    )
