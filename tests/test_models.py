"""The networks as Keras models: names, arguments, policies, identities."""

import ast
import functools
import inspect
import json
import re

import keras
import networks
import numpy as np
import pytest
from keras import layers, ops
from networks import batch, call, draw_weights, only

import keras_resnet
from keras_resnet import (
    ResidualBlock,
    ResNet,
    ResNet18,
    ResNet20,
    ResNet50,
    factories,
    table1,
)
from keras_resnet.weights import files

FACTORIES = [
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNet20",
    "ResNet32",
    "ResNet44",
    "ResNet56",
    "ResNet110",
    "ResNet1202",
]
IMAGENET_FACTORIES = FACTORIES[:5]


small = functools.partial(networks.small, (2, 2))


def images(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def predict(model, x):
    return ops.convert_to_numpy(model(ops.convert_to_tensor(x)))


def randomize(model, seed=0):
    """Draw scales, offsets and statistics, so that no layer is neutral.

    Scales that are zero stay zero.
    """
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            n = layer.gamma.shape[0]
            gamma = ops.convert_to_numpy(layer.gamma)
            layer.set_weights(
                [
                    gamma * rng.uniform(0.5, 1.5, n),
                    rng.normal(size=n) * 0.2 * (gamma != 0),
                    rng.normal(size=n) * 0.2,
                    rng.uniform(0.5, 1.5, n),
                ]
            )


@pytest.mark.parametrize(
    ("factory", "pool", "stages", "blocks"),
    [(ResNet18, ["stem_pool"], 4, 2), (ResNet20, [], 3, 3)],
)
def test_layer_names(factory, pool, stages, blocks):
    model = factory(kernel_initializer="zeros")
    names = ["image", "stem_conv", "stem_bn", "stem_relu", *pool]
    for s in range(stages):
        names += [f"stage{s + 1}_block{b + 1}" for b in range(blocks)]
    assert [x.name for x in model.layers] == [*names, "avg_pool", "head"]


def test_features_come_by_name():
    model = ResNet50(kernel_initializer="zeros", input_shape=(64, 96, 3))
    shapes = {
        "stem_conv": (None, 32, 48, 64),
        "stem_pool": (None, 16, 24, 64),
        "stage1_block3": (None, 16, 24, 256),
        "stage2_block4": (None, 8, 12, 512),
        "stage3_block6": (None, 4, 6, 1024),
        "stage4_block3": (None, 2, 3, 2048),
        "avg_pool": (None, 2048),
        "head": (None, 1000),
    }
    for name, shape in shapes.items():
        assert model.get_layer(name).output.shape == shape, name


@pytest.mark.once
@pytest.mark.parametrize("name", FACTORIES)
def test_first_arguments_are_those_of_keras_applications(name):
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    ours = inspect.signature(getattr(keras_resnet, name)).parameters
    assert len(theirs) == 8
    assert list(ours)[:8] == list(theirs)
    # Keras downloads weights by default, and has one depth here.
    others = {"weights": None, "name": name.lower()}
    if name not in IMAGENET_FACTORIES:
        others["classes"] = 10
    for argument, parameter in theirs.items():
        expected = others.get(argument, parameter.default)
        assert ours[argument].default == expected, argument
        assert ours[argument].kind == parameter.kind
    # Further arguments must not shift if Keras adds a ninth.
    for argument in list(ours)[8:]:
        assert ours[argument].kind is inspect.Parameter.KEYWORD_ONLY


def other_value(name, default):
    """A value beside the default; nothing looks at what it is."""
    return not default if isinstance(default, bool) else f"other {name}"


@pytest.mark.once
@pytest.mark.parametrize("name", FACTORIES)
def test_factories_pass_every_argument_on(monkeypatch, name):
    received = {}

    def record(depths, widths=table1.IMAGENET_WIDTHS, **kwargs):
        received.update(kwargs, depths=tuple(depths), widths=widths)

    monkeypatch.setattr(factories, "ResNet", record)
    factory = getattr(keras_resnet, name)
    parameters = inspect.signature(factory).parameters
    defaults = {a: parameter.default for a, parameter in parameters.items()}
    for given in (
        {},
        {a: other_value(a, default) for a, default in defaults.items()},
    ):
        received.clear()
        factory(**given)
        for argument, value in {**defaults, **given}.items():
            assert received[argument] == value, argument
    # The depth counts the stem, the head, and the blocks' convolutions.
    convolutions = 3 if received.get("bottleneck") else 2
    depth = 2 + convolutions * sum(received["depths"])
    assert name == f"ResNet{depth}"
    cifar = name not in IMAGENET_FACTORIES
    stem, widths = "imagenet", (64, 128, 256, 512)
    if cifar:
        stem, widths = "cifar", (16, 32, 64)
    assert received.get("stem", "imagenet") == stem
    assert received["widths"] == widths


def test_include_top_and_pooling():
    shape = {"input_shape": (16, 16, 3), "include_top": False}
    x = images(2, 16, 16, 3)
    features = small(**shape)
    assert features.output_shape == (None, 8, 8, 32)
    maps = predict(features, x)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = small(**shape, pooling=pooling)
        pooled.set_weights(features.get_weights())
        assert pooled.output_shape == (None, 32)
        np.testing.assert_allclose(
            predict(pooled, x), reduce(maps, axis=(1, 2)), rtol=1e-5
        )
        assert pooled.layers[-1].name == f"{pooling}_pool"
    # With top, the network ends in its classifier, whatever is given here.
    assert small(pooling="max").output_shape == (None, 5)
    # Without top, the number of classes has no effect.
    assert small(**shape, classes=None).count_params() == (
        features.count_params()
    )


def test_classes_and_activation():
    x = images(3, 16, 16, 3)
    logits = small(classes=7, classifier_activation=None)
    softmax = small(classes=7)
    softmax.set_weights(logits.get_weights())
    z = predict(logits, x)
    assert z.shape == (3, 7)
    e = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        predict(softmax, x), e / e.sum(axis=1, keepdims=True), atol=1e-6
    )


