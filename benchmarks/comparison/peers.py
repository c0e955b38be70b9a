"""Other ResNets for Keras, with our weights in their places."""

import keras

from comparison.implementation import Unavailable
from comparison.keras_models import KerasModel, stock_sgd
from comparison.network import resnet50
from keras_resnet.weights.sources import NAMINGS


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


def paths(naming):
    """Return the function from a name of ours to the path of a variable."""

    def path(name):
        layer, *part, weight = name.split("/")
        return NAMINGS[naming].name((layer, "".join(part), weight))

    return path


class Applications(KerasModel):
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
            model, stock_sgd(), weights, paths("keras.applications")
        )


class KerasHub(KerasModel):
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
        super().__init__(model, stock_sgd(), weights, paths("keras_hub"))
