"""Exported networks, loaded where there is no Keras, give the same outputs."""

import argparse
import dataclasses
import importlib.util
import re
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import check_refused, run_recipe, settings_of
from networks import call, draw_weights, only
from test_folding import images, randomize, small

import keras_resnet
from keras_resnet import fold_batch_norm
from keras_resnet_recipes import export
from keras_resnet_recipes.experiment import Failure
from keras_resnet_recipes.export import FORMATS

BACKEND = keras.backend.backend()
TOLERANCE = 1e-5

# A process of its own loads artifacts, gives them the same images, and writes
# the outputs beside each.
PROGRAM = """
import sys
import numpy as np
from keras_resnet_recipes.export import FORMATS
load = FORMATS[sys.argv[1]].load
x = np.load(sys.argv[2])
for path in sys.argv[3:]:
    np.save(path + ".npy", load(path)(x))
assert "keras" not in sys.modules or "tensorflow" in sys.modules
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


def check(model, kind, run_python, tmp_path, size=3, **options):
    """Export a model and its folded copy, and compare what they compute."""
    suffix = FORMATS[kind].suffix
    options["format"] = FORMATS[kind].keras
    models = {"model": model, "folded": fold_batch_norm(model)}
    paths = {name: str(tmp_path / f"{name}{suffix}") for name in models}
    x = images(model, size)
    np.save(tmp_path / "x.npy", x)
    for name, path in paths.items():
        models[name].export(path, verbose=False, **options)
    run_python("-c", PROGRAM, kind, tmp_path / "x.npy", *paths.values())
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
    check(model, "savedmodel", run_python, tmp_path)


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
    check(model, "savedmodel", run_python, tmp_path, **options)


@only("torch")
@pytest.mark.parametrize("data_format", ONE_OF_THEM)
def test_exported_program_of_one_image(data_format, run_python, tmp_path):
    model = network(data_format, **NETWORKS[data_format])
    check(
        model,
        "pt2",
        run_python,
        tmp_path,
        size=1,
    )


@pytest.mark.slow
@only("torch")
def test_exported_program_of_any_batch(run_python, tmp_path):
    import torch

    check(
        network(),
        "pt2",
        run_python,
        tmp_path,
        dynamic_shapes={0: torch.export.Dim("batch", min=1, max=64)},
    )


# Converters warn about changes in their own next versions.
CONVERTERS_OWN = "ignore"
CONVERTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx"}


@missing("onnx", "onnxruntime", CONVERTERS.get(BACKEND, "onnxscript"))
@pytest.mark.filterwarnings(CONVERTERS_OWN)
@pytest.mark.parametrize("batch", [1, None])
def test_onnx(batch, run_python, tmp_path):
    check(
        network(shortcut="A"),
        "onnx",
        run_python,
        tmp_path,
        size=batch or 3,
        input_signature=[
            keras.InputSpec("float32", (batch, 10, 12, 3), name="image")
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
        input_signature=[keras.InputSpec("float32", x.shape, name="image")],
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
        "openvino",
        run_python,
        tmp_path,
    )


# The recipe.


def saved(tmp_path, **options):
    keras.config.set_image_data_format("channels_last")
    model = small(size=(8, 8), input_shape=(8, 8, 1), classes=10, **options)
    draw_weights(model, seed=0)
    model.preprocessing = keras_resnet.Preprocessing(
        (0.4,), (0.2,), scale=1 / 16, size=8, resize=8
    )
    model.save(tmp_path / "net.keras")
    return model


@missing("onnx", "onnxruntime", CONVERTERS.get(BACKEND, "onnxscript"))
@pytest.mark.parametrize("batch", ["2", "any"])
def test_onnxruntime_runs_the_stem_of_imagenet(batch, tmp_path, capsys):
    saved(tmp_path, stem="imagenet")
    flags = [tmp_path / "net.keras", "--format", "onnx", "--raw-pixels"]
    flags += ["--folded", "--batch", batch, "--output", tmp_path / "net.onnx"]
    run_recipe(export, flags)
    line = capsys.readouterr().out.splitlines()[-1]
    assert float(line.rpartition(" ")[2]) < 1e-5
    assert {p.name for p in tmp_path.iterdir()} == {"net.keras", "net.onnx"}
    words = ["exists already", "choose another --output"]
    check_refused(lambda: run_recipe(export, flags), capsys, words, status=1)


@only("tensorflow", "torch")
@missing("onnxruntime", CONVERTERS.get(BACKEND, "onnxscript"), "sklearn")
def test_int8_is_calibrated_and_close(tmp_path, capsys):
    saved(tmp_path)
    flags = [tmp_path / "net.keras", "--format", "onnx", "--folded", "--int8"]
    flags += ["--calibrate", "digits", "--output", tmp_path / "net.onnx"]
    run_recipe(export, flags)
    line = capsys.readouterr().out.splitlines()[-1]
    assert 0 < float(line.rpartition(" ")[2]) < 0.1


@pytest.mark.once
def test_calibration_takes_the_images_of_a_folder(tmp_path, capsys):
    pytest.importorskip("tensorflow", reason="TensorFlow decodes files")
    from imagenet_files import jpeg, write

    for name in ("v1.0/a.JPG", "v1.0/b", "._a.jpg", ".DS_Store", "Thumbs.db"):
        good = name.startswith("v1.0")
        write(tmp_path / name, jpeg(1) if good else b"no image")
    settings = argparse.Namespace(calibrate=str(tmp_path), batch=None)
    how = keras_resnet.Preprocessing((0.0,) * 3, (1.0,) * 3, size=8, resize=8)
    images = export.calibration_images(settings, how)
    assert images.shape == (2, 8, 8, 3)
    assert "not used: " in capsys.readouterr().err
    settings.batch = 3
    with pytest.raises(Failure, match="2 readable images, and at least 3"):
        export.calibration_images(settings, how)


@pytest.mark.once
def test_what_int8_cannot_be_calibrated_on(tmp_path, capsys, monkeypatch):
    flags = ["net.keras", "--format", "onnx", "--batch", "257", "--int8"]
    flags += ["--calibrate", "digits", "--output", tmp_path / "net.onnx"]
    words = ["--batch 257 is too large", "at most 256"]
    check_refused(lambda: run_recipe(export, flags), capsys, words)
    from keras_resnet import data

    images = np.zeros((2, 8, 8, 3), "uint8")
    split = data.Split(images, np.arange(2))
    fake = data.ImageData("cifar10", split, split, split, ("a", "b"))
    monkeypatch.setattr(data, "load", lambda *_: fake)
    settings = argparse.Namespace(calibrate="cifar10", data_dir=None)
    how = keras_resnet.Preprocessing((0.0,), (1.0,), size=8, resize=8)
    with pytest.raises(Failure, match=r"3 channels, .* takes 1\.$"):
        export.calibration_images(settings, how)


@pytest.mark.once
def test_what_fails_the_table_of_exports(monkeypatch):
    pytest.importorskip("tensorflow", reason="the table reads images by it")
    import exports

    good = {"format": "litert", "batch": 50, "difference": 0.0, "others": 0}
    without = {"format": "litert", "batch": None, "error": "none"}
    for backend, row, expected in (
        ("torch", good, False),
        ("torch", good | {"others": 1}, True),
        ("torch", good | {"difference": 2e-4}, True),
        ("torch", without, False),
        ("torch", without | {"batch": 50}, True),
        ("torch", without | {"format": "onnx"}, True),
        ("tensorflow", without, True),
        ("jax", without, False),
    ):
        monkeypatch.setattr(exports, "BACKEND", backend)
        assert exports.fails(row) == expected

    def fails(error=0.083, size=30, speed=15):
        float32, onnx, int8 = exports.KERAS, exports.FLOAT32, exports.INT8
        return exports.int8_fails(
            {
                "test_error": {float32: 0.08, int8: error},
                "bytes": {onnx: 100, int8: size},
                "images_per_second": {float32: 10, int8: speed},
            }
        )

    assert not fails()
    assert fails(error=0.0832)
    assert fails(size=31)
    assert fails(speed=14.9)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_backend_cannot_write_names_a_way(name, tmp_path, capsys):
    kind = FORMATS[name]
    if BACKEND in kind.writers:
        pytest.skip("it can")
    flags = ["net.keras", "--format", name]
    flags += ["--output", tmp_path / f"net{kind.suffix}"]
    words = [f"by {BACKEND}", f"KERAS_BACKEND={next(iter(kind.writers))}"]
    check_refused(lambda: run_recipe(export, flags), capsys, words)


@pytest.mark.once
def test_the_backend_may_be_that_of_keras_json(tmp_path, monkeypatch, capsys):
    flags = ["net.keras", "--format", "pt2", "--output", tmp_path / "net.pt2"]
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    settings = tmp_path / "keras.json"
    for text, backend in (
        ('{"floatx": "float32"}', "tensorflow"),
        ('{"backend": ', "tensorflow"),
        ('{"backend": "jax"}', "jax"),
    ):
        settings.write_text(text, "utf-8")
        words = [f"cannot be written by {backend}"]
        check_refused(lambda: run_recipe(export, flags), capsys, words)
    settings.write_text('{"backend": "pytorch"}', "utf-8")
    words = [f"the backend in {settings} is 'pytorch': set it to tensorflow"]
    check_refused(lambda: run_recipe(export, flags), capsys, words)
    settings.write_text('{"backend": "torch"}', "utf-8")
    settings_of(export, map(str, flags))
    # The variable is stronger, as for Keras.
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    words = ["cannot be written by jax"]
    check_refused(lambda: run_recipe(export, flags), capsys, words)


@pytest.mark.once
def test_a_long_name_of_a_file_goes_on_in_the_next_line(
    tmp_path, monkeypatch, capsys
):
    how = keras_resnet.preprocessing.PREPROCESSINGS["cifar"]
    net = keras_resnet.ResNet([1], [16], input_shape=(None, None, 3))
    monkeypatch.setattr(export.evaluate, "load_network", lambda _: (net, how))
    monkeypatch.setattr(export, "write", lambda *_: None)
    kind = dataclasses.replace(FORMATS["pt2"], runtime="nosuch")
    monkeypatch.setitem(FORMATS, "pt2", kind)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.chdir(tmp_path)
    export.main(
        types.SimpleNamespace(
            format="pt2",
            output=Path(f"{40 * 'a '}.pt2"),
            folded=False,
            raw_pixels=False,
            int8=False,
            batch=1,
        )
    )
    lines = re.split("[\r\n]+", capsys.readouterr().out)
    assert " ".join(lines).endswith("because nosuch is not installed ")
    assert max(map(len, lines)) <= 80
