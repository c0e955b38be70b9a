"""Networks of timm and KerasHub and ours give the same with the same weights.

Both are in an environment of their own: `tox -e peers`.
"""

import numpy as np
import pytest
from networks import draw_weights
from test_weights import assert_same_logits, check_twin, fill, infer

import keras_resnet
from keras_resnet import load_torch_weights, table1
from keras_resnet.weights import loading

SIZE = 64, 64, 3
# Tolerated difference as a share of the largest number.
SHARE = 2e-6
DEPTHS = 18, 34, 50
# By the beginning of timm's names.
BLOCKS = {
    "resnet": keras_resnet.ResidualBlock,
    "resnetv2_": keras_resnet.PreactivationBlock,
}
both = pytest.mark.parametrize("kind", BLOCKS)


@both
@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_are_those_of_timm_and_the_state_comes_back(depth, kind):
    timm = pytest.importorskip("timm")
    network = timm.create_model(f"{kind}{depth}", pretrained=False)
    model = keras_resnet.ResNetImageNet(
        depth, classifier_activation=None, input_shape=SIZE, block=BLOCKS[kind]
    )
    naming = "timm_v2" if kind == "resnetv2_" else "torchvision"
    check_twin(fill(network, depth), model, naming, SHARE)


@both
@pytest.mark.parametrize("depth", DEPTHS)
def test_features_are_those_of_kerashub(depth, kind):
    keras_hub = pytest.importorskip("keras_hub")
    bottleneck, depths = table1.IMAGENET_SPECS[depth]
    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=list(table1.IMAGENET_WIDTHS),
        stackwise_num_blocks=list(depths),
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block" if bottleneck else "basic_block",
        use_pre_activation=kind == "resnetv2_",
        image_shape=SIZE,
    )
    source, model = (
        keras_resnet.ResNetImageNet(
            depth, include_top=False, input_shape=SIZE, block=BLOCKS[kind]
        )
        for _ in range(2)
    )
    draw_weights(source, seed=depth)
    arrays = loading.to_arrays(source, "keras_hub")
    assert set(arrays) == {v.path for v in backbone.variables}
    for variable in backbone.variables:
        variable.assign(arrays[variable.path])
    load_torch_weights(model, {v.path: v for v in backbone.variables})
    x = np.random.default_rng(1).normal(size=(2, *SIZE)).astype("float32")
    assert_same_logits(infer(model, x), infer(backbone, x), SHARE)
