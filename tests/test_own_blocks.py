"""The blocks of docs/blocks.md: what a block of one's own can do."""

import importlib
import re
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT, read_json, run_recipe
from networks import batch, call, draw_weights, only, small, to_numpy

import keras_resnet
from keras_resnet import analysis

PAGE = (ROOT / "docs/blocks.md").read_text("utf-8")
SAMPLES = {
    name: code
    for code in re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    for name in re.findall(r"^class (\w+)", code, re.MULTILINE)
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A module with all blocks of the page, as a user would save it."""
    folder = tmp_path_factory.mktemp("blocks")
    (folder / "myblock.py").write_text("\n\n".join(SAMPLES.values()), "utf-8")
    sys.path.insert(0, str(folder))
    yield importlib.import_module("myblock")
    sys.path.remove(str(folder))


@pytest.fixture(params=SAMPLES)
def own(request, samples):
    """A network of a block of the page, trained for a step, and a batch."""
    model = small(
        block=getattr(samples, request.param), classifier_activation=None
    )
    draw_weights(model, seed=1)
    x, labels = batch(model, 8)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    before = [to_numpy(v) for v in model.weights]
    # Three steps, the last of which PyTorch replays: a warning would fail.
    model.fit(x, labels, epochs=3, verbose=0)
    after = [to_numpy(v) for v in model.weights]
    assert all((a != b).any() for a, b in zip(before, after, strict=True))
    return model, x


@pytest.mark.once
def test_the_page_has_blocks_of_about_twenty_lines():
    assert set(SAMPLES) == {"SwishBlock", "GroupNormBlock", "SEBlock"}
    assert all(len(code.splitlines()) <= 30 for code in SAMPLES.values())


@only("torch")
def test_it_is_replayed(own):
    model, _ = own
    # A key has, as its sixth entry, whether gradients are wanted.
    assert [key[5] for key in model._replay._traces] == [True]


@pytest.mark.parametrize("name", SAMPLES)
def test_it_takes_both_data_formats(name, samples):
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype("float32")
    outputs = []
    for data_format, axes in (
        ("channels_last", (0, 1, 2, 3)),
        ("channels_first", (0, 3, 1, 2)),
    ):
        keras.config.set_image_data_format(data_format)
        model = small(block=getattr(samples, name))
        draw_weights(model, seed=1)
        outputs.append(call(model, x.transpose(axes), training=False))
    np.testing.assert_allclose(*outputs, atol=1e-5)


def test_it_is_analysed_as_it_computes(own):
    model, x = own
    responses = []

    def observe(name, convolution, response):
        responses.append((name, response.shape[-1] == convolution.filters))

    y = analysis.network.forward(model, x, observe=observe)
    expected = model(x, training=False)
    np.testing.assert_allclose(to_numpy(y), to_numpy(expected), atol=1e-6)
    # The stem, and two in each block.
    assert len(responses) == 1 + 2 * len(analysis.network.blocks(model))
    assert all(fits for _, fits in responses)
    error = analysis.delete_each_block(model, x, np.zeros(8, "int32"))
    assert len(error.names) == len(analysis.network.blocks(model))


def test_it_is_saved_folded_and_counted(own, tmp_path):
    model, x = own
    expected = call(model, x, training=False)
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(call(loaded, x, training=False), expected)
    folded = keras_resnet.fold_batch_norm(model)
    np.testing.assert_allclose(
        call(folded, x, training=False), expected, atol=1e-5
    )
    block = folded.get_layer("stage2_block1")
    assert block.folded == (type(block).__name__ != "GroupNormBlock")
    usual = keras_resnet.complexity(small(classifier_activation=None))
    own_layers = {layer.name for layer in keras_resnet.complexity(model).layers}
    assert {x.name for x in usual.layers if x.macs} <= own_layers


@pytest.mark.parametrize("kind", ["SEBlock", "biased"])
def test_its_weights_are_loaded_for_other_classes(samples, kind, tmp_path):
    def build(classes, **options):
        block = samples.SEBlock if kind == "SEBlock" else Biased
        return small(classes=classes, block=block, **options)

    model = build(5)
    draw_weights(model, seed=1)
    model.save(tmp_path / "net.keras")
    again = build(6, weights=tmp_path / "net.keras")
    for a, b in zip(model.weights, again.weights, strict=True):
        if not a.path.startswith("head"):
            np.testing.assert_array_equal(to_numpy(a), to_numpy(b))
    state = keras_resnet.weights.loading.to_arrays(small(), "torchvision")
    missing = r"missing: layer1\.0\." + (
        "squeeze" if kind == "SEBlock" else r"conv1\.bias"
    )
    with pytest.raises(keras_resnet.WeightsError, match=missing):
        keras_resnet.load_torch_weights(model, state)


@keras.saving.register_keras_serializable("own_blocks")
class Biased(keras_resnet.ResidualBlock):
    """Residual block whose convolutions have biases, too."""

    def make_convolution(self, *args):
        conv = super().make_convolution(*args)
        conv.use_bias = True
        return conv


FRESH = """
import sys
import keras, numpy as np
import keras_resnet

names, folder = sys.argv[3:], sys.argv[2]
try:
    keras.saving.load_model(f"{folder}/{names[0]}.keras")
except ValueError as error:
    print(error)
sys.path.insert(0, sys.argv[1])
import myblock

x = np.load(f"{folder}/x.npy")
for name in names:
    model = keras.saving.load_model(f"{folder}/{name}.keras")
    np.save(f"{folder}/{name}.npy", model.predict(x, verbose=0))
"""


@pytest.mark.once
@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_searched_and_drawn(samples, name, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")
    from keras_resnet import data
    from keras_resnet_recipes import figures, tune

    flags = ["--dataset", "digits", "--block", f"myblock:{name}"]
    search = ["--epochs", "1", "--max-trials", "1", "--depths", "8"]
    run_recipe(tune, [*flags, *search, "--output", tmp_path / "search"])
    line = read_json(tmp_path / "search/result.json")
    assert f"myblock:{name}" in line["best_command"]
    net = keras_resnet.ResNetCIFAR(
        8, block=getattr(samples, name), classifier_activation=None
    )
    net.save_weights(tmp_path / "net.weights.h5")
    images = np.zeros((4, 32, 32, 3), "uint8")
    test = data.Split(images, np.zeros(4, "int32"))
    coloured = data.ImageData("digits", test, test, test, tuple("0123456789"))
    monkeypatch.setattr(figures, "data_of", lambda settings: coloured)
    file = ["--weights", tmp_path / "net.weights.h5", "--depths", "8"]
    file += ["--preprocessing", "cifar", "--output", tmp_path / "figures"]
    run_recipe(figures, ["responses", *flags, *file])
    assert (tmp_path / "figures/responses.png").exists()


@pytest.mark.once
def test_they_are_loaded_in_a_fresh_process_that_imports_them(
    samples, tmp_path, run_python
):
    expected = {}
    for name in SAMPLES:
        model = small(block=getattr(samples, name))
        model.save(tmp_path / f"{name}.keras")
        x, _ = batch(model, 4)
        expected[name] = model.predict(x, verbose=0)
    np.save(tmp_path / "x.npy", x)
    folder = samples.__file__.removesuffix("myblock.py")
    process = run_python("-c", FRESH, folder, tmp_path, *SAMPLES)
    for name in SAMPLES:
        actual = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(actual, expected[name], atol=1e-5)
    assert process.stdout == (
        "Layer 'stage1_block1' of model 'resnet' is of class 'SwishBlock', "
        "which is not registered in this process: import the module that "
        "defines it, 'myblock', before you load the model.\n"
    )


@pytest.mark.once
def test_an_unregistered_block_is_loaded_as_the_error_says(tmp_path):
    class Unregistered(keras_resnet.ResidualBlock):
        pass

    model = small(block=Unregistered)
    path = tmp_path / "net.keras"
    model.save(path)
    with pytest.raises(ValueError, match="was not registered") as error:
        keras.saving.load_model(path)
    message = str(error.value)
    assert len(message) < 400
    assert "`custom_objects={'Unregistered': Unregistered}`" in message
    assert "@keras.saving.register_keras_serializable(" in message
    custom_objects = {"Unregistered": Unregistered}
    loaded = keras.saving.load_model(path, custom_objects=custom_objects)
    assert type(loaded.get_layer("stage1_block1")) is Unregistered
    with pytest.raises(keras_resnet.WeightsError, match="was not registered"):
        small(block=Unregistered, weights=str(path))


@pytest.mark.once
def test_a_block_that_hides_its_order_is_not_analysed():
    class Opaque(keras_resnet.ResidualBlock):
        def call(self, inputs, training=None):
            return super().call(inputs, training)

    model = small(block=Opaque)
    with pytest.raises(ValueError, match=r"Opaque overrides `call`"):
        analysis.network.chain(model)
