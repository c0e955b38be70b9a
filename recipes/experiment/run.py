"""The folder of a training run."""

import contextlib
import json
import math
import os
import statistics
import sys
from pathlib import Path

import keras

from keras_resnet.atomic import (
    PARTIAL,
    remove_partial,
    write_atomically,
)
from keras_resnet.devices import Devices
from keras_resnet.training.backup import Backup, cut_history, read_state
from keras_resnet.training.callbacks import Throughput
from keras_resnet.training.checkpoints import (
    AverageCheckpoint,
    Checkpoint,
    save_atomically,
)
from keras_resnet.training.counting import StopAt, steps_done
from keras_resnet.training.divergence import FailOnDivergence
from keras_resnet.training.step_evaluation import StepEvaluation

from . import files, html, terminal, values
from .command import Failure
from .provenance import origin

# The last checkpoint, and the one before it.
CHECKPOINTS = ("last.keras", "previous.keras")


class RunError(Failure):
    """A run cannot start or continue in its folder."""


class Run:
    """Folder of one training run: its settings, checkpoints and results.

    - `settings.json`: the settings.
    - `last.keras`: the last checkpoint: the model with its optimizer, and the
      state to continue from within an epoch, see `Backup`.
    - `previous.keras`: the checkpoint before it.
    - `best.keras`: the model with the lowest validation error so far.
    - `final.keras`: the model at the end.
    - `history.csv`: a line for each epoch. `tensorboard/`: the same.
    - `steps.csv`: a line for each evaluation within epochs, if there are any.
    - `curves.png`: errors against iterations.
    - `report.html`: results, curves and settings, for a browser.
    - `result.json`: one line with everything that a table needs.

    Files are replaced atomically, or lines are appended to them. Resuming
    needs only `last.keras`, `history.csv` and `steps.csv`; the step is that of
    the optimizer.

    A `Run` is a context manager. It locks the folder until the context ends,
    so that no other process can use it.

    Args:
        path: Path of the folder. A missing folder is made.
        settings: Dictionary of JSON values, which must be the same when a run
            continues.
        resume: Boolean, whether to continue the run in the folder. Defaults
            to `False`, and the folder must then be new or empty.
        devices: `keras_resnet.devices.Devices` that train it. Only their
            first process reads and writes the folder; the others do not need
            it. Defaults to one device.
        save_every: `values.Interval` between two checkpoints within an epoch.
            Defaults to ten minutes.

    Raises:
        RunError: If the folder is not empty and `resume` is false; or if
            `resume` is true and the folder holds no run, or a run of other
            settings.
        files.RunInProgressError: If another process uses the folder.
    """

    def __init__(
        self,
        path,
        settings,
        resume=False,
        devices=None,
        save_every=values.SAVE_EVERY,
    ):
        self.path = Path(path)
        self.settings = settings
        self.devices = devices or Devices()
        self.save_every = save_every
        self._logs = []
        self._state = self._backup = self._bar = None
        self._lock = contextlib.ExitStack()
        self.devices.on_first(lambda: self._open(resume))

    def _open(self, resume):
        stored = self / "settings.json"
        # A folder also counts as new if a process was killed there before it
        # wrote its settings.
        new = self.path.is_dir() and all(
            path.name == files.LOCK or path.name.startswith(PARTIAL)
            for path in self.path.iterdir()
        )
        if resume and not new and not stored.exists():
            raise RunError(
                f"there is no run to resume in {self.path}: "
                "leave out --resume, or name its folder by --output"
            )
        if not new and not stored.exists() and self.path.exists():
            raise self._exists()
        self.path.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as lock:
            lock.enter_context(files.locked(self.path))
            # Read under the lock: the process before may have written it.
            if stored.exists():
                if not resume:
                    raise self._exists()
                self._check_settings(files.read_json(stored))
            remove_partial(self.path)
            if not stored.exists():
                text = json.dumps(self.settings, indent=1)
                write_atomically(stored, f"{text}\n")
            self._lock = lock.pop_all()

    def _exists(self):
        return RunError(
            f"{self.path} exists already: continue the run there with "
            "--resume, or choose another --output"
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lock.close()

    def __truediv__(self, name):
        return self.path / name

    def _check_settings(self, stored):
        current = json.loads(json.dumps(self.settings))
        differences = [
            f"{key} was {stored.get(key)!r} and is {current.get(key)!r}"
            for key in sorted({*stored, *current})
            if stored.get(key) != current.get(key)
        ]
        if differences:
            raise RunError(
                f"{self.path} holds a run of other settings: "
                f"{'; '.join(differences)}"
            )

    @property
    def finished(self):
        """Whether the run has reached its end."""
        path = self / "result.json"
        return self.devices.on_first(
            lambda: path.exists() and bool(files.read_result(path))
        )

    def load_last(self):
        """Return the model of the last checkpoint, `None` before the first.

        If its file is broken, return the model of the checkpoint before it.
        """
        last, previous = (self / name for name in CHECKPOINTS)
        if not last.exists():
            # Histories without a checkpoint are not continued.
            for name in files.HISTORIES:
                (self / name).unlink(missing_ok=True)
            return None
        try:
            model = load_model(last)
        except files.BrokenFileError as error:
            if not previous.exists():
                raise
            model = load_model(previous)
            # Or else the next checkpoint would replace the good one.
            os.replace(previous, last)
            print(
                f"{error.path} was broken ({error.reason}): the run goes on "
                f"from the checkpoint before, at iteration {steps_done(model)}",
                file=sys.stderr,
            )
        self._state = read_state(last)
        for name, (length, checksum) in self._state["histories"].items():
            try:
                cut_history(self / name, length, checksum)
            except ValueError as error:
                raise files.BrokenFileError(self / name, error) from None
        return model

    def history(self, name="history.csv"):
        """Return `files.read_history` of a file in this folder.

        Args:
            name: `"history.csv"` (default), a line for each epoch, or
                `"steps.csv"`, one for each evaluation within epochs.
        """
        return files.read_history(self / name)

    def callbacks(self, job):
        """Return the callbacks that keep this folder up to date, in order.

        Args:
            job: `Job` that this run trains.
        """
        per_epoch = min(job.steps_per_epoch, job.steps)
        # These run in every process, so that all processes do the same.
        throughput = Throughput(job.batch_size)
        self._bar = terminal.TrainingBar(job.steps, show=self.devices.is_first)
        divergence = FailOnDivergence()
        callbacks = [StopAt(job.steps), divergence, throughput, self._bar]
        stateful = {"throughput": throughput}
        if self.devices.is_first:
            # TensorBoard starts TensorFlow; this import hides the GPUs from it.
            import keras_resnet.data  # noqa: F401

            callbacks += [
                self._log("history.csv"),
                keras.callbacks.TensorBoard(
                    str(self / "tensorboard"), write_graph=False
                ),
            ]
        if job.validation is not None:
            best = self._choose_best(job.every, job.average)
            if job.every is not None:
                lines = terminal.Lines(self._bar)
                best.append(lines)
                # First, because a training that diverged must keep nothing.
                best.insert(0, divergence)
                best = [
                    StepEvaluation(job.validation, job.every, best, [lines])
                ]
                stateful["evaluation"] = best[0]
            callbacks += best
        if job.every is None:
            epochs = -(-job.steps // per_epoch)
            callbacks.append(terminal.Lines(self._bar, epochs))
        self._backup = Backup(
            self / CHECKPOINTS[0] if self.devices.is_first else None,
            per_epoch,
            steps=self.save_every.steps,
            seconds=self.save_every.seconds,
            previous=self / CHECKPOINTS[1],
            stateful=stateful,
            histories=[self / name for name in files.HISTORIES],
            state=self.devices.on_first(lambda: self._state),
            devices=self.devices,
        )
        # After the histories, because a checkpoint notes their lengths.
        callbacks.append(self._backup)
        # After `AverageCheckpoint`, which saves the average before this
        # callback puts the weights back.
        if job.average:
            callbacks.append(keras.callbacks.SwapEMAWeights())
        return callbacks

    def _choose_best(self, every, average):
        """Return the callbacks that keep the best model."""
        if not self.devices.is_first:
            return []
        history = files.HISTORIES[every is not None]
        best = min(self.history(history).get("val_error", []), default=math.inf)
        kind = AverageCheckpoint if average else Checkpoint
        best = kind(self / "best.keras", monitor="val_error", best=best)
        return [best] if every is None else [self._log(history), best]

    def _log(self, name):
        """Return the callback that writes a history."""
        self._logs.append(keras.callbacks.CSVLogger(self / name, append=True))
        return self._logs[-1]

    @property
    def saved(self):
        """The step of the last checkpoint, 0 before the first."""
        return 0 if self._backup is None else self._backup.saved

    def end_training(self):
        """Close histories and the bar, and restore signal handlers.

        Keras does not do this if `fit` fails.
        """
        for log in self._logs:
            if log.csv_file is not None:
                log.csv_file.close()
        if self._backup is not None:
            self._bar.close()
            self._backup.close()

    def finish(self, model, **results):
        """Save the final model and the result line, and return the line.

        Args:
            model: The trained `keras.Model`.
            **results: JSON values for the line, such as `test_error=0.08`.
        """
        save_atomically(model, self / "final.keras")
        history = self.history()
        rates = history["images_per_second"]
        return self.conclude(
            parameters=parameters(model),
            iterations=steps_done(model),
            seconds=round(sum(history["seconds"]), 1),
            images_per_second=round(statistics.median(rates), 1),
            **results,
        )

    def conclude(self, **results):
        """Save the result line, which marks the run as finished, and return it.

        Args:
            **results: JSON values for the line, in addition to command,
                settings, versions and device.
        """
        result = {
            **origin(),
            "settings": self.settings,
            "devices": self.devices.describe(),
            **results,
        }
        html.leave(self.path, result)
        write_atomically(self / "result.json", json.dumps(result) + "\n")
        return result


def parameters(model):
    """Return the number of trainable weights."""
    return sum(int(keras.ops.size(v)) for v in model.trainable_variables)


def load_model(path):
    """Load a model of a run.

    Raises:
        files.BrokenFileError: If its file is broken.
    """
    files.check_model(path)
    return keras.models.load_model(path)


def write_new(path, text):
    """Write a text file whole, unless there is one at `path`.

    Raises:
        RunError: If there is one.
    """
    path = Path(path)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    write_atomically(partial, text)
    try:
        try:
            # Unlike a renaming, a link does not replace what is there.
            os.link(partial, path)
        except FileExistsError:
            raise
        except OSError:
            # Some file systems have no links.
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
    except FileExistsError:
        raise RunError(
            f"{path} exists already, and is not overwritten"
        ) from None
    finally:
        partial.unlink()
