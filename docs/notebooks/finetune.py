# %% [markdown]
# # From a folder of images to a file for another program
#
# This notebook takes a net that has learned the digits 0 to 5, fine-tunes it
# on a folder with a few images of 6 to 9, evaluates it, and exports it to a
# file that needs neither Keras nor this package.
# It needs the extra `recipes-cpu`. It downloads nothing, because it makes the
# images and the trained net itself. The guide "Your own images" uses weights of
# ImageNet and your own folder.

# %%
import pathlib
import tempfile

import keras
import numpy as np

import keras_resnet
from keras_resnet import data

folder = pathlib.Path(tempfile.mkdtemp())
digits = data.load("digits")

# %% [markdown]
# ## A folder of images
#
# A folder for each class, with PNG files: 10 to train on, 20 to validate.


# %%
def write(split, name, each):
    for digit in range(6, 10):
        target = folder / name / f"digit {digit}"
        target.mkdir(parents=True)
        for i, pixels in enumerate(split.images[split.labels == digit][:each]):
            keras.utils.save_img(target / f"{i}.png", pixels, scale=False)


def read(name):
    files = sorted((folder / name).glob("*/*.png"))
    classes = sorted({file.parent.name for file in files})
    images = [keras.utils.load_img(f, color_mode="grayscale") for f in files]
    x = np.stack([keras.utils.img_to_array(image) for image in images])
    return x, np.array([classes.index(file.parent.name) for file in files])


write(digits.train, "train", 10)
write(digits.test, "val", 20)
train, validation = read("train"), read("val")

# %% [markdown]
# ## A trained net
#
# The digits 0 to 5 take the place of ImageNet.


# %%
def network(classes, weights=None):
    keras.utils.set_random_seed(0)
    return keras_resnet.ResNetCIFAR(
        14, weights=weights, input_shape=(8, 8, 1), classes=classes
    )


def fit(model, x, y, epochs):
    sgd = keras.optimizers.SGD(0.01, momentum=0.9)
    loss = "sparse_categorical_crossentropy"
    model.compile(sgd, loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)


chosen = digits.train.labels < 6
x, y = digits.train.images[chosen], digits.train.labels[chosen]
trained = network(classes=6)
fit(trained, x.astype("float32"), y, epochs=2)
trained.save(folder / "trained.keras")

# %% [markdown]
# ## Fine-tune
#
# The file has six classes and the new net four, so the net gets a new head.
# `freeze` keeps the stem and two stages as they are. A second net begins with
# random weights, for comparison.

# %%
tuned = network(classes=4, weights=str(folder / "trained.keras"))
keras_resnet.freeze(tuned, stage=2)
scratch = network(classes=4)
accuracies = []
for model in (tuned, scratch):
    fit(model, *train, epochs=10)
    accuracies.append(model.evaluate(*validation, verbose=0)[1])
    weights = keras_resnet.complexity(model).trainable_parameters
    print(f"{weights:,} weights trained, {accuracies[-1]:.3f} right")

# %% [markdown]
# ## Save and export
#
# A `.keras` file can be read under every backend. `fold_batch_norm` merges each
# normalization into the convolution before it. `export` then writes the format
# of the backend: `.pt2` on PyTorch, a SavedModel on TensorFlow and JAX.

# %%
tuned.save(folder / "tuned.keras")
loaded = keras.models.load_model(folder / "tuned.keras")
model = keras_resnet.fold_batch_norm(loaded)
image = validation[0][:1]
expected = tuned.predict(image, verbose=0)

if keras.backend.backend() == "torch":
    import torch

    model.export(folder / "tuned.pt2", format="torch", verbose=False)
    program = torch.export.load(folder / "tuned.pt2").module()
    outputs = program(torch.from_numpy(image)).detach().numpy()
else:
    import tensorflow as tf

    model.export(folder / "tuned", verbose=False)
    program = tf.saved_model.load(folder / "tuned")
    outputs = program.serve(image).numpy()

print(outputs.round(3), "expected", expected.round(3))
assert np.abs(outputs - expected).max() < 1e-4

# %% [markdown]
# ## Exercises
#
# 1. Freeze nothing, only the stem, or all stages. Which net is best with ten
#    images for each class, which with two?
# 2. Compare the time of `predict` for the folded net and for the one that is
#    not folded.
# 3. Export to ONNX under PyTorch, with `format="onnx"`, and run the file by
#    onnxruntime.
