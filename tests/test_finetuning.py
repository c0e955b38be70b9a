"""Frozen parts and feature maps."""

import functools

import keras
import networks
import numpy as np
import pytest
from networks import call, draw_weights

import keras_resnet
from keras_resnet import features, freeze

small = functools.partial(networks.small, classes=4)


def arrays(model):
    return {v.path: networks.to_numpy(v.value) for v in model.variables}


def train(model, steps=2):
    """The paths of all variables that some steps of training change."""
    rng = np.random.default_rng(0)
    x = rng.normal(1, 2, size=(8, 16, 16, 3)).astype("float32")
    y = rng.integers(4, size=8)
    model.compile(
        keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy"
    )
    before = arrays(model)
    model.fit(x, y, batch_size=4, epochs=steps, verbose=0)
    return {n for n, v in arrays(model).items() if (v != before[n]).any()}


def everything(model, *prefixes):
    return {v.path for v in model.variables if v.path.startswith(prefixes)}


@pytest.mark.parametrize(
    ("stage", "trained"),
    [(0, ("stage1", "stage2", "head")), (1, ("stage2", "head"))]
    + [(2, ("head",)), (None, ("head",))],
)
def test_what_is_frozen_does_not_change_statistics_included(stage, trained):
    model = small()
    # Whatever was frozen before.
    model.trainable = False
    assert freeze(model, stage) is model
    assert train(model) == everything(model, *trained)


def test_a_head_of_ones_own_is_not_frozen():
    model = small(include_top=False, pooling="avg")
    x = keras.layers.Dense(8, activation="relu", name="hidden")(model.output)
    x = keras.layers.Dense(4, activation="softmax", name="mine")(x)
    model = freeze(keras.Model(model.input, x))
    assert train(model) == everything(model, "hidden", "mine")


def test_unfreezing_what_follows_keeps_normalization_in_inference(tmp_path):
    model = small()
    draw_weights(model, seed=0)
    freeze(model)
    train(model)
    # Another call does not depend on the first.
    freeze(model, 1)
    model.save(tmp_path / "model.keras")
    # And files keep it.
    for net in (model, keras.saving.load_model(tmp_path / "model.keras")):
        part = keras.Model(net.input, net.get_layer("stage1_block1").output)
        x = np.random.default_rng(1).normal(size=(4, 16, 16, 3))
        x = x.astype("float32")

        def difference(model, x=x):
            modes = [call(model, x, training=mode) for mode in (True, False)]
            return np.abs(np.subtract(*modes)).max()

        assert difference(part) == 0
        assert difference(net) > 1e-3
        assert train(net) == everything(net, "stage2", "head")


@pytest.mark.parametrize("copy", ["file", "clone", "none"])
def test_normalization_alone_is_frozen_and_stays_so(tmp_path, copy):
    model = freeze(small(), 0, normalization=True)
    if copy == "file":
        model.save(tmp_path / "model.keras")
        model = keras.saving.load_model(tmp_path / "model.keras")
    elif copy == "clone":
        model = keras.models.clone_model(keras.models.clone_model(model))
    # Also that of the projection, which is there only once it is built.
    names = "bn", "shortcut_bn"
    parts = [p for p in model._flatten_layers() if p.name.startswith(names)]
    assert len(parts) == 7
    assert not any(part.trainable for part in parts)
    assert {v.path for v in model.trainable_variables} == {
        path
        for path in everything(model, "stage", "head")
        if "/bn" not in path and "/shortcut_bn" not in path
    }
    # Until another call.
    freeze(model, 0)
    assert all(part.trainable for part in parts)


@pytest.mark.parametrize("stage", [-1, 3, "1", True])
def test_stages_that_are_not_there(stage):
    with pytest.raises(ValueError, match=f"0 to 2.*stage={stage!r}"):
        freeze(small(), stage)


def test_no_network_of_this_package():
    for function in (freeze, features):
        with pytest.raises(ValueError, match="'stage1_block1'"):
            function(keras.Sequential([small()], name="wrapped"))


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (keras_resnet.ResNet18, (64, 128, 256, 512)),
        (keras_resnet.ResNet50, (256, 512, 1024, 2048)),
    ],
)
def test_strides_and_channels(build, channels):
    model = build(include_top=False)
    extractor = features(model)
    names = ["stage1", "stage2", "stage3", "stage4"]
    assert extractor.strides == dict(zip(names, (4, 8, 16, 32), strict=True))
    assert extractor.channels == dict(zip(names, channels, strict=True))
    shapes = extractor.compute_output_shape((1, 64, 128, 3))
    for name in names:
        stride = extractor.strides[name]
        assert tuple(shapes[name]) == (
            1,
            64 // stride,
            128 // stride,
            extractor.channels[name],
        )


def test_maps_are_the_networks_own(tmp_path):
    model = small()
    draw_weights(model, seed=0)
    model.preprocessing = "cifar"
    extractor = features(model, [1, 2])
    assert extractor.strides == {"stage1": 1, "stage2": 2}
    x = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype("float32")
    actual = extractor.predict(x, verbose=0)
    for name, layer in (
        ("stage1", "stage1_block1"),
        ("stage2", "stage2_block2"),
    ):
        part = keras.Model(model.input, model.get_layer(layer).output)
        np.testing.assert_allclose(
            actual[name], call(part, x, training=False), atol=1e-5
        )
    # Shared, and saved with what it states.
    assert extractor.get_layer("stem_conv") is model.get_layer("stem_conv")
    extractor.save(tmp_path / "features.keras")
    again = keras.saving.load_model(tmp_path / "features.keras")
    assert again.strides == extractor.strides
    assert again.channels == extractor.channels
    assert again.preprocessing == model.preprocessing
    for name, value in again.predict(x, verbose=0).items():
        np.testing.assert_allclose(value, actual[name], atol=1e-5)


def test_folded_features_are_features():
    model = small()
    draw_weights(model, seed=0)
    extractor = features(model, [1, 2])
    folded = keras_resnet.fold_batch_norm(extractor)
    assert folded.strides == extractor.strides
    assert folded.channels == extractor.channels
    x = np.random.default_rng(1).normal(size=(4, 16, 16, 3)).astype("float32")
    expected = extractor.predict(x, verbose=0)
    for name, value in folded.predict(x, verbose=0).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


@pytest.mark.parametrize("stages", [(), (2, 1), (1, 1), (1, 2, 3), (0,)])
def test_stages_of_features_are_checked(stages):
    with pytest.raises(ValueError, match="has 1, 2. Received: stages="):
        features(small(), stages)