def test_default_names_and_input_shapes():
    zeros = {"kernel_initializer": "zeros"}
    assert keras_resnet.ResNetCIFAR(14).name == "resnet14"
    model = keras_resnet.ResNetImageNet(18, **zeros)
    assert model.name == "resnet18"
    assert model.input_shape == (None, 224, 224, 3)
    open_ = ResNet18(include_top=False, **zeros)
    assert open_.input_shape == (None, None, None, 3)
    assert ResNet20().input_shape == (None, 32, 32, 3)
    assert ResNet20(include_top=False).input_shape == (None, 32, 32, 3)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_open_sizes(stem):
    model = small(stem=stem, input_shape=(None, None, 3))
    assert model.input_shape == (None, None, None, 3)
    for rows, columns in ((32, 32), (17, 40)):
        x = images(2, rows, columns, 3)
        fixed = small(stem=stem, input_shape=(rows, columns, 3))
        fixed.set_weights(model.get_weights())
        np.testing.assert_allclose(
            predict(model, x), predict(fixed, x), atol=1e-6
        )


def test_input_tensor():
    x = images(2, 16, 16, 3)
    image = keras.Input((16, 16, 3), name="photo")
    scaled = layers.Rescaling(0.5)(image)
    model = small(input_tensor=scaled, input_shape=None)
    plain = small()
    plain.set_weights(model.get_weights())
    assert model.input_shape == (None, 16, 16, 3)
    np.testing.assert_allclose(
        predict(model, x), predict(plain, x / 2), atol=1e-6
    )
    # A shape that says the same is no contradiction.
    small(input_tensor=scaled, input_shape=(16, 16, 3))
    small(input_tensor=keras.Input((None, None, 1)), input_shape=None)


