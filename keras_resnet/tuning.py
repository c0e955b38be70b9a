"""Search over hyperparameters with KerasTuner.

`ResNetHyperModel` is the search space of networks and of their training.
`Search` runs its trials, and `Search.rows` lists them. `keras_resnet` does not
import this module, because `keras_tuner` is an optional dependency.
"""

import contextlib
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_resnet.atomic import write_atomically
from keras_resnet.blocks import ResidualBlock
from keras_resnet.data.datasets import ImageData
from keras_resnet.devices.engine import Devices
from keras_resnet.factories import ResNetCIFAR, ResNetImageNet
from keras_resnet.table1 import IMAGENET_SPECS, cifar_depths, imagenet_spec
from keras_resnet.training.callbacks import Interruptible, Throughput
from keras_resnet.training.divergence import DivergenceError, FailOnDivergence
from keras_resnet.training.losses import crossentropy
from keras_resnet.training.optimizers import CoupledSGD
from keras_resnet.training.schedules import one_cycle, step_decay
from keras_resnet.types import PathLike, Rows, Schedule

# Families of networks: builder, and depths that are searched by default.
FAMILIES: dict[str, tuple[Callable[..., keras.Model], tuple[int, ...]]] = {
    "cifar": (ResNetCIFAR, (8, 14, 20)),
    "imagenet": (ResNetImageNet, tuple(IMAGENET_SPECS)),
}
SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "one-cycle": one_cycle,
    "step-decay": step_decay,
}
RANGES = ("learning_rate", "weight_decay")
OBJECTIVE = "val_error"


