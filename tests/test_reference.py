"""Logits against networks written with PyTorch's functions alone.

The references follow the two most used PyTorch implementations: that of
CIFAR-10's ResNet-20 with option A, and that of ImageNet's ResNet-50. They
read the weights of our models by layer name, so the names are checked too.
"""

import numpy as np
import pytest
from keras import ops
from networks import call, draw_weights

from keras_resnet import ResNet20, ResNet50

torch = pytest.importorskip("torch")
F = torch.nn.functional

EPSILON = 1e-5


class Weights:
    """Weights of a Keras model in PyTorch's order of axes, by layer name."""

    def __init__(self, model):
        self.layers = {}
        for variable in model.variables:
            *path, kind = variable.path.split("/")
            value = torch.from_numpy(ops.convert_to_numpy(variable).copy())
            self.layers.setdefault("/".join(path), {})[kind] = value

    def conv(self, x, name, stride):
        kernel = self.layers[name]["kernel"].permute(3, 2, 0, 1)
        padding = kernel.shape[2] // 2
        return F.conv2d(x, kernel, stride=stride, padding=padding)

    def bn(self, x, name, training):
        weights = self.layers[name]
        return F.batch_norm(
            x,
            weights["moving_mean"].clone(),
            weights["moving_variance"].clone(),
            weights["gamma"],
            weights["beta"],
            training=training,
            eps=EPSILON,
        )

    def linear(self, x, name):
        weights = self.layers[name]
        return F.linear(x, weights["kernel"].T, weights["bias"])


def reference_cifar(w, x, depths, training):
    x = F.relu(w.bn(w.conv(x, "stem_conv", 1), "stem_bn", training))
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            name = f"stage{stage}_block{i}"
            stride = 2 if stage > 1 and i == 1 else 1
            y = w.bn(
                w.conv(x, f"{name}/conv1", stride), f"{name}/bn1", training
            )
            y = w.conv(F.relu(y), f"{name}/conv2", 1)
            y = w.bn(y, f"{name}/bn2", training)
            shortcut = x[:, :, ::stride, ::stride]
            missing = y.shape[1] - x.shape[1]
            # Zero channels after the others.
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, missing))
            x = F.relu(y + shortcut)
    return w.linear(x.mean(dim=(2, 3)), "head")


def reference_imagenet(w, x, depths, training, place):
    x = F.relu(w.bn(w.conv(x, "stem_conv", 2), "stem_bn", training))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            name = f"stage{stage}_block{i}"
            stride = 2 if stage > 1 and i == 1 else 1
            strides = [stride, 1, 1] if place == "1x1" else [1, stride, 1]
            y = x
            for k, step in enumerate(strides, start=1):
                y = w.conv(y, f"{name}/conv{k}", step)
                y = w.bn(y, f"{name}/bn{k}", training)
                y = y if k == len(strides) else F.relu(y)
            if f"{name}/shortcut_conv" in w.layers:
                x = w.conv(x, f"{name}/shortcut_conv", stride)
                x = w.bn(x, f"{name}/shortcut_bn", training)
            x = F.relu(y + x)
    return w.linear(x.mean(dim=(2, 3)), "head")


def check(model, reference, size, **kwargs):
    draw_weights(model, seed=0)
    x = np.random.default_rng(1).normal(size=(4, *size, 3)).astype("float32")
    images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for training in (False, True):
        with torch.no_grad():
            # Before ours, which updates the moving statistics.
            expected = reference(
                Weights(model), images, training=training, **kwargs
            ).numpy()
        logits = call(model, x, training=training)
        # Logits of a size at which 1e-4 says something.
        assert 0.3 < expected.std() < 3
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_cifar_network():
    model = ResNet20(classifier_activation=None)
    check(model, reference_cifar, (32, 32), depths=(3, 3, 3))


@pytest.mark.parametrize("place", ["1x1", "3x3"])
def test_imagenet_bottleneck_network(place):
    model = ResNet50(
        classifier_activation=None,
        # Odd sizes on the way show where a stride begins.
        input_shape=(96, 100, 3),
        bottleneck_stride=place,
    )
    check(
        model, reference_imagenet, (96, 100), depths=(3, 4, 6, 3), place=place
    )
