"""Other ResNets for Keras, with our weights in their places."""

import functools
import re

import keras
import numpy as np

from comparison.implementation import Unavailable
from comparison.keras_models import KerasModel, stock_sgd
from comparison.network import resnet50


def peer_path(block, name):
    """Return the path that keras.applications and KerasHub give a weight.

    Args:
        block: Function from stage and block, both from 1, to the peer's name
            of the block.
        name: Our name, such as "stage2_block1/conv3/kernel".
    """
    layer, _, kind = name.rpartition("/")
    if layer == "head":
        return f"predictions/{kind}"
    *path, part = layer.split("/")
    operation = "bn" if "bn" in part else "conv"
    if part.startswith("stem"):
        return f"conv1_{operation}/{kind}"
    number = 0 if part.startswith("shortcut") else part[-1]
    stage, i = map(int, re.findall(r"\d+", path[0]))
    return f"{block(stage, i)}_{number}_{operation}/{kind}"


def require_resnet50(network, bottleneck_stride, epsilon, peer):
    """Raise `Unavailable` unless the peer has this network."""
    if network != resnet50(
        network.size,
        network.classes,
        bottleneck_stride=bottleneck_stride,
        epsilon=epsilon,
    ):
        raise Unavailable(
            f"{peer}'s ResNet-50 strides in its {bottleneck_stride} "
            f"convolutions and has epsilon {epsilon}"
        )


class Peer(KerasModel):
    """A Keras model whose variables have other paths than ours.

    Where its convolutions have biases, these are drawn at random and added to
    the moving means of the normalizations, which takes their effect away.

    Args:
        model: `keras.Model`.
        weights: Dictionary of NumPy arrays, as `Network.draw` returns.
        block: Function from stage and block, both from 1, to the peer's name
            of the block.
    """

    def __init__(self, model, weights, block):
        path = functools.partial(peer_path, block)
        super().__init__(model, stock_sgd(), weights, path)

    def assign(self, values):
        rng = np.random.default_rng(0)
        # The path of each bias by that of the mean that makes up for it.
        self.biases = {}
        for variable in self.model.variables:
            path = variable.path
            if path.endswith("_conv/bias"):
                mean = path.replace("_conv/bias", "_bn/moving_mean")
                values[path] = rng.normal(0, 0.1, variable.shape)
                values[mean] = values[mean] + values[path]
                self.biases[mean] = path
        super().assign(values)

    def values(self):
        values = super().values()
        for mean, bias in self.biases.items():
            values[mean] = values[mean] - values[bias]
        return values


class Applications(Peer):
    """`keras.applications.ResNet50`."""

    def __init__(self, network, weights):
        require_resnet50(network, "1x1", 1.001e-5, "keras.applications")
        model = keras.applications.ResNet50(
            weights=None,
            input_shape=(network.size, network.size, 3),
            classes=network.classes,
            classifier_activation=None,
        )
        super().__init__(
            model, weights, lambda stage, i: f"conv{stage + 1}_block{i}"
        )


class KerasHub(Peer):
    """`keras_hub.models.ResNetImageClassifier`."""

    def __init__(self, network, weights):
        require_resnet50(network, "3x3", 1e-5, "KerasHub")
        try:
            import keras_hub
        except ModuleNotFoundError as error:
            raise Unavailable(
                f"KerasHub is not installed: {error} (pip install keras-hub)"
            ) from error
        backbone = keras_hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=list(network.widths),
            stackwise_num_blocks=list(network.depths),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
            use_pre_activation=False,
            image_shape=(network.size, network.size, 3),
        )
        model = keras_hub.models.ResNetImageClassifier(
            backbone, num_classes=network.classes
        )
        super().__init__(
            model, weights, lambda stage, i: f"stack{stage - 1}_block{i - 1}"
        )
