"""Sides that are Keras models, among them this package's."""

import time

import keras

import keras_resnet
import keras_resnet.devices
from keras_resnet.training import CoupledSGD
from sides import Side, backend
from sides.network import DECAY, LEARNING_RATE, MOMENTUM


class End(keras.callbacks.Callback):
    """Notes when training or prediction was done.

    On TensorFlow `fit` and `predict` return later than that: they delete
    their tf.data iterator, which waits for tf.data's tuning thread to wake
    up. It sleeps 10 ms, then 20, 40, 80, ..., so a call lasts 1.27, 2.55,
    5.11 or 10.23 s and nothing between, whatever the model.
    """

    def on_train_end(self, logs=None):
        self.time = time.perf_counter()

    on_predict_end = on_train_end


class KerasSide(Side):
    """A Keras model, used as Keras's guides use it: `fit` and `predict`.

    Args:
        model: `keras.Model` that returns logits.
        optimizer: Its optimizer, `None` for inference alone.
    """

    def __init__(self, model, optimizer):
        self.model = model
        if optimizer is not None:
            model.compile(
                optimizer,
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )

    def train(self, images, labels, batch_size):
        self._timed(
            self.model.fit,
            images,
            labels,
            batch_size=batch_size,
            shuffle=False,
        )

    def predict(self, images, batch_size):
        return self._timed(self.model.predict, images, batch_size=batch_size)

    def _timed(self, function, *args, **kwargs):
        end = End()
        result = function(*args, verbose=0, callbacks=[end], **kwargs)
        # Elsewhere the last step may still be under way when callbacks run.
        waits = backend() == "tensorflow"
        self.finished = end.time if waits else time.perf_counter()
        return result

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

    keeps_memory = True

    def __init__(self, network, weights):
        keras_resnet.devices.use()  # before anything is computed
        super().__init__(
            keras_resnet_model(network, weights),
            CoupledSGD(LEARNING_RATE, MOMENTUM, coupled_decay=DECAY),
        )


class Folded(KerasSide):
    """`keras_resnet` with the normalizations folded, for inference alone."""

    keeps_memory = True

    def __init__(self, network, weights):
        model = keras_resnet.fold_batch_norm(
            keras_resnet_model(network, weights)
        )
        super().__init__(model, None)
