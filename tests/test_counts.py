"""Parameters and multiply-adds of every network, exactly."""

import functools
import re

import keras
import numpy as np
import pytest

import keras_resnet
from keras_resnet.table1 import IMAGENET_SPECS

pytestmark = pytest.mark.once

# Trainable parameters with shortcut A (and of the plain twin), B and C; all
# parameters with B; trainable and all parameters with B without top;
# multiply-adds of one 224x224 image in units of 1e9 as printed, with the
# stride in the 1x1 (the paper's) and in the 3x3 convolution.
IMAGENET = {
    "ResNet18": {
        "A": 11_515_688,
        "B": 11_689_512,
        "C": 12_043_816,
        "total": 11_699_112,
        "no top": (11_176_512, 11_186_112),
        "1x1": "1.8141",
        "3x3": "1.8141",
    },
    "ResNet34": {
        "A": 21_623_848,
        "B": 21_797_672,
        "C": 22_716_840,
        "total": 21_814_696,
        "no top": (21_284_672, 21_301_696),
        "1x1": "3.6638",
        "3x3": "3.6638",
    },
    "ResNet50": {
        "A": 22_780_456,
        "B": 25_557_032,
        "C": 40_128_552,
        "total": 25_610_152,
        "no top": (23_508_032, 23_561_152),
        "1x1": "3.858",
        "3x3": "4.089",
    },
    "ResNet101": {
        "A": 41_772_584,
        "B": 44_549_160,
        "C": 76_981_288,
        "total": 44_654_504,
        "no top": (42_500_160, 42_605_504),
        "1x1": "7.570",
        "3x3": "7.801",
    },
    "ResNet152": {
        "A": 57_416_232,
        "B": 60_192_808,
        "C": 107_335_720,
        "total": 60_344_232,
        "no top": (58_143_808, 58_295_232),
        "1x1": "11.282",
        "3x3": "11.514",
    },
}
# Trainable parameters with A (and of the plain twin), B and C; all parameters
# with A; multiply-adds of one 32x32 image with A in units of 1e6 as printed.
CIFAR = {
    "ResNet20": {
        "A": 269_722,
        "B": 272_474,
        "C": 283_962,
        "total": 271_098,
        "macs": "40.55",
    },
    "ResNet32": {
        "A": 464_154,
        "B": 466_906,
        "C": 489_594,
        "total": 466_426,
        "macs": "68.86",
    },
    "ResNet44": {
        "A": 658_586,
        "B": 661_338,
        "C": 695_226,
        "total": 661_754,
        "macs": "97.17",
    },
    "ResNet56": {
        "A": 853_018,
        "B": 855_770,
        "C": 900_858,
        "total": 857_082,
        "macs": "125.49",
    },
    "ResNet110": {
        "A": 1_727_962,
        "B": 1_730_714,
        "C": 1_826_202,
        "total": 1_736_058,
        "macs": "252.89",
    },
    "ResNet1202": {
        "A": 19_421_274,
        "B": 19_424_026,
        "C": 20_538_714,
        "total": 19_510_906,
        "macs": "2829.24",
    },
}
# What takes a depth, or all of the architecture, as its argument.
GENERAL = {
    "ResNet": lambda **kw: keras_resnet.ResNet(
        (3, 4, 6, 3), bottleneck=True, **kw
    ),
    "ResNetCIFAR": lambda **kw: keras_resnet.ResNetCIFAR(20, **kw),
    "ResNetImageNet": lambda **kw: keras_resnet.ResNetImageNet(50, **kw),
}
GENERAL_COUNTS = {
    "ResNet": IMAGENET["ResNet50"]["B"],
    "ResNetCIFAR": CIFAR["ResNet20"]["A"],
    "ResNetImageNet": IMAGENET["ResNet50"]["B"],
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
    model = GENERAL[name](kernel_initializer="zeros")
    assert trainable(model) == GENERAL_COUNTS[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_default_with_macs(name):
    row = IMAGENET[name]
    model = build(name)
    assert trainable(model) == row["B"]
    assert model.count_params() == row["total"]
    cost = keras_resnet.complexity(model)
    assert cost.trainable_parameters == row["B"]
    assert cost.parameters == row["total"]
    assert printed(cost.macs, 1e9, row["3x3"]) == row["3x3"]


# The options beside the default, built for one basic and one bottleneck net;
# what they cost in the others follows from the cost of a block per stage.
BUILT_IMAGENET = ("ResNet18", "ResNet50")
OPTIONS = {
    "A": {"shortcut": "A"},
    "C": {"shortcut": "C"},
    "plain": {"residual": False},
    "no top": {"include_top": False},
}


def expected(name, option):
    """Trainable parameters, and all where the table has them."""
    if option == "no top":
        return IMAGENET[name][option]
    return IMAGENET[name]["A" if option == "plain" else option], None


@pytest.mark.parametrize("name", BUILT_IMAGENET)
@pytest.mark.parametrize("option", OPTIONS)
def test_imagenet_options(name, option):
    model = build(name, **OPTIONS[option])
    count, total = expected(name, option)
    assert trainable(model) == count
    assert total is None or model.count_params() == total


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

    for name, row in IMAGENET.items():
        if (name in BOTTLENECK) != bottleneck:
            continue
        count = by_blocks(lambda depths: trainable(small(tuple(depths))), name)
        if option == "no top":
            total = by_blocks(
                lambda depths: small(tuple(depths)).count_params(), name
            )
            assert (count, total) == row[option], name
        else:
            assert count == expected(name, option)[0], name


def test_imagenet_macs_with_the_papers_stride():
    row = IMAGENET["ResNet50"]
    model = build("ResNet50", bottleneck_stride="1x1")
    cost = keras_resnet.complexity(model)
    assert printed(cost.macs, 1e9, row["1x1"]) == row["1x1"]
    # The placement moves the stride, not the weights.
    assert trainable(model) == row["B"]


def test_imagenet_macs_with_the_papers_stride_block_by_block():
    @functools.cache
    def small(depths):
        model = keras_resnet.ResNet(
            depths,
            bottleneck=True,
            bottleneck_stride="1x1",
            kernel_initializer="zeros",
        )
        return keras_resnet.complexity(model).macs

    for name in BOTTLENECK:
        count = by_blocks(lambda depths: small(tuple(depths)), name)
        digits = IMAGENET[name]["1x1"]
        assert printed(count, 1e9, digits) == digits, name


def test_stride_placement_is_for_bottlenecks_alone():
    row = IMAGENET["ResNet18"]
    cost = keras_resnet.complexity(build("ResNet18", bottleneck_stride="1x1"))
    assert printed(cost.macs, 1e9, row["1x1"]) == row["1x1"]


@pytest.mark.parametrize("name", BUILT_CIFAR)
def test_cifar_default_with_macs(name):
    row = CIFAR[name]
    model = build(name)
    assert trainable(model) == row["A"]
    assert model.count_params() == row["total"]
    cost = keras_resnet.complexity(model)
    assert cost.trainable_parameters == row["A"]
    assert cost.parameters == row["total"]
    assert printed(cost.macs, 1e6, row["macs"]) == row["macs"]


@pytest.mark.parametrize("name", BUILT_CIFAR)
@pytest.mark.parametrize("shortcut", ["B", "C"])
def test_cifar_shortcuts(name, shortcut):
    assert trainable(build(name, shortcut=shortcut)) == CIFAR[name][shortcut]


@pytest.mark.parametrize("name", BUILT_CIFAR)
def test_cifar_plain(name):
    model = build(name, residual=False)
    assert trainable(model) == CIFAR[name]["A"]
    assert model.count_params() == CIFAR[name]["total"]


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
    # What the normalizations before the first convolutions add is what those
    # of the stem and of the branches' ends were. Projections have none.
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
