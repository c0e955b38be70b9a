"""Implementations that are Keras models: this package, and Keras's layers."""

import itertools
import time
import unittest.mock

import keras
from keras import layers

import keras_resnet
from comparison.implementation import Implementation, Unavailable, backend
from comparison.network import DECAY, LEARNING_RATE, MOMENTUM
from keras_resnet import devices
from keras_resnet.training import CoupledSGD
from keras_resnet_recipes.experiment import POLICIES


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


class Epochs(keras.callbacks.Callback):
    """Keeps the seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        float(logs["loss"])  # waits for the device
        self.seconds.append(time.perf_counter() - self.begin)


def epoch_seconds(model, batches, steps, epochs, callbacks=()):
    """Fit batches of a generator; return the seconds of each epoch."""
    watch = Epochs()
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, watch],
    )
    return watch.seconds


def use_precision(network):
    """Compute the models that are built from here on in that precision."""
    keras.config.set_dtype_policy(POLICIES[network.precision])


class KerasModel(Implementation):
    """A Keras model, used as Keras's guides use it: `fit` and `predict`.

    `path` is the function from a name of ours to the path of a variable.
    """

    # Arguments of `compile`.
    COMPILE = {}

    def __init__(self, model, optimizer, weights, path=str):
        self.model = model
        self.paths = {name: path(name) for name in weights}
        values = {self.paths[name]: value for name, value in weights.items()}
        for variable in model.variables:
            # Those of keras.applications, which begin at zero.
            if not variable.path.endswith("_conv/bias"):
                variable.assign(values[variable.path])
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            **self.COMPILE,
        )

    def weights(self):
        values = {v.path: v for v in self.model.variables}
        return {
            name: keras.ops.convert_to_numpy(values[path])
            for name, path in self.paths.items()
        }

    def train(self, images, labels, batch_size):
        self._timed(self.model.fit, images, labels, batch_size, shuffle=False)

    def train_epochs(self, batches, epochs):
        endless = (batch for batch in itertools.cycle(batches))
        return epoch_seconds(self.model, endless, len(batches), epochs)

    def predict(self, images, batch_size):
        return self._timed(self.model.predict, images, batch_size)

    def _timed(self, function, *args, **kwargs):
        end = End()
        result = function(*args, verbose=0, callbacks=[end], **kwargs)
        # On other backends the last step may still run after the callbacks.
        waits = backend() == "tensorflow"
        self.finished = end.time if waits else time.perf_counter()
        return result


class Ours(KerasModel):
    """`keras_resnet`."""

    def __init__(self, network, weights):
        devices.use()  # before anything is computed
        use_precision(network)
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
        optimizer = CoupledSGD(LEARNING_RATE, MOMENTUM, coupled_decay=DECAY)
        super().__init__(model, optimizer, weights)


class Scanned(Ours):
    """`keras_resnet` with several steps in one loop, which JAX has."""

    COMPILE = {"steps_per_execution": 16}


class Ungraphed(Ours):
    """`keras_resnet` with replay on PyTorch, but no CUDA graph of the step."""

    def __init__(self, network, weights):
        from keras_resnet.backend.torch import cuda_graph

        super().__init__(network, weights)
        with unittest.mock.patch.object(
            cuda_graph, "TrainingStep", lambda model, replay, step: step
        ):
            self.model.make_train_function()


class Eager(Ours):
    """`keras_resnet` without replay, layer by layer."""

    COMPILE = {"run_eagerly": True}


class Folded(Ours):
    """`keras_resnet` with the normalizations folded, for inference alone."""

    def __init__(self, network, weights):
        super().__init__(network, weights)
        self.model = keras_resnet.fold_batch_norm(self.model)


def stock_sgd():
    """Return Keras's own SGD with momentum and weight decay.

    It decays weights apart from the gradient, which is not the paper's way
    but the same amount of work.
    """
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
            if conv.padding:
                x = layers.ZeroPadding2D(conv.padding)(x)
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

    def max_pool(self, x):
        # After a ReLU a padded zero wins no maximum.
        return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))

    def zero_padding(self, x, stride, channels):
        x = x[:, ::stride, ::stride]
        return keras.ops.pad(x, [[0, 0]] * 3 + [[0, channels]])

    def head(self, x):
        x = layers.GlobalAveragePooling2D()(x)
        return layers.Dense(self.network.classes, name="head")(x)


class StockKeras(KerasModel):
    """`keras.layers` and `keras.optimizers` alone."""

    def __init__(self, network, weights):
        use_precision(network)
        inputs = layers.Input((network.size, network.size, 3))
        outputs = network.forward(KerasLayers(network), inputs)
        try:
            model = keras.Model(inputs, outputs)
        except RecursionError:
            raise Unavailable(
                "Keras goes through its graph by recursion, deeper than "
                "Python allows"
            ) from None
        # A layer's name has no slash.
        super().__init__(
            model,
            stock_sgd(),
            weights,
            lambda name: name.replace("/", "_", name.count("/") - 1),
        )
