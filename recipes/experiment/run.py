"""The folder that a training run leaves."""

import csv
import json
import math
import os
import statistics
from pathlib import Path

import keras

from keras_resnet.devices import Devices
from keras_resnet.training.atomic import write_atomically
from keras_resnet.training.callbacks import (
    AverageCheckpoint,
    Checkpoint,
    FailOnDivergence,
    Interruptible,
    StepEvaluation,
    StopAt,
    Throughput,
    save_atomically,
    steps_done,
)

from .command import Failure
from .provenance import origin

HISTORIES = ("history.csv", "steps.csv")


class RunError(Failure):
    """A run cannot start, or cannot go on, in the folder it was given."""


class Run:
    """Folder of one training run: what it was asked, where it is, what came.

    - `settings.json`: what was asked.
    - `last.keras`: the model after the last whole epoch, with optimizer.
    - `best.keras`: the model with the lowest validation error so far.
    - `final.keras`: the model at the end.
    - `history.csv`: a line for each epoch. `tensorboard/`: the same.
    - `steps.csv`: a line for each evaluation within epochs, if there are any.
    - `curves.png`: errors against iterations.
    - `result.json`: one line with everything that a table needs.

    Files are replaced whole or not at all. `last.keras` and `history.csv` are
    all that resuming needs; the step is the optimizer's.

    Args:
        path: Path of the folder. It is made if need be.
        settings: Dictionary of JSON values: what must be the same for a run
            to go on.
        resume: Boolean, whether to go on with a run that is in the folder.
            Defaults to `False`, and the folder must then be new or empty.
        devices: `keras_resnet.devices.Devices` that train it. Only their
            first process reads and writes the folder, and the others need
            none. Defaults to one device.

    Raises:
        RunError: If the folder holds something and `resume` is false, if it
            holds no run and `resume` is true, or one of other settings.
    """

    def __init__(self, path, settings, resume=False, devices=None):
        self.path = Path(path)
        self.settings = settings
        self.devices = devices or Devices()
        self._logs = []
        self.devices.on_first(lambda: self._open(resume))

    def _open(self, resume):
        stored = self.path / "settings.json"
        if resume:
            if not stored.exists():
                raise RunError(
                    f"there is no run to resume in {self.path}: "
                    "leave out --resume, or name its folder by --output"
                )
            self._check_settings(json.loads(stored.read_text("utf-8")))
        else:
            if self.path.exists() and (
                not self.path.is_dir() or any(self.path.iterdir())
            ):
                raise RunError(
                    f"{self.path} exists already: continue the run there with "
                    "--resume, or choose another --output"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(stored, json.dumps(self.settings, indent=1) + "\n")

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
        return self.devices.on_first((self / "result.json").exists)

    def load_last(self):
        """Return the model after the last whole epoch, `None` before one."""
        if not (self / "last.keras").exists():
            # Stopped in its first epoch: what that left is not part of a run.
            for name in HISTORIES:
                (self / name).unlink(missing_ok=True)
            return None
        model = keras.models.load_model(self / "last.keras")
        self._forget_after(steps_done(model))
        return model

    def _forget_after(self, iterations):
        """Drop lines from the histories that `last.keras` has not seen."""
        for name in HISTORIES:
            if (self / name).exists():
                self._forget_lines(self / name, iterations)

    def _forget_lines(self, path, iterations):
        # A process that was killed may have left half a line.
        *lines, _ = path.read_text("utf-8").split("\n")
        if not lines:
            # Keras makes the file before there is anything to write.
            path.unlink()
            return
        at = lines[0].split(",").index("iterations")
        kept = [x for x in lines[1:] if int(x.split(",")[at]) <= iterations]
        write_atomically(path, "\n".join([lines[0], *kept]) + "\n")

    def history(self, name="history.csv"):
        """Return `read_history` of a file in this folder.

        Args:
            name: `"history.csv"` (default), a line for each epoch, or
                `"steps.csv"`, one for each evaluation within epochs.
        """
        return read_history(self / name)

    def callbacks(
        self,
        batch_size,
        steps,
        validation_data=None,
        every=None,
        average=False,
    ):
        """Return the callbacks that keep this folder up to date, in order.

        Args:
            batch_size: Integer, images per step.
            steps: Integer, steps of the whole run.
            validation_data: What the best model is chosen by. Defaults to
                `None`: none is chosen, and there is no `best.keras`.
            every: Integer, steps between two evaluations on
                `validation_data`. Defaults to `None`: `fit` evaluates, after
                epochs.
            average: Boolean, whether `best.keras` is to have the average of
                the weights, which `keras.callbacks.SwapEMAWeights`, after
                these callbacks, validates. Defaults to `False`.
        """
        # What every process does, so that all of them do the same.
        callbacks = [
            Interruptible(),
            StopAt(steps),
            FailOnDivergence(),
            Throughput(batch_size),
        ]
        if not self.devices.is_first:
            if validation_data is not None and every is not None:
                callbacks.append(StepEvaluation(validation_data, every))
            return callbacks
        callbacks += [
            self._log("history.csv"),
            keras.callbacks.TensorBoard(
                str(self / "tensorboard"), write_graph=False
            ),
        ]
        if validation_data is not None:
            callbacks.append(self._choose_best(validation_data, every, average))
        # Last, so that whatever it vouches for has been written.
        return [*callbacks, Checkpoint(self / "last.keras")]

    def _choose_best(self, validation_data, every, average):
        """Return the callback that keeps the best model."""
        history = "history.csv" if every is None else "steps.csv"
        best = min(self.history(history).get("val_error", []), default=math.inf)
        # Where the errors come, the best model is looked for.
        kind = AverageCheckpoint if average else Checkpoint
        best = kind(self / "best.keras", monitor="val_error", best=best)
        if every is None:
            return best
        return StepEvaluation(
            validation_data, every, [self._log(history), best]
        )

    def _log(self, name):
        """Return the callback that writes a history."""
        self._logs.append(keras.callbacks.CSVLogger(self / name, append=True))
        return self._logs[-1]

    def close(self):
        """Close the histories, which Keras leaves open where `fit` fails."""
        for log in self._logs:
            if log.csv_file is not None:
                log.csv_file.close()

    def finish(self, model, **results):
        """Save the final model and the result line, and return the line.

        Args:
            model: The trained `keras.Model`.
            **results: JSON values to put into the line, such as
                `test_error=0.08`.
        """
        save_atomically(model, self / "final.keras")
        history = self.history()
        rates = history["images_per_second"]
        return self.conclude(
            parameters=sum(
                int(keras.ops.size(v)) for v in model.trainable_variables
            ),
            iterations=steps_done(model),
            seconds=round(sum(history["seconds"]), 1),
            images_per_second=round(statistics.median(rates), 1),
            **results,
        )

    def conclude(self, **results):
        """Save the result line, which ends the run, and return it.

        Args:
            **results: JSON values to put into the line, beside command,
                settings, versions and device.
        """
        result = {
            **origin(),
            "settings": self.settings,
            "devices": self.devices.describe(),
            **results,
        }
        write_atomically(self / "result.json", json.dumps(result) + "\n")
        return result


def read_history(path):
    """Read a history that a run has left, such as `history.csv`.

    Args:
        path: Path of the CSV file. There may be none yet.

    Returns:
        Dictionary of lists, a value for each line.
    """
    path = Path(path)
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {
        key: [float(row[key]) for row in rows]
        for key in reader.fieldnames or ()
        # Keras's columns for a validation after epochs that there is not.
        if not any(row[key] == "NA" for row in rows)
    }


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
