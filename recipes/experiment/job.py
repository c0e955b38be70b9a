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
        batches: Function from the first step to endless batches from there.
            A batch is a function of its step, so that a run can be resumed.
        steps: Integer, number of all batches.
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
        average: Boolean, whether to validate and keep the optimizer's average
            of the weights. Defaults to `False`.
        steps_per_execution: Integer, as in `keras.Model.compile`.
        context: Function that returns a context manager for training and
            report.
        label: String, the net's name in figures.
        plain: Boolean, whether it is a plain net. Defaults to `False`.
        title: String, the title of its figures.
        folder: String, subfolder of the command's folder. Defaults to that
            folder itself, for a single job.
        identity: Dictionary of JSON values that determine this job, in
            addition to the settings of the command.
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
    """Train the jobs of a command line, and save all results in a folder.

    Args:
        settings: Subclass of `RunSettings`.
        jobs: Function from the settings and the `keras_resnet.devices.Devices`
            to a `Job`, or to a list of jobs with their own folders.
        summarize: Function of the settings and the `Run` of the command's
            folder, called after the last of several jobs. Defaults to
            `study.summarize`: a table over the seeds of one net.
        argv: List of flags. Defaults to those of this process.
    """

    def train(chosen):
        # Imported after the check of the flags, because Keras takes seconds.
        from .training import train_jobs

        train_jobs(chosen, jobs, summarize)

    execute(settings, train, argv)
