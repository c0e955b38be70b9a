"""Folders to share: what they hold, and who can read them."""

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import IMAGENET_SAMPLE
from networks import call, draw_weights, only, small

import keras_resnet
from keras_resnet import save_pretrained
from keras_resnet.weights import WeightsError, files

SIZE = 64, 64, 3
RESULT = Path(__file__).parents[1] / (
    "docs/results/cifar10-resnet20A-fast-torch-seed0.json"
)
IMAGES = keras_resnet.Preprocessing(
    (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), size=64, resize=73
)


def build(depth=18, **options):
    return keras_resnet.ResNetImageNet(
        depth,
        input_shape=SIZE,
        classes=7,
        classifier_activation=None,
        name=f"ResNet-{depth}",
        **options,
    )


def imagenet(depth=18, size=64, **options):
    model = build(depth, **options)
    draw_weights(model, seed=0)
    model.preprocessing = dataclasses.replace(
        IMAGES, size=size, resize=size + 9
    )
    return model


def images(model, n=3):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, *model.input_shape[1:])).astype("float32")


def check_comes_back(model, build, folder, tolerance=0.0):
    again = build(weights=str(folder))
    x = images(model)
    expected = call(model, x, training=False)
    difference = np.abs(call(again, x, training=False) - expected).max()
    assert difference <= tolerance * np.abs(expected).max()
    assert again.preprocessing == model.preprocessing


@pytest.mark.parametrize(
    "options",
    [
        {"shortcut": "A"},
        {"residual": False},
        {"bottleneck": True, "bottleneck_stride": "1x1"},
        {"block": keras_resnet.PreactivationBlock, "include_top": False},
        {"block": keras_resnet.StochasticDepthBlock},
    ],
)
def test_our_own_format_holds_every_network(options, tmp_path):
    model = small(**options)
    draw_weights(model, seed=0)
    model.preprocessing = "cifar"
    save_pretrained(model, tmp_path / "net")
    check_comes_back(
        model,
        lambda weights: small(weights=weights, **options),
        tmp_path / "net",
    )
    # The configuration tells what tensors do not.
    other = {"residual": True} if "residual" in options else {"residual": False}
    with pytest.raises(WeightsError):
        small(weights=tmp_path / "net", **options | other)


def test_a_network_that_prepares_its_images_comes_back_whole(tmp_path):
    adapted = keras.layers.Normalization(name="adapted")
    rng = np.random.default_rng(1)
    adapted.adapt(rng.normal(100, 50, (8, 16, 16, 3)))
    image = keras.Input((16, 16, 3))
    # A layer within a model, too.
    x = keras.Sequential([adapted])(keras.layers.Rescaling(0.5)(image))
    model = small(input_tensor=x, name="own", shortcut="A")
    model.preprocessing = "cifar"
    folder = tmp_path / "net"
    save_pretrained(model, folder)
    again = keras_resnet.load_pretrained(folder)
    assert again.name == "own"
    assert again.preprocessing == model.preprocessing
    x = 100 + 50 * images(model)
    expected = call(model, x, training=False)
    np.testing.assert_array_equal(call(again, x, training=False), expected)
    assert np.ptp(expected) > 1e-3
    # For a network without preparation there is one way, and it is named.
    with pytest.raises(WeightsError, match=r"`keras_resnet\.load_pretrained`"):
        small(weights=folder, shortcut="A")


@pytest.mark.once
def test_what_holds_no_whole_network(tmp_path):
    save_pretrained(imagenet(), tmp_path / "net", format="timm")
    (tmp_path / "file").touch()
    for name, message in (
        ("net", "another library, .*weights='.*net'"),
        ("file", "`repository` must be a folder .*file'"),
        ("no such", "`repository` must be a folder .*no such'"),
    ):
        with pytest.raises(WeightsError, match=message):
            keras_resnet.load_pretrained(tmp_path / name)


