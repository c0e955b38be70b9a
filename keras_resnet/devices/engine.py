"""The interface of a single device and of the engines for several."""

import contextlib
import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

import keras

from keras_resnet.blocks import BatchNormalization

# What tells a process how many were started for one run: Keras's own
# variable, torchrun's, Slurm's for what `srun` starts, and Open MPI's.
_LAUNCHERS = (
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
)


class DevicesError(RuntimeError):
    """The devices that were asked for cannot train together."""


def launched():
    """Return how many processes were started together, 1 if one was."""
    return max(int(os.environ.get(name) or 1) for name in _LAUNCHERS)


@contextlib.contextmanager
def undistributed():
    """Context in which what Keras makes belongs to this process alone.

    Even to save a model Keras makes an optimizer, to compare with; under a
    distribution on JAX all processes would have to.
    """
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


class Devices:
    """One device, or several that train one model together.

    This class is one device in one process. Its subclasses are engines for
    several: every device has all weights and takes its shard of each batch.

    Attributes:
        count: Integer, number of devices.
        processes: Integer, number of processes that they belong to.
        process: Integer, which of them this one is, from 0.
        synchronized: Boolean, whether normalization takes its statistics over
            the whole batch, so that numbers are those of one device.
    """

    count = 1
    processes = 1
    process = 0
    synchronized = True

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.process == 0

    @property
    def shard(self) -> tuple[int, int]:
        """The shard of each batch that this process feeds, `(i, k)`."""
        return self.process, self.processes

    @property
    def pad_to_multiple_of(self) -> int | None:
        """The devices that evaluation batches are padded for, or `None`."""
        return None if self.count == 1 else self.count

    def describe(self) -> dict:
        """Return what a result line says of devices, JSON values."""
        normalization = "synchronized" if self.synchronized else "per device"
        return {
            "count": self.count,
            "processes": self.processes,
            "normalization": None if self.count == 1 else normalization,
        }

    def settings(self) -> dict:
        """Return what else determines the numbers of a run, JSON values.

        Nothing, but where each device normalizes its shard of a batch
        by itself.
        """
        if self.synchronized:
            return {}
        return {"normalization": f"per device, {self.count} devices"}

    def check_batch(self, batch_size: int) -> None:
        """Raise `DevicesError` if a batch has no equal shards."""
        if batch_size % self.count:
            low = batch_size // self.count * self.count
            near = f"{low} or {low + self.count}" if low else f"{self.count}"
            raise DevicesError(
                f"a batch of {batch_size} images has no equal shards for "
                f"{self.count} devices: take batches of {near}, "
                "or other devices"
            )

    def check_model(self, model: keras.Model) -> None:
        """Raise `DevicesError` if a model's numbers would not be stated ones.

        On several devices batches for evaluation may be filled up with images
        of weight 0 (see `keras_resnet.data.evaluation_batches`), so metrics
        must be weighted; and layers that Keras does not synchronize must not
        be there where synchronized normalization was asked for. On TensorFlow
        the optimizer must not accumulate gradients.
        """
        if self.count == 1:
            return
        if model.get_compile_config().get("metrics"):
            raise DevicesError(
                "on several devices batches for evaluation are filled up with "
                "images of weight 0: compile the model with "
                "`weighted_metrics`, not `metrics`"
            )
        steps = getattr(model.optimizer, "gradient_accumulation_steps", None)
        if steps and keras.backend.backend() == "tensorflow":
            raise DevicesError(
                "on several TensorFlow devices Keras cannot accumulate "
                "gradients: the optimizer has "
                f"gradient_accumulation_steps={steps}; leave them out, or set "
                "KERAS_BACKEND to jax or torch"
            )
        if not self.synchronized or keras.backend.backend() == "jax":
            return
        for layer in model._flatten_layers():
            if (
                isinstance(layer, keras.layers.BatchNormalization)
                and not isinstance(layer, BatchNormalization)
                and not layer.synchronized
            ):
                raise DevicesError(
                    f"the normalization {layer.name} is not synchronized: "
                    "take `keras_resnet.BatchNormalization`, or ask for "
                    "devices that normalize by themselves"
                )

    def scope(self) -> contextlib.AbstractContextManager:
        """Context in which a model for these devices is made and trained."""
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager:
        """Context in which this process computes by itself."""
        return undistributed()

    def on_first(self, function: Callable) -> Any:
        """Call a function in the first process alone.

        All processes must come here. Where the first one fails, the others
        exit with status 1, and leave it to the first to say why.

        Args:
            function: Callable without arguments. What it returns is pickled.

        Returns:
            What it returned, in every process.
        """
        if self.processes == 1:
            return function()
        result = failure = None
        if self.is_first:
            try:
                with self.alone():
                    result = function()
            except Exception as error:
                failure = error
        sent = pickle.dumps((failure is None, result))
        done, received = pickle.loads(self._broadcast(sent))
        if failure is not None:
            raise failure
        if not done:
            sys.exit(1)
        return result if self.is_first else received

    def gather(self, value: Any) -> list:
        """Return the values that all processes have, in order, in each.

        Args:
            value: What can be pickled.
        """
        if self.processes == 1:
            return [value]
        return list(map(pickle.loads, self._gather(pickle.dumps(value))))

    def _broadcast(self, data):
        """Return the bytes that the first process has, in all of them."""
        raise NotImplementedError

    def _gather(self, data):
        """Return a list of the bytes that each process has, in all."""
        raise NotImplementedError

    def model(
        self, build: Callable, load: Callable = lambda: None
    ) -> keras.Model:
        """Make a model on these devices, the same on all of them.

        Files are read by the first process alone: the others need none.

        Args:
            build: Callable that returns a new compiled model.
            load: Callable that returns it as it was saved, or `None` (the
                default) if it was not.

        Returns:
            The compiled `keras.Model`.
        """
        if self.processes == 1:
            with self.scope():
                model = load() or build()
        else:
            with self.scope():
                model = build()
                state = _state(model)
            values = self.on_first(lambda: _values(load() or model))
            with self.scope():
                for variable, value in zip(state, values, strict=True):
                    variable.assign(value)
        self.check_model(model)
        return model


def _state(model):
    """Return all variables that training goes on from."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


def _values(model):
    return [keras.ops.convert_to_numpy(v) for v in _state(model)]