class ResNetHyperModel(keras_tuner.HyperModel):
    """Search space of residual networks and of their training.

    An argument with one value is fixed, and an argument with several is
    searched. A tuple lists the choices. For `learning_rate` and `weight_decay`
    it is a range, `(low, high)`, searched on a logarithmic scale and rounded
    to four digits.

    Each trial trains a new network from the start, with a schedule as long as
    the trial and batches of the trial's size. The objective is `val_error`,
    the error on `data.validation` after the last epoch; trials do not use
    `data.test`. A trial that diverges or runs out of memory raises
    `keras_tuner.errors.FailedTrialError`.

    `Search` uses this class. KerasTuner's own tuners take it too, with
    `objective=keras_tuner.Objective("val_error", "min")`.

    Args:
        data: `keras_resnet.data.ImageData`.
        epochs: Integer, epochs of a trial. Hyperband's first trials have
            fewer.
        family: `"cifar"` or `"imagenet"`, the builder. Defaults to
            `"cifar"`.
        depth: Integer or tuple. Defaults to `(8, 14, 20)` for `"cifar"`,
            which takes 6n+2, and to all of 18, 34, 50, 101 and 152 for
            `"imagenet"`.
        learning_rate: Float or range. Defaults to `(0.01, 1.0)`.
        weight_decay: Float or range. Defaults to `5e-4`.
        batch_size: Integer or tuple. Defaults to `128`.
        shortcut: `"A"`, `"B"`, `"C"` or tuple. Defaults to the builder's.
        label_smoothing: Float in [0, 1] or tuple. Defaults to `0.0`.
        schedule: `"one-cycle"`, `"step-decay"` or tuple. Defaults to
            `"one-cycle"`.
        padding: Integer, pixels of padding for the random crop. Defaults to
            `0`.
        horizontal_flip: Boolean, whether half of the images are flipped.
            Defaults to `False`.
        block: Class of the residual blocks, see `ResNet`. Defaults to
            `ResidualBlock`.
        seed: Integer, seed of weights, order and augmentation in every
            trial. Defaults to `0`.
        batches: `keras_resnet.data.pipeline` or `.resident`, which prepares
            the batches. Defaults to the pipeline.
        make: Callable that takes a dictionary of the trial's values and the
            number of steps, and returns a compiled model. Defaults to the
            family's builder with `CoupledSGD`, on raw pixels.
        devices: `keras_resnet.devices.Devices` of one process, to train each
            trial on. Defaults to one device.

    Raises:
        ValueError: For an unknown family or schedule, or an impossible depth
            or range.
    """

    def __init__(
        self,
        data: ImageData,
        epochs: int,
        *,
        family: str = "cifar",
        depth: int | Sequence[int] | None = None,
        learning_rate: float | tuple[float, float] = (0.01, 1.0),
        weight_decay: float | tuple[float, float] = 5e-4,
        batch_size: int | Sequence[int] = 128,
        shortcut: str | Sequence[str] | None = None,
        label_smoothing: float | Sequence[float] = 0.0,
        schedule: str | Sequence[str] = "one-cycle",
        padding: int = 0,
        horizontal_flip: bool = False,
        block: Callable[..., keras.Layer] = ResidualBlock,
        seed: int = 0,
        batches: Any = None,
        make: Callable[[dict[str, Any], int], keras.Model] | None = None,
        devices: Devices | None = None,
    ) -> None:
        super().__init__(name="resnet")
        if family not in FAMILIES:
            raise ValueError(
                f"`family` must be one of {', '.join(FAMILIES)}. "
                f"Received: family={family!r}"
            )
        self.data = data
        self.epochs = epochs
        self.seed = seed
        self.padding = padding
        self.horizontal_flip = horizontal_flip
        self.block = block
        if batches is None:  # imported here because it imports TensorFlow
            from keras_resnet.data import pipeline as batches
        self.batches = batches
        self.devices: Devices = devices or Devices()
        self._builder, depths = FAMILIES[family]
        self._make = make or self._compiled
        self._space: dict[str, Any] = {
            "depth": depths if depth is None else depth,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "label_smoothing": label_smoothing,
            "schedule": schedule,
        }
        if shortcut is not None:
            self._space["shortcut"] = shortcut
        _check_space(family, self._space)

    def values(self, hp: keras_tuner.HyperParameters) -> dict[str, Any]:
        """Return the values of a trial, searched and fixed, by name."""
        chosen = dict(self._space)
        for name in self.searched():
            values = chosen[name]
            if name in RANGES:
                value = hp.Float(name, *values, sampling="log")
                chosen[name] = float(f"{value:.4g}")
            else:
                chosen[name] = hp.Choice(name, list(values))
        return chosen

    def searched(self) -> list[str]:
        """Return the names of the searched arguments, in order."""
        return [name for name, v in self._space.items() if _is_searched(v)]

    def trial_epochs(self, hp: keras_tuner.HyperParameters) -> int:
        """Return the epochs of a trial, which Hyperband may choose."""
        return hp.values.get("tuner/epochs", self.epochs)

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Declare the whole space without building a network."""
        self.values(hp)

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return the compiled model of a trial."""
        values = self.values(hp)
        keras.utils.set_random_seed(self.seed)
        steps = self.trial_epochs(hp) * self._steps_per_epoch(values)
        with _failed_trials():
            return self.devices.model(lambda: self._make(values, steps))

    def _compiled(self, values, steps):
        shortcut = {k: v for k, v in values.items() if k == "shortcut"}
        model = self._builder(
            values["depth"],
            input_shape=self.data.train.images.shape[1:],
            classes=len(self.data.class_names),
            classifier_activation=None,
            block=self.block,
            **shortcut,
        )
        model.compile(
            CoupledSGD(
                SCHEDULES[values["schedule"]](values["learning_rate"], steps),
                coupled_decay=values["weight_decay"],
            ),
            crossentropy(values["label_smoothing"]),
            weighted_metrics=["accuracy"],
        )
        return model

    def _steps_per_epoch(self, values):
        return max(1, round(len(self.data.train) / values["batch_size"]))

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        epochs: int | None = None,
        initial_epoch: int = 0,
        verbose: int = 0,
    ) -> dict[str, float]:
        """Train and evaluate the model of a trial, in the main thread.

        Args:
            hp: `keras_tuner.HyperParameters`.
            model: Model from `build`.
            callbacks: As in `keras.Model.fit`.
            epochs: Integer. Defaults to `trial_epochs(hp)`.
            initial_epoch: Integer, first epoch of schedule and batches, for
                KerasTuner's own Hyperband, which continues from the weights of
                an earlier trial. Defaults to `0`.
            verbose: As in `keras.Model.fit`. Defaults to `0`.

        Returns:
            Dictionary of floats: `val_error`, `val_loss`, `error` and `loss`
            of the last epoch, `seconds` and `images_per_second`.
        """
        values = self.values(hp)
        per_epoch = self._steps_per_epoch(values)
        epochs = self.trial_epochs(hp) if epochs is None else epochs
        model.optimizer.iterations.assign(initial_epoch * per_epoch)
        interruptible = Interruptible()
        try:
            with _failed_trials(), self.devices.scope():
                history = model.fit(
                    self.batches.training_batches(
                        self.data.train,
                        values["batch_size"],
                        mean=self.data.mean,
                        padding=self.padding,
                        horizontal_flip=self.horizontal_flip,
                        seed=self.seed,
                        start=initial_epoch * per_epoch,
                    ),
                    shuffle=False,  # the batches are shuffled already
                    steps_per_epoch=per_epoch,
                    initial_epoch=initial_epoch,
                    epochs=epochs,
                    validation_data=self.batches.evaluation_batches(
                        self.data.validation,
                        pad_to_multiple_of=self.devices.pad_to_multiple_of,
                    ),
                    # Only the final network counts.
                    validation_freq=[epochs],
                    callbacks=[
                        interruptible,
                        FailOnDivergence(),
                        Throughput(values["batch_size"]),
                        *callbacks,
                    ],
                    verbose=verbose,
                ).history
        finally:
            interruptible.restore_handlers()
        last = ("val_error", "val_loss", "error", "loss")
        result = {name: float(history[name][-1]) for name in last}
        if not math.isfinite(result["val_loss"]):
            # Normalization by the batch can hide divergence in training.
            raise keras_tuner.errors.FailedTrialError(
                f"training diverged: the loss is {result['val_loss']} on the "
                "validation images"
            )
        return result | {
            "seconds": sum(history["seconds"]),
            "images_per_second": statistics.median(
                history["images_per_second"]
            ),
        }


