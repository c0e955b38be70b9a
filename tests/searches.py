"""Tiny data and tiny networks for the tests of searches."""

import keras
import numpy as np

from keras_resnet import data, training, tuning


class _Forbidden:
    """Stand-in for the test images that nobody may look at."""

    def __getattribute__(self, name):
        raise AssertionError("the test images were looked at")


def tiny_data():
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(96, 8, 8, 1)).astype("uint8")
    split = data.Split(images, rng.integers(3, size=96))
    return data.ImageData(
        name="tiny",
        train=split[:64],
        validation=split[64:],
        test=_Forbidden(),
        class_names=("a", "b", "c"),
    )


def hypermodel(epochs=1, **kwargs):
    kwargs = {"depth": (8, 14), "batch_size": 32} | kwargs
    return tuning.ResNetHyperModel(tiny_data(), epochs, **kwargs)


def one_layer(values, steps):
    """Return a stand-in for tests that need any network."""
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.compile(
        training.CoupledSGD(values["learning_rate"] / 1e6),
        training.crossentropy(),
        metrics=["accuracy"],
    )
    return model


def search(hypermodel, folder, algorithm="random", trials=5, **kwargs):
    return tuning.Search(hypermodel, algorithm, trials, folder, **kwargs)
