"""Computes on the backend of this process what two backends must agree in.

    python tests/backend_worker.py TASK MODEL.keras RESULT.npz

`write` builds a network and writes it, the other tasks read it. Besides the
standard library and NumPy, only `keras` and `keras_resnet` are imported.
"""

import sys

import keras
import numpy as np

import keras_resnet


def draw_weights(model, seed):
    """Draws every weight with NumPy, so that the logits are about 1.

    The same seed gives the same weights on every backend.
    """
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        shape = tuple(variable.shape)
        kind = variable.path.split("/")[-1]
        if kind == "kernel":
            fan_in = np.prod(shape[:-1])
            value = rng.normal(scale=(2 / fan_in) ** 0.5, size=shape)
            if variable.path.startswith("head"):
                value *= 0.5
        elif kind == "gamma":
            value = rng.uniform(0.5, 1.0, shape)
            # The branches' ends: sums over many blocks must not grow.
            if variable.path.split("/")[-2] in ("bn2", "bn3"):
                value *= 0.5
        elif kind == "moving_variance":
            value = rng.uniform(0.5, 1.5, shape)
        else:
            # beta, moving_mean, bias
            value = rng.normal(scale=0.1, size=shape)
        variable.assign(value.astype("float32"))


def batch(model, size, seed=1):
    """Images and labels, equal on every backend."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, *model.input_shape[1:])).astype("float32")
    return x, rng.integers(model.output_shape[-1], size=size)


def to_numpy(x):
    return keras.ops.convert_to_numpy(x).copy()


def call(model, x, training):
    """Calls a model on an array; its statistics may change or not."""
    x = keras.ops.convert_to_tensor(x)
    if keras.backend.backend() != "jax":
        return to_numpy(model(x, training=training))
    # Compiled as a whole: operation by operation takes JAX minutes.
    import jax

    def stateless(trainable, others, x):
        y, _ = model.stateless_call(trainable, others, x, training=training)
        return y

    variables = model.trainable_variables, model.non_trainable_variables
    values = ([v.value for v in group] for group in variables)
    return to_numpy(jax.jit(stateless)(*values, x))


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


def main(task, model_path, result_path):
    if task == "write":
        model = keras_resnet.ResNet20(classifier_activation=None)
        draw_weights(model, seed=0)
        model.save(model_path)
        result = outputs(model)
    else:
        result = TASKS[task](keras.saving.load_model(model_path))
    result["backend"] = np.asarray(keras.backend.backend())
    np.savez(result_path, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
