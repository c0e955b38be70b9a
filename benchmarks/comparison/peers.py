"""Other ResNets for Keras, with our weights in their places."""

import keras

from comparison.implementation import Unavailable
from comparison.keras_models import KerasModel, stock_sgd
from keras_resnet.weights.sources import NAMINGS


def paths(naming):
    """Return the function from a name of ours to the path of a variable."""

    def path(name):
        layer, *part, weight = name.split("/")
        return NAMINGS[naming].name((layer, "".join(part), weight))

    return path


class Applications(KerasModel):
    """`keras.applications.ResNet50` and its kin, with strides in 1x1.

    Raises:
        Unavailable: If keras.applications has no network of that depth.
    """

    def __init__(self, network, weights):
        depth = 2 + 3 * sum(network.depths)
        function = getattr(keras.applications, f"ResNet{depth}", None)
        if function is None or not network.bottleneck:
            raise Unavailable("keras.applications has no such network")
        model = function(
            weights=None,
            input_shape=(network.size, network.size, 3),
            classes=network.classes,
            classifier_activation=None,
        )
        super().__init__(
            model, stock_sgd(), weights, paths("keras.applications")
        )


class KerasHub(KerasModel):
    """`keras_hub.models.ResNetImageClassifier`, a ResNet-50."""

    def __init__(self, network, weights):
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
