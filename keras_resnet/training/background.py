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
    model of the same configuration and saves that one. This second model needs
    as much memory as the first with its optimizer, on the host.
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
        """Start a save as by `save_atomically`, and return before it ends.

        If the previous save has not ended, wait for it.
        """
        self.wait()
        # Copies on the host, because the next step changes the weights.
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
                    # Safe, because this process made the configuration.
                    config,
                    safe_mode=False,
                )
            for variable, value in zip(
                _variables(self._twin), values, strict=True
            ):
                variable.assign(value)
            save_atomically(self._twin, path, comment, previous)

    def poll(self) -> None:
        """Raise the error of the save if it has ended and failed."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the current save, and raise its error if it failed."""
        job, self._job = self._job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Wait for the current save, and end the thread."""
        self._pool.shutdown()
        self.wait()


def _variables(model):
    return [*model.variables, *model.optimizer.variables]