def test_channels_first_network_equals_channels_last():
    x = images(2, 16, 20, 3)
    for stem in ("imagenet", "cifar"):
        keras.config.set_image_data_format("channels_last")
        last = small(stem=stem, input_shape=(16, 20, 3))
        randomize(last)
        keras.config.set_image_data_format("channels_first")
        first = small(stem=stem, input_shape=(3, 16, 20))
        assert first.get_layer("stage2_block1").output.shape[1] == 32
        first.set_weights(last.get_weights())
        np.testing.assert_allclose(
            first.predict(x.transpose(0, 3, 1, 2), verbose=0),
            last.predict(x, verbose=0),
            atol=1e-5,
        )


def test_channels_first_default_input():
    keras.config.set_image_data_format("channels_first")
    assert ResNet20().input_shape == (None, 3, 32, 32)
    model = ResNet18(include_top=False, kernel_initializer="zeros")
    assert model.input_shape == (None, 3, None, None)
    with pytest.raises(ValueError, match="of 32 channels.*'channels_last'"):
        small(input_shape=(32, 32, 1))


@pytest.mark.parametrize(
    "policy",
    ["mixed_bfloat16", "mixed_float16", "bfloat16", "float16", "float64"],
)
def test_head_is_float32_under_every_policy(policy):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is switched on")
    keras.config.set_dtype_policy(policy)
    model = small()
    block = model.get_layer("stage2_block1")
    compute = policy.removeprefix("mixed_")
    for layer in (block, block.conv1, block.shortcut_bn):
        assert layer.compute_dtype == compute
    for variable in model.variables:
        if variable.path.startswith("head"):
            expected = "float32"
        else:
            expected = "float32" if policy.startswith("mixed") else policy
        assert variable.dtype == expected, variable.path
    x = images(4, 16, 16, 3)
    y = model.predict(x, verbose=0)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    # And it is the same network.
    keras.config.set_dtype_policy("float32")
    full = small()
    full.set_weights(model.get_weights())
    np.testing.assert_allclose(full.predict(x, verbose=0), y, atol=0.05)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_a_step_in_half_precision_alone(policy):
    keras.config.set_dtype_policy(policy)
    model = small()
    model.compile(
        keras.optimizers.SGD(0.1), loss="sparse_categorical_crossentropy"
    )
    before = model.get_weights()
    x, y = images(4, 16, 16, 3), np.arange(4)
    assert np.isfinite(model.train_on_batch(x, y))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.isfinite(new.astype("float32")).all()
        # A small step may be less than the rounding of a scale of one.
        assert old.ndim == 1 or (old != new).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: keras_resnet.ResNetImageNet(51),
            "18, 34, 50, 101, 152.*depth=51",
        ),
        (lambda: keras_resnet.ResNetCIFAR(21), r"6n\+2.*8, 14, 20.*depth=21"),
        (lambda: keras_resnet.ResNetCIFAR("20"), r"6n\+2.*depth='20'"),
        (lambda: ResNet18(weights="image net"), r"\.weights\.h5.*'image net'"),
        (lambda: ResNet18(weights="no.weights.h5"), r"no\.weights\.h5"),
        (lambda: ResNet18(weights=5), "None.*path.*5"),
        (lambda: small(stem="mnist"), "'imagenet'.*'cifar'.*'mnist'"),
        (lambda: small(pooling="min"), "None, 'avg'.*'max'.*'min'"),
        (lambda: small(classes=2.0), r"positive integer.*classes=2\.0"),
        (lambda: ResNet([1, 2]), r"one entry per stage.*depths=\(1, 2\)"),
        (lambda: ResNet([1], [8, 16]), r"per stage.*widths=\(8, 16\)"),
        (lambda: ResNet([1], ["8"]), r"positive integers.*widths=\('8',\)"),
        (
            lambda: small(input_shape=(3, 16, 20)),
            r"20 channels.*'channels_last'.*_format\('channels_first'\)",
        ),
        (
            lambda: small(
                input_tensor=keras.Input((8, 8, 3)), input_shape=(9, 9, 3)
            ),
            r"\(9, 9, 3\).*\(8, 8, 3\)|\(8, 8, 3\).*\(9, 9, 3\)",
        ),
        # Basic blocks of fewer filters than the stage before.
        (
            lambda: ResNet([1, 1], [16, 8], shortcut="A"),
            "16 input and 8 output.*'B' or 'C'",
        ),
    ],
)
def test_errors_say_what_is_allowed_and_what_was_given(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_from_a_file(tmp_path, ending):
    path = tmp_path / f"model{ending}"
    model = small()
    randomize(model)
    (model.save_weights if ending == ".weights.h5" else model.save)(path)
    again = small(weights=path)
    np.testing.assert_equal(model.get_weights(), again.get_weights())


@pytest.mark.parametrize(
    "options",
    [
        {"shortcut": "A"},
        {"shortcut": "C", "bottleneck": True, "bottleneck_stride": "1x1"},
        {"residual": False, "momentum": 0.5, "epsilon": 1e-3},
    ],
    ids=str,
)
def test_saved_model(tmp_path, options):
    path = tmp_path / "model.keras"
    model = small(**options)
    randomize(model)
    model.save(path)
    again = keras.saving.load_model(path)
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(predict(again, x), predict(model, x))
    # A file keeps no difference between lists and tuples.
    configs = [json.dumps(m.get_config()) for m in (model, again)]
    assert configs[0] == configs[1]
    clone = keras.models.clone_model(model)
    assert [v.path for v in clone.variables] == [
        v.path for v in model.variables
    ]


def test_custom_depths_and_widths():
    model = ResNet(
        [1, 3, 2],
        [8, 20, 24],
        bottleneck=True,
        classes=4,
        input_shape=(32, 48, 3),
    )
    blocks = [x for x in model.layers if isinstance(x, ResidualBlock)]
    numbers = [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2)]
    names = [f"stage{s}_block{b}" for s, b in numbers]
    assert [block.name for block in blocks] == names
    shapes = [block.output.shape[1:] for block in blocks]
    assert shapes == [(8, 12, 32)] + 3 * [(4, 6, 80)] + 2 * [(2, 3, 96)]
    assert predict(model, images(2, 32, 48, 3)).shape == (2, 4)


