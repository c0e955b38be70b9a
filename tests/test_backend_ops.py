"""The layers' fast paths give the numbers of the stock Keras layers."""

import functools
import warnings

import keras
import numpy as np
import pytest
from conftest import slopes
from keras import layers, ops
from networks import assert_close, only

import keras_resnet
from keras_resnet import backend
from keras_resnet.backend import keras_ops
from keras_resnet.training import CoupledSGD


def _weighted(y):
    """A sum of outputs to which each contributes differently."""
    y = ops.cast(y[0] if isinstance(y, tuple) else y, "float32")
    weights = np.random.default_rng(7).normal(size=y.shape)
    return ops.sum(y * ops.convert_to_tensor(weights.astype("float32")))


def _twin_gradients(operation, inputs):
    """Outputs, and gradients of the first one by each input."""
    tensors = [ops.convert_to_tensor(x) for x in inputs]
    loss = slopes(lambda *tensors: _weighted(operation(*tensors)), tensors)
    return operation(*tensors), loss


def gradients(layer, x, **kwargs):
    """Gradients of a layer's outputs by its input and by its weights."""
    variables = layer.trainable_variables

    def loss(x, *values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(mapping):
            return _weighted(layer(x, **kwargs))

    actual = slopes(loss, [x, *[v.value for v in variables]])
    return [ops.convert_to_numpy(g) for g in actual]


def _images(shape=(4, 9, 8, 16), seed=0, data_format="channels_last"):
    images = np.random.default_rng(seed).normal(size=shape)
    images = (images * 2 + 1).astype("float32")
    if data_format == "channels_first":
        images = np.moveaxis(images, -1, 1)
    return np.ascontiguousarray(images)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 1, "strides": 2},
        {"kernel_size": 3},
        {"kernel_size": 3, "strides": 2},
        {"kernel_size": 7, "strides": 2},
        {"kernel_size": 3, "groups": 4, "use_bias": True},
        {"kernel_size": 3, "groups": 4, "dilation_rate": 2},
    ],
    ids=str,
)
def test_convolution_is_keras_with_explicit_padding(arguments):
    ours = keras_resnet.Convolution(32, **arguments)
    padding = arguments["kernel_size"] // 2 * arguments.get("dilation_rate", 1)
    stock = layers.Conv2D(32, **{"use_bias": False} | arguments)
    stock = keras.Sequential([layers.ZeroPadding2D(padding), stock])
    x = ops.convert_to_tensor(_images())
    ours.build(x.shape)
    stock.build(x.shape)
    stock.set_weights(ours.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)), ops.convert_to_numpy(stock(x)), atol=2e-5
    )
    assert_close(gradients(ours, x), gradients(stock, x), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rows", [8, 9])
def test_max_pooling_is_the_largest_within_a_window(rows, data_format):
    ours = keras_resnet.MaxPooling(3, strides=2, data_format=data_format)
    images = _images((2, rows, 7, 4)) - 5  # mostly below the zeros of padding
    padded = np.pad(
        images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    expected = windows.max(axis=(-2, -1))[:, ::2, ::2]
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


@pytest.mark.parametrize(
    ("layer", "argument"),
    [
        (keras_resnet.MaxPooling, "pool_size"),
        (functools.partial(keras_resnet.Convolution, 4), "kernel_size"),
    ],
)
def test_windows_that_cannot_be_padded_alike_are_refused(layer, argument):
    for arguments, seen in (
        ({argument: 2}, r"\(2, 2\)"),
        ({argument: (3, 4)}, r"\(3, 4\)"),
        ({argument: 3, "padding": "valid"}, "padding='valid'"),
    ):
        with pytest.raises(
            ValueError, match=f"{argument} // 2 on each.*{seen}"
        ):
            layer(**arguments)


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
    assert_close(ours.get_weights(), stock.get_weights(), atol=1e-6)
    assert_close(
        gradients(ours, x, training=training),
        gradients(stock, x, training=training),
        atol=5e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize("values", ["normal", "nearly equal"])
@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_normalization_is_no_less_exact_than_keras(policy, values):
    if policy == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float64 by default")
    x = np.random.default_rng(0).normal(10, 1, (32, 8, 8, 4))
    if values == "nearly equal":
        x = np.full((8, 4, 4, 4), 10.0)
        x[::2] += 0.0625
    x = ops.cast(ops.convert_to_tensor(x.astype("float32")), policy)
    exact = ops.convert_to_numpy(ops.cast(x, "float32")).astype("float64")
    mean, variance = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    exact = (exact - mean) / np.sqrt(variance + 1e-5)

    def errors(kind, training):
        layer = kind(dtype=policy, momentum=0.0, epsilon=1e-5)
        layer.build(x.shape)
        if not training:
            # Both get the same statistics, rounded alike.
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(variance)
        y = layer(x, training=training)
        actual = [
            ops.convert_to_numpy(ops.cast(v, "float32"))
            for v in (y, layer.moving_mean, layer.moving_variance)
        ]
        expected = exact, mean, variance
        return np.array(
            [np.abs(a - b).max() for a, b in zip(actual, expected, strict=True)]
        )

    for training in (True, False):
        ours = errors(keras_resnet.BatchNormalization, training)
        stock = errors(layers.BatchNormalization, training)
        assert (ours <= 1.1 * stock + 1e-6).all(), (training, ours, stock)


def _same(mine, theirs, tolerance):
    mine, theirs = (
        x if isinstance(x, (tuple, list)) else [x] for x in (mine, theirs)
    )
    for a, b in zip(mine, theirs, strict=True):
        assert keras.backend.standardize_dtype(
            a.dtype
        ) == keras.backend.standardize_dtype(b.dtype)
        a, b = (ops.convert_to_numpy(ops.cast(x, "float32")) for x in (a, b))
        scale = max(np.abs(b).max(), 1)
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


_GEOMETRIES = [
    # images, kernel, strides, dilation
    ((3, 9, 8, 4), (1, 1, 4, 6), 1, 1),
    ((3, 9, 8, 4), (1, 1, 4, 6), 2, 1),
    ((5, 8, 7, 15), (1, 1, 15, 3), 2, 1),
    ((3, 9, 8, 4), (3, 3, 4, 6), 1, 1),
    ((3, 8, 10, 4), (3, 3, 4, 6), 2, 1),
    ((1, 9, 7, 4), (3, 3, 4, 6), 3, 1),
    ((2, 9, 8, 4), (3, 3, 4, 6), 1, 2),
    ((2, 11, 13, 3), (7, 7, 3, 5), 2, 1),
    ((2, 8, 9, 4), (1, 3, 4, 6), 2, 1),
    ((1, 1, 1, 4), (3, 3, 4, 6), 2, 1),
    ((3, 9, 8, 4), (3, 3, 2, 6), 1, 1),  # two groups
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("geometry", _GEOMETRIES, ids=str)
def test_convolution_is_its_twin(geometry, data_format, dtype):
    shape, kernel, stride, dilation = geometry
    if data_format == "channels_first" and kernel[2] != shape[3]:
        pytest.skip("Keras convolves no groups channels first on every CPU")
    if keras.backend.backend() == "jax" and data_format == "channels_first":
        pytest.skip("JAX has the twin alone")
    if dtype == "bfloat16" and geometry not in _GEOMETRIES[2:5]:
        pytest.skip("three kinds stand for all in bfloat16")
    if keras.backend.backend() == "tensorflow" and dilation > 1:
        pytest.skip("TensorFlow has no gradient of it on a CPU")
    x = _images(shape, data_format=data_format)
    w = np.random.default_rng(1).normal(size=kernel).astype("float32")
    geometry = (
        (stride, stride),
        [k // 2 * dilation for k in kernel[:2]],
        (dilation, dilation),
    )
    inputs = [ops.cast(x, dtype), ops.cast(w, dtype)]
    mine = _twin_gradients(
        lambda x, w: backend.convolution(x, w, None, *geometry, data_format),
        inputs,
    )
    first = data_format == "channels_first"

    def twin(x, w):
        # Without a GPU TensorFlow's twin takes channels last alone.
        x = ops.transpose(x, (0, 2, 3, 1)) if first else x
        if keras.backend.backend() == "tensorflow" and kernel[:2] == (1, 1):
            # TensorFlow's kernel for the strided one writes beyond its memory.
            y = x[:, ::stride, ::stride] @ w[0, 0]
        else:
            y = keras_ops.convolution(x, w, None, *geometry, "channels_last")
        return ops.transpose(y, (0, 3, 1, 2)) if first else y

    theirs = _twin_gradients(twin, inputs)
    tolerance = 1e-5 if dtype == "float32" else 0.05
    _same(mine[0], theirs[0], tolerance)
    _same(mine[1], theirs[1], tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("strides", [(2, 2), (3, 1)])
def test_subsampling_is_its_twin(strides, data_format, dtype):
    x = _images((3, 9, 8, 4), data_format=data_format)
    inputs = [ops.cast(x, dtype)]
    mine, theirs = (
        _twin_gradients(
            lambda x, module=module: module.subsample(x, strides, data_format),
            inputs,
        )
        for module in (backend, keras_ops)
    )
    _same(mine[0], theirs[0], 0)
    _same(mine[1], theirs[1], 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [-1, 1, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "shape", [(4, 9, 8, 5), (1, 3, 2, 5), (3, 1, 1, 5), (1, 1, 1, 5), "flat"]
)
def test_normalization_is_its_twin(shape, training, axis, dtype):
    if backend.batch_normalization is keras_ops.batch_normalization:
        pytest.skip("there is the twin alone")
    flat = shape == "flat"
    data_format = "channels_first" if axis == 1 else "channels_last"
    x = _images((4, 3, 3, 5) if flat else shape, data_format=data_format)
    if flat:
        x = np.full_like(x, 3)
    rng = np.random.default_rng(1)
    gamma, beta, mean, variance = rng.uniform(0.5, 2, (4, 5)).astype("float32")
    inputs = [ops.cast(x, dtype), gamma, beta]

    def run(module):
        def operation(x, gamma, beta):
            if training:
                return module.batch_normalization(x, gamma, beta, 1e-3, axis)
            mv = ops.convert_to_tensor(mean), ops.convert_to_tensor(variance)
            return module.normalization(x, *mv, gamma, beta, 1e-3, axis)

        return _twin_gradients(operation, inputs)

    mine, theirs = run(backend), run(keras_ops)
    tolerance = 2e-5 if dtype == "float32" else 0.03
    if flat and dtype == "float32":
        # Rounding errors of the mean, times the inverse of a tiny deviation.
        tolerance = 1e-3
    _same(mine[0], theirs[0], tolerance)
    _same(mine[1], theirs[1], tolerance)
    if training:
        assert all(
            keras.backend.standardize_dtype(s.dtype) == "float32"
            for s in mine[0][1:]
        )


@only("tensorflow")
@pytest.mark.parametrize("gpu", [False, True])
def test_inference_has_a_deterministic_gradient(gpu, monkeypatch):
    """On a GPU, TensorFlow raises an error for the fused gradient."""
    import tensorflow as tf

    from keras_resnet.backend import tensorflow_ops

    monkeypatch.setattr(tensorflow_ops, "_has_gpu", lambda: gpu)
    monkeypatch.setattr(
        tensorflow_ops.config, "is_op_determinism_enabled", lambda: True
    )
    layer = keras_resnet.BatchNormalization()

    @tf.function
    def gradient(x):
        return tf.gradients(layer(x, training=False), x)

    graph = gradient.get_concrete_function(tf.TensorSpec((2, 4, 4, 3))).graph
    fused = [op for op in graph.get_operations() if "FusedBatch" in op.type]
    assert bool(fused) is not gpu


@only("jax")
def test_equal_layers_are_lowered_once():
    import jax

    def products(depth):
        pairs = [
            (keras_resnet.Convolution(16, 3), keras_resnet.BatchNormalization())
            for _ in range(depth)
        ]
        model = keras.Sequential(
            [keras.Input((8, 8, 16)), *(x for pair in pairs for x in pair)]
        )
        variables = model.trainable_variables, model.non_trainable_variables
        values = [[v.value for v in group] for group in variables]

        def loss(trained, others, x):
            y, _ = model.stateless_call(trained, others, x, training=True)
            return ops.sum(y * y)

        x = ops.convert_to_tensor(_images((4, 8, 8, 16)))
        text = jax.jit(jax.grad(loss)).lower(*values, x).as_text()
        return [
            text.count(f"stablehlo.{kind}")
            for kind in ("dot_general", "convolution", "rsqrt")
        ]

    # Three, because the first layer needs no gradient of its input.
    assert min(products(3)) > 0
    assert products(3) == products(6)


@only("torch")
@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)]
)
def test_sgd_step_is_pytorchs(momentum, nesterov):
    import torch

    class Twin(CoupledSGD):
        def _backend_update_step(self, grads, trainable_variables, rate):
            for g, v in zip(grads, trainable_variables, strict=True):
                self.update_step(g, v, rate)

    rng = np.random.default_rng(0)
    start = [rng.normal(size=s).astype("float32") for s in ((3, 2), (4,), (2,))]
    theirs = [torch.tensor(w, requires_grad=True) for w in start]
    sgd = torch.optim.SGD(
        theirs, 0.1, momentum, weight_decay=0.05, nesterov=nesterov
    )
    runs = []
    for kind in (CoupledSGD, Twin):
        optimizer = kind(0.1, momentum, nesterov, coupled_decay=0.05)
        variables = [keras.Variable(w) for w in start]
        optimizer.build(variables)
        runs.append((optimizer, variables))
    for step in range(4):
        gradients_ = [rng.normal(size=w.shape).astype("float32") for w in start]
        if step == 2:
            gradients_[1] = None
        for w, g in zip(theirs, gradients_, strict=True):
            w.grad = None if g is None else torch.tensor(g)
        sgd.step()
        for optimizer, variables in runs:
            given = [None if g is None else torch.tensor(g) for g in gradients_]
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Gradients do not exist")
                optimizer.apply(given, variables)
    for w, ours, twin in zip(theirs, runs[0][1], runs[1][1], strict=True):
        expected = w.detach().numpy()
        np.testing.assert_allclose(np.asarray(ours), expected, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(twin), expected, rtol=1e-5)


@only("torch")
def test_sgd_step_is_as_exact_as_keras_in_float64():
    keras.config.set_floatx("float64")
    ends = []
    for kind in (keras.optimizers.SGD, CoupledSGD):
        optimizer = kind(0.1, 0.9, **{"coupled_decay": 0} if ends else {})
        variable = keras.Variable(np.ones(3))
        optimizer.build([variable])
        optimizer.apply([ops.convert_to_tensor(np.ones(3))], [variable])
        ends.append(np.asarray(variable))
    np.testing.assert_allclose(*ends, rtol=1e-15)


@only("torch")
def test_kernels_lie_in_memory_as_pytorch_reads_them(tmp_path):
    import torch

    model = keras_resnet.ResNet((1,), (8,), input_shape=(16, 16, 3), classes=2)

    def check(model):
        kernel = model.get_layer("stem_conv").kernel.value
        assert kernel.permute(3, 2, 0, 1).is_contiguous(
            memory_format=torch.channels_last
        )

    check(model)
    model.save_weights(tmp_path / "w.weights.h5")
    model.load_weights(tmp_path / "w.weights.h5")
    check(model)
    model.save(tmp_path / "m.keras")
    check(keras.models.load_model(tmp_path / "m.keras"))


@only("jax")
@pytest.mark.parametrize(
    ("images", "size", "stride", "dilation"),
    [(8, 3, 1, 1), (6, 3, 2, 1), (5, 1, 2, 1), (4, 3, 1, 2), (16, 7, 2, 1)],
)
def test_jax_differentiates_both_ways_to_any_order(
    images, size, stride, dilation
):
    import jax

    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.normal(size=(images, 12, 10, 3)), "float32")
    w = jax.numpy.asarray(rng.normal(size=(size, size, 3, 5)), "float32")
    geometry = (stride,) * 2, (size // 2 * dilation,) * 2, (dilation,) * 2

    def function(convolution):
        def f(x, w):
            y = convolution(x, w, None, *geometry, "channels_last")
            return jax.numpy.sin(y).sum()

        return f

    def norm(f):
        return lambda w: (jax.grad(f, 1)(x, w) ** 2).sum()

    ours, twin = (
        [
            jax.jit(jax.grad(f, (0, 1)))(x, w),
            jax.jvp(f, (x, w), (x / 9, w / 7)),
            jax.jvp(jax.grad(f, (0, 1)), (x, w), (x / 9, w / 7)),
            jax.grad(norm(f))(w),
            jax.linearize(f, x, w)[1](x, w),
            jax.jvp(jax.grad(norm(f)), (w,), (w / 5,)),
            jax.vmap(jax.grad(f), (0, None))(jax.numpy.stack([x, x / 2]), w),
        ]
        for f in map(function, (backend.convolution, keras_ops.convolution))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(twin), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(abs(b).max()))


@only("tensorflow")
def test_tensorflow_pads_as_the_kernels_of_onednn_know():
    """These compute no gradients of convolutions with explicit padding."""
    import tensorflow as tf

    def paddings(stride):
        ours = keras_resnet.Convolution(4, 3, strides=stride)
        ours.build((None, 8, 8, 3))
        graph = (
            tf.function(ours)
            .get_concrete_function(tf.TensorSpec((2, 8, 8, 3)))
            .graph
        )
        return [
            node.get_attr("padding").decode()
            for node in graph.get_operations()
            if node.type == "Conv2D"
        ]

    assert paddings(1) == ["SAME"]
    # "SAME" would put the zeros elsewhere.
    assert paddings(2) == ["EXPLICIT"]


def test_integers_are_promoted_as_by_keras():
    x = ops.ones((2, 5, 5, 3), "int32")
    stock = layers.Conv2D(6, 3, padding="same", use_bias=False)
    ours = keras_resnet.Convolution(6, 3)
    try:
        expected = stock(x)
    except Exception:
        pytest.skip("Keras's own layer takes no integers on this backend")
    ours.build(x.shape)
    ours.set_weights(stock.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)), ops.convert_to_numpy(expected), atol=1e-5
    )
    assert keras_resnet.ResidualBlock(6)(x).shape == (2, 5, 5, 6)


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8"])
def test_max_pooling_of_integers(dtype):
    x = np.arange(2 * 6 * 7 * 3).reshape(2, 6, 7, 3) % 100
    x = (x if dtype == "uint8" else x - 120).astype(dtype)
    expected = keras_resnet.MaxPooling(3, strides=2)(x.astype("float32"))
    try:
        actual = keras_resnet.MaxPooling(3, strides=2)(ops.convert_to_tensor(x))
    except Exception as error:
        # PyTorch pools no such integers on a CPU.
        with pytest.raises(type(error)):
            layers.MaxPooling2D(3, strides=2)(ops.convert_to_tensor(x))
        return
    np.testing.assert_array_equal(
        ops.convert_to_numpy(actual), ops.convert_to_numpy(expected)
    )


def test_full_float32_is_a_context():
    before = backend.tensor_float32()
    with backend.full_float32():
        assert not backend.tensor_float32()
    assert backend.tensor_float32() == before


@only("torch")
@pytest.mark.parametrize("allowed", [True, False])
def test_older_settings_of_float32_can_be_read(allowed, monkeypatch):
    """PyTorch's compiler does so."""
    from torch.backends import cuda, cudnn

    monkeypatch.setattr(cudnn, "allow_tf32", allowed)
    for _ in range(2):
        with backend.full_float32():
            assert not cudnn.allow_tf32
            assert not cuda.matmul.allow_tf32
        assert cudnn.allow_tf32 == allowed


@only("torch")
def test_accelerators_are_what_keras_computes_on(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", "GPU {}".format)
    # There are two, and Keras takes the processor.
    assert backend.accelerators() == []
    with keras.device("meta"):
        assert backend.accelerators() == ["meta"]
