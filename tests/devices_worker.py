"""Trains a small net on the devices that there are, as a recipe does.

    python tests/devices_worker.py WEIGHTS RESULT.npz DEVICES

Writes all variables of the model after 20 steps, how often the devices have
seen each image in each of two epochs, and the metrics of an evaluation on
images that fill no batch. Only the first process writes. If the backend can
normalize on each device, RESULT-per-device.npz gets the same of that.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

import keras_resnet
from keras_resnet import data, devices
from keras_resnet.training import CoupledSGD

IMAGES, EVALUATED, BATCH, EPOCHS = 160, 37, 16, 2


def model_of(path=None, seed=1):
    """A net of 8 layers, with the weights of a file if there is one."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 128, offset=-1)(image)
    model = keras_resnet.ResNetCIFAR(
        8, input_tensor=scaled, classifier_activation=None
    )
    if path is not None:
        model.load_weights(path)
    model.compile(
        # The whole batch's gradient has a larger norm, so it is clipped.
        CoupledSGD(0.01, coupled_decay=1e-3, global_clipnorm=0.5),
        loss=loss,
        weighted_metrics=[accuracy, Seen()],
    )
    return model


@keras.saving.register_keras_serializable()
def loss(numbers, logits):
    """Cross-entropy of labels that follow from the numbers of images."""
    return keras.losses.sparse_categorical_crossentropy(
        ops.reshape(numbers, (-1,)) % 10, logits, from_logits=True
    )


class Seen(keras.metrics.Metric):
    """Counts how often each image was seen since the last reset."""

    def __init__(self, name="seen"):
        super().__init__(name=name)
        self.counts = self.add_variable((IMAGES,), "zeros", name="counts")

    def update_state(self, numbers, logits, sample_weight=None):
        seen = ops.one_hot(ops.reshape(numbers, (-1,)), IMAGES)
        if sample_weight is not None:
            seen *= ops.cast(sample_weight > 0, "float32")[:, None]
        self.counts.assign(self.counts + ops.sum(seen, axis=0))

    def result(self):
        return {
            "images": ops.sum(ops.cast(self.counts > 0, "float32")),
            "most": ops.max(self.counts),
        }


def accuracy(numbers, logits):
    numbers = ops.reshape(numbers, (-1,)) % 10
    return keras.metrics.sparse_categorical_accuracy(numbers, logits)


def values(variables, prefix):
    """Copy of variables, by prefix and path."""
    return {
        f"{prefix}_{v.path}": ops.convert_to_numpy(v).copy() for v in variables
    }


def train(actual, path):
    """Return the results of training on some devices, arrays by name."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 8, 8, 3)).astype("uint8")
    split = data.Split(images, np.arange(IMAGES))
    actual.check_batch(BATCH)
    # The file has other weights, which the first process alone reads.
    model = actual.model(model_of, lambda: model_of(path))
    start = values(model.variables, "start")
    with actual.scope():
        history = model.fit(
            data.training_batches(
                split,
                BATCH,
                padding=2,
                horizontal_flip=True,
                shard=actual.shard,
            ),
            steps_per_epoch=IMAGES // BATCH,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
        ).history
        evaluation = model.evaluate(
            data.evaluation_batches(
                split[:EVALUATED],
                BATCH,
                shard=actual.shard,
                pad_to_multiple_of=actual.pad_to_multiple_of,
            ),
            return_dict=True,
            verbose=0,
        )
    return {
        **{f"train_{k}": np.asarray(v) for k, v in history.items()},
        **{f"eval_{k}": np.asarray(v) for k, v in evaluation.items()},
        **start,
        **values([*model.variables, *model.optimizer.variables], "weight"),
        "devices": np.asarray([actual.count, actual.processes]),
    }


def ending(actual):
    """Return how this process ends where the first one fails."""
    try:
        actual.on_first(lambda: 1 / 0)
    except (SystemExit, ZeroDivisionError) as error:
        return repr(error)
    return "not at all"


def main(path, result_path, count):
    """Train in this process, which may be one of several."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * int(count)
        )
    actual = devices.use(int(count))
    result = train(actual, path)
    endings = np.asarray(actual.gather(ending(actual)))
    others = None
    if keras.backend.backend() != "jax":
        actual.synchronized = False
        others = train(actual, path)
    if actual.is_first:
        np.savez(result_path, endings=endings, **result)
        if others is not None:
            result_path = Path(result_path)
            name = f"{result_path.stem}-per-device.npz"
            np.savez(result_path.with_name(name), **others)


if __name__ == "__main__":
    main(*sys.argv[1:])