def test_block_arguments_reach_the_blocks():
    options = {
        "shortcut": "C",
        "bottleneck": True,
        "residual": False,
        "bottleneck_stride": "1x1",
        "zero_init_residual": True,
        "momentum": 0.5,
        "epsilon": 1e-3,
    }
    model = small(**options)
    for layer in model.layers:
        if isinstance(layer, ResidualBlock):
            for name, value in options.items():
                assert getattr(layer, name) == value
    stem = model.get_layer("stem_bn")
    assert (stem.momentum, stem.epsilon) == (0.5, 1e-3)


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.Constant(0.25),
        lambda shape, dtype=None: ops.full(shape, 0.25, dtype),
    ],
)
def test_kernel_initializer_reaches_every_kernel(initializer):
    model = small(shortcut="C", kernel_initializer=initializer)
    kernels = [v for v in model.variables if v.path.endswith("kernel")]
    assert len(kernels) == 1 + 4 * 3 + 1
    for kernel in kernels:
        np.testing.assert_array_equal(ops.convert_to_numpy(kernel), 0.25)


@pytest.mark.parametrize(
    "options", [{}, {"kernel_initializer": keras.initializers.HeNormal()}]
)
def test_no_two_kernels_start_alike(options):
    kernels = [v for v in small(**options).variables if v.name == "kernel"]
    starts = {ops.convert_to_numpy(v).ravel()[:8].tobytes() for v in kernels}
    assert len(starts) == len(kernels)


def test_block_may_be_any_callable():
    calls = []

    def block(filters, **kwargs):
        calls.append((filters, kwargs["name"], kwargs["stride"]))
        return ResidualBlock(filters, **kwargs)

    small(block=block)
    assert calls == [
        (16, "stage1_block1", 1),
        (16, "stage1_block2", 1),
        (32, "stage2_block1", 2),
        (32, "stage2_block2", 1),
    ]


