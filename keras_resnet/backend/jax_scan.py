"""JAX: several steps in one loop on the device.

With `compile(steps_per_execution=N)` Keras calls the compiled step N times.
On an accelerator, a network of this package runs the N steps in one
`jax.lax.scan`, so the host launches one program instead of N.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax import lax

from keras_resnet.backend.jax_ops import accelerators


class Model(keras.Model):
    """`keras.Model` whose `fit` and `evaluate` run their steps in a scan."""

    def make_train_function(self, force: bool = False) -> None:
        self._make_function_that_scans("train_function", force)

    def make_test_function(self, force: bool = False) -> None:
        self._make_function_that_scans("test_function", force)

    def _make_function_that_scans(self, name, force):
        before = getattr(self, name)
        getattr(super(), f"make_{name}")(force)
        usual = getattr(self, name)
        if (
            usual is not before
            and self.steps_per_execution > 1
            and self.jit_compile
            and not self.run_eagerly
            # On a CPU, convolutions in a loop are several times slower.
            and accelerators()
        ):
            setattr(self, name, _scanned(usual, self.steps_per_execution))


def _scanned(function: Callable, steps: int) -> Callable:
    """Return a train or test function that runs its steps in a scan.

    `function` is Keras's: it takes the state and an iterator, runs one step
    for each batch of the iterator, at most `steps`, and returns the logs of
    the last step and the state.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def scan(state, batches):
        def step(state, batch):
            logs, state = function(state, iter([batch]))
            return state, logs

        stacked = jax.tree.map(lambda *each: jnp.stack(each), *batches)
        state, logs = lax.scan(step, state, stacked)
        return jax.tree.map(lambda each: each[-1], logs), state

    def execute(state, iterator):
        batches = list(itertools.islice(iterator, steps))
        if len(batches) == steps and len({*map(_kind, batches)}) == 1:
            return scan(state, batches)
        # The last, smaller group. A scan would be compiled for its length.
        return function(state, iter(batches))

    return execute


def _kind(batch: Any) -> Any:
    """Return structure, shapes and dtypes of a batch."""
    leaves, structure = jax.tree.flatten(batch)
    return structure, *((x.shape, x.dtype) for x in leaves)