def _is_searched(values):
    return isinstance(values, (tuple, list))


def _check_space(family, space):
    def each(name):
        values = space[name]
        return values if _is_searched(values) else (values,)

    for depth in each("depth"):
        (imagenet_spec if family == "imagenet" else cifar_depths)(depth)
    for name in RANGES:
        values = space[name]
        if _is_searched(values) and not (
            len(values) == 2 and 0 < values[0] < values[1] < math.inf
        ):
            raise ValueError(
                f"`{name}` must be a number or a range (low, high) with "
                f"0 < low < high. Received: {name}={values}"
            )
    if not set(each("schedule")) <= set(SCHEDULES):
        raise ValueError(
            f"`schedule` must be one of {', '.join(SCHEDULES)}, or a tuple of "
            f"them. Received: schedule={space['schedule']!r}"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports that memory is used up.

    It compares names and messages, because it must import no backend:
    TensorFlow's `ResourceExhaustedError`, JAX's `JaxRuntimeError` of that
    status, PyTorch's `OutOfMemoryError` and, on a CPU, its `RuntimeError`
    about the allocator, and Python's `MemoryError`.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError", "ResourceExhaustedError"}:
        return True
    text = str(error)
    if "JaxRuntimeError" in names:
        return "RESOURCE_EXHAUSTED" in text
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in text or "out of memory" in text
    )


