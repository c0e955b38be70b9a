"""Search over hyperparameters with KerasTuner.

Importing this module imports `keras_tuner`, which importing `keras_resnet`
does not.
"""

import contextlib
import copy
import json
import math
import os
import signal
import statistics
import tempfile
import threading
import time
import warnings
from pathlib import Path

import keras
import keras_tuner
from keras_tuner.src import config

from keras_resnet.devices.engine import Devices
from keras_resnet.resnet import ResNetCIFAR, ResNetImageNet
from keras_resnet.training.callbacks import (
    DivergenceError,
    FailOnDivergence,
    Interruptible,
    Throughput,
)
from keras_resnet.training.losses import crossentropy
from keras_resnet.training.optimizers import CoupledSGD
from keras_resnet.training.runs import write_atomically
from keras_resnet.training.schedules import one_cycle, step_decay

IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
# Families of networks: builder, and depths that are searched by default.
FAMILIES = {
    "cifar": (ResNetCIFAR, (8, 14, 20)),
    "imagenet": (ResNetImageNet, IMAGENET_DEPTHS),
}
SCHEDULES = {"one-cycle": one_cycle, "step-decay": step_decay}
OBJECTIVE = "val_error"


class ResNetHyperModel(keras_tuner.HyperModel):
    """Search space of residual networks and of their training.

    Searched is each argument that is given more than one value: a tuple of
    values is a choice, but for `learning_rate` and `weight_decay`, which are
    ranges, `(low, high)`, searched on a logarithmic scale and rounded to four
    digits. A single value is fixed.

    Each trial trains a new network from the start, its schedule stretched
    over the trial's epochs and its batches cut to the trial's batch size. The
    objective is `val_error`, the error on `data.validation` after the last
    epoch; `data.test` is never looked at. A trial that diverges or runs out of
    memory raises `keras_tuner.errors.FailedTrialError`.

    Works with `Search`, which is meant for it, and with KerasTuner's own
    tuners and `objective=keras_tuner.Objective("val_error", "min")`.

    Args:
        data: `keras_resnet.data.ImageData`.
        epochs: Integer, epochs of a trial. Hyperband gives its first rounds
            fewer.
        family: `"cifar"` (default) or `"imagenet"`: which builder.
        depth: Integer or tuple: 6n+2 for `"cifar"`, by default
            `(8, 14, 20)`; by default 18, 34, 50, 101, 152 for `"imagenet"`.
        learning_rate: Float or range. Defaults to `(0.01, 1.0)`.
        weight_decay: Float or range. Defaults to `5e-4`.
        batch_size: Integer or tuple. Defaults to `128`.
        shortcut: `"A"`, `"B"`, `"C"` or tuple. Defaults to the builder's.
        label_smoothing: Float in [0, 1] or tuple. Defaults to `0.0`.
        schedule: `"one-cycle"` (default), `"step-decay"` or both in a tuple.
        seed: Integer, of weights, order and augmentation, the same in all
            trials. Defaults to `0`.
        batches: `keras_resnet.data.pipeline` or `.resident`, where batches
            are prepared. Defaults to the pipeline.
        make: Callable that gets a dictionary of the chosen values and the
            number of steps, and returns a compiled model. Defaults to the
            family's builder with `CoupledSGD`, on raw pixels.
        devices: `keras_resnet.devices.Devices` of one process, for each trial
            to be trained on. Defaults to one device.

    Raises:
        ValueError: For a family, a depth, a range or a schedule that does not
            exist.
    """

    def __init__(
        self,
        data,
        epochs,
        *,
        family="cifar",
        depth=None,
        learning_rate=(0.01, 1.0),
        weight_decay=5e-4,
        batch_size=128,
        shortcut=None,
        label_smoothing=0.0,
        schedule="one-cycle",
        seed=0,
        batches=None,
        make=None,
        devices=None,
    ):
        super().__init__(name="resnet")
        if family not in FAMILIES:
            raise ValueError(
                f"`family` must be one of {', '.join(FAMILIES)}. "
                f"Received: family={family!r}"
            )
        self.data = data
        self.epochs = epochs
        self.seed = seed
        self.batches = batches
        self.devices = devices or Devices()
        self._builder, depths = FAMILIES[family]
        self._make = make or self._compiled
        self._space = {
            "depth": depths if depth is None else depth,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "label_smoothing": label_smoothing,
            "schedule": schedule,
        }
        if shortcut is not None:
            self._space["shortcut"] = shortcut
        _check_depths(family, self._space["depth"])
        _check_ranges(self._space)
        _check_schedules(schedule)

    def values(self, hp):
        """Returns the values of a trial, searched and fixed, by their names.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        return {name: self._choose(hp, name) for name in self._space}

    def _choose(self, hp, name):
        values = self._space[name]
        if not isinstance(values, (tuple, list)):
            return values
        if name in ("learning_rate", "weight_decay"):
            low, high = values
            return _rounded(hp.Float(name, low, high, sampling="log"))
        return hp.Choice(name, list(values))

    def searched(self):
        """Returns the names of what is searched, in order."""
        return [
            name
            for name, values in self._space.items()
            if isinstance(values, (tuple, list))
        ]

    def trial_epochs(self, hp):
        """Returns the epochs of a trial: Hyperband's, or all."""
        return hp.values.get("tuner/epochs", self.epochs)

    def declare_hyperparameters(self, hp):
        """Declares the whole space without building a network."""
        self.values(hp)

    def build(self, hp):
        """Returns the compiled model of a trial."""
        values = self.values(hp)
        keras.utils.set_random_seed(self.seed)
        steps = self.trial_epochs(hp) * self._steps_per_epoch(values)
        with _failed_trials():
            return self.devices.model(lambda: self._make(values, steps))

    def _compiled(self, values, steps):
        options = {k: values[k] for k in ("shortcut",) if k in values}
        model = self._builder(
            values["depth"],
            input_shape=self.data.train.images.shape[1:],
            classes=len(self.data.class_names),
            classifier_activation=None,
            **options,
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
        self, hp, model, callbacks=(), epochs=None, initial_epoch=0, verbose=0
    ):
        """Trains and evaluates the model of a trial, in the main thread.

        Args:
            hp: `keras_tuner.HyperParameters`.
            model: What `build` returned.
            callbacks: Further callbacks.
            epochs: Integer. Defaults to `trial_epochs(hp)`.
            initial_epoch: Integer: schedule and batches begin there, as
                KerasTuner's own Hyperband asks, which goes on with the
                weights of a former trial. Defaults to `0`.
            verbose: As in `keras.Model.fit`. Defaults to `0`.

        Returns:
            Dictionary of floats: `val_error`, `val_loss`, `error` and `loss`
            of the last epoch, `seconds` and `images_per_second`.
        """
        values = self.values(hp)
        per_epoch = self._steps_per_epoch(values)
        epochs = self.trial_epochs(hp) if epochs is None else epochs
        model.optimizer.iterations.assign(initial_epoch * per_epoch)
        batches = self._batches()
        handler = signal.getsignal(signal.SIGINT)
        try:
            with _failed_trials(), self.devices.scope():
                history = model.fit(
                    batches.training_batches(
                        self.data.train,
                        values["batch_size"],
                        mean=self.data.mean,
                        padding=self.data.padding,
                        horizontal_flip=self.data.horizontal_flip,
                        seed=self.seed,
                        start=initial_epoch * per_epoch,
                    ),
                    shuffle=False,  # the batches are shuffled already
                    steps_per_epoch=per_epoch,
                    initial_epoch=initial_epoch,
                    epochs=epochs,
                    validation_data=batches.evaluation_batches(
                        self.data.validation,
                        pad_to_multiple_of=self.devices.pad_to_multiple_of,
                    ),
                    # What counts is the network at the end.
                    validation_freq=[epochs],
                    callbacks=[
                        Interruptible(),
                        FailOnDivergence(),
                        Throughput(values["batch_size"]),
                        *callbacks,
                    ],
                    verbose=verbose,
                ).history
        finally:
            # A trial that fails never comes to `on_train_end`.
            signal.signal(signal.SIGINT, handler)
        last = ("val_error", "val_loss", "error", "loss")
        result = {name: float(history[name][-1]) for name in last}
        if not math.isfinite(result["val_loss"]):
            # In training, normalization by the batch can hide it.
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

    def _batches(self):
        if self.batches is None:
            # Here, because it imports TensorFlow.
            from keras_resnet.data import pipeline

            self.batches = pipeline
        return self.batches


