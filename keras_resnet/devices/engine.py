"""The interface of a single device and of the engines for several."""

import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_resnet.blocks import BatchNormalization

# Environment variables with the number of processes of a run: of Keras,
# torchrun, Slurm's `srun` and Open MPI.
_LAUNCHERS = (
    "KERAS_DISTRIBUTION_NUM_PROCESSES",
    "WORLD_SIZE",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_SIZE",
)


class DevicesError(RuntimeError):
    """The requested devices cannot train together."""


def launched() -> int:
    """Return the number of processes of this run, at least 1."""
    return max(int(os.environ.get(name) or 1) for name in _LAUNCHERS)


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Return a context in which new variables belong only to this process.

    Keras creates an optimizer for comparison when it saves a model. Under a
    distribution on JAX, all processes would have to create it.
    """
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def batches_per_step(model: keras.Model) -> int:
    """Return the number of batches whose gradients make one step."""
    # An optimizer that scales the loss, as for float16, has another in it.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


class Devices:
    """One device, or several that train one model together.

    This class is for one device in one process. Its subclasses are engines for
    several devices: each has all weights, and gets its shard of each batch.

    Attributes:
        count: Integer, number of devices.
        processes: Integer, number of processes with these devices.
        process: Integer, the index of this process, from 0.
        synchronized: Boolean, whether normalization uses statistics of the
            whole batch, so that the numbers equal those of one device.
    """

    count: int = 1
    processes: int = 1
    process: int = 0
    synchronized: bool = True

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.process == 0

    @property
    def shard(self) -> tuple[int, int]:
        """The shard of each batch for this process: `(process, processes)`."""
        return self.process, self.processes

    @property
    def pad_to_multiple_of(self) -> int | None:
        """Divisor that evaluation batches are padded to, `None` for none."""
        return None if self.count == 1 else self.count

    def describe(self) -> dict[str, Any]:
        """Return a description of the devices for a run's result, for JSON."""
        normalization = "synchronized" if self.synchronized else "per device"
        return {
            "count": self.count,
            "processes": self.processes,
            "normalization": None if self.count == 1 else normalization,
        }

    def settings(self) -> dict[str, Any]:
        """Return the settings that change a run's numbers, as JSON data."""
        if self.synchronized:
            return {}
        return {"normalization": f"per device, {self.count} devices"}

    def check_batch(self, batch_size: int) -> None:
        """Raise `DevicesError` if a batch cannot be split evenly."""
        if batch_size % self.count:
            low = batch_size // self.count * self.count
            near = f"{low} or {low + self.count}" if low else f"{self.count}"
            raise DevicesError(
                f"a batch of {batch_size} images cannot be split evenly over "
                f"{self.count} devices: take batches of {near}, or another "
                "number of devices"
            )

    def check_model(self, model: keras.Model) -> None:
        """Raise `DevicesError` if several devices would change the numbers.

        Batches for evaluation may be padded with images of weight 0 (see
        `keras_resnet.data.evaluation_batches`), so metrics must be weighted.
        If normalization is to be synchronized, every layer must support it.
        On TensorFlow the optimizer must not accumulate gradients.
        """
        if self.count == 1:
            return
        if model.get_compile_config().get("metrics"):
            raise DevicesError(
                "on several devices batches for evaluation are padded with "
                "images of weight 0: compile the model with "
                "`weighted_metrics`, not `metrics`"
            )
        steps = batches_per_step(model)
        if steps > 1 and keras.backend.backend() == "tensorflow":
            raise DevicesError(
                "Keras cannot accumulate gradients on several TensorFlow "
                "devices, and the optimizer has "
                f"gradient_accumulation_steps={steps}: leave it out, or set "
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
                    "take `keras_resnet.BatchNormalization`, or let each "
                    "device normalize by itself with `synchronized=False`"
                )

    def scope(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which to build and train a model on them."""
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which this process computes by itself."""
        return undistributed()

    def on_first(self, function: Callable[[], Any]) -> Any:
        """Call a function in the first process, and return its result in all.

        All processes must call this method. The result must be picklable. If
        the function fails, the first process raises its error, and the others
        exit with status 1.
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

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in order, in every process."""
        if self.processes == 1:
            return [value]
        return list(map(pickle.loads, self._gather(pickle.dumps(value))))

    def _broadcast(self, data: bytes) -> bytes:
        """Return the bytes of the first process, in every process."""
        raise NotImplementedError

    def _gather(self, data: bytes) -> list[bytes]:
        """Return the bytes of each process, in every process."""
        raise NotImplementedError

    def model(
        self,
        build: Callable[[], keras.Model],
        load: Callable[[], keras.Model | None] = lambda: None,
    ) -> keras.Model:
        """Build or load a model, with the same values on all devices.

        Only the first process calls `load`, so the others need no files.

        Args:
            build: Callable that returns a new compiled model.
            load: Callable that returns the saved model, or `None` if there is
                none. Defaults to no saved model.

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
            values = self.on_first(
                lambda: [
                    keras.ops.convert_to_numpy(variable)
                    for variable in _state(load() or model)
                ]
            )
            with self.scope():
                for variable, value in zip(state, values, strict=True):
                    variable.assign(value)
        self.check_model(model)
        return model


def _state(model: keras.Model) -> list[keras.Variable]:
    """Return all variables that a resumed training needs."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]
