"""The interface of an implementation, and the list of them.

Nothing here imports Keras, because a native implementation that starts in a
process of its own must not pay for that.
"""

import abc
import importlib
import os
import time

import numpy as np

# Module, or module by backend, and class.
IMPLEMENTATIONS = {
    "ours": ("keras_models", "Ours"),
    "ours, folded": ("keras_models", "Folded"),
    "stock Keras": ("keras_models", "StockKeras"),
    "keras.applications": ("peers", "Applications"),
    "KerasHub": ("peers", "KerasHub"),
    "native": ("native_{backend}", "Native"),
    "torch.compile": ("native_torch", "Compiled"),
}


class Unavailable(Exception):
    """An implementation cannot run here; the message says why."""


class Mismatch(Exception):
    """An implementation does not compute what it should."""


class Implementation(abc.ABC):
    """One way to compute a network.

    Every method waits for its results. `finished` is then the
    `time.perf_counter()` at which they were there.

    Args:
        network: `Network`.
        weights: Dictionary of NumPy arrays, as `Network.draw` returns.
    """

    finished = None

    @abc.abstractmethod
    def train(self, images, labels, batch_size):
        """Train on each batch of NumPy arrays once, in order."""

    @abc.abstractmethod
    def predict(self, images, batch_size):
        """Return the logits in inference, as a NumPy array."""

    @abc.abstractmethod
    def weights(self):
        """Return the weights by the names that `Network.draw` gives them."""


class NativeImplementation(Implementation):
    """An implementation that loops over batches itself, as plain code does."""

    def train(self, images, labels, batch_size):
        for i in range(0, len(images), batch_size):
            batch = slice(i, i + batch_size)
            self.train_step(images[batch], labels[batch])
        self.wait()
        self.finished = time.perf_counter()

    def predict(self, images, batch_size):
        logits = [
            self.infer(images[i : i + batch_size])
            for i in range(0, len(images), batch_size)
        ]
        logits = np.concatenate([self.to_numpy(batch) for batch in logits])
        self.finished = time.perf_counter()
        return logits

    @abc.abstractmethod
    def train_step(self, images, labels):
        """Start one training step."""

    @abc.abstractmethod
    def infer(self, images):
        """Start to compute the logits of one batch, and return them."""

    @abc.abstractmethod
    def to_numpy(self, array):
        """Return an array of the framework as one of NumPy."""

    @abc.abstractmethod
    def wait(self):
        """Wait until all training steps are done."""


def backend():
    """Return the name of Keras's backend."""
    return os.environ["KERAS_BACKEND"]


def build(name, network, weights):
    """Build an implementation by its name.

    Raises:
        Unavailable: If it cannot run here.
    """
    module, cls = IMPLEMENTATIONS[name]
    module = module.format(backend=backend())
    module = importlib.import_module(f"comparison.{module}")
    return getattr(module, cls)(network, weights)


def of_backend(*names):
    """Return the names of the implementations that this backend has."""
    torch = backend() == "torch"
    return [name for name in names if torch or name != "torch.compile"]


def difference(implementation, expected, images):
    """Return the largest difference of the logits from the expected ones.

    Raises:
        Mismatch: If it is more than 1e-4, which means another network.
    """
    logits = implementation.predict(images, len(images))
    largest = float(np.abs(logits - expected).max())
    if not largest <= 1e-4:
        raise Mismatch(
            f"{type(implementation).__name__} does not compute the same "
            f"logits: they differ by {largest:.1e}"
        )
    return largest
