# %% [markdown]
# # Why residual networks learn
#
# This notebook compares a residual net and its plain twin in four ways: the
# gradients before training, the error without one block, the loss around the
# trained weights, and the parts of an image that support its class. It needs
# the extra `recipes-cpu`, and downloads nothing.

# %%
# %matplotlib inline
import keras
import numpy as np

import keras_resnet
from keras_resnet import analysis, data, plots

digits = data.load("digits")
images = digits.train.images.astype("float32")
labels = digits.train.labels


def network(residual):
    keras.utils.set_random_seed(0)
    return keras_resnet.ResNetCIFAR(
        20, input_shape=(8, 8, 1), residual=residual
    )


nets = {"ResNet-20": network(True), "plain-20": network(False)}
colors = {"ResNet-20": plots.RESIDUAL, "plain-20": plots.PLAIN}


def each_net(ask):
    return [
        {"label": name, "color": colors[name], **ask(net)}
        for name, net in nets.items()
    ]


# %% [markdown]
# ## Gradients before training
#
# Along the shortcuts the gradient of the loss reaches every block without
# passing a layer. In the plain net it passes all layers that follow the block.


# %%
def gradients(net):
    return analysis.gradient_norms(net, images[:128], labels[:128])._asdict()


plots.gradient_norms(each_net(gradients))

# %% [markdown]
# ## Train both

# %%
for net in nets.values():
    sgd = keras.optimizers.SGD(0.01, momentum=0.9)
    net.compile(sgd, "sparse_categorical_crossentropy")
    batches = data.training_batches(digits.train, 64, seed=0)
    net.fit(batches, shuffle=False, steps_per_epoch=120, verbose=0)

# %% [markdown]
# ## Without one block
#
# A residual net is also a collection of many paths, short and long. Without
# one block the paths around it remain. A plain net has one path.

# %%
x, y = digits.test.images.astype("float32"), digits.test.labels


def lesions(net):
    return analysis.delete_each_block(net, x, y)._asdict()


plots.deleted_blocks(each_net(lesions))

# %% [markdown]
# ## The loss around the trained weights
#
# The direction is random, with the norm of each filter (Li et al. 2018).


# %%
def landscape(net):
    directions, along = (
        [analysis.random_direction(net)],
        [np.linspace(-1, 1, 17)],
    )
    return {
        "landscape": analysis.loss_landscape(
            net, images[:250], labels[:250], directions, along
        )
    }


plots.landscape_lines(each_net(landscape))

# %% [markdown]
# ## What the net looks at
#
# Grad-CAM weights the maps of a layer by the gradient of the class's score. The
# layer here is the first stage, whose maps still have 8x8 positions. Integrated
# gradients measure how much each pixel adds to the score.

# %%
net = nets["ResNet-20"]
places = analysis.grad_cam(net, x[:1], layer="stage1_block3")
values = analysis.integrated_gradients(net, x[:1])
best = net.predict(x[:1], verbose=0).argmax()
plots.explanation(x[0], places[0], values[0], f"a {y[0]}, taken for a {best}")

# %% [markdown]
# ## Exercises
#
# 1. Draw the gradients again after the training. What has changed?
# 2. Which blocks cost most when they are missing? How do they differ from the
#    others?
# 3. Find a test image that the net gets wrong, and explain its score for the
#    right class with `classes=`.