@contextlib.contextmanager
def _failed_trials():
    """Turn an error that the trial's values cause into a failed trial."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if is_out_of_memory(error):
            reason = f"out of memory: {type(error).__name__}: {reason}"
        elif not isinstance(error, DivergenceError):
            raise
        raise keras_tuner.errors.FailedTrialError(reason) from error


class TrialError(keras_tuner.errors.FatalError):
    """Failure of a trial for a reason other than its hyperparameters."""


class _Resumable:
    """Mixin for an oracle whose search continues after a kill.

    KerasTuner writes several files in place, and waits forever for a worker
    that was killed. This class keeps its state in one file, which it replaces
    atomically. A trial whose worker has been silent for `lost_after` seconds
    goes to the next worker that asks. After a restart all workers count as
    silent, so the trials that were running go first.
    """

    def __init__(self, file, lost_after, report, **kwargs):
        self.file = file
        self.lost_after = lost_after
        self.report = report
        self.heard = {}  # when each worker last called
        super().__init__(**kwargs)
        self.verbose = 0

    def get_state(self):
        trials = {name: t.get_state() for name, t in self.trials.items()}
        return super().get_state() | {"trials": trials}

    def set_state(self, state):
        self.trials = {
            name: keras_tuner.engine.trial.Trial.from_state(trial)
            for name, trial in state["trials"].items()
        }
        super().set_state(state)
        # KerasTuner saves an ended trial while it still counts as ongoing.
        self.ongoing_trials = {
            worker: trial
            for worker, trial in self.ongoing_trials.items()
            if trial.trial_id not in self.end_order
        }

    def save(self):
        write_atomically(self.file, json.dumps(self.get_state()))

    def reload(self):
        self.set_state(json.loads(self.file.read_text("utf-8")))

    def is_lost(self, worker):
        silence = time.monotonic() - self.heard.get(worker, -math.inf)
        return silence > self.lost_after

    @property
    def tuner_ids(self):
        # KerasTuner's chief waits until no worker is left in this set.
        self.workers -= set(filter(self.is_lost, self.workers))
        return self.workers

    @tuner_ids.setter
    def tuner_ids(self, workers):
        self.workers = workers

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        self.heard[tuner_id] = time.monotonic()
        lost = next(filter(self.is_lost, self.ongoing_trials), None)
        if lost is not None and tuner_id not in self.ongoing_trials:
            trial = self.ongoing_trials.pop(lost)
            print(
                f"worker {lost} is lost: trial {trial.trial_id} goes to "
                f"{tuner_id}"
            )
            # `create_trial` returns the trial that a worker already has.
            self.ongoing_trials[tuner_id] = trial
            self.tuner_ids.add(tuner_id)
        trial = super().create_trial(tuner_id)
        if trial.status == "STOPPED" and self.ongoing_trials:
            # This worker waits, because another one may still be lost.
            self.tuner_ids.add(tuner_id)
            trial.status = "IDLE"
        return trial

    def get_trial(self, trial_id):
        # Workers ask for their trial regularly to show that they are alive.
        for worker, trial in self.ongoing_trials.items():
            if trial.trial_id == trial_id:
                self.heard[worker] = time.monotonic()
        return super().get_trial(trial_id)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        if trial.trial_id in self.end_order:
            return  # two workers ran it, and the first result counts
        super().end_trial(trial)
        if self.report is not None:
            self.report(self.trials[trial.trial_id])


class _Random(_Resumable, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Hyperband(_Resumable, keras_tuner.oracles.HyperbandOracle):
    pass


class _Bayesian(_Resumable, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        # Imported here because only this search needs scikit-learn.
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # A few trials do not determine the width of the kernel.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


ALGORITHMS: dict[str, type[keras_tuner.Oracle]] = {
    "random": _Random,
    "hyperband": _Hyperband,
    "bayesian": _Bayesian,
}


def fewest_epochs(algorithm: str, epochs: int) -> int:
    """Return the epochs of the shortest trials; the longest have `epochs`."""
    if algorithm != "hyperband":
        return epochs
    hp = keras_tuner.HyperParameters()
    hp.Float("any", 0.0, 1.0)
    oracle = keras_tuner.oracles.HyperbandOracle(
        max_epochs=epochs, hyperparameters=hp
    )
    # The first trial is one of the shortest.
    return oracle.populate_space("0")["values"]["tuner/epochs"]


def role() -> str | None:
    """Return the role of this process, from KerasTuner's variables.

    The role is `"chief"`, `"worker"`, or `None` for a search in one process.

    Raises:
        ValueError: If only some of the variables are set.
    """
    names = [
        f"KERASTUNER_{x}" for x in ("TUNER_ID", "ORACLE_IP", "ORACLE_PORT")
    ]
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        raise ValueError(
            f"a distributed search needs {', '.join(names)}; "
            f"not set: {', '.join(missing)}"
        )
    return "chief" if "chief" in os.environ[names[0]] else "worker"


def take_gpu() -> None:
    """Let a chief or worker see one GPU of its machine, and share its memory.

    The number at the end of its ID selects the GPU: `worker0` and a chief take
    the first. With more workers than GPUs several share one. Call this function
    before anything is computed. Without `nvidia-smi` it does nothing.
    """
    number = re.search(r"\d*$", os.environ.get("KERASTUNER_TUNER_ID", ""))
    lists = shutil.which("nvidia-smi")
    if role() is None or lists is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        listed = subprocess.run(
            [lists, "-L"], capture_output=True, encoding="utf-8", check=False
        )
        gpus = re.findall(r"^GPU (\d+)", listed.stdout, re.MULTILINE)
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu]
    if gpus:
        own = gpus[int(number[0] or 0) % len(gpus)]
        os.environ["CUDA_VISIBLE_DEVICES"] = own
    # By default the first process on a GPU takes most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


class Search(keras_tuner.Tuner):
    """Tuner for a `ResNetHyperModel` that continues after kills and failures.

    Its state is one file, replaced atomically: the same call continues a killed
    search, and repeats only the trials that were running. A failed
    trial counts as an error of 100 %, so that Hyperband drops it and the
    Bayesian search avoids its values. Any other error raises `TrialError`
    and ends the search.

    With KerasTuner's variables (see `role`) this process is the chief or a
    worker of a distributed search, and only the chief writes files. A trial
    whose worker has been silent for `lost_after` seconds goes to another
    worker.

    Hyperband trains every trial from the start, with a schedule as long as its
    round, because no training continues after its rate has reached zero.

    Args:
        hypermodel: `ResNetHyperModel`.
        algorithm: `"random"`, `"hyperband"` or `"bayesian"`.
        max_trials: Integer, number of all trials, at least 1.
        folder: Path of the folder of the state.
        seed: Integer, seed of the drawn hyperparameters. Defaults to `0`.
        report: Callable that takes the `row` of each trial that has ended.
            Defaults to `None`.
        lost_after: Float, seconds of silence, see above. Defaults to `60`.

    Raises:
        ValueError: For an unknown algorithm, or fewer than one trial.

    Reference: Li et al. 2018, Hyperband (JMLR 18).
    """

    def __init__(
        self,
        hypermodel: ResNetHyperModel,
        algorithm: str,
        max_trials: int,
        folder: PathLike,
        *,
        seed: int = 0,
        report: Callable[[dict[str, Any]], None] | None = None,
        lost_after: float = 60.0,
    ) -> None:
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"`algorithm` must be one of {', '.join(ALGORITHMS)}. "
                f"Received: algorithm={algorithm!r}"
            )
        if max_trials < 1:  # KerasTuner would run any number of trials for 0
            raise ValueError(
                "`max_trials` must be at least 1. "
                f"Received: max_trials={max_trials}"
            )
        self.role: str | None = role()
        folder = Path(folder)
        space = keras_tuner.HyperParameters()
        hypermodel.declare_hyperparameters(space)
        options = {
            "file": folder / "oracle.json",
            "lost_after": lost_after,
            "report": report and (lambda trial: report(self.row(trial))),
            "objective": keras_tuner.Objective(OBJECTIVE, "min"),
            "hyperparameters": space,
            # For 0 KerasTuner draws another seed each time.
            "seed": seed + 1,
        }
        if algorithm == "hyperband":
            options["max_epochs"] = hypermodel.epochs
            options["hyperband_iterations"] = None  # until `max_trials`
        oracle: Any = ALGORITHMS[algorithm](**options)
        oracle.max_trials = max_trials  # Hyperband takes no such argument
        super().__init__(
            oracle, directory=str(folder.parent), project_name=folder.name
        )
        # Set later, because KerasTuner would build a network for the space.
        self.hypermodel = hypermodel
        self._pulse = lost_after / 10
        if oracle.file.exists():
            self.reload()

    def save(self) -> None:
        """Save the oracle's state, unless this process is a worker."""
        if self.role != "worker":
            self.oracle.save()

    def reload(self) -> None:
        """Reload the oracle's state, unless this process is a worker."""
        if self.role != "worker":
            self.oracle.reload()

    def search(self, **kwargs: Any) -> None:
        """Run trials until there are `max_trials`.

        `kwargs` are arguments of `ResNetHyperModel.fit`.
        """
        oracle = self.oracle
        if self.role == "chief" and len(oracle.end_order) == oracle.max_trials:
            return  # KerasTuner would wait for a worker's call
        super().search(**kwargs)

    def pre_create_trial(self) -> None:
        if self.role == "worker":
            time.sleep(1)  # KerasTuner asks for a trial without a pause

    def run_trial(self, trial: Any, **kwargs: Any) -> dict[str, float]:
        """Train the network of a trial: see `ResNetHyperModel.fit`."""
        hp = trial.hyperparameters
        keras.utils.clear_session()  # collects garbage, too
        try:
            with self._heartbeat(trial):
                model = self.hypermodel.build(hp)
                return self.hypermodel.fit(hp, model, **kwargs)
        except keras_tuner.errors.FailedTrialError as error:
            trial.message = str(error)
            return {OBJECTIVE: 1.0, "failed": 1.0}
        except Exception as error:
            raise TrialError(
                f"trial {trial.trial_id} broke: {type(error).__name__}: {error}"
            ) from error

    @contextlib.contextmanager
    def _heartbeat(self, trial):
        over = threading.Event()

        def beat():
            while not over.wait(self._pulse):
                self.oracle.get_trial(trial.trial_id)

        if self.role == "worker":
            threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def on_trial_end(self, trial: Any) -> None:
        if trial.status == "INVALID":  # the chief is gone
            raise TrialError(
                f"the result of trial {trial.trial_id} was not delivered: "
                f"{trial.message}"
            )
        super().on_trial_end(trial)
        if self.role == "worker":
            # KerasTuner does not tell the chief why a trial failed.
            failed = trial.message and f"failed: {trial.message}"
            print(f"trial {trial.trial_id} {failed or 'completed'}")

    def row(self, trial: Any) -> dict[str, Any]:
        """Return a trial as a flat dictionary, for tables and figures.

        Its keys are `trial` (the name), `status` (`"completed"`, `"failed"`
        or `"running"`), `epochs`, the hyperparameters, the keys of the result
        of `ResNetHyperModel.fit`, and `reason`, the cause of a failure.
        """
        hp, metrics = trial.hyperparameters, trial.metrics.metrics
        failed = "failed" in metrics
        row = {
            "trial": trial.trial_id,
            "status": "failed" if failed else trial.status.lower(),
            "epochs": self.hypermodel.trial_epochs(hp),
        }
        row |= self.hypermodel.values(hp)
        if row["status"] == "completed":
            row |= {k: float(v.get_best_value()) for k, v in metrics.items()}
        reason = trial.message or "see the output of its worker"
        return row | {"reason": reason if failed else ""}

    def rows(self) -> list[dict[str, Any]]:
        """Return the `row` of each trial, in the order in which they began."""
        oracle = self.oracle
        return [self.row(oracle.trials[name]) for name in oracle.start_order]


def best(rows: Rows) -> Mapping[str, Any] | None:
    """Return the completed row with the lowest validation error, or `None`."""
    done = [row for row in rows if row["status"] == "completed"]
    return min(done, key=lambda row: row[OBJECTIVE], default=None)
