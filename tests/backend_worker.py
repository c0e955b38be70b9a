"""Computes on the backend of this process what two backends must agree in.

    python tests/backend_worker.py FOLDER

Reads each `TASK-NAME.keras` of the folder and writes `TASK-NAME.npz` beside
it, the result of the task. Then writes a network, `written.keras`, and its
outputs. Besides the standard library and NumPy, only `keras` and
`keras_resnet` are imported.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from networks import batch, call, draw_weights, to_numpy

import keras_resnet


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


TASKS = {"outputs": outputs, "step": step}


def main(folder):
    """Work through a folder."""
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


if __name__ == "__main__":
    main(*sys.argv[1:])
