"""Weights of other packages: converted, checked, and given back."""

import contextlib
import functools
import math
import os
import pickle
import zipfile

import h5py
import keras
import networks
import numpy as np
import pytest
from keras import ops
from networks import values

import keras_resnet
from keras_resnet import (
    WeightsError,
    load_torch_weights,
    table1,
    to_torch_state_dict,
)
from keras_resnet.weights import loading, published, sources

DEPTHS = table1.IMAGENET_SPECS


small = functools.partial(networks.small, classes=7, classifier_activation=None)


def drawn(name, shape, rng):
    """An array for a tensor of PyTorch, of the size that a trained one has."""
    if len(shape) > 1:
        value = rng.normal(scale=(2 / math.prod(shape[1:])) ** 0.5, size=shape)
    elif name.endswith(("running_var", "moving_variance")):
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith(("weight", "gamma")):
        value = rng.uniform(0.3, 0.7, shape)
    else:
        value = rng.normal(scale=0.1, size=shape)
    return value.astype("float32")


def state_of(model, naming="torchvision", seed=0):
    """A state dict of arrays for a network, drawn at random."""
    rng = np.random.default_rng(seed)
    return {
        name: drawn(name, array.shape, rng)
        for name, array in loading.to_arrays(model, naming).items()
    }


def assert_holds(model, naming, state):
    """Check that a model's arrays, by the names of a source, are those."""
    back = loading.to_arrays(model, naming)
    for name in back:
        np.testing.assert_array_equal(back[name], state[name], err_msg=name)


def infer(model, x):
    """Outputs in inference, operation by operation.

    JAX compiles each kind of operation once for all depths, where a whole
    network would be compiled for each.
    """
    return ops.convert_to_numpy(model(ops.convert_to_tensor(x), training=False))


def assert_same_logits(actual, expected, share=None):
    """Check that logits differ by 1e-4, or by a share of the largest."""
    # Of a size at which the tolerance says something.
    assert 0.1 < expected.std() < 10
    tolerance = share * np.abs(expected).max() if share else 1e-4
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def check_twin(network, model, naming, share=None):
    """Check that a network of PyTorch and ours are the same, both ways."""
    import torch

    state = network.state_dict()
    load_torch_weights(model, state)
    x = np.random.default_rng(1).normal(size=(2, 64, 64, 3)).astype("float32")
    with torch.no_grad():
        expected = network(torch.tensor(x.transpose(0, 3, 1, 2)))
    expected = getattr(expected, "logits", expected).numpy()
    assert_same_logits(infer(model, x), expected, share)
    back = to_torch_state_dict(model, naming)
    assert set(back) == set(state)
    for name, value in state.items():
        assert torch.equal(value, back[name]), name
    # And PyTorch takes it.
    network.load_state_dict(back)


def fill(network, seed):
    """Draw the weights of a network of PyTorch, and return it to predict."""
    import torch

    rng = np.random.default_rng(seed)
    state = network.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            array = drawn(name, tuple(value.shape), rng)
            state[name] = torch.from_numpy(array)
    network.load_state_dict(state)
    return network.eval()


