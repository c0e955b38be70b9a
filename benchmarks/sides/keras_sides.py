"""Sides that are Keras models, among them this package's."""

import keras
import numpy as np

import keras_resnet
from keras_resnet.training import CoupledSGD
from sides import Side, Unavailable
from sides.network import DECAY, LEARNING_RATE, MOMENTUM


class KerasSide(Side):
    """A Keras model, used as Keras's guides use it: `fit` and `predict`.

    Args:
        model: `keras.Model` that returns logits.
        optimizer: Its optimizer.
    """

    def __init__(self, model, optimizer):
        self.model = model
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def train(self, images, labels, batch_size):
        self.model.fit(
            images, labels, batch_size=batch_size, shuffle=False, verbose=0
        )

    def predict(self, images, batch_size):
        return self.model.predict(images, batch_size=batch_size, verbose=0)

    def weights(self):
        return {
            variable.path: keras.ops.convert_to_numpy(variable)
            for variable in self.model.variables
            if "seed_generator" not in variable.path
        }


def assign(model, weights):
    """Gives a model weights by the paths of its variables.

    Raises:
        KeyError: If a variable gets none.
    """
    for variable in model.variables:
        variable.assign(weights[variable.path])


def keras_resnet_model(network, weights):
    """Returns this package's model of a network."""
    model = keras_resnet.ResNet(
        network.depths,
        network.widths,
        bottleneck=network.bottleneck,
        stem=network.stem,
        input_shape=(network.size, network.size, 3),
        classes=network.classes,
        classifier_activation=None,
        shortcut=network.shortcut,
        bottleneck_stride=network.bottleneck_stride,
        momentum=MOMENTUM,
        epsilon=network.epsilon,
    )
    assign(model, weights)
    return model


class Ours(KerasSide):
    """`keras_resnet`."""

    def __init__(self, network, weights):
        super().__init__(
            keras_resnet_model(network, weights),
            CoupledSGD(LEARNING_RATE, MOMENTUM, coupled_decay=DECAY),
        )


class Folded(Side):
    """`keras_resnet` with the normalizations folded into convolutions."""

    inference_only = True

    def __init__(self, network, weights):
        if not hasattr(keras_resnet, "fold_batch_norm"):
            raise Unavailable(
                f"keras_resnet {keras_resnet.__version__} has no "
                "fold_batch_norm"
            )
        self.model = keras_resnet.fold_batch_norm(
            keras_resnet_model(network, weights)
        )

    def train(self, images, labels, batch_size):
        raise Unavailable("a folded model is for inference")

    def predict(self, images, batch_size):
        return np.asarray(
            self.model.predict(images, batch_size=batch_size, verbose=0)
        )

    def weights(self):
        raise Unavailable("a folded model has no normalizations")
