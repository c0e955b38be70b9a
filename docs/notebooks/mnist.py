# %% [markdown]
# # ResNet-18 and its plain twin on MNIST
#
# Two nets of 18 layers begin with the same weights and see the same batches.
# One has shortcuts. This notebook counts the cost of the shortcuts, trains both
# nets, and checks ResNet-18 against a second implementation with Keras's own
# layers: the same weights must give the same logits.
# It needs the extra `recipes-cpu`. `data.load` downloads MNIST once, 11 MB.

# %%
# %matplotlib inline
import keras
import numpy as np
from keras import layers

import keras_resnet
from keras_resnet import data, plots
from keras_resnet.training import StepEvaluation

mnist = data.load("mnist")


def first(split, count):
    images = np.pad(split.images[:count], ((0, 0), (2, 2), (2, 2), (0, 0)))
    return data.Split(images, split.labels[:count])


train, validation = first(mnist.train, 2000), first(mnist.validation, 200)

# %% [markdown]
# ## Both nets, with the same weights
#
# The plain net only lacks the projections.


# %%
def network(residual):
    image = keras.Input((32, 32, 1))
    return keras_resnet.ResNet18(
        input_tensor=layers.Rescaling(1 / 128, -1)(image),
        classes=10,
        classifier_activation=None,
        residual=residual,
    )


keras.utils.set_random_seed(0)
nets = {"ResNet-18": network(True), "plain-18": network(False)}
weights = {v.path: v for v in nets["ResNet-18"].variables}
for variable in nets["plain-18"].variables:
    # A copy: JAX trains in place.
    variable.assign(keras.ops.convert_to_numpy(weights[variable.path]).copy())

for name, net in nets.items():
    cost = keras_resnet.complexity(net)
    print(
        f"{name}: {cost.parameters:,} parameters, {cost.macs:,} multiply-adds"
    )

# %% [markdown]
# ## Another implementation
#
# This is ResNet-18 with Keras's own layers. It takes over the weights layer by
# layer, in the order in which they were created.

# %%
made = []


def conv(x, filters, kernel, stride=1):
    convolution = layers.Conv2D(filters, kernel, stride, use_bias=False)
    normalization = layers.BatchNormalization(epsilon=1e-5)
    made.extend([convolution, normalization])
    return normalization(convolution(layers.ZeroPadding2D(kernel // 2)(x)))


image = keras.Input((32, 32, 1))
x = layers.ReLU()(conv(layers.Rescaling(1 / 128, -1)(image), 64, 7, 2))
x = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(1)(x))
for filters, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
    for strides in (stride, 1):
        y = layers.ReLU()(conv(x, filters, 3, strides))
        y = conv(y, filters, 3)
        shortcut = conv(x, filters, 1, strides) if strides == 2 else x
        x = layers.ReLU()(layers.Add()([y, shortcut]))
made.append(layers.Dense(10))
other = keras.Model(image, made[-1](layers.GlobalAveragePooling2D()(x)))

variables = [variable for layer in made for variable in layer.weights]
values = nets["ResNet-18"].get_weights()
for variable, value in zip(variables, values, strict=True):
    variable.assign(value)

x = validation.images[:32].astype("float32")
logits = nets["ResNet-18"].predict(x, verbose=0)
difference = np.abs(logits - other.predict(x, verbose=0)).max()
print(
    f"logits up to {np.abs(logits).max():.2f}, they differ by {difference:.1e}"
)
assert difference < 1e-3

# %% [markdown]
# ## Train both

# %%
curves = []
for name, color in (("ResNet-18", plots.RESIDUAL), ("plain-18", plots.PLAIN)):
    nets[name].compile(
        keras.optimizers.SGD(0.005),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    evaluation = StepEvaluation(data.evaluation_batches(validation), every=15)
    batches = data.training_batches(train, 64, seed=0)
    nets[name].fit(
        batches,
        shuffle=False,
        steps_per_epoch=60,
        callbacks=[evaluation],
        verbose=0,
    )
    rows = evaluation.history
    curve = {key: [row[key] for row in rows] for key in rows[0]}
    curves.append({"label": name, "color": color, **curve})
plots.step_curves(curves, "2,000 images of MNIST, batch 64, rate 0.005, seed 0")

# %% [markdown]
# A plain net of 18 layers can still be trained, but the residual net learns
# faster from the first steps on. `python recipes/mnist.py` is the experiment
# with more steps, several seeds and a test of the difference.
#
# ## Exercises
#
# 1. Train with other seeds. Is the order of the curves always the same?
# 2. Take `ResNet34`, or `ResNetCIFAR(56)`, a rate of 0.02 and momentum 0.9.
#    What happens to the plain net?
# 3. Set the epsilon of the other implementation to Keras's default, 1e-3. How
#    much do the logits change, and why?
