"""Saving a model in a thread, while its training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor

import keras

from keras_resnet.training.checkpoints import save_atomically
from keras_resnet.training.divergence import check_finite
from keras_resnet.types import PathLike


class BackgroundSaver:
    """Saves models in a thread, one after another.

    The thread cannot save the model itself, because each step changes its
    weights. So `save` copies all values, and the thread assigns them to a
    model of the same configuration and saves that one. It needs as much memory
    as the model and its optimizer, on the CPU.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._job: Future | None = None
        self._twin: keras.Model | None = None

    def save(
        self,
        model: keras.Model,
        path: PathLike,
        comment: str,
        previous: PathLike | None,
    ) -> None:
        """Do what `save_atomically` does, and return before it is done.

        If the save before is not done, wait for it.
        """
        self.wait()
        # Copies, on the host.
        values = [keras.ops.convert_to_numpy(v) for v in _variables(model)]
        check_finite(model, values[: len(model.variables)])
        config = None
        if self._twin is None:
            config = keras.saving.serialize_keras_object(model)
        self._job = self._pool.submit(
            self._write, config, values, path, comment, previous
        )

    def _write(self, config, values, path, comment, previous):
        with keras.device("cpu:0"):
            if config is not None:
                self._twin = keras.saving.deserialize_keras_object(
                    # Of this very process, so that it is safe.
                    config,
                    safe_mode=False,
                )
            for variable, value in zip(
                _variables(self._twin), values, strict=True
            ):
                variable.assign(value)
            save_atomically(self._twin, path, comment, previous)

    def poll(self) -> None:
        """Raise the error of a save that has ended."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the save that has begun, and raise its error."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the save that has begun, and end the thread."""
        self._pool.shutdown()
        self.wait()


def _variables(model):
    return [*model.variables, *model.optimizer.variables]
