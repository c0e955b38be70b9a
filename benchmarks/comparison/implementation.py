"""The interface of an implementation, and the list of them.

Nothing here imports Keras, because a native implementation that starts in a
process of its own must not pay for that.
"""

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
    # For a GPU.
    "ours, scanned": ("keras_models", "Scanned"),
    "ours, without a CUDA graph": ("keras_models", "Ungraphed"),
    "ours, layer by layer": ("keras_models", "Eager"),
    "torch.compile, reduce-overhead": ("native_torch", "CompiledAsGraphs"),
}
# Implementations that only one backend has.
ALONE = {
    "torch.compile": "torch",
    "torch.compile, reduce-overhead": "torch",
    # JAX needs minutes, operation by operation.
    "ours, layer by layer": "torch",
    "ours, without a CUDA graph": "torch",
    "ours, scanned": "jax",
}


class Unavailable(Exception):
    """An implementation cannot run here; the message says why."""


class Mismatch(Exception):
    """An implementation does not compute what it should."""


class Implementation:
    """One way to compute a network, made of a `Network` and what it draws.

    `train` and `predict` wait for their results. `finished` is then the
    `time.perf_counter()` at which they were there. Here they loop over batches
    as plain code does, by methods that a native implementation has:
    `train_step` and `infer` start to compute a batch, `wait` waits for all
    steps. `weights` returns the weights by the names of `Network.draw`.
    """

    def train(self, images, labels, batch_size):
        """Train on each batch of NumPy arrays once, in order."""
        for i in range(0, len(images), batch_size):
            batch = slice(i, i + batch_size)
            self.train_step(images[batch], labels[batch])
        self.wait()
        self.finished = time.perf_counter()

    def train_epochs(self, batches, epochs):
        """Train on batches that are on the device, so many times each.

        Returns:
            List of the seconds of each epoch.
        """
        seconds = []
        for _ in range(epochs):
            begin = time.perf_counter()
            for batch in batches:
                self.train_step(*batch)
            self.wait()
            seconds.append(time.perf_counter() - begin)
        return seconds

    def predict(self, images, batch_size):
        """Return the logits in inference, as a NumPy array."""
        logits = [
            self.infer(images[i : i + batch_size])
            for i in range(0, len(images), batch_size)
        ]
        logits = np.concatenate(list(map(self.to_numpy, logits)))
        self.finished = time.perf_counter()
        return logits

    @staticmethod
    def to_numpy(array):
        """Return an array of the framework as one of NumPy."""
        return np.asarray(array)


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
    here = backend()
    return [name for name in names if ALONE.get(name, here) == here]


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
