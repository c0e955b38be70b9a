"""One training as a `Job`, and the command that runs jobs."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from .command import execute


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training.

    Attributes:
        build: Callable that returns the compiled model of a new run. Its
            metric "accuracy" becomes the errors in the histories.
        batches: Function from the first step to endless batches from there:
            a batch is a function of its step, so that a run can be resumed.
        steps: Integer, batches in all.
        steps_per_epoch: Integer, batches of an epoch.
        batch_size: Integer, images per batch.
        report: Function from the trained model and its `Run` to a dictionary
            of JSON values for the result line. Every process calls it.
            Defaults to none.
        validation: Batches to validate on. Defaults to `None`: no model is
            chosen, and there is no `best.keras`.
        every: Integer, steps between two validations. Defaults to `None`:
            after each epoch.
        callbacks: Function from the `Run` to further callbacks.
        average: Boolean, whether to validate and keep the average of the
            weights that the optimizer has. Defaults to `False`.
        steps_per_execution: Integer, as in `keras.Model.compile`.
        context: Function that returns a context manager, within which the
            job is trained and reported on.
        label: String, the net's name in figures.
        plain: Boolean, whether it is a plain net. Defaults to `False`.
        title: String, the title of its figures.
        folder: String, folder in that of the command. Defaults to the
            command's own: there is one job.
        identity: Dictionary of JSON values that determine this job, besides
            the settings of the command.
    """

    build: Callable
    batches: Callable
    steps: int
    steps_per_epoch: int
    batch_size: int
    report: Callable = lambda model, run: {}
    validation: Any = None
    every: int | None = None
    callbacks: Callable = lambda run: []
    average: bool = False
    steps_per_execution: int = 1
    context: Callable = contextlib.nullcontext
    label: str = "training"
    plain: bool = False
    title: str = ""
    folder: str = ""
    identity: dict = dataclasses.field(default_factory=dict)


def main(settings, jobs, summarize=None, argv=None):
    """Train what the command line asks for, and save it all in a folder.

    Args:
        settings: Subclass of `RunSettings`.
        jobs: Function from the settings and the `keras_resnet.devices.Devices`
            to a `Job`, or to a list of them that have folders of their own.
        summarize: Function of the settings and the `Run` of the command's
            folder, called when all of several jobs are finished. Defaults to
            `study.summarize`: a table over the seeds of one net.
        argv: List of flags. Defaults to those of this process.
    """

    def train(chosen):
        # Imported after the flags are checked, because Keras takes seconds.
        from .training import train_jobs

        train_jobs(chosen, jobs, summarize)

    execute(settings, train, argv)