# Depths 101 and 152 have the same names as 50, and more of them.
DEEP = [pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("depth", [18, 34, 50, *DEEP])
def test_logits_are_those_of_transformers_and_the_state_comes_back(depth):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    bottleneck, depths = DEPTHS[depth]
    widths = [64, 128, 256, 512]
    config = transformers.ResNetConfig(
        depths=list(depths),
        hidden_sizes=[4 * w for w in widths] if bottleneck else widths,
        layer_type="bottleneck" if bottleneck else "basic",
        num_labels=1000,
    )
    network = transformers.ResNetForImageClassification(config)
    model = keras_resnet.ResNetImageNet(
        depth, classifier_activation=None, input_shape=(64, 64, 3)
    )
    check_twin(fill(network, depth), model, "transformers")


@pytest.mark.parametrize(
    "depth", [pytest.param(50, marks=pytest.mark.once), *DEEP]
)
def test_logits_are_those_of_keras_applications(depth, tmp_path):
    build = getattr(keras.applications, f"ResNet{depth}")
    options = {"classifier_activation": None, "input_shape": (64, 64, 3)}
    theirs = build(weights=None, **options)
    rng = np.random.default_rng(depth)
    for variable in theirs.variables:
        variable.assign(drawn(variable.path, variable.shape[::-1], rng).T)
    source = {v.path: v for v in theirs.variables}
    model = keras_resnet.ResNetImageNet(
        depth, bottleneck_stride="1x1", **options
    )
    load_torch_weights(model, source)
    x = rng.normal(size=(2, 64, 64, 3)).astype("float32")
    assert_same_logits(infer(model, x), infer(theirs, x))
    # The same from a file.
    path = tmp_path / "weights.h5"
    write_legacy_h5(path, theirs)
    before = values(model)
    model.set_weights([np.zeros_like(v) for v in before])
    load_torch_weights(model, path)
    np.testing.assert_equal(values(model), before)
    wrong = keras_resnet.ResNetImageNet(depth, **options)
    with pytest.raises(WeightsError, match="bottleneck_stride='1x1'"):
        load_torch_weights(wrong, source)


def write_legacy_h5(path, model):
    """Write the layout that the files of keras.applications have."""
    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [x.name.encode() for x in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{w.name}:0" for w in layer.weights]
            group.attrs["weight_names"] = [n.encode() for n in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = networks.to_numpy(weight)


def test_epsilon_of_keras_applications_is_theirs():
    # Variances so small that the difference of the epsilons shows.
    model = small(widths=[16, 16], bottleneck_stride="1x1")
    state = state_of(model, "keras.applications")
    state["conv1_bn/moving_variance"][:] = 1e-7
    load_torch_weights(model, state)
    actual = ops.convert_to_numpy(model.get_layer("stem_bn").moving_variance)
    np.testing.assert_allclose(actual + 1e-5, 1e-7 + 1.001e-5, rtol=1e-6)


def akamaster(state, x, depths):
    """Logits of the network with zero channels on both sides, in PyTorch."""
    import torch

    F = torch.nn.functional
    state = {n: torch.from_numpy(v) for n, v in state.items()}

    def conv(x, name, stride):
        return F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)

    def bn(x, name):
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{name}.{n}"] for n in names))

    x = F.relu(bn(conv(torch.from_numpy(x), "conv1", 1), "bn1"))
    for stage, depth in enumerate(depths, start=1):
        for i in range(depth):
            name = f"layer{stage}.{i}"
            stride = 2 if stage > 1 and i == 0 else 1
            y = F.relu(bn(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
            y = bn(conv(y, f"{name}.conv2", 1), f"{name}.bn2")
            shortcut = x[:, :, ::stride, ::stride]
            half = (y.shape[1] - x.shape[1]) // 2
            x = F.relu(y + F.pad(shortcut, (0, 0, 0, 0, half, half)))
    x = x.mean(dim=(2, 3))
    return F.linear(x, state["linear.weight"], state["linear.bias"]).numpy()


def test_zero_channels_on_both_sides_are_handled_exactly():
    torch = pytest.importorskip("torch")
    model = keras_resnet.ResNet20(classifier_activation=None)
    state = state_of(model, "akamaster")
    checkpoint = {
        "state_dict": {f"module.{name}": v for name, v in state.items()},
        "best_prec1": 91.7,
    }
    load_torch_weights(model, checkpoint)
    x = np.random.default_rng(1).normal(size=(4, 32, 32, 3)).astype("float32")
    expected = akamaster(state, x.transpose(0, 3, 1, 2).copy(), (3, 3, 3))
    assert expected.std() > 0.3
    assert_same_logits(infer(model, x), expected)
    back = to_torch_state_dict(model, "akamaster")
    for name, value in state.items():
        assert torch.equal(torch.from_numpy(value), back[name]), name
    # The other naming has the zero channels after, and so other arrays.
    other = to_torch_state_dict(model, "torchvision")
    assert not torch.equal(
        other["layer2.0.bn2.weight"], back["layer2.0.bn2.weight"]
    )


def test_option_a_without_head_may_be_either():
    options = {"shortcut": "A", "include_top": False}
    model = small(**options)
    state = state_of(small(shortcut="A"), "akamaster")
    headless = without(state, "linear.weight", "linear.bias")
    with refused(model, "'torchvision' or 'akamaster'"):
        load_torch_weights(model, headless)
    load_torch_weights(model, state)
    with_head = values(model)
    assert_holds(model, "akamaster", headless)
    # With `naming` it is clear.
    for naming in ("akamaster", "torchvision"):
        load_torch_weights(model, headless, naming=naming)
        assert_holds(model, naming, headless)
        if naming == "akamaster":
            np.testing.assert_equal(values(model), with_head)
    with pytest.raises(WeightsError, match="as transformers do: conv1"):
        load_torch_weights(model, headless, naming="transformers")
    with pytest.raises(WeightsError, match="naming='timm'"):
        load_torch_weights(model, headless, naming="timm")
    # Without zero channels there is no difference.
    for same in ({"residual": False}, {"widths": [16, 16]}):
        model = small(**options, **same)
        load_torch_weights(model, state_of(model))


PREACTIVATED = {"block": keras_resnet.PreactivationBlock}


@pytest.mark.parametrize(
    ("naming", "options"),
    [(n, {}) for n, x in sources.NAMINGS.items() if not x.preactivated]
    + [(n, PREACTIVATED) for n in ("timm_v2", "keras_hub", "keras_resnet")],
)
@pytest.mark.parametrize(
    # Block 10 comes after block 9, not after block 1.
    ("wrap", "depths"),
    [(False, (1, 2)), (True, (1, 11))],
)
def test_every_naming_is_recognized_and_comes_back(
    naming, options, wrap, depths
):
    model = small(
        **options,
        depths=depths,
        bottleneck=True,
        shortcut="B",
        bottleneck_stride=("1x1" if naming == "keras.applications" else "3x3"),
    )
    state = state_of(model, naming)
    source = {f"module.{n}": v for n, v in state.items()} if wrap else state
    load_torch_weights(model, source)
    back = loading.to_arrays(model, naming)
    assert set(back) == set(state)
    for name, value in state.items():
        if naming == "keras.applications" and name.endswith("variance"):
            # Another epsilon went there and comes back.
            np.testing.assert_allclose(back[name], value, rtol=1e-6)
        else:
            np.testing.assert_array_equal(back[name], value, err_msg=name)


@pytest.mark.once
def test_names_of_preactivated_networks():
    # Of timm 1.0's `resnetv2_50` and KerasHub 0.32's `ResNetBackbone`.
    model = small(depths=(1, 1), bottleneck=True, **PREACTIVATED)
    block = "stages.1.blocks.0."
    weights = [f"{block}{x}.weight" for x in ("conv1", "norm3", "conv3")]
    weights += [f"{block}norm1.running_var", f"{block}downsample.conv.weight"]
    weights += ["stem.conv.weight", "norm.bias", "head.fc.weight"]
    arrays = loading.to_arrays(model, "timm_v2")
    assert {*weights} < {*arrays}
    assert arrays["head.fc.weight"].shape == (7, 128, 1, 1)
    assert not any("norm4" in x or "stem.norm" in x for x in arrays)
    block = "stack1_block0_"
    weights = [f"{block}{x}" for x in ("1_conv/kernel", "2_bn/gamma")]
    weights += [f"{block}pre_activation_bn/beta", f"{block}0_conv/kernel"]
    weights += ["conv1_conv/kernel", "post_bn/moving_mean", "predictions/bias"]
    assert {*weights} < {*loading.to_arrays(model, "keras_hub")}


@pytest.mark.once
def test_preactivation_must_be_the_sources():
    usual, other = small(), small(**PREACTIVATED)
    v1, v2 = state_of(usual), state_of(other, "timm_v2")
    for model, state, words in (
        (usual, v2, r"blocks with pre.*with block=.*PreactivationBlock\."),
        (other, v1, r"blocks without pre.*with block=.*ResidualBlock\."),
        # Names that are both networks': the normalizations tell.
        (usual, state_of(other, "keras_hub"), "left over: .*post_bn"),
        (other, state_of(usual, "keras_hub"), "missing: .*pre_activation_bn"),
        # Group normalization, as in BiT, has no statistics.
        (
            other,
            {n: v for n, v in v2.items() if "running" not in n},
            "missing: .*norm1.running_mean",
        ),
        (
            other,
            {"conv1_conv/kernel": 1, "conv2_block1_preact_bn/gamma": 1},
            "ResNetV2 of keras.applications, which strides in the last block",
        ),
    ):
        with refused(model, words):
            load_torch_weights(model, state)
    pytest.importorskip("torch")
    for model, naming in ((usual, "timm_v2"), (other, "torchvision")):
        with pytest.raises(WeightsError, match="naming='timm_v2' is only"):
            to_torch_state_dict(model, naming)
    state = to_torch_state_dict(other, "timm_v2")
    assert state["stages.0.blocks.0.norm1.num_batches_tracked"] == 0


def test_a_network_of_transformers_without_classifier():
    model = small(include_top=False)
    state = state_of(model, "transformers")
    source = {n.removeprefix("resnet."): v for n, v in state.items()}
    load_torch_weights(model, source)
    assert_holds(model, "transformers", state)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_precisions_are_converted(dtype):
    model = small()
    state = {n: v.astype(dtype) for n, v in state_of(model).items()}
    load_torch_weights(model, state)
    back = loading.to_arrays(model, "torchvision")
    for name, value in state.items():
        np.testing.assert_array_equal(back[name], value.astype("float32"))


# Everything that does not fit has its own error, and changes nothing.


def without(state, *names):
    return {n: v for n, v in state.items() if n not in names}


def replaced(name, value):
    return lambda state: {**state, name: np.asarray(value)}


def other(**options):
    return lambda state: state_of(small(**options))


@contextlib.contextmanager
def refused(model, words):
    """Expect an error that matches `words`, and weights that stay."""
    before = values(model)
    with pytest.raises(WeightsError, match=words) as error:
        yield error
    np.testing.assert_equal(values(model), before)


# By the words of their errors.
MISFITS = {
    r"1 missing: bn1\.bias\.": lambda s: without(s, "bn1.bias"),
    r"2 missing: fc\.weight, fc\.bias\..*new_head=True": lambda s: without(
        s, "fc.weight", "fc.bias"
    ),
    r"1 left over: fc2\.weight\.": replaced("fc2.weight", [[1.0]]),
    r"1 of another shape: bn1\.weight 8 for 16\.": replaced(
        "bn1.weight", np.ones(8, "float32")
    ),
    r"not finite.*bn1\.bias": replaced("bn1.bias", np.full(16, np.nan)),
    r"not finite.*bn1\.weight": replaced("bn1.weight", np.full(16, 1e39)),
    r"negative variances: bn1\.running_var": replaced(
        "bn1.running_var", np.full(16, -1.0)
    ),
    r"bn1\.bias.*no floating-point.*int64": replaced("bn1.bias", np.arange(16)),
    "no tensors": lambda s: {},
    r"does not name its tensors.*torchvision.*: a\.": lambda s: {
        "a": np.zeros(3)
    },
    r"Blocks per stage: \(2, 2\) in the source, \(1, 2\)": other(depths=[2, 2]),
    r"Projections: none.*\[0, 1\] by stage in the model": other(shortcut="A"),
    r"\[1, 2\] by stage.*\[0, 1\] by stage.*'C'": other(shortcut="C"),
    "Convolutions per block: 3 in the source, 2": other(bottleneck=True),
    r"fc\.weight 9x32 for 7x32.*classes=9.*new_head=True": other(classes=9),
    "16x1x3x3.*adapt_input=True": other(input_shape=(16, 16, 1)),
    # Another stem is no matter of channels.
    r"conv1\.weight 16x3x7x7 for 16x3x3x3\.$": other(stem="imagenet"),
    "26 of another shape.*and 20 more": other(widths=[16, 48]),
}


@pytest.mark.once
@pytest.mark.parametrize("words", MISFITS)
def test_weights_that_do_not_fit_are_described(words):
    model = small()
    with refused(model, f"(?s){words}"):
        load_torch_weights(model, MISFITS[words](state_of(model)))


def test_wrong_stride_is_refused_where_the_source_tells():
    ours = small(bottleneck=True, bottleneck_stride="1x1")
    with refused(ours, "bottleneck_stride='3x3'"):
        load_torch_weights(ours, state_of(ours))
    # These names do not tell where the stride is.
    load_torch_weights(ours, state_of(ours, "transformers"))
    # The way back is refused alike.
    pytest.importorskip("torch")
    with pytest.raises(WeightsError, match="naming='transformers'"):
        to_torch_state_dict(ours)
    to_torch_state_dict(ours, "transformers")


@pytest.mark.once
def test_other_arguments_are_checked():
    with pytest.raises(WeightsError, match="path or a mapping.*int"):
        load_torch_weights(small(), 5)
    with pytest.raises(WeightsError, match="naming='keras'"):
        to_torch_state_dict(small(), "keras")
    model = small()
    state = state_of(model)
    with pytest.raises(WeightsError, match="folded"):
        load_torch_weights(keras_resnet.fold_batch_norm(model), state)
    with pytest.raises(WeightsError, match="not a network of this package"):
        load_torch_weights(keras.Sequential([keras.layers.Dense(2)]), state)


@pytest.mark.once
@pytest.mark.parametrize(("change", "message"), networks.ADAPTATIONS)
def test_weights_that_are_not_all_are_refused(change, message):
    model = small()
    state = state_of(model)
    change(model.get_layer("head"))
    with refused(model, message):
        load_torch_weights(model, state)
    with pytest.raises(WeightsError, match=message):
        loading.to_arrays(model, "torchvision")


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "model.safetensors"
    model = small()
    state = state_of(model)
    save_file(state, path)
    load_torch_weights(model, path)
    assert_holds(model, "torchvision", state)
    np.testing.assert_equal(values(small(weights=str(path))), values(model))

    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with refused(model, "not a complete safetensors file"):
        load_torch_weights(model, path)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    model = small()
    state = {n: torch.from_numpy(v) for n, v in state_of(model).items()}
    for ending in ("pth", "pt", "th"):
        path = tmp_path / f"model.{ending}"
        torch.save({"state_dict": state, "epoch": 3}, path)
        again = small(weights=path)
        back = to_torch_state_dict(again)
        assert all(torch.equal(back[n], v) for n, v in state.items())
    # Half precision that NumPy does not have.
    torch.save({n: v.bfloat16() for n, v in state.items()}, path)
    load_torch_weights(model, path)
    back = to_torch_state_dict(model)
    assert all(
        torch.equal(back[n], v.bfloat16().float()) for n, v in state.items()
    )


def test_broken_files_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.pth"
    model = small()
    torch.save({"state_dict": {"conv1.weight": torch.zeros(2)}}, path)
    whole = path.read_bytes()
    contents = {
        "is empty": b"",
        "a.pth is not a complete PyTorch file": b"These are no weights.\n",
        "not a complete PyTorch file": whole[: len(whole) // 2],
        "could run code": pickle.dumps(RunsCode(tmp_path / "ran"), 2),
    }
    for message, content in contents.items():
        path.write_bytes(content)
        with refused(model, message):
            load_torch_weights(model, path)
    for message, content in (
        ("could run code", {"state_dict": RunsCode(tmp_path / "ran")}),
        ("no state dict but list", [torch.zeros(2)]),
    ):
        torch.save(content, path)
        with refused(model, message):
            load_torch_weights(model, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.once
def test_broken_files_of_keras(tmp_path):
    model = small()
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["x"] = np.zeros(3)
    model.save(tmp_path / "saved.h5")
    for name in ("text.h5", "model.weights.h5", "model.keras"):
        (tmp_path / name).write_text("whatever is in it", "utf-8")
    for path, words in (
        ("text.h5", "not a complete HDF5 file"),
        ("empty.h5", "names no layers"),
        ("saved.h5", "this package.*saving.load_model"),
        ("model.weights.h5", "model.weights.h5'.*load_weights"),
        ("model.keras", "model.keras'.*saving.load_model"),
        (__file__, "ends in .keras, .weights.h5"),
        ("none.safetensors", "There is no file"),
        (".", "is a folder"),
    ):
        with refused(model, words):
            load_torch_weights(model, tmp_path / path)
    with pytest.raises(WeightsError, match="not a complete .keras file"):
        small(weights=tmp_path / "model.keras")


def _legacy(path, change):
    """Write a file like those of keras.applications, and change it."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv1_conv"]
        layer = file.create_group("conv1_conv")
        layer.attrs["weight_names"] = ["conv1_conv/kernel:0"]
        layer["conv1_conv/kernel:0"] = np.ones((3, 3, 3, 16), "float32")
        change(file, layer)
    return path


def _replace(layer, **kwargs):
    del layer["conv1_conv/kernel:0"]
    layer.create_dataset("conv1_conv/kernel:0", dtype="float32", **kwargs)


def _link(group, name, link):
    del group[name]
    group[name] = link


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f, g: f.pop("conv1_conv"), "no group /conv1_conv"),
        (lambda f, g: g.attrs.pop("weight_names"), "weight_names"),
        (lambda f, g: g.pop("conv1_conv"), "no dataset /conv1_conv/conv1_conv"),
        (lambda f, g: f.attrs.update(layer_names=5.0), "layer_names"),
        (lambda f, g: f.attrs.update(layer_names=[1, 2]), "not a string"),
        # A link to itself.
        (
            lambda f, g: _link(f, "conv1_conv", h5py.SoftLink("/conv1_conv")),
            "/conv1_conv is a link",
        ),
        (
            lambda f, g: _link(
                g, "conv1_conv", h5py.ExternalLink(f.filename, "/")
            ),
            "kernel:0 is a link",
        ),
        (
            lambda f, g: _replace(
                g, shape=(16,), external=[("/etc/passwd", 0, 64)]
            ),
            "another file",
        ),
        (
            lambda f, g: _replace(g, shape=(2**20, 2**20), chunks=(64, 64)),
            "states that it holds 4,398,046,511,104",
        ),
    ],
)
def test_files_of_keras_2_are_not_trusted(tmp_path, change, message):
    path = _legacy(tmp_path / "model.h5", change)
    model = small()
    with refused(model, message) as error:
        load_torch_weights(model, path)
    assert str(path) in str(error.value)


@pytest.mark.once
def test_archives_state_no_more_than_they_hold(tmp_path):
    path = tmp_path / "model.keras"
    for name, size, message in (
        ("config.json", 2**26, "configuration of 67,108,864 bytes"),
        ("model.weights.h5", 2**26, "states that it holds"),
    ):
        compression = zipfile.ZIP_DEFLATED
        if name == "config.json":
            compression = zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(name, b" " * size)
        with pytest.raises(WeightsError, match=message):
            small(weights=path)
    os.mkfifo(tmp_path / "pipe.keras")
    with pytest.raises(WeightsError, match="pipe or a device"):
        small(weights=tmp_path / "pipe.keras")


@pytest.mark.once
def test_no_message_advises_to_run_code(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential(
        [keras.Input((4,)), keras.layers.Lambda(lambda x: x + 1)]
    ).save(path)
    with pytest.raises(WeightsError, match="Lambda layer, which is not") as e:
        small(weights=path)
    assert "safe" not in str(e.value)
    assert e.value.__suppress_context__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda t, x: x.to_sparse(), "layout torch.sparse_coo"),
        (
            lambda t, x: t.quantize_per_tensor(x, 0.1, 0, t.qint8),
            "is quantized",
        ),
        (lambda t, x: x.to("meta"), "has a shape and no numbers"),
        (
            lambda t, x: t.zeros(1).expand(2**20, 2**20, 3, 3),
            "its storage has fewer",
        ),
        (lambda t, x: [1, [2]], "no floating-point numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize")
def test_tensors_of_pytorch_are_whole(tmp_path, make, message):
    torch = pytest.importorskip("torch")
    model = small()
    state = {k: torch.tensor(v) for k, v in state_of(model).items()}
    state["conv1.weight"] = make(torch, state["conv1.weight"])
    torch.save(state, tmp_path / "a.pth")
    with refused(model, message) as error:
        load_torch_weights(model, tmp_path / "a.pth")
    assert "conv1.weight" in str(error.value)
    assert "a.pth" in str(error.value)


def test_keras_files_keep_what_fits(tmp_path):
    path = tmp_path / "model.keras"
    model = small(classes=10)
    loading.assign(model, loading.convert(model, state_of(model), "the test"))
    model.preprocessing = "cifar"
    model.save(path)
    # Another number of classes than CIFAR's, asked for.
    again = small(classes=7, weights=path)
    assert again.preprocessing == model.preprocessing
    ours, theirs = (
        loading.to_arrays(m, "keras_resnet") for m in (again, model)
    )
    for name in ours:
        same = ours[name].shape == theirs[name].shape
        assert same == (not name.startswith("head/"))
        if same:
            np.testing.assert_array_equal(ours[name], theirs[name])
    # A grey image gives what it gives as a coloured one.
    grey = small(classes=10, weights=path, input_shape=(16, 16, 1))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 1)).astype("float32")
    np.testing.assert_allclose(
        infer(grey, x), infer(model, np.repeat(x, 3, axis=-1)), atol=1e-4
    )
    assert len(grey.preprocessing.mean) == 1
    with pytest.raises(WeightsError, match="[Pp]lain|residual"):
        small(classes=10, weights=path, shortcut="A", residual=False)


@pytest.mark.parametrize("classes", [10, 7])
def test_epsilon_of_a_keras_file_is_its_own(tmp_path, classes):
    path = tmp_path / "model.keras"
    model = small(classes=10, epsilon=0.1)
    load_torch_weights(model, state_of(model))
    model.save(path)
    again = small(classes=classes, weights=path)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    features = [
        keras.Model(m.input, m.get_layer("avg_pool").output)
        for m in (again, model)
    ]
    a, b = (infer(m, x) for m in features)
    np.testing.assert_allclose(a, b, atol=1e-5)


def on_normalization(mean=None, **options):
    """A network on a normalization that has weights if `mean` is None."""
    image = keras.Input((16, 16, 3))
    settings = {} if mean is None else {"mean": mean, "variance": np.ones(3)}
    layer = keras.layers.Normalization(**settings)
    x = layer(image)
    model = small(input_shape=None, input_tensor=x, **options)
    return layer, model


@pytest.mark.parametrize("same_name", [True, False])
def test_layers_before_the_network_get_their_weights(tmp_path, same_name):
    path = tmp_path / "model.keras"
    keras.utils.clear_session()
    layer, model = on_normalization(classes=10)
    images = np.random.default_rng(0).normal(7, 3, size=(4, 16, 16, 3))
    images = images.astype("float32")
    layer.adapt(images)
    model.save(path)
    if same_name:
        keras.utils.clear_session()
    actual, again = on_normalization(classes=10, weights=path)
    assert (actual.name == layer.name) == same_name
    np.testing.assert_allclose(infer(again, images), infer(model, images))
    # Nowhere to put them.
    bare = small(classes=10)
    with refused(bare, f"{layer.name} .Norm.*has none"):
        published.load(bare, path, may_change_head=False, adapt_input=False)
    with pytest.raises(WeightsError, match="count.*input_tensor"):
        on_normalization(np.zeros(3), classes=10, weights=path)


def test_a_file_that_prepares_images_is_not_for_a_bare_network(tmp_path):
    path = tmp_path / "model.keras"
    on_normalization(np.ones(3), classes=10)[1].save(path)
    with pytest.raises(WeightsError, match="preprocessing layers.*load_model"):
        small(classes=2, weights=path)
    on_normalization(np.zeros(3), classes=2, weights=path)
    # Within a model, too.
    path = tmp_path / "nested.keras"
    image = keras.Input((16, 16, 3))
    prepared = keras.Sequential([keras.layers.Rescaling(1 / 255)])(image)
    small(input_tensor=prepared).save(path)
    with pytest.raises(WeightsError, match="preprocessing layers.*load_model"):
        small(weights=path)


def test_keras_file_of_the_other_stride_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    small(bottleneck=True, bottleneck_stride="1x1").save(path)
    with pytest.raises(WeightsError, match="bottleneck_stride='1x1'"):
        small(bottleneck=True, weights=path)
    small(bottleneck=True, bottleneck_stride="1x1", weights=path)


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")
def test_weights_h5_is_all_or_nothing(tmp_path):
    path = tmp_path / "model.weights.h5"
    model, broken = small(), small()
    broken.get_layer("stem_bn").gamma.assign(np.full(16, np.nan))
    for other, words in (
        (small(classes=9), "."),
        (small(depths=[1, 1]), "."),
        (small(depths=[1, 3]), "."),
        (small(shortcut="A"), "."),
        (broken, "not finite"),
    ):
        other.save_weights(path)
        with refused(model, words):
            published.load(
                model, path, may_change_head=False, adapt_input=False
            )


def test_new_head_keeps_the_models_own():
    model = small(classes=9)
    head = ops.convert_to_numpy(model.get_layer("head").kernel).copy()
    state = state_of(small())
    load_torch_weights(model, state, new_head=True)
    back = loading.to_arrays(model, "torchvision")
    for name, value in state.items():
        if not name.startswith("fc."):
            np.testing.assert_array_equal(back[name], value)
    np.testing.assert_array_equal(back["fc.weight"].T, head)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_first_convolution_is_adapted(channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 5))
    adapted = loading.adapt_channels(kernel, channels)
    assert adapted.shape == (3, 3, channels, 5)
    if channels in (1, 6):
        # All of the old channels, equally often: images that are the same in
        # all channels give the same.
        np.testing.assert_allclose(adapted.sum(axis=2), kernel.sum(axis=2))
    else:
        np.testing.assert_allclose(
            adapted[:, :, 1], kernel[:, :, 1] * 3 / channels
        )


def test_other_channels_begin_with_red_as_their_statistics(tmp_path):
    path = tmp_path / "model.keras"
    model = small(classes=10)
    model.preprocessing = "keras"
    model.save(path)
    four = small(classes=10, weights=path, input_shape=(16, 16, 4))
    kernels = [
        ops.convert_to_numpy(m.get_layer("stem_conv").kernel)
        for m in (four, model)
    ]
    for rgb, bgr in ((0, 2), (1, 1), (2, 0), (3, 2)):
        np.testing.assert_allclose(
            kernels[0][:, :, rgb], kernels[1][:, :, bgr] * 3 / 4, rtol=1e-6
        )
