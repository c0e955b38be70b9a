"""Explanations against references, and on images with a known answer."""

import keras
import numpy as np
import pytest
from networks import call, draw_weights, small
from numpy_network import NumpyNetwork

from keras_resnet import analysis

CLASSES = 5


def _net(activation=None, **options):
    model = small(
        size=(8, 12),
        classes=CLASSES,
        classifier_activation=activation,
        shortcut="A",
        **options,
    )
    draw_weights(model, seed=0)
    return model


def _images(n=5):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 8, 12, 3)).astype("float32")


def test_the_last_map_gives_class_activation_mapping():
    """With average pooling and a dense head Grad-CAM has a closed form."""
    model = _net()
    images = _images()
    block = model.get_layer("stage2_block2")
    features = call(keras.Model(model.inputs, block.output), images, False)
    logits, _ = NumpyNetwork(model)(images)
    kernel = model.get_layer("head").get_weights()[0]
    weights = kernel.T[logits.argmax(axis=1)] / np.prod(features.shape[1:3])
    expected = np.einsum("nrcf,nf->nrc", features, weights).clip(0)
    actual = analysis.grad_cam(model, images, batch_size=2)
    assert actual.shape == (5, 8, 12)
    large = keras.ops.image.resize(
        expected[..., None].astype("float32"), (8, 12)
    )
    large = keras.ops.convert_to_numpy(large)[..., 0]
    np.testing.assert_allclose(actual, large, atol=1e-5 * large.max())


def test_half_precision_is_summed_in_float32():
    """In bfloat16 a sum of 1,024 equal numbers stays at that of 256."""
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3))
    maps = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        model = small((1,), (8,), size=(32, 32))
        draw_weights(model, seed=0)
        maps.append(analysis.grad_cam(model, images, classes=[1, 2]))
    exact, half = maps
    np.testing.assert_allclose(half, exact, rtol=0, atol=0.05 * exact.max())


def test_probabilities_are_explained_as_their_logits():
    images = _images()
    for explain in (analysis.grad_cam, analysis.integrated_gradients):
        one = explain(_net(), images)
        two = explain(_net("softmax"), images)
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-6 * one.max())


def test_attributions_add_up_to_the_difference_of_scores():
    model = _net()
    images, baseline = _images(), 0.25
    classes = [0, 1, 2, 3, 4]
    actual = analysis.integrated_gradients(
        model, images, classes, baseline, points=256, batch_size=3
    )
    assert actual.shape == images.shape
    reference = NumpyNetwork(model)
    scores = reference(images)[0][range(5), classes]
    scores -= reference(np.full_like(images, baseline))[0][range(5), classes]
    np.testing.assert_allclose(actual.sum((1, 2, 3)), scores, rtol=0.01)


def _nested():
    """The same network with preparation inside, nested, with an own head."""
    image = keras.Input((8, 12, 3))
    prepared = keras.layers.Rescaling(0.5)(image)
    features = small(
        size=(8, 12), shortcut="A", include_top=False, pooling="avg"
    )
    x = keras.layers.Dropout(0.5)(features(prepared))
    return keras.Model(image, keras.layers.Dense(CLASSES, name="mine")(x))


def test_a_nested_network_with_a_head_of_ones_own():
    plain, images = _net(), _images()
    nested = _nested()
    nested.set_weights(plain.get_weights())
    for explain in (analysis.grad_cam, analysis.integrated_gradients):
        expected = explain(plain, images)
        actual = explain(nested, 2 * images)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-5 * expected.max()
        )
    assert analysis.network.chain(nested)[-1].name == "mine"


def test_channels_first_maps_are_those_of_channels_last():
    images = _images()
    expected = analysis.grad_cam(_net(), images)
    attributions = analysis.integrated_gradients(_net(), images)
    keras.config.set_image_data_format("channels_first")
    model = _net()
    first = images.transpose(0, 3, 1, 2)
    actual = analysis.grad_cam(model, first)
    np.testing.assert_allclose(actual, expected, atol=1e-5 * expected.max())
    actual = analysis.integrated_gradients(model, first)
    np.testing.assert_allclose(
        actual.transpose(0, 2, 3, 1),
        attributions,
        atol=1e-5 * attributions.max(),
    )


