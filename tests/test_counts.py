"""Parameters and multiply-adds of every network, exactly."""

import functools
import re

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.table1 import IMAGENET_SPECS

pytestmark = pytest.mark.once


def rows(text):
    """Read a table: parameters as integers, multiply-adds as printed."""
    (_, *columns), *lines = (x.split() for x in text.strip().splitlines())
    return {
        name: {
            column: int(value.replace(",", "")) if "," in value else value
            for column, value in zip(columns, values, strict=True)
        }
        for name, *values in lines
    }


# Trainable parameters with shortcut A (and of the plain twin), B and C; all
# parameters with B; multiply-adds of one 224x224 image in units of 1e9, with
# the stride in the 1x1 (the paper's) and in the 3x3 convolution.
IMAGENET = rows("""
name                A           B            C       total     1x1     3x3
ResNet18   11,515,688  11,689,512   12,043,816  11,699,112  1.8141  1.8141
ResNet34   21,623,848  21,797,672   22,716,840  21,814,696  3.6638  3.6638
ResNet50   22,780,456  25,557,032   40,128,552  25,610,152   3.858   4.089
ResNet101  41,772,584  44,549,160   76,981,288  44,654,504   7.570   7.801
ResNet152  57,416,232  60,192,808  107,335,720  60,344,232  11.282  11.514
""")
# Trainable and all parameters with B without top.
NO_TOP = {
    "ResNet18": (11_176_512, 11_186_112),
    "ResNet34": (21_284_672, 21_301_696),
    "ResNet50": (23_508_032, 23_561_152),
    "ResNet101": (42_500_160, 42_605_504),
    "ResNet152": (58_143_808, 58_295_232),
}
# Trainable parameters with A (and of the plain twin), B and C; all parameters
# with A; multiply-adds of one 32x32 image with A in units of 1e6.
CIFAR = rows("""
name                 A           B           C       total     macs
ResNet20       269,722     272,474     283,962     271,098    40.55
ResNet32       464,154     466,906     489,594     466,426    68.86
ResNet44       658,586     661,338     695,226     661,754    97.17
ResNet56       853,018     855,770     900,858     857,082   125.49
ResNet110    1,727,962   1,730,714   1,826,202   1,736,058   252.89
ResNet1202  19,421,274  19,424,026  20,538,714  19,510,906  2829.24
""")
# Functions that take a depth or an architecture, and the parameters it has.
GENERAL = {
    "ResNet": (
        functools.partial(keras_resnet.ResNet, (3, 4, 6, 3), bottleneck=True),
        IMAGENET["ResNet50"]["B"],
    ),
    "ResNetCIFAR": (
        functools.partial(keras_resnet.ResNetCIFAR, 20),
        CIFAR["ResNet20"]["A"],
    ),
    "ResNetImageNet": (
        functools.partial(keras_resnet.ResNetImageNet, 50),
        IMAGENET["ResNet50"]["B"],
    ),
}
# ResNet-1202 takes up to 30 s to build: test_resnet1202.py does it once.
BUILT_CIFAR = [name for name in CIFAR if name != "ResNet1202"]
BOTTLENECK = ("ResNet50", "ResNet101", "ResNet152")


def depth_of(name):
    return int(re.search(r"\d+", name).group())


def build(name, **kwargs):
    # No test here looks at a value: skip drawing millions of numbers.
    return getattr(keras_resnet, name)(kernel_initializer="zeros", **kwargs)


def trainable(model):
    return sum(int(keras.ops.size(v)) for v in model.trainable_variables)


def printed(count, unit, digits):
    """`count` in `unit`, with as many decimals as `digits` has."""
    return f"{count / unit:.{len(digits.split('.')[1])}f}"


def test_every_factory_has_a_row():
    public = {n for n in dir(keras_resnet) if n.startswith("ResNet")}
    assert public == {*IMAGENET, *CIFAR, *GENERAL}
    assert public <= set(keras_resnet.__all__)


@pytest.mark.parametrize("name", GENERAL)
def test_general_builders(name):
    build, count = GENERAL[name]
    assert trainable(build(kernel_initializer="zeros")) == count


@pytest.mark.parametrize("name", [*IMAGENET, *BUILT_CIFAR])
def test_default_with_macs(name):
    row = (IMAGENET | CIFAR)[name]
    count, macs, unit = row["A"], row.get("macs"), 1e6
    if name in IMAGENET:
        count, macs, unit = row["B"], row["3x3"], 1e9
    model = build(name)
    assert trainable(model) == count
    assert model.count_params() == row["total"]
    cost = keras_resnet.complexity(model)
    assert cost.trainable_parameters == count
    assert cost.parameters == row["total"]
    assert printed(cost.macs, unit, macs) == macs


OPTIONS = {
    "A": {"shortcut": "A"},
    "C": {"shortcut": "C"},
    "plain": {"residual": False},
    "no top": {"include_top": False},
}


def by_blocks(cost, name):
    """A net's cost, from that of nets with one and two blocks per stage."""
    one = cost((1, 1, 1, 1))
    depths = IMAGENET_SPECS[depth_of(name)][1]
    return one + sum(
        (depth - 1) * (cost([2 if j == i else 1 for j in range(4)]) - one)
        for i, depth in enumerate(depths)
    )


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
def test_imagenet_options_block_by_block(bottleneck, option):
    @functools.cache
    def small(depths):
        return keras_resnet.ResNet(
            depths,
            bottleneck=bottleneck,
            kernel_initializer="zeros",
            **OPTIONS[option],
        )

    def cost(depths):
        model = small(tuple(depths))
        return np.array([trainable(model), model.count_params()])

    for name, row in IMAGENET.items():
        if (name in BOTTLENECK) != bottleneck:
            continue
        count, total = by_blocks(cost, name)
        if option == "no top":
            assert (count, total) == NO_TOP[name], name
        else:
            assert count == row["A" if option == "plain" else option], name