@pytest.mark.parametrize("block", ["ResidualBlock", "PreactivationBlock"])
def test_timms_format(block, tmp_path):
    model = imagenet(block=getattr(keras_resnet, block))
    save_pretrained(model, tmp_path / "net", format="timm")
    config = json.loads((tmp_path / "net/config.json").read_text("utf-8"))
    version = "v2_" if block == "PreactivationBlock" else ""
    assert config["architecture"] == f"resnet{version}18"
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    check_comes_back(
        model,
        lambda weights: build(
            18, weights=weights, block=getattr(keras_resnet, block)
        ),
        tmp_path / "net",
        1e-6,
    )


def read_by(format, folder):
    """Return another library's network, and its logits of arrays of images."""
    library = pytest.importorskip(format)
    import torch

    if format == "timm":
        model = library.create_model(f"local-dir:{folder}", pretrained=True)
    else:
        kind = library.AutoModelForImageClassification
        model = kind.from_pretrained(folder)
    model.eval()

    def logits(x):
        with torch.no_grad():
            y = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        return getattr(y, "logits", y).numpy()

    return model, logits


def test_timm_reads_the_folder(tmp_path):
    timm = pytest.importorskip("timm")

    for depth in (18, 50):
        model = imagenet(depth)
        folder = tmp_path / f"net{depth}"
        save_pretrained(model, folder, format="timm")
        theirs, logits = read_by("timm", folder)
        x = images(model)
        expected = call(model, x, training=False)
        np.testing.assert_allclose(logits(x), expected, atol=1e-5)
        data = timm.data.resolve_model_data_config(theirs)
        assert tuple(data["mean"]) == IMAGES.mean
        assert int(64 / data["crop_pct"]) == IMAGES.resize


@only("torch")
@pytest.mark.parametrize("options", [{}, {"bottleneck_stride": "1x1"}])
def test_transformers_reads_the_folder(options, tmp_path):
    model = imagenet(50 if options else 18, **options)
    save_pretrained(model, tmp_path / "net", format="transformers")
    _, logits = read_by("transformers", tmp_path / "net")
    x = images(model)
    expected = call(model, x, training=False)
    np.testing.assert_allclose(logits(x), expected, atol=1e-5)


@pytest.mark.slow
@only("torch")
@pytest.mark.skipif(IMAGENET_SAMPLE is None, reason="needs IMAGENET_SAMPLE")
@pytest.mark.parametrize("format", ["timm", "transformers"])
def test_all_readers_agree_on_photographs(format, tmp_path, monkeypatch):
    pytest.importorskip(format)
    pytest.importorskip("tensorflow", reason="TensorFlow decodes files")
    from exports import network, outputs

    monkeypatch.setenv("IMAGENET_SAMPLE", str(IMAGENET_SAMPLE))
    model, x = network(50)
    model.preprocessing = "imagenet"
    save_pretrained(model, tmp_path / "net", format=format)
    again = keras_resnet.ResNet50(
        weights=tmp_path / "net", classifier_activation=None
    )
    expected = outputs(lambda x: call(model, x, training=False), x)
    _, logits = read_by(format, tmp_path / "net")
    for read in (logits, lambda x: call(again, x, training=False)):
        actual = outputs(read, x)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01


def test_transformers_format_comes_back(tmp_path):
    options = {"bottleneck_stride": "1x1"}
    model = imagenet(50, **options)
    save_pretrained(model, tmp_path / "net", format="transformers")
    check_comes_back(
        model,
        lambda weights: build(50, weights=weights, **options),
        tmp_path / "net",
        1e-6,
    )