def test_against_pytorch_alone(monkeypatch):
    torch = pytest.importorskip("torch")
    from test_reference import F, Weights, reference_cifar

    model, images = _net(depths=(2, 2)), _images()
    weights, classes = Weights(model), torch.arange(5)

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    places, shares = np.polynomial.legendre.leggauss(16)
    total = torch.zeros_like(x)
    for place, share in zip((places + 1) / 2, shares / 2, strict=True):
        part = (place * x).detach().requires_grad_()
        logits = reference_cifar(weights, part, (2, 2), False)
        (gradient,) = torch.autograd.grad(logits[range(5), classes].sum(), part)
        total += share * gradient
    expected = (total * x).numpy().transpose(0, 2, 3, 1)
    actual = analysis.integrated_gradients(
        model, images, classes.numpy(), points=16
    )
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )

    outputs, relu = [], F.relu

    def kept(x):
        outputs.append(relu(x))
        return outputs[-1]

    monkeypatch.setattr(F, "relu", kept)
    x.requires_grad_()
    logits = reference_cifar(weights, x, (2, 2), False)
    _, _, block, *_ = outputs  # after those of the stem and in the branch
    (gradient,) = torch.autograd.grad(logits[range(5), classes].sum(), block)
    mean = gradient.mean(dim=(2, 3), keepdim=True)
    # As large as the images, which are not resized then.
    expected = relu((mean * block).sum(dim=1)).detach().numpy()
    actual = analysis.grad_cam(
        model, images, classes.numpy(), layer="stage1_block1"
    )
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=1e-4 * expected.max()
    )


def test_pixels_are_deleted_from_the_most_important_on():
    model, images = _net(), _images(2)
    maps = np.zeros((2, 8, 12))
    maps[0, 3, 4], maps[1, 7, 11] = 1, 1
    classes = [1, 2]
    actual = analysis.deletion_curve(
        model, images, maps, classes, shares=(0, 1 / 96, 1), fill=0.5
    )
    changed = images.copy()
    changed[0, 3, 4] = changed[1, 7, 11] = 0.5
    for i, x in enumerate((images, changed, np.full_like(images, 0.5))):
        logits = NumpyNetwork(model)(x)[0]
        expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        np.testing.assert_allclose(
            actual[:, i], expected[range(2), classes], rtol=1e-4
        )


def test_adapted_networks_are_explained_and_quantized_ones_refused():
    model, images = _net(), _images(2)
    head = model.get_layer("head")
    head.enable_lora(2)
    head.lora_kernel_b.assign(np.ones((2, CLASSES)))
    plain = _net()
    plain.get_layer("head").kernel.assign(head.kernel)
    explains = analysis.grad_cam, analysis.integrated_gradients
    for explain in explains:
        expected, actual = explain(plain, images), explain(model, images)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-5 * expected.max()
        )
        assert abs(explain(_net(), images) - actual).max() > 1e-3
    plain.get_layer("head").quantize("int8")
    for explain in explains:
        with pytest.raises(ValueError, match="'head'.*quantized .int8"):
            explain(plain, images)
    with pytest.raises(ValueError, match="'head'.*quantized .int8"):
        analysis.deletion_curve(plain, images, images[..., 0], [0, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda m, x: analysis.grad_cam(m, x, layer="stage9"), "stage2_block2"),
        (lambda m, x: analysis.grad_cam(m, x, layer="avg_pool"), "rows and"),
        (lambda m, x: analysis.grad_cam(m, x, [1]), "1 classes, 5 images"),
        (lambda m, x: analysis.grad_cam(m, x[:1], [-1]), "0 to 4.*: -1$"),
        (
            lambda m, x: analysis.integrated_gradients(m, x[:2], [1, 5]),
            "0 to 4.*: 5$",
        ),
        (
            lambda m, x: analysis.integrated_gradients(m, x, points=0),
            "points=0",
        ),
        (
            lambda m, x: analysis.grad_cam(
                keras.Model(m.inputs, m.get_layer("stage2_block2").output), x
            ),
            "ends in a dense",
        ),
    ],
)
def test_errors(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(_net(), _images())