def _rounded(value):
    return float(f"{value:.4g}")


def _as_tuple(values):
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


def _check_depths(family, depths):
    for depth in _as_tuple(depths):
        if family == "imagenet":
            good, known = depth in IMAGENET_DEPTHS, "18, 34, 50, 101 or 152"
        else:
            good = depth >= 8 and (depth - 2) % 6 == 0
            known = "6n+2: 8, 14, 20, 26, 32, ..."
        if not good:
            raise ValueError(
                f"A depth of family {family!r} is {known}. "
                f"Received: depth={depths}"
            )


def _check_ranges(space):
    for name in ("learning_rate", "weight_decay"):
        values = space[name]
        if isinstance(values, (tuple, list)) and not (
            len(values) == 2 and 0 < values[0] < values[1] < math.inf
        ):
            raise ValueError(
                f"`{name}` must be a number or a range (low, high) with "
                f"0 < low < high. Received: {name}={values}"
            )


def _check_schedules(schedules):
    if any(name not in SCHEDULES for name in _as_tuple(schedules)):
        raise ValueError(
            f"`schedule` must be one of {', '.join(SCHEDULES)}, or a tuple of "
            f"them. Received: schedule={schedules!r}"
        )


def is_out_of_memory(error):
    """Returns whether an exception says that memory is used up.

    By name and message, so that no backend needs to be imported: TensorFlow's
    `ResourceExhaustedError`, JAX's `JaxRuntimeError` of that status,
    PyTorch's `OutOfMemoryError` and, on a CPU, its `RuntimeError` about the
    allocator, and Python's `MemoryError`.
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
    """Turns what only says that these values are bad into a failed trial."""
    try:
        yield
    except DivergenceError as error:
        raise keras_tuner.errors.FailedTrialError(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        text = " ".join(str(error).split())[:200]
        raise keras_tuner.errors.FailedTrialError(
            f"out of memory: {type(error).__name__}: {text}"
        ) from error


class TrialError(keras_tuner.errors.FatalError):
    """A trial broke for a reason that is not in its hyperparameters."""


class _Steadfast:
    """What an oracle needs to outlive kills, failed trials and lost workers.

    KerasTuner writes its state in place, stops after some failed trials in a
    row, and waits forever for a worker that was killed.
    """

    def __init__(self, **kwargs):
        self._ids = set()
        self._seen = {}
        self.lost_after = math.inf
        self.report = None
        super().__init__(max_consecutive_failed_trials=math.inf, **kwargs)

    def save(self):
        write_atomically(self._get_oracle_fname(), json.dumps(self.get_state()))

    def _save_trial(self, trial):
        folder = Path(self._get_trial_dir(trial.trial_id))
        write_atomically(folder / "trial.json", json.dumps(trial.get_state()))

    def reload(self):
        super().reload()
        # A kill may have come between the two files of a new trial: a trial
        # that the oracle does not know of will be drawn again. And files come
        # in any order.
        self.trials = {name: self.trials[name] for name in self.start_order}
        # KerasTuner writes that a trial has ended while it still counts as
        # running. Of those that do run again, the first comes first.
        again = set(self._retry_queue) - set(self.end_order)
        self._retry_queue = sorted(again, reverse=True)

    def is_over(self):
        """Returns whether all trials have ended and there is no other."""
        if self.ongoing_trials or self._retry_queue:
            return False
        if len(self.trials) >= self.max_trials:
            return True
        # A space may be exhausted before. Asked is a copy: an answer changes
        # what is drawn next.
        answer = copy.deepcopy(self).populate_space("asked")
        return answer["status"] == "STOPPED"

    @property
    def tuner_ids(self):
        # The chief of KerasTuner waits until this set is empty.
        self._forget_lost()
        return self._ids

    @tuner_ids.setter
    def tuner_ids(self, ids):
        self._ids = ids

    def _forget_lost(self):
        """Puts back the trials of workers that have been silent too long."""
        for worker in list(self._ids):
            silence = time.monotonic() - self._seen.get(worker, -math.inf)
            if silence > self.lost_after:
                self._ids.discard(worker)
                trial = self.ongoing_trials.pop(worker, None)
                if trial is not None:
                    self._retry_queue.append(trial.trial_id)
                    print(
                        f"worker {worker} is lost: trial {trial.trial_id} "
                        "goes to another"
                    )

    @keras_tuner.synchronized
    def create_trial(self, tuner_id):
        self._seen[tuner_id] = time.monotonic()
        self._forget_lost()
        trial = super().create_trial(tuner_id)
        if trial.status == "RUNNING":
            # KerasTuner would keep what a killed run reported.
            trial.metrics = type(trial.metrics)()
        if trial.status == "STOPPED" and self.ongoing_trials:
            # Somebody must be there to take over from a lost worker.
            self._ids.add(tuner_id)
            trial.status = "IDLE"
        return trial

    def get_trial(self, trial_id):
        # Workers ask for their trial now and then, to say that they live.
        for worker, trial in self.ongoing_trials.copy().items():
            if trial.trial_id == trial_id:
                self._seen[worker] = time.monotonic()
        return super().get_trial(trial_id)

    @keras_tuner.synchronized
    def update_trial(self, trial_id, metrics, step=0):
        trial = self.trials[trial_id]
        if trial_id in self.end_order:
            return trial
        # Or else KerasTuner would average over what a killed run reported.
        trial.metrics = type(trial.metrics)()
        return super().update_trial(trial_id, metrics, step=step)

    @keras_tuner.synchronized
    def end_trial(self, trial):
        if trial.trial_id in self.end_order:
            return  # a worker taken for lost has come back
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        super().end_trial(trial)
        if self.report is not None:
            self.report(self.trials[trial.trial_id])


class _Random(_Steadfast, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Steadfast, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id):
        # Here, because only this search needs scikit-learn.
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # A handful of trials does not determine the kernel's width.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().populate_space(trial_id)


class _Hyperband(_Steadfast, keras_tuner.oracles.HyperbandOracle):
    def __init__(self, max_trials, epochs, **kwargs):
        super().__init__(max_epochs=epochs, hyperband_iterations=None, **kwargs)
        self.max_trials = max_trials

    def populate_space(self, trial_id):
        # KerasTuner promotes nothing when too many trials of a round failed.
        # A failed trial is the worst of its round, not a missing one.
        failed = [t for t in self.trials.values() if t.status == "FAILED"]
        for trial in failed:
            trial.status, trial.score = "COMPLETED", math.inf
        try:
            return super().populate_space(trial_id)
        finally:
            for trial in failed:
                trial.status, trial.score = "FAILED", None


ALGORITHMS = ("random", "hyperband", "bayesian")


def fewest_epochs(algorithm, epochs):
    """Returns the epochs of the shortest trials of a search.

    Args:
        algorithm: One of `ALGORITHMS`.
        epochs: Integer, epochs of the longest ones.
    """
    if algorithm != "hyperband":
        return epochs
    oracle = _Hyperband(max_trials=1, epochs=epochs)
    # It begins with the bracket that cuts most.
    return oracle._get_epochs(oracle._current_bracket, 0)


def role():
    """Returns this process's part in a search: what KerasTuner's variables say.

    Returns:
        `"chief"`, `"worker"`, or `None` where there is but one process.

    Raises:
        ValueError: If only some of the variables are set.
    """
    names = (
        "KERASTUNER_TUNER_ID",
        "KERASTUNER_ORACLE_IP",
        "KERASTUNER_ORACLE_PORT",
    )
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        raise ValueError(
            f"a distributed search needs {', '.join(names)}; "
            f"not set: {', '.join(missing)}"
        )
    return "chief" if "chief" in os.environ[names[0]] else "worker"


class _Patient:
    """A worker's calls to its chief, made again when the chief has died.

    KerasTuner waits for a chief that is not there, but a call under way when
    the chief dies fails. The oracle takes any call twice for once.
    """

    def __init__(self, stub):
        self._stub = stub

    def __getattr__(self, name):
        import grpc  # here, because only workers need it

        def call(request, **kwargs):
            while True:
                try:
                    return getattr(self._stub, name)(request, **kwargs)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                time.sleep(1)

        return call


class Search(keras_tuner.Tuner):
    """Tuner for a `ResNetHyperModel` that survives what may happen to it.

    Its state is files in a folder, each replaced whole: a search that was
    killed goes on by the same call and loses no more than the trials that
    were running. Failed trials do not stop it; an error that has nothing to do
    with the hyperparameters does, as `TrialError`.

    Under KerasTuner's variables (see `role`) the same call is the chief or a
    worker of a distributed search. A trial whose worker has been silent for
    `lost_after` seconds goes to another worker. Only the chief writes files.

    Hyperband trains every trial from the start, its schedule stretched over
    the epochs of its round: going on from weights whose rate has gone down to
    zero would be another training than the one that is searched.

    Args:
        hypermodel: `ResNetHyperModel`.
        algorithm: `"random"`, `"hyperband"` or `"bayesian"`.
        max_trials: Integer, trials in all, at least 1.
        folder: Path of the folder of the state.
        seed: Integer, of the drawn hyperparameters. Defaults to `0`.
        report: Callable that gets each trial that has ended, as
            `trial_row` gives it. Defaults to `None`.
        lost_after: Float, seconds. Defaults to `60`.

    Raises:
        ValueError: For an algorithm that does not exist, or no trials.

    Reference: Li et al. 2018, Hyperband (JMLR 18).
    """

    def __init__(
        self,
        hypermodel,
        algorithm,
        max_trials,
        folder,
        *,
        seed=0,
        report=None,
        lost_after=60.0,
    ):
        if algorithm not in ALGORITHMS:
            raise ValueError(
                f"`algorithm` must be one of {', '.join(ALGORITHMS)}. "
                f"Received: algorithm={algorithm!r}"
            )
        if max_trials < 1:  # KerasTuner takes 0 for any number
            raise ValueError(
                "`max_trials` must be at least 1. "
                f"Received: max_trials={max_trials}"
            )
        common = {
            "objective": keras_tuner.Objective(OBJECTIVE, "min"),
            "max_trials": max_trials,
            # KerasTuner takes 0 for none, and draws another seed each time.
            "seed": seed + 1,
        }
        if algorithm == "hyperband":
            oracle = _Hyperband(epochs=hypermodel.epochs, **common)
        else:
            kind = _Random if algorithm == "random" else _Bayesian
            oracle = kind(**common)
        oracle.verbose = 0
        oracle.lost_after = lost_after
        self.role = role()
        if report is not None:
            oracle.report = lambda trial: report(self.row(trial))
        folder = Path(folder)
        if self.role == "worker":
            self._scratch = tempfile.TemporaryDirectory()
            folder = Path(self._scratch.name)
        self._heartbeat = lost_after / 10
        self._waiting = False
        # KerasTuner prints where it reloads from.
        with contextlib.redirect_stdout(None):
            super().__init__(
                oracle,
                hypermodel,
                directory=str(folder.parent),
                project_name=folder.name,
            )
        if self.role == "worker":
            self.oracle.stub = _Patient(self.oracle.stub)

    def _populate_initial_space(self):
        # KerasTuner would build networks to find out what is searched.
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        self.oracle.update_space(hp)

    def save(self):
        if self.role == "worker":
            return
        self.oracle.save()

    def _get_tuner_fname(self):
        # KerasTuner reloads a search if there is this file. Its own is named
        # after the role, so that a search would begin anew in another one.
        return self.oracle._get_oracle_fname()

    def search(self, **kwargs):
        """Runs trials until there are `max_trials`.

        Args:
            **kwargs: Arguments of `ResNetHyperModel.fit`.
        """
        if self.role == "chief" and self.oracle.is_over():
            return  # KerasTuner would wait for a worker to say so to
        # Or else it prints the traceback of each failed trial.
        debug, config.DEBUG = config.DEBUG, False
        try:
            super().search(**kwargs)
        finally:
            config.DEBUG = debug

    def on_search_begin(self):
        # Or else a search killed in its first trial could not be reloaded.
        self.save()

    def pre_create_trial(self):
        if self._waiting:
            time.sleep(1)  # the oracle had no trial yet
        self._waiting = True

    def on_trial_begin(self, trial):
        self._waiting = False

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if self.role == "worker":
            # KerasTuner does not tell the chief why a trial failed.
            why = f": {_reason(trial)}" if trial.status == "FAILED" else ""
            print(f"trial {trial.trial_id} {trial.status.lower()}{why}")

    def run_trial(self, trial, **kwargs):
        """Trains the network of a trial: see `ResNetHyperModel.fit`."""
        hp = trial.hyperparameters
        keras.utils.clear_session()  # collects garbage, too
        try:
            with self._signs_of_life(trial):
                model = self.hypermodel.build(hp)
                return self.hypermodel.fit(hp, model, **kwargs)
        except keras_tuner.errors.FailedTrialError:
            raise
        except Exception as error:
            raise TrialError(
                f"trial {trial.trial_id} broke: {type(error).__name__}: {error}"
            ) from error

    @contextlib.contextmanager
    def _signs_of_life(self, trial):
        if self.role != "worker":
            yield
            return
        over = threading.Event()

        def send():
            while not over.wait(self._heartbeat):
                self.oracle.get_trial(trial.trial_id)

        threading.Thread(target=send, daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def row(self, trial):
        """Returns a trial as a flat dictionary, for tables and figures.

        `trial` (its name), `status` (`"completed"`, `"failed"` or
        `"running"`), `epochs`, the values of the hyperparameters, what
        `ResNetHyperModel.fit` returned, and `reason`, why it failed.
        """
        hp, metrics = trial.hyperparameters, trial.metrics.metrics
        row = {
            "trial": trial.trial_id,
            "status": trial.status.lower(),
            "epochs": self.hypermodel.trial_epochs(hp),
        }
        row |= self.hypermodel.values(hp)
        if trial.status == "COMPLETED":
            row |= {k: float(v.get_best_value()) for k, v in metrics.items()}
        return row | {"reason": _reason(trial)}

    def rows(self):
        """Returns `row` of each trial, in the order of their beginnings."""
        oracle = self.oracle
        return [self.row(oracle.trials[name]) for name in oracle.start_order]


def _reason(trial):
    if trial.status != "FAILED":
        return ""
    lines = (trial.message or "see the output of its worker").splitlines()
    return lines[-1].partition("FailedTrialError: ")[2] or lines[-1]


def best(rows):
    """Returns the completed row with the lowest validation error, or `None`.

    Args:
        rows: What `Search.rows` returned.
    """
    done = [row for row in rows if row["status"] == "completed"]
    return min(done, key=lambda row: row[OBJECTIVE], default=None)