def features(model, x, *names, training=False):
    parts = keras.Model(
        model.input, [model.get_layer(name).output for name in names]
    )
    return [
        ops.convert_to_numpy(y)
        for y in parts(ops.convert_to_tensor(x), training=training)
    ]


@pytest.mark.parametrize("training", [False, True])
def test_zero_init_with_option_a_is_the_identity(training):
    model = ResNet20(zero_init_residual=True)
    randomize(model)
    x = images(4, 32, 32, 3)
    names = ["stem_relu"]
    names += [f"stage{s}_block{b}" for s in (1, 2, 3) for b in (1, 2, 3)]
    stem, *blocks = features(model, x, *names, training=training)
    # Across stages: every second row and column, and zero channels.
    for i, y in enumerate(blocks):
        step = 2 ** (i // 3)
        expected = np.zeros_like(y)
        expected[..., :16] = stem[:, ::step, ::step]
        np.testing.assert_array_equal(y, expected)
    # So the network is its stem and its head.
    head = model.get_layer("head")(model.get_layer("avg_pool")(blocks[-1]))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(x, training=training)),
        ops.convert_to_numpy(head),
    )


@pytest.mark.once
@pytest.mark.parametrize(
    "value",
    [
        ResNet,
        keras_resnet.ResidualBlock,
        keras_resnet.Convolution,
        keras_resnet.BatchNormalization,
        keras_resnet.complexity,
    ],
)
def test_docstring_names_every_argument(value):
    doc = inspect.getdoc(value)
    arguments = doc[doc.index("Args:") :]
    for name, parameter in inspect.signature(value).parameters.items():
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        assert f"{stars}{name}" in arguments


@pytest.mark.once
@pytest.mark.parametrize("name", ["ResNetImageNet", "ResNetCIFAR", *FACTORIES])
def test_docstring_of_a_factory_is_that_of_its_signature(name):
    factory = getattr(keras_resnet, name)
    parameters = inspect.signature(factory).parameters
    # All that `ResNet` has, but for the shape of the network.
    missing = {*inspect.signature(ResNet).parameters} - {*parameters}
    shape = {"depths", "widths", "bottleneck", "stem"}
    if name in ("ResNetCIFAR", *FACTORIES[5:]):
        shape.add("bottleneck_stride")
    assert missing == shape
    doc = inspect.getdoc(factory)
    first = "ResNet-" + name.removeprefix("ResNet") + " for "
    assert name not in FACTORIES or doc.startswith(first)
    for ending in files.ENDINGS:
        assert f"`{ending}`" in doc
        assert f"`{ending}`" in inspect.getdoc(ResNet)
    (entries,) = re.findall(r"Args:\n((?:    .*\n)+)", doc)
    entries = re.split(r"^    (\w+): ", entries, flags=re.MULTILINE)[1:]
    assert entries[::2] == list(parameters)
    for argument, text in zip(entries[::2], entries[1::2], strict=True):
        assert "efault" in text or argument == "depth"
        default = parameters[argument].default
        # Words describe the default of `name`.
        if argument != "name" and isinstance(default, (bool, int, float, str)):
            (shown,) = re.findall(
                r"`([^`]+)` \(default|Defaults\s+to `([^`]+)`", text
            )
            assert ast.literal_eval("".join(shown)) == default, argument


