"""
Title: Degradation, and the block by hand
Author: The keras_resnet authors
Date created: 2026/11/27
Last modified: 2026/11/27
Description: Train 56 layers with and without shortcuts.
Accelerator: None
"""

"""
## Introduction

A deep net can compute more than a shallow one, and yet it is harder to
train. This notebook builds the block that solved this in ten lines of Keras,
compares it with that of `keras_resnet`, and trains 56 layers with and without
shortcuts on 1,257 handwritten digits of 8x8 pixels. It needs the extra
`recipes-cpu`, and downloads nothing.
"""

import keras
import numpy as np
from keras import layers

import keras_resnet
from keras_resnet import data, plots

digits = data.load("digits")


"""
## The block in ten lines

Two convolutions compute what is *added* to the input: `y = F(x) + x`. To
copy its input, the block only has to push F to zero.
"""


def residual_block(x, channels):
    y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(epsilon=1e-5)(y)
    y = layers.ReLU()(y)
    y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
    y = layers.BatchNormalization(epsilon=1e-5)(y)
    return layers.ReLU()(layers.Add()([y, x]))


image = keras.Input((8, 8, 16))
by_hand = keras.Model(image, residual_block(image, 16))


"""
`ResidualBlock` is the same block in one layer. With the same weights both
compute the same.
"""

block = keras.Model(image, keras_resnet.ResidualBlock(16)(image))
block.set_weights(by_hand.get_weights())

x = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float32")
difference = by_hand.predict(x, verbose=0) - block.predict(x, verbose=0)
print("parameters:", by_hand.count_params(), block.count_params())
print("largest difference:", np.abs(difference).max())
assert np.abs(difference).max() < 1e-4


"""
## The same 56 layers, with and without shortcuts

`residual=False` leaves the shortcuts out. They have no parameters here, so
both nets have the same weights, and the same seed gives both the same initial
weights and the same batches.
"""

EPOCHS, STEPS, BATCH = 4, 20, 64


def train(residual):
    keras.utils.set_random_seed(0)
    model = keras_resnet.ResNetCIFAR(
        56,
        input_shape=(8, 8, 1),
        classifier_activation=None,
        residual=residual,
    )
    model.compile(
        keras.optimizers.SGD(0.02, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(
        data.training_batches(digits.train, BATCH, seed=0),
        shuffle=False,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=data.evaluation_batches(digits.validation),
        verbose=0,
    ).history


steps = {"iterations": STEPS * np.arange(1, EPOCHS + 1)}
curves = [
    {"label": "ResNet-56", "color": plots.RESIDUAL} | steps | train(True),
    {"label": "plain-56", "color": plots.PLAIN} | steps | train(False),
]
plots.step_curves(curves, "digits, SGD with momentum 0.9, rate 0.02, seed 0")


for curve in curves:
    error = 100 * (1 - curve["accuracy"][-1])
    print(f"{curve['label']}: training error {error:.1f} % in the last epoch")


"""
The plain net does not even learn its training images, so this is not
overfitting. The paper calls it *degradation*.

## Exercises

1. Train both nets with 8, 20 and 32 layers. From which depth on does the
   plain net fall behind?
2. Give the plain net a tenth of the rate, and ten times as many epochs. Does
   it catch up?
3. Pass `zero_init_residual=True` to the residual net. Then each of its blocks
   copies its input at the start. Does it learn faster?
"""
