"""This package's layers against Keras's own, in one alternating run.

    KERAS_BACKEND=torch python benchmarks/layers.py

Times ResNet-20 with batches of 128 CIFAR-sized images: `fit`, and `predict`.
Both sides have the same graph and the same weights; the other side's layers
are `keras.layers.Conv2D`, `ZeroPadding2D` and `BatchNormalization`. Prints
the median over rounds with the lowest and the highest, and the ratio round by
round. The images are random: speed does not depend on them.
"""

import argparse
import json
import statistics
import time

import keras
import numpy as np

import keras_resnet
from keras_resnet import training


class StockBlock(keras_resnet.ResidualBlock):
    """`ResidualBlock` of Keras's own layers."""

    def _convolution(self, filters, kernel_size, stride, name):
        return stock_convolution(filters, kernel_size, stride, name)

    def _normalization(self, name, gamma_initializer="ones"):
        return keras.layers.BatchNormalization(
            momentum=self.momentum, epsilon=self.epsilon, name=name
        )


def stock_convolution(filters, kernel_size, stride, name):
    """Returns Keras layers that pad as `keras_resnet.Convolution` does."""
    symmetric = stride == 1 or kernel_size == 1
    conv = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=stride,
        padding="same" if symmetric else "valid",
        use_bias=False,
        name=name,
    )
    if symmetric:
        return conv
    pad = keras.layers.ZeroPadding2D(kernel_size // 2)
    return keras.Sequential([pad, conv], name=name)


def stock(layer):
    """Returns the stock layer for one of ours."""
    if isinstance(layer, keras_resnet.ResidualBlock):
        return StockBlock.from_config(layer.get_config())
    if isinstance(layer, keras_resnet.Convolution):
        return stock_convolution(
            layer.filters, layer.kernel_size[0], layer.strides[0], layer.name
        )
    if isinstance(layer, keras_resnet.BatchNormalization):
        return keras.layers.BatchNormalization.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())


def main():
    """Times both sides in turn and prints what came out."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="timed rounds (default: 7)"
    )
    parser.add_argument(
        "--steps", type=int, default=6, help="batches a round (default: 6)"
    )
    arguments = parser.parse_args()

    keras.utils.set_random_seed(0)
    ours = keras_resnet.ResNet20(classifier_activation=None)
    theirs = keras.models.clone_model(ours, clone_function=stock)
    theirs.set_weights(ours.get_weights())
    n = 128 * arguments.steps
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, 32, 32, 3)).astype("float32")
    labels = rng.integers(0, 10, n)
    difference = np.abs(
        ours.predict(images[:128], verbose=0)
        - theirs.predict(images[:128], verbose=0)
    ).max()
    for model in (ours, theirs):
        model.compile(
            training.CoupledSGD(0.01),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    work = {
        "fit": lambda model: model.fit(
            images, labels, batch_size=128, verbose=0
        ),
        "predict": lambda model: model.predict(
            images, batch_size=128, verbose=0
        ),
    }
    line = {"largest_difference": float(difference)} | training.environment()
    print(f"largest difference of the logits: {difference:.1e}")
    for name, run in work.items():
        rates = {"ours": [], "stock": []}
        for i in range(arguments.rounds + 1):
            for side, model in (("ours", ours), ("stock", theirs)):
                begin = time.perf_counter()
                run(model)
                if i:  # the first round warms up
                    rates[side].append(n / (time.perf_counter() - begin))
        ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
        for side, values in {**rates, "ratio": ratios}.items():
            median, low, high = (
                statistics.median(values),
                min(values),
                max(values),
            )
            digits = 2 if side == "ratio" else 0
            print(
                f"{name:8} {side:6} {median:7.{digits}f} "
                f"({low:.{digits}f} to {high:.{digits}f})"
            )
            line[f"{name}_{side}"] = [round(v, 3) for v in (median, low, high)]
    print(json.dumps(line))


if __name__ == "__main__":
    main()