@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("kind", ["residual", "plain", "folded"])
def test_nan_reaches_loss_and_predictions(kind, eagerly):
    """Or else a training that has diverged would seem to go on."""
    model = small(residual=kind != "plain")
    if kind == "folded":
        model = keras_resnet.fold_batch_norm(model)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=eagerly)
    weights = [w.copy() for w in model.get_weights()]
    x, y = np.zeros((4, 16, 16, 3), "float32"), np.zeros(4, "int32")
    broken = np.full_like(x, np.nan)
    assert np.isnan(model.predict(broken, verbose=0)).all()
    if kind != "folded":
        assert np.isnan(model.train_on_batch(broken, y))
    model.reset_metrics()
    model.set_weights(weights)
    for variable in model.trainable_variables:
        if variable.name != "kernel":
            continue
        value = ops.convert_to_numpy(variable.value).copy()
        broken = value.copy()
        broken[0, ...] = np.nan
        variable.assign(broken)
        assert np.isnan(model.test_on_batch(x + 1, y)), variable.path
        variable.assign(value)
        model.reset_metrics()
    assert np.isfinite(model.test_on_batch(x + 1, y))


@only("torch")
def test_contiguous_parameters_serve_all_of_pytorch(tmp_path):
    """As docs/performance.md says."""
    import safetensors.torch
    import torch
    from torch.nn import functional, utils

    x = torch.tensor(np.random.default_rng(0).random((8, 16, 16, 3)))
    x, y = x.float(), torch.arange(8) % 5

    def trained(model, contiguous):
        draw_weights(model, 0)
        if contiguous:
            for parameter in model.parameters():
                parameter.data = parameter.data.contiguous()
        model.compile(
            keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy"
        )
        return [model.train_on_batch(x, y) for _ in range(5)]

    model = small()
    assert trained(model, True) == pytest.approx(trained(small(), False))
    parameters = list(model.parameters())
    vector = utils.parameters_to_vector(parameters)
    utils.vector_to_parameters(vector, parameters)
    tensors = {v.path: v.value.detach() for v in model.variables}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    optimizer = torch.optim.LBFGS(parameters, lr=0.1)

    def closure():
        optimizer.zero_grad()
        probabilities = model(x, training=True)
        loss = functional.nll_loss(torch.log(probabilities), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "options",
    [
        {"shortcut": "A"},
        {"shortcut": "C"},
        {"bottleneck": True},
        {"bottleneck": True, "bottleneck_stride": "1x1"},
        # Stages whose channels do not change.
        {"widths": (16, 16, 16)},
        {"block": keras_resnet.PreactivationBlock},
        {"residual": False},
    ],
)
def test_dilated_features_are_the_strided_ones_where_both_are(
    options, tmp_path
):
    options = {"include_top": False, "widths": (16, 16, 32), **options}
    widths = options.pop("widths")

    def build(output_stride=None, size=None):
        return networks.small(
            (1, 2, 2),
            widths,
            input_shape=(size, size, 3),
            output_stride=output_stride,
            **options,
        )

    strided = build()
    draw_weights(strided, seed=0)
    x, _ = batch(build(size=13), 2)
    expected = call(strided, x, training=False)
    for output_stride in (2, 1):
        dilated = build(output_stride)
        dilated.set_weights(strided.get_weights())
        actual = call(dilated, x, training=False)
        rows = -(-13 // output_stride)
        assert actual.shape[1:3] == (rows, rows)
        step = 4 // output_stride
        np.testing.assert_allclose(
            actual[:, ::step, ::step], expected, atol=1e-5
        )
    # A file and a folded copy keep it.
    dilated.save(tmp_path / "net.keras")
    for copy in (
        keras.saving.load_model(tmp_path / "net.keras"),
        keras_resnet.fold_batch_norm(dilated),
    ):
        np.testing.assert_allclose(
            call(copy, x, training=False), actual, atol=1e-5
        )


def test_output_strides_of_the_papers_networks():
    for output_stride in (8, 16, 32):
        model = keras_resnet.ResNet50(
            include_top=False, output_stride=output_stride
        )
        shape = model.compute_output_shape((1, 224, 224, 3))
        assert shape[1:3] == (224 // output_stride,) * 2
    with pytest.raises(ValueError, match="4, 8, 16, 32.*output_stride=12"):
        keras_resnet.ResNet50(output_stride=12)
    with pytest.raises(ValueError, match="first entry must be 1"):
        keras_resnet.ResidualBlock(16, stride=2, dilation=2)
