# %% [markdown]
# # Shortcuts A, B and C
#
# Where a block halves the image and doubles the channels, its input and output
# differ in shape. The paper compares three shortcuts for this (section 4.1,
# table 3). This notebook computes them, counts their cost, and trains a short
# while with each. It needs the extra `recipes-cpu`, and downloads nothing.

# %%
# %matplotlib inline
import keras
import numpy as np

import keras_resnet
from keras_resnet import data, plots

# %% [markdown]
# ## What the options compute
#
# Where the shape stays, A and B pass the input on, and C projects it by a 1x1
# convolution. Where it changes, A takes every second row and column and
# appends channels of zeros, and B and C project.
#
# If the last normalization of a block is zero, only its shortcut and the last
# ReLU are left:

# %%
image = np.arange(1, 17, dtype="float32").reshape(1, 4, 4, 1)
for option in "ABC":
    keras.utils.set_random_seed(0)
    block = keras_resnet.ResidualBlock(
        2, stride=2, shortcut=option, zero_init_residual=True
    )
    channels = np.moveaxis(keras.ops.convert_to_numpy(block(image))[0], -1, 0)
    print(option, "weights:", [tuple(w.shape) for w in block.weights[10:]])
    print(channels.round(2), "\n")

# %% [markdown]
# ## What they cost
#
# The costs of ResNet-20 for images of 32x32 pixels:

# %%
for option in "ABC":
    cost = keras_resnet.complexity(keras_resnet.ResNet20(shortcut=option))
    print(
        f"{option}: {cost.parameters:,} parameters, {cost.macs:,} multiply-adds"
    )

# %% [markdown]
# A is free. B adds two projections, C adds nine. In nets for ImageNet the
# difference is larger, because a projection has up to 2,048 channels there.

# %%
for option in "ABC":
    model = keras_resnet.ResNet50(shortcut=option)
    print(f"{option}: {model.count_params():,} parameters")

# %% [markdown]
# ## A short training with each
#
# Each net has 14 layers and trains for 60 steps on the same batches, from 1,257
# digits of 8x8 pixels.

# %%
EPOCHS, STEPS = 6, 10
digits = data.load("digits")


def train(**options):
    keras.utils.set_random_seed(0)
    model = keras_resnet.ResNetCIFAR(14, input_shape=(8, 8, 1), **options)
    sgd = keras.optimizers.SGD(0.01, momentum=0.9)
    loss = "sparse_categorical_crossentropy"
    model.compile(sgd, loss, metrics=["accuracy"])
    history = model.fit(
        data.training_batches(digits.train, 64, seed=0),
        shuffle=False,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=data.evaluation_batches(digits.validation),
        verbose=0,
    ).history
    return 1 - np.array(history["val_accuracy"])


nets = {option: {"shortcut": option} for option in "ABC"}
nets["plain"] = {"residual": False}
colors = [plots.RESIDUAL, *plots.OTHERS[:2], plots.PLAIN]
steps = STEPS * np.arange(1, EPOCHS + 1)
plots.validation_curves(
    [
        {"label": name, "color": color, "iterations": steps}
        | {"val_error": train(**options)}
        for (name, options), color in zip(nets.items(), colors, strict=True)
    ],
    caption="digits, 14 layers, SGD with momentum 0.9, rate 0.01, seed 0",
)

# %% [markdown]
# One seed and 60 steps do not rank A, B and C. In the paper's table 3, of fully
# trained nets with 34 layers, C is a little better than B, and B than A. The
# paper does not use C further, because its extra weights are not essential.
#
# ## Exercises
#
# 1. Train each option with five seeds. Are the differences between the options
#    larger than those between seeds?
# 2. B and C begin with random projections. Which of them keeps a path without
#    any layer from the input to the output of a stage?
# 3. Write a shortcut D that takes the mean of 2x2 pixels instead of every
#    second one. The page "Change one thing in the block" shows how.
