"""Networks of timm and KerasHub and ours give the same with the same weights.

Both are in an environment of their own: `tox -e peers`.
"""

import numpy as np
import pytest
from networks import draw_weights
from test_weights import drawn, infer

import keras_resnet
from comparison.peers import peer_path
from keras_resnet import load_torch_weights, table1, to_torch_state_dict

SIZE = 64, 64, 3
DEPTHS = 18, 34, 50


def images():
    return np.random.default_rng(1).normal(size=(2, *SIZE)).astype("float32")


def assert_close(actual, expected):
    # Numbers of a size at which the tolerance says something.
    assert 0.1 < expected.std() < 10
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max()
    )


@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_are_those_of_timm_and_the_state_comes_back(depth):
    timm = pytest.importorskip("timm")
    import torch

    network = timm.create_model(f"resnet{depth}", pretrained=False).eval()
    rng = np.random.default_rng(depth)
    state = {
        name: torch.from_numpy(drawn(name, tuple(value.shape), rng))
        if value.is_floating_point()
        else value
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    model = keras_resnet.ResNetImageNet(
        depth, classifier_activation=None, input_shape=SIZE
    )
    load_torch_weights(model, state)
    x = images()
    with torch.no_grad():
        expected = network(
            torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        ).numpy()
    assert_close(infer(model, x), expected)
    back = to_torch_state_dict(model)
    assert set(back) == set(state)
    assert all(torch.equal(state[name], back[name]) for name in state)
    network.load_state_dict(back)


@pytest.mark.parametrize("depth", DEPTHS)
def test_features_are_those_of_kerashub(depth):
    keras_hub = pytest.importorskip("keras_hub")
    bottleneck, depths = table1.IMAGENET_SPECS[depth]
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=list(table1.IMAGENET_WIDTHS),
        stackwise_num_blocks=list(depths),
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block" if bottleneck else "basic_block",
        image_shape=SIZE,
    )
    model = keras_resnet.ResNetImageNet(
        depth, include_top=False, input_shape=SIZE
    )
    draw_weights(model, seed=depth)
    ours = {
        peer_path(lambda s, i: f"stack{s - 1}_block{i - 1}", v.path): v
        for v in model.variables
    }
    assert set(ours) == {v.path for v in backbone.variables}
    for variable in backbone.variables:
        variable.assign(ours[variable.path])
    x = images()
    assert_close(infer(model, x), infer(backbone, x))
