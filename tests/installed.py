"""Predicts and trains a step with the package as it is installed."""

import keras
import numpy as np

import keras_resnet
import keras_resnet_recipes

for package in (keras_resnet, keras_resnet_recipes):
    assert "site-packages" in package.__file__, package.__file__
images = np.random.default_rng(0).uniform(size=(4, 32, 32, 3))
labels = np.arange(4) % 3
model = keras_resnet.ResNet20(classes=3)
# Of ten classes it has 271,098.
assert model.count_params() == 271_098 - 7 * (64 + 1), model.count_params()
assert model.predict(images, verbose=0).shape == (4, 3)
model.compile("sgd", "sparse_categorical_crossentropy")
history = model.fit(images, labels, epochs=3, verbose=0).history["loss"]
assert history[-1] < history[0], history
print(f"{keras.backend.backend()}: loss {history[0]:.3f}, {history[-1]:.3f}")
