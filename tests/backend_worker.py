"""Computes, on the backend of this process, results that all must agree in.

    python tests/backend_worker.py FOLDER

Reads each `TASK-NAME.keras` of the folder and writes `TASK-NAME.npz` beside
it, the result of the task. Then writes a network, `written.keras`, and its
outputs, and `run.npz`, the result of a training.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from networks import batch, call, draw_weights, to_numpy

import keras_resnet
from keras_resnet import analysis


def outputs(model):
    """Logits in inference and in training mode."""
    x, _ = batch(model, 4)
    return {
        "inference": call(model, x, training=False),
        "training": call(model, x, training=True),
    }


def step(model):
    """All variables after one step of SGD with momentum."""
    x, labels = batch(model, 16)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    loss = model.train_on_batch(x, labels)
    variables = {v.path: to_numpy(v) for v in model.variables}
    return {"loss": np.asarray(loss), **variables}


def run():
    """Losses and weights of twenty steps of the recipe, from a seed alone."""
    from keras_resnet import data
    from keras_resnet_recipes import cifar10

    digits = data.load("digits")
    settings = cifar10.Settings.settle({"dataset": "digits", "depth": 8})
    # At the paper's rate a ReLU that rounding turns on or off soon changes the
    # loss by more than rounding.
    model = cifar10.build(settings, digits, rate=0.002)
    losses = []
    batches = data.training_batches(
        digits.train, 32, mean=digits.mean, padding=1, seed=settings.seed
    )
    for images, labels in batches.take(20).as_numpy_iterator():
        loss, _ = model.train_on_batch(images, labels)
        losses.append(loss)
        # The loss must be that of one step, not a mean over steps.
        model.reset_metrics()
    weights = {v.path: to_numpy(v) for v in model.trainable_variables}
    return {"losses": np.array(losses), **weights}


def explanations(model):
    """The places and the values that a class's score depends on."""
    x, classes = batch(model, 4)
    return {
        "places": analysis.grad_cam(model, x, classes),
        "values": analysis.integrated_gradients(model, x, classes, points=4),
    }


TASKS = {"outputs": outputs, "step": step, "explanations": explanations}


def main(folder):
    folder = Path(folder)
    for path in sorted(folder.glob("*-*.keras")):
        task, _ = path.stem.split("-")
        result = TASKS[task](keras.saving.load_model(path))
        np.savez(path.with_suffix(".npz"), **result)
    model = keras_resnet.ResNet20(classifier_activation=None)
    draw_weights(model, seed=0)
    model.save(folder / "written.keras")
    backend = np.asarray(keras.backend.backend())
    np.savez(folder / "written.npz", backend=backend, **outputs(model))
    np.savez(folder / "run.npz", **run())


if __name__ == "__main__":
    main(*sys.argv[1:])
