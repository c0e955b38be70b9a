"""Gradient flow: the norm of the gradient at each layer's weights."""

import csv
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.analysis import network
from keras_resnet.atomic import write_atomically
from keras_resnet.steps import pairs
from keras_resnet.training.counting import StepCounter
from keras_resnet.types import Logs, PathLike


class GradientNorms(NamedTuple):
    """The norm of the gradient at each layer's kernel, by depth."""

    names: tuple[str, ...]
    norms: np.ndarray


def _weighted_layers(model):
    """Return names and kernels of the layers that count for the depth.

    Projections do not count.
    """
    network.check_weights(model)
    layers = []
    for layer in network.chain(model):
        if isinstance(layer, network.ResidualBlock):
            layers += [
                (f"{layer.name}/{conv.name}", conv.kernel)
                for conv, _ in pairs(layer.residual_branch())
            ]
        elif isinstance(layer, (keras.layers.Conv2D, keras.layers.Dense)):
            layers.append((layer.name, layer.kernel))
    return layers


class GradientFunction:
    """The function of `gradient_norms`, for the model's current weights.

    It is compiled at the first call with each shape of batch.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.names: tuple[str, ...]
        self.names, kernels = zip(*_weighted_layers(model), strict=True)
        places = {id(v): i for i, v in enumerate(model.variables)}
        self._at = [places[id(kernel)] for kernel in kernels]
        from_logits = network.gives_logits(model)

        def loss(images, labels):
            outputs = network.forward(model, images, training=True)
            return ops.mean(
                network.cross_entropies(outputs, labels, from_logits)
            )

        stateless = network.pure(model, loss)

        def of_kernels(kernels, others, images, labels):
            values = list(others)
            for i, kernel in zip(self._at, kernels, strict=True):
                values[i] = kernel
            return stateless(values, images, labels)

        self._run = backend.value_and_gradients(of_kernels)

    def gradients(
        self, images: np.ndarray, labels: np.ndarray
    ) -> list[np.ndarray]:
        """Return the gradients by all kernels as arrays, in order of depth."""
        values = network.values_of(self.model)
        (batch,) = network.batches(images, labels, batch_size=len(images))
        _, gradients = self._run(
            [values[i] for i in self._at],
            values,
            *map(ops.convert_to_tensor, batch),
        )
        return list(map(ops.convert_to_numpy, gradients))

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> GradientNorms:
        """Return the `GradientNorms` of one batch."""
        norms = [
            np.linalg.norm(g.astype("float64").ravel())
            for g in self.gradients(images, labels)
        ]
        return GradientNorms(self.names, np.array(norms))


def gradient_norms(
    model: keras.Model, images: np.ndarray, labels: np.ndarray
) -> GradientNorms:
    """Return the norm of the gradient of the loss by each layer's kernel.

    The loss is the mean cross-entropy of the images as one batch, normalized
    by that batch as in training, without weight decay. The model does not
    change. `GradientFlow` records the same during training.

    Args:
        model: A classifier of this package, residual or plain, with logits
            or probabilities.
        images: `(n, rows, columns, channels)` array of what the model takes.
        labels: `(n,)` array of classes.

    Returns:
        `GradientNorms` of `names`, a tuple of strings, from `"stem_conv"` to
        `"head"`, and `norms`, the Euclidean norm of each.

    Raises:
        ValueError: If the model is not a classifier of this package.
    """
    return GradientFunction(model)(images, labels)


class GradientFlow(StepCounter):
    """Records the gradient norms of one batch repeatedly during training.

    It records before the first step, after every `every` optimizer steps and
    after the last step. The CSV file has the step and a column for each layer.
    A training that is resumed, or restarted from the same weights, continues
    the file, and replaces the rows of steps that are trained again.

    Args:
        images: Array, the batch: see `gradient_norms`.
        labels: Array, the classes of the batch.
        every: Integer, steps between two records.
        path: Path of the CSV file.

    Raises:
        ValueError: When training begins, if the file has other layers, or
            other norms for the same step, and so is of another training.
    """

    def __init__(
        self, images: np.ndarray, labels: np.ndarray, every: int, path: PathLike
    ) -> None:
        super().__init__()
        network.at_least_one("every", every)
        self.images = images
        self.labels = labels
        self.every = every
        self.path: Path = Path(path)

    def on_train_begin(self, logs: Logs = None) -> None:
        super().on_train_begin(logs)
        self._function = GradientFunction(self.model)
        self._steps, self._norms = [], []
        if self.path.exists():
            self._take_up()
        # A resumed training must record no other steps than one without a stop.
        if not self._steps:
            self._record()

    def _take_up(self):
        """Keep the rows of an earlier training, up to this step."""
        steps, names, norms = read_gradient_flow(self.path)
        kept = steps <= self.step
        same = names == self._function.names
        if same and self.step in steps:
            # Another machine or precision gives slightly other norms.
            (earlier,) = norms[steps == self.step]
            same = np.allclose(self._compute(), earlier, rtol=0.05)
        if not same:
            raise ValueError(
                f"{self.path} holds the gradients of another training: remove "
                "it or name another file."
            )
        self._steps, self._norms = list(steps[kept]), list(norms[kept])

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        before = self.step
        super().on_train_batch_end(batch, logs)
        if before // self.every < self.step // self.every:
            self._record()

    def on_train_end(self, logs: Logs = None) -> None:
        self._record()

    def _compute(self):
        # Reading `self.model` makes Keras copy JAX's state back to the
        # variables. The function's own reference does not.
        self._function.model = self.model
        return self._function(self.images, self.labels).norms

    def _record(self):
        if self.step in self._steps:
            return
        self._steps.append(self.step)
        self._norms.append(self._compute())
        lines = [("iterations", *self._function.names)]
        lines += [
            (step, *norms.tolist())
            for step, norms in zip(self._steps, self._norms, strict=True)
        ]
        text = "\n".join(",".join(map(str, line)) for line in lines)
        write_atomically(self.path, f"{text}\n")


def read_gradient_flow(
    path: PathLike,
) -> tuple[np.ndarray, tuple[str, ...], np.ndarray]:
    """Read the records of `GradientFlow`.

    Args:
        path: Path of its CSV file.

    Returns:
        Tuple of `steps`, an integer array; `names`, a tuple of strings; and
        `norms`, an array `(steps, layers)`.
    """
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    table = np.array(rows, "float64").reshape(len(rows), len(header))
    return table[:, 0].astype(int), tuple(header[1:]), table[:, 1:]
