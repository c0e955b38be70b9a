"""The sides of the comparison: one network, computed in several ways."""

import abc
import importlib
import os
import time

import numpy as np


class Unavailable(Exception):
    """A side cannot run here; the message says why."""


class Mismatch(Exception):
    """A side does not compute what it should."""


class Side(abc.ABC):
    """One way to compute a network.

    Every method returns when its results are really there. `finished` is then
    the `time.perf_counter()` at which they were.

    Args:
        network: `sides.network.Network`.
        weights: Dictionary of NumPy arrays, as `Network.draw` returns.
    """

    finished = None
    # Whether it keeps freed memory of the process, as this package does.
    keeps_memory = False

    @abc.abstractmethod
    def train(self, images, labels, batch_size):
        """Trains on each batch once, in order. The arrays are NumPy's."""

    @abc.abstractmethod
    def predict(self, images, batch_size):
        """Returns the logits in inference, as a NumPy array."""

    @abc.abstractmethod
    def weights(self):
        """Returns the weights by name, as `Network.draw` has them."""


class NativeSide(Side):
    """A side that loops over batches itself, as plain code would."""

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
        """Takes one step, without waiting for it."""

    @abc.abstractmethod
    def infer(self, images):
        """Returns the logits of one batch, without waiting for them."""

    @abc.abstractmethod
    def to_numpy(self, array):
        """Returns an array of the framework as NumPy's."""

    @abc.abstractmethod
    def wait(self):
        """Waits until all steps are taken."""


# Where each side is: module, or module by backend, and class.
SIDES = {
    "ours": ("keras_sides", "Ours"),
    "ours, folded": ("keras_sides", "Folded"),
    "stock Keras": ("stock_keras", "StockKeras"),
    "keras.applications": ("peers", "Applications"),
    "KerasHub": ("peers", "KerasHub"),
    "native": ("native_{backend}", "Native"),
    "torch.compile": ("native_torch", "Compiled"),
}


def backend():
    """Returns Keras's backend without importing Keras.

    A native side in a process of its own must not pay for Keras.
    """
    return os.environ["KERAS_BACKEND"]


def build(name, network, weights):
    """Builds a side by its name.

    Raises:
        Unavailable: If it cannot run here.
    """
    module, cls = SIDES[name]
    module = importlib.import_module(
        f"sides.{module.format(backend=backend())}"
    )
    return getattr(module, cls)(network, weights)


def names(*wanted):
    """Returns those of the sides that are for this backend."""
    torch = backend() == "torch"
    return [n for n in wanted if torch or n != "torch.compile"]


def difference(side, expected, images):
    """Returns the largest difference of the logits from the expected ones.

    Raises:
        Mismatch: If it is more than 1e-4: then another network was built.
    """
    found = side.predict(images, len(images))
    largest = float(np.abs(found - expected).max())
    if not largest <= 1e-4:
        raise Mismatch(
            f"{type(side).__name__} does not compute the same logits: they "
            f"differ by {largest:.1e}"
        )
    return largest