def test_imagenet_macs_with_the_papers_stride_block_by_block():
    @functools.cache
    def small(depths):
        model = keras_resnet.ResNet(
            depths,
            bottleneck=True,
            bottleneck_stride="1x1",
            kernel_initializer="zeros",
        )
        # The placement moves the stride, not the weights.
        return np.array([keras_resnet.complexity(model).macs, trainable(model)])

    for name in BOTTLENECK:
        macs, count = by_blocks(lambda depths: small(tuple(depths)), name)
        row = IMAGENET[name]
        assert printed(macs, 1e9, row["1x1"]) == row["1x1"], name
        assert count == row["B"], name


def test_stride_placement_is_for_bottlenecks_alone():
    row = IMAGENET["ResNet18"]
    cost = keras_resnet.complexity(build("ResNet18", bottleneck_stride="1x1"))
    assert printed(cost.macs, 1e9, row["1x1"]) == row["1x1"]


@pytest.mark.parametrize(
    ("options", "column"),
    [
        ({"shortcut": "A"}, "A"),
        ({"shortcut": "B"}, "B"),
        ({"shortcut": "C"}, "C"),
        ({"residual": False}, "A"),
    ],
    ids=["A", "B", "C", "plain"],
)
def test_cifar_depth_adds_equal_blocks(options, column):
    # Each further block of a stage costs the same, so two small depths tell
    # the count of any: that of ResNet-1202 without building it four times.
    costs = []
    for depth in (8, 14):
        model = keras_resnet.ResNetCIFAR(depth, **options)
        cost = keras_resnet.complexity(model)
        costs.append((trainable(model), model.count_params(), cost.macs))
    for name, row in CIFAR.items():
        steps = (depth_of(name) - 8) // 6
        count, total, macs = (
            small + steps * (larger - small)
            for small, larger in zip(*costs, strict=True)
        )
        assert count == row[column], name
        if column == "A":
            # The plain twin costs the same.
            assert total == row["total"], name
            assert printed(macs, 1e6, row["macs"]) == row["macs"], name


# Trainable parameters with pre-activation, with A and B, by depth.
PREACTIVATED = {
    20: (269_722, 272_282),
    56: (853_018, 855_578),
    110: (1_727_962, 1_730_522),
}


@pytest.mark.parametrize("depth", PREACTIVATED)
def test_preactivated_cifar(depth):
    models = [
        build(
            f"ResNet{depth}",
            block=keras_resnet.PreactivationBlock,
            shortcut=shortcut,
        )
        for shortcut in "AB"
    ]
    assert tuple(map(trainable, models)) == PREACTIVATED[depth]
    # The normalizations before the first convolutions add as much as those of
    # the stem and of the branches' ends had. Projections have none.
    usual = CIFAR[f"ResNet{depth}"]
    assert PREACTIVATED[depth] == (usual["A"], usual["B"] - 2 * (32 + 64))
    assert models[0].count_params() == usual["total"]
    macs = keras_resnet.complexity(models[0]).macs
    assert printed(macs, 1e6, usual["macs"]) == usual["macs"]


def test_preactivated_bottlenecks_of_the_paper():
    @functools.cache
    def cost(n):
        model = keras_resnet.ResNet(
            (n, n, n),
            (16, 32, 64),
            bottleneck=True,
            stem="cifar",
            classes=10,
            kernel_initializer="zeros",
            block=keras_resnet.PreactivationBlock,
        )
        normalizations = sum(
            trainable(layer)
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        )
        return np.array([trainable(model), normalizations])

    for depth, count, paper in (
        (164, 1_703_258, "1.7"),
        (1001, 10_327_706, "10.2"),
    ):
        # Each further block of a stage costs the same.
        further = (depth - 2) // 9 - 1
        parameters, normalizations = cost(1) + further * (cost(2) - cost(1))
        assert parameters == count
        # Table 4 of He et al. 2016 leaves normalizations out.
        assert printed(parameters - normalizations, 1e6, paper) == paper


def test_preactivated_imagenet():
    # As timm 1.0.31 counts `resnetv2_50` and `resnetv2_18`, and KerasHub
    # 0.32.0 its backbones, without top and with moving statistics.
    for name, count, backbone in (
        ("ResNet50", 25_549_352, 23_545_792),
        ("ResNet18", 11_687_720, 11_182_528),
    ):
        model = build(name, block=keras_resnet.PreactivationBlock)
        assert trainable(model) == count
        head = model.get_layer("head").count_params()
        assert model.count_params() - head == backbone


def test_a_class_of_a_cifar_net_costs_65_parameters():
    ten, twenty = (trainable(build("ResNet20", classes=n)) for n in (10, 20))
    assert twenty - ten == 650


def test_resnet34_is_18_percent_of_vgg19():
    # Section 3.3; VGG-19 costs 19.6e9 multiply-adds.
    macs = keras_resnet.complexity(build("ResNet34")).macs
    # The paper's figure counts option A, which has no projections.
    assert macs / 19.6e9 == pytest.approx(0.18, abs=0.01)
    macs = keras_resnet.complexity(build("ResNet34", shortcut="A")).macs
    assert f"{macs / 19.6e9:.2f}" in ("0.18", "0.19")