@pytest.mark.once
def test_the_card_states_what_the_result_line_does(tmp_path):
    model = keras_resnet.ResNet20(name="ResNet-20")
    save_pretrained(
        model, tmp_path / "net", result=RESULT, license="apache-2.0"
    )
    card = (tmp_path / "net/README.md").read_text("utf-8")
    head = "---\nlibrary_name: keras_resnet\nlicense: apache-2.0\n"
    assert card.startswith(head)
    for words in (
        "- cifar10",
        "# ResNet-20",
        "| parameters | 269,722 |",
        "| test error | 11.70 % |",
        "recipes/cifar10.py --preset fast`",
        "learning_rate 0.2",
        "keras 3.15.1",
        "`keras_resnet.load_pretrained`",
    ):
        assert words in card
    save_pretrained(model, tmp_path / "other")
    card = (tmp_path / "other/README.md").read_text("utf-8")
    assert "| licence | not stated |" in card
    assert "datasets:" not in card


@pytest.mark.once
@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (imagenet, {"format": "onnx"}, "keras_resnet, timm, transformers"),
        (keras_resnet.ResNet20, {"format": "timm"}, "another stem"),
        (
            lambda: imagenet(shortcut="C"),
            {"format": "transformers"},
            "does not use shortcut B",
        ),
        (
            lambda: imagenet(residual=False),
            {"format": "timm"},
            "a plain network",
        ),
        (
            lambda: imagenet(50, bottleneck_stride="1x1"),
            {"format": "timm"},
            "strides in the 1x1",
        ),
        (
            lambda: imagenet(output_stride=16),
            {"format": "transformers"},
            "dilates convolutions",
        ),
        (
            lambda: imagenet(size=384),
            {"format": "transformers"},
            "crops only below 384",
        ),
        (
            lambda: imagenet(block=keras_resnet.StochasticDepthBlock),
            {"format": "timm"},
            "class StochasticDepthBlock",
        ),
        (
            lambda: keras_resnet.ResNet18(),
            {"format": "timm"},
            "set `model.preprocessing`",
        ),
        (
            lambda: small(stem="imagenet", size=(32, 32)),
            {"format": "timm"},
            "preprocessing",
        ),
    ],
)
def test_what_a_format_cannot_hold(build, options, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        save_pretrained(build(), tmp_path / "net", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_a_folder_is_written_whole_and_never_over_another(
    tmp_path, monkeypatch
):
    model = keras_resnet.ResNetCIFAR(8)
    folder = tmp_path / "net"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(model, folder)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    save_pretrained(model, folder)
    with pytest.raises(WeightsError, match="exists already"):
        save_pretrained(model, folder)


@pytest.mark.once
def test_a_folder_with_something_missing(tmp_path):
    model = keras_resnet.ResNetCIFAR(8)
    folder = tmp_path / "net"
    save_pretrained(model, folder)
    (folder / "config.json").rename(folder / "config")
    with pytest.raises(WeightsError, match=r"has no config\.json"):
        keras_resnet.ResNetCIFAR(8, weights=folder)
    (folder / "config").rename(folder / "config.json")
    text = (folder / "config.json").read_text("utf-8")
    config = json.loads(text)
    dense, code = map(
        keras.saving.serialize_keras_object,
        (keras.layers.Dense(1), keras.layers.Lambda(lambda x: x)),
    )
    for content, message in (
        (config | {"variables": None}, "different networks"),
        (config | {"variables": [[1]]}, "different networks"),
        (config | {"model": dense}, "different networks"),
        (config | {"model": None}, "cannot be loaded"),
        (config | {"model": code}, "holds code"),
        ("[" * 10**5, "is not JSON"),
        (" " * (files.MAX_CONFIG_BYTES + 1), "configuration of 33,554,433 b"),
    ):
        content = content if isinstance(content, str) else json.dumps(content)
        (folder / "config.json").write_text(content, "utf-8")
        with pytest.raises(WeightsError, match=message):
            keras_resnet.ResNetCIFAR(8, weights=folder)
    (folder / "config.json").write_text(text, "utf-8")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(WeightsError, match="not a complete safetensors"):
        keras_resnet.ResNetCIFAR(8, weights=folder)
    # Another network's tensors.
    save_pretrained(keras_resnet.ResNetCIFAR(14), tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(WeightsError, match="different networks"):
        keras_resnet.ResNetCIFAR(8, weights=folder)
