"""The network of `keras.layers` alone, with Keras's own optimizer.

Keras's SGD decays weights apart from the gradient, which is not the paper's
way but the same amount of work.
"""

import keras
from keras import layers

from sides import Unavailable
from sides.keras_sides import KerasSide, assign
from sides.network import DECAY, LEARNING_RATE, MOMENTUM


def stock_sgd():
    """Returns Keras's own SGD with momentum and weight decay."""
    return keras.optimizers.SGD(
        LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY
    )


class KerasLayers:
    """Operations that are `keras.layers`, as one would write the model."""

    def __init__(self, network):
        self.network = network

    def conv_norm(self, x, conv):
        # Keras's "same" pads after the image alone at stride 2, so strided
        # convolutions get their padding from a layer, as in
        # keras.applications.
        padding = "same"
        if conv.stride > 1:
            padding = "valid"
            if conv.margin:
                x = layers.ZeroPadding2D(conv.margin)(x)
        x = layers.Conv2D(
            conv.channels,
            conv.kernel,
            strides=conv.stride,
            padding=padding,
            use_bias=False,
            name=conv.name.replace("/", "_"),
        )(x)
        return layers.BatchNormalization(
            momentum=MOMENTUM,
            epsilon=self.network.epsilon,
            name=conv.norm.replace("/", "_"),
        )(x)

    def relu(self, x):
        return layers.ReLU()(x)

    def add_relu(self, y, x):
        return layers.ReLU()(layers.Add()([y, x]))

    def max_pool(self, x):
        # After a ReLU a padded zero wins no maximum.
        return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))

    def zero_padding(self, x, block):
        missing = block.channels - x.shape[-1]
        x = x[:, :: block.stride, :: block.stride]
        return keras.ops.pad(x, [[0, 0]] * 3 + [[0, missing]])

    def head(self, x):
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(self.network.classes, name="head")(x)


class StockKeras(KerasSide):
    """`keras.layers` and `keras.optimizers` alone."""

    def __init__(self, network, weights):
        inputs = layers.Input((network.size, network.size, 3))
        outputs = network.forward(KerasLayers(network), inputs)
        try:
            model = keras.Model(inputs, outputs)
        except RecursionError:
            raise Unavailable(
                "Keras goes through its graph by recursion, deeper than "
                "Python allows"
            ) from None
        # A slash in the name of a layer would be one in a variable's path.
        self.paths = {
            "/".join([layer.replace("/", "_"), kind]): f"{layer}/{kind}"
            for layer, _, kind in (name.rpartition("/") for name in weights)
        }
        assign(model, {path: weights[n] for path, n in self.paths.items()})
        super().__init__(model, stock_sgd())

    def weights(self):
        found = super().weights()
        return {self.paths[path]: value for path, value in found.items()}
