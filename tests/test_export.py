"""Exported networks, loaded where there is no Keras, give the same outputs."""

import importlib.util

import keras
import numpy as np
import pytest
from networks import call, draw_weights, only
from test_folding import images, randomize, small

import keras_resnet
from keras_resnet import fold_batch_norm

BACKEND = keras.backend.backend()
TOLERANCE = 1e-5

# A process of its own loads artifacts, gives them the same images, and writes
# the outputs beside each.
PROGRAM = """
import sys
import numpy as np
{definition}
x = np.load(sys.argv[1])
for path in sys.argv[2:]:
    np.save(path + ".npy", outputs(path, x))
assert "keras" not in sys.modules or "tensorflow" in sys.modules
"""
SAVED_MODEL = """
import tensorflow as tf
def outputs(path, x):
    artifact = tf.saved_model.load(path)
    return artifact.serve(x).numpy()
"""
EXPORTED_PROGRAM = """
import torch
def outputs(path, x):
    program = torch.export.load(path).module()
    with torch.no_grad():
        return program(torch.from_numpy(x)).numpy()
"""
ONNX = """
import onnxruntime
def outputs(path, x):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x})[0]
"""
# On other processors than those of tests OpenVINO may take bfloat16.
OPENVINO = """
import openvino
def outputs(path, x):
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(path, "CPU", hints)(x)[0]
"""
# Keras 3.15 passes jax2tf what it should not.
EXPORT_WARNS = pytest.mark.filterwarnings(
    "ignore:The `native_serialization` parameter:DeprecationWarning"
)
pytestmark = EXPORT_WARNS
NETWORKS = {
    "channels_last": {"shortcut": "A"},
    "channels_first": {"shortcut": "B", "bottleneck": True},
}
ONE_OF_THEM = [
    "channels_last",
    pytest.param("channels_first", marks=pytest.mark.slow),
]


def missing(*packages):
    result = [importlib.util.find_spec(package) for package in packages]
    return pytest.mark.skipif(
        not all(result), reason=f"needs {', '.join(packages)}"
    )


def network(data_format="channels_last", **options):
    """A network with its own preprocessing, as one would deploy it."""
    keras.config.set_image_data_format(data_format)
    last = data_format == "channels_last"
    image = keras.Input((10, 12, 3) if last else (3, 10, 12), name="image")
    axis = -1 if last else 1
    x = keras.layers.Normalization(axis=axis)
    x.adapt(2 + 3 * np.random.default_rng(4).normal(size=(8, *image.shape[1:])))
    model = small(
        input_tensor=x(image), input_shape=tuple(image.shape[1:]), **options
    )
    randomize(model)
    return model


def check(model, definition, suffix, run_python, tmp_path, size=3, **options):
    """Export a model and its folded copy and compares what they compute."""
    models = {"model": model, "folded": fold_batch_norm(model)}
    paths = {name: str(tmp_path / f"{name}{suffix}") for name in models}
    x = images(model, size)
    np.save(tmp_path / "x.npy", x)
    for name, path in paths.items():
        models[name].export(path, verbose=False, **options)
    program = PROGRAM.format(definition=definition)
    run_python("-c", program, tmp_path / "x.npy", *paths.values())
    for name, path in paths.items():
        expected = call(models[name], x, training=False)
        actual = np.load(f"{path}.npy")
        assert actual.shape == expected.shape == (size, *expected.shape[1:])
        scale = np.abs(expected).max()
        assert np.abs(actual - expected).max() <= TOLERANCE * scale
    # They differ by their input.
    assert np.abs(expected[1:] - expected[:1]).max(initial=0) > 0 or size == 1


@only("tensorflow", "jax")
@missing("tensorflow")
@pytest.mark.parametrize("data_format", ONE_OF_THEM)
def test_saved_model(data_format, run_python, tmp_path):
    model = network(data_format, **NETWORKS[data_format])
    check(model, SAVED_MODEL, "", run_python, tmp_path)


@pytest.mark.slow
@only("tensorflow", "jax")
@missing("tensorflow")
def test_saved_model_of_any_image_size(run_python, tmp_path):
    options = {"stem": "imagenet", "include_top": False, "pooling": "avg"}
    model = small(input_shape=(None, None, 3), **options)
    randomize(model)
    options = {}
    if BACKEND == "jax":
        # JAX cannot trace the gradient of a strided convolution of open size.
        options["jax2tf_kwargs"] = {"with_gradient": False}
    check(model, SAVED_MODEL, "", run_python, tmp_path, **options)


@only("torch")
@pytest.mark.parametrize("data_format", ONE_OF_THEM)
def test_exported_program_of_one_image(data_format, run_python, tmp_path):
    model = network(data_format, **NETWORKS[data_format])
    check(
        model,
        EXPORTED_PROGRAM,
        ".pt2",
        run_python,
        tmp_path,
        size=1,
        format="torch",
    )


@pytest.mark.slow
@only("torch")
def test_exported_program_of_any_batch(run_python, tmp_path):
    import torch

    check(
        network(),
        EXPORTED_PROGRAM,
        ".pt2",
        run_python,
        tmp_path,
        format="torch",
        dynamic_shapes={0: torch.export.Dim("batch", min=1, max=64)},
    )


# Warnings of converters are about their own future.
CONVERTERS_OWN = "ignore"
CONVERTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx"}


@missing("onnx", "onnxruntime", CONVERTERS.get(BACKEND, "onnxscript"))
@pytest.mark.filterwarnings(CONVERTERS_OWN)
@pytest.mark.parametrize("batch", [1, None])
def test_onnx(batch, run_python, tmp_path):
    check(
        network(shortcut="A"),
        ONNX,
        ".onnx",
        run_python,
        tmp_path,
        size=batch or 3,
        format="onnx",
        input_signature=[
            keras.InputSpec(shape=(batch, 10, 12, 3), name="image")
        ],
    )


@only("torch")
@missing("onnx", "onnxruntime", "onnxscript")
@pytest.mark.filterwarnings(CONVERTERS_OWN)
@pytest.mark.parametrize("depth", [18, 20])
def test_onnxruntime_needs_no_transposes_between_layers(depth, tmp_path):
    import onnx
    import onnxruntime

    build = getattr(keras_resnet, f"ResNet{depth}")
    model = build(input_shape=(32, 32, 3), classifier_activation=None)
    draw_weights(model, seed=0)
    x = images(model, 1)
    expected = call(model, x, training=False)
    written, loaded = str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")
    model.export(
        written,
        format="onnx",
        verbose=False,
        input_signature=[keras.InputSpec(shape=x.shape, name="image")],
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    )
    options.optimized_model_filepath = loaded
    session = onnxruntime.InferenceSession(written, options)
    actual = session.run(None, {"image": x})[0]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    before, after = (
        sum(node.op_type == "Transpose" for node in onnx.load(path).graph.node)
        for path in (written, loaded)
    )
    assert after == 2 < 38 <= before


@only("tensorflow", "torch")
@missing("openvino")
@pytest.mark.filterwarnings(CONVERTERS_OWN)
def test_openvino(run_python, tmp_path):
    check(
        network(shortcut="A"),
        OPENVINO,
        ".xml",
        run_python,
        tmp_path,
        format="openvino",
    )
