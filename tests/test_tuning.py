"""Search over hyperparameters: the space, kills, failures, workers."""

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import types
from concurrent import futures
from pathlib import Path

import keras
import numpy as np
import pytest

keras_tuner = pytest.importorskip("keras_tuner", reason="an extra: tuning")
pytest.importorskip("tensorflow", reason="tf.data feeds the trials")

import searches
from conftest import (
    ROOT,
    check_refused,
    free_port,
    read_json,
    read_rows,
    run_recipe,
    settings_of,
)

import keras_resnet
from keras_resnet import data, devices, tuning
from keras_resnet_recipes import cifar10, results, tune
from keras_resnet_recipes.experiment import UsageError, command, training

pytestmark = pytest.mark.once


class _Pretended(tuning.ResNetHyperModel):
    """Trains nothing: its error is a function of the values."""

    def __init__(self, epochs=1, fails=lambda values: False, **kwargs):
        self.fitted = []
        self.fails = fails
        super().__init__(
            searches.tiny_data(), epochs, **{"depth": (8, 14, 20)} | kwargs
        )

    def build(self, hp):
        return keras.Model()

    def fit(self, hp, model, **kwargs):
        values = self.values(hp)
        self.fitted.append(values | {"epochs": self.trial_epochs(hp)})
        if self.fails(values):
            raise keras_tuner.errors.FailedTrialError("too bad")
        error = abs(math.log(values["learning_rate"] / 0.1)) / 10
        return {tuning.OBJECTIVE: error, "error": error, "seconds": 1.0}


@pytest.fixture
def _quick(monkeypatch):
    """Leave out the collection of garbage before a pretended trial."""
    monkeypatch.setattr(tuning.keras.utils, "clear_session", lambda: None)


def test_the_space_is_what_has_more_than_one_value():
    hypermodel = _Pretended(
        shortcut=("A", "B"),
        weight_decay=(1e-5, 1e-3),
        batch_size=(32, 64),
        label_smoothing=(0.0, 0.1),
        schedule=("one-cycle", "step-decay"),
    )
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    space = {p.name: p for p in hp.space}
    assert tuning.FAMILIES["imagenet"] == (
        keras_resnet.ResNetImageNet,
        (18, 34, 50, 101, 152),
    )
    assert sorted(space) == sorted(hypermodel.searched())
    assert space["learning_rate"].sampling == "log"
    assert space["weight_decay"].sampling == "log"
    assert space["depth"].values == [8, 14, 20]
    fixed = _Pretended(depth=8, learning_rate=0.1)
    hp = keras_tuner.HyperParameters()
    fixed.declare_hyperparameters(hp)
    assert hp.space == []
    assert fixed.values(hp)["depth"] == 8
    hp = keras_tuner.HyperParameters()
    hp.Fixed("learning_rate", 0.123456789)
    assert _Pretended().values(hp)["learning_rate"] == 0.1235


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"depth": (8, 9)}, "6n.2.*9"),
        ({"depth": 20, "family": "imagenet"}, "18, 34, 50, 101, 152.*=20"),
        ({"family": "vgg"}, "cifar, imagenet.*vgg"),
        ({"learning_rate": (1.0, 0.1)}, "low < high"),
        ({"weight_decay": (0, 0.1)}, "weight_decay"),
        ({"weight_decay": [1e-4, 1e-3, 1e-2]}, "low, high.*weight_decay"),
        ({"schedule": ("one-cycle", "cosine")}, "step-decay.*'cosine'"),
    ],
)
def test_a_space_that_cannot_be_is_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        tuning.ResNetHyperModel(searches.tiny_data(), 1, **kwargs)


def test_a_search_that_cannot_be_is_refused(tmp_path):
    for kwargs, words in (
        ({"algorithm": "grid"}, "random, hyperband, bayesian.*'grid'"),
        ({"trials": 0}, "at least 1.*max_trials=0"),
    ):
        with pytest.raises(ValueError, match=words):
            searches.search(_Pretended(), tmp_path / "s", **kwargs)
    assert not (tmp_path / "s").exists()


def test_a_loss_that_diverges_on_validation_images_fails_the_trial():
    history = dict.fromkeys(("val_error", "error", "loss"), [0.5])
    history |= {"seconds": [1.0], "images_per_second": [1.0]}
    fitted = keras.callbacks.History()
    model = types.SimpleNamespace(
        optimizer=keras.optimizers.SGD(), fit=lambda *args, **kwargs: fitted
    )
    hp = keras_tuner.HyperParameters()
    hp.Fixed("depth", 8)
    fitted.history = history | {"val_loss": [1.5]}
    assert searches.hypermodel().fit(hp, model)["val_loss"] == 1.5
    for loss in (math.inf, math.nan):
        fitted.history = history | {"val_loss": [loss]}
        with pytest.raises(
            keras_tuner.errors.FailedTrialError, match=f"the loss is {loss} on"
        ):
            searches.hypermodel().fit(hp, model)


@pytest.mark.usefixtures("_quick")
def test_an_error_of_ours_ends_the_search_and_loses_no_trial(tmp_path):
    class Broken(_Pretended):
        def fit(self, hp, model, **kwargs):
            if len(self.fitted) == 2:
                raise TypeError("a mistake")
            return super().fit(hp, model, **kwargs)

    with pytest.raises(tuning.TrialError, match="2 broke.*TypeError.*mistake"):
        searches.search(Broken(), tmp_path / "s").search()
    search = searches.search(_Pretended(), tmp_path / "s")
    search.search()
    assert [row["status"] for row in search.rows()] == ["completed"] * 5
    assert len(search.hypermodel.fitted) == 3


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("algorithm", tuning.ALGORITHMS)
def test_a_search_is_a_function_of_its_seed(tmp_path, algorithm):
    def values(seed, name):
        search = searches.search(
            _Pretended(epochs=3),
            tmp_path / name,
            algorithm,
            trials=7,
            seed=seed,
        )
        search.search()
        return search.hypermodel.fitted

    first = values(0, "a")
    # Six at random: the last one is what the Gaussian process proposes.
    assert len(first) == 7
    assert values(0, "b") == first
    assert values(1, "c") != first


class _Killed(BaseException):
    pass


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("algorithm", ["random", "hyperband"])
def test_killed_at_any_write_a_search_goes_on(tmp_path, monkeypatch, algorithm):
    write = tuning.write_atomically
    # Thousands of writes; that a disk is slow is not the matter here.
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def search(folder):
        hypermodel = _Pretended(
            epochs=3, fails=lambda values: values["learning_rate"] > 0.1
        )
        return searches.search(hypermodel, folder, algorithm, trials=5)

    straight = search(tmp_path / "straight")
    straight.search()
    assert {"failed", "completed"} == {r["status"] for r in straight.rows()}
    kill_at = 0
    while True:
        writes = 0

        def dying(path, text, kill_at=kill_at):
            nonlocal writes
            if writes == kill_at:
                path = Path(path)
                partial = path.with_name(f".partial-{path.name}")
                partial.write_text(text[: len(text) // 2], "utf-8")
                raise _Killed
            writes += 1
            write(path, text)

        folder = tmp_path / str(kill_at)
        monkeypatch.setattr(tuning, "write_atomically", dying)
        killed = search(folder)
        try:
            killed.search()
        except _Killed:
            pass
        else:
            break
        monkeypatch.setattr(tuning, "write_atomically", write)
        # KerasTuner writes these in place, so that a kill can cut them.
        for path in folder.glob("trial_*/trial.json"):
            path.write_text('{"trial_id": "0", "hyp', "utf-8")
        resumed = search(folder)
        resumed.search()
        assert resumed.rows() == straight.rows()
        done = len(killed.hypermodel.fitted) + len(resumed.hypermodel.fitted)
        assert done <= 5 + 1, kill_at
        kill_at += 1
    assert kill_at == 5 * 3


def _take_part(monkeypatch, name):
    """Make this process a chief or a worker, or alone again with `None`."""
    variables = {"TUNER_ID": name, "ORACLE_IP": "127.0.0.1"}
    for key, value in (variables | {"ORACLE_PORT": "8000"}).items():
        if name is None:
            monkeypatch.delenv(f"KERASTUNER_{key}", raising=False)
        else:
            monkeypatch.setenv(f"KERASTUNER_{key}", value)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "visible", "own"),
    [
        ("chief", None, "0"),
        ("worker0", None, "0"),
        ("worker1", None, "1"),
        ("worker5", None, "1"),
        ("worker", None, "0"),
        ("worker1", "4,7", "7"),
        ("worker1", "", ""),
        (None, None, None),
    ],
)
def test_workers_take_a_gpu_each(name, visible, own, tmp_path, monkeypatch):
    lists = tmp_path / "nvidia-smi"
    lists.write_text("#!/bin/sh\necho GPU 0: A\necho GPU 1: B\n", "utf-8")
    lists.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    _take_part(monkeypatch, name)
    variables = (
        "CUDA_VISIBLE_DEVICES",
        "XLA_PYTHON_CLIENT_PREALLOCATE",
        "TF_FORCE_GPU_ALLOW_GROWTH",
    )
    for variable in variables:
        # Set first, so that what is set below does not last.
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    tuning.take_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == own
    shares = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE")
    assert shares == (None if name is None else "false")


@pytest.mark.parametrize("first", [None, "chief"])
def test_a_search_goes_on_in_another_role(tmp_path, monkeypatch, first):
    _take_part(monkeypatch, first)
    search = searches.search(_Pretended(), tmp_path / "s")
    search.save()
    for _ in range(3):
        _complete(search.oracle, search.oracle.create_trial("worker"))
    rows = search.rows()
    assert [row["status"] for row in rows] == ["completed"] * 3
    for name in (None, "chief", "chief2", first):
        _take_part(monkeypatch, name)
        search = searches.search(_Pretended(), tmp_path / "s")
        assert search.rows() == rows
        search.save()
    trial = search.oracle.create_trial("worker")
    assert trial.trial_id == "3"
    # It was running when the search was killed: it comes first.
    search = searches.search(_Pretended(), tmp_path / "s")
    again = search.oracle.create_trial("another")
    assert again.trial_id == "3"
    assert again.hyperparameters.values == trial.hyperparameters.values


def test_a_chief_serves_only_while_trials_are_left(tmp_path, monkeypatch):
    served = []
    monkeypatch.setattr(
        keras_tuner.Tuner, "search", lambda self: served.append(self)
    )
    _take_part(monkeypatch, "chief")

    def chief():
        search = searches.search(_Pretended(), tmp_path / "s", trials=2)
        search.search()
        return search

    search = chief()
    for _ in range(2):
        trial = search.oracle.create_trial("worker")
        search = chief()  # the old one was killed during the trial
        _complete(search.oracle, trial)
    assert len(served) == 3
    chief()
    assert len(served) == 3


def test_an_undelivered_result_ends_the_search_and_loses_no_trial(
    tmp_path, monkeypatch
):
    def gone(trial_id, metrics, step):
        raise ConnectionError("the chief is gone")

    search = searches.search(_Pretended(), tmp_path / "s")
    monkeypatch.setattr(search.oracle, "update_trial", gone)
    with pytest.raises(tuning.TrialError, match="(?s)trial 0.*chief is gone"):
        search.search()
    search = searches.search(_Pretended(), tmp_path / "s")
    search.search()
    assert [row["status"] for row in search.rows()] == ["completed"] * 5


@pytest.mark.usefixtures("_quick")
def test_hyperband_takes_failed_trials_for_the_worst(tmp_path):
    """Its first round of five is followed by one of two, of longer trials."""

    def rounds(fails):
        hypermodel = _Pretended(epochs=4, fails=fails)
        search = searches.search(
            hypermodel, tmp_path / str(fails), "hyperband", 7
        )
        search.search()
        return search.rows()

    rows = rounds(lambda values: False)
    first = sorted(rows[:5], key=lambda row: row["val_error"])
    assert [row["epochs"] for row in rows] == [2] * 5 + [4] * 2
    assert {r["learning_rate"] for r in rows[5:]} == {
        r["learning_rate"] for r in first[:2]
    }
    # All but the best fail: it goes to the next round all the same.
    best = first[0]["learning_rate"]
    rows = rounds(lambda values: values["learning_rate"] != best)
    assert [row["epochs"] for row in rows] == [2] * 5 + [4] * 2
    assert rows[5]["learning_rate"] == best
    assert rows[5]["status"] == "completed"


def _oracle(tmp_path, monkeypatch, **kwargs):
    now = [0.0]
    monkeypatch.setattr(tuning.time, "monotonic", lambda: now[0])
    search = searches.search(
        _Pretended(), tmp_path / "s", trials=3, lost_after=10, **kwargs
    )
    return search.oracle, now


def _complete(oracle, trial, **metrics):
    oracle.update_trial(trial.trial_id, {"val_error": 0.5} | metrics)
    trial.status = "COMPLETED"
    oracle.end_trial(trial)


def test_the_trial_of_a_lost_worker_goes_to_another(tmp_path, monkeypatch):
    oracle, now = _oracle(tmp_path, monkeypatch)
    lost = oracle.create_trial("lost")
    alive = oracle.create_trial("alive")
    now[0] = 9
    oracle.get_trial(alive.trial_id)  # a sign of life
    _complete(oracle, alive)
    now[0] = 9.5
    third = oracle.create_trial("alive")
    assert third.trial_id not in (lost.trial_id, alive.trial_id)
    _complete(oracle, third)
    # All trials are given out, one is not back: wait for it.
    assert oracle.create_trial("alive").status == "IDLE"
    now[0] = 10.5
    again = oracle.create_trial("alive")
    assert again.trial_id == lost.trial_id
    assert again.hyperparameters.values == lost.hyperparameters.values
    _complete(oracle, again)
    # The lost worker comes back with its result: it changes nothing.
    ended = list(oracle.end_order)
    _complete(oracle, lost)
    assert oracle.end_order == ended
    assert oracle.create_trial("alive").status == "STOPPED"
    assert oracle.tuner_ids == set()
    assert len(oracle.trials) == 3


def test_a_worker_lost_between_trials_does_not_hold_the_chief(
    tmp_path, monkeypatch
):
    oracle, now = _oracle(tmp_path, monkeypatch)
    for _ in range(3):
        trial = oracle.create_trial("lost")
        _complete(oracle, trial)
    assert oracle.create_trial("alive").status == "STOPPED"
    assert oracle.tuner_ids == {"lost"}
    now[0] = 11
    assert oracle.tuner_ids == set()


def test_the_chief_knows_that_a_workers_trial_failed(tmp_path):
    search = searches.search(_Pretended(), tmp_path / "s")
    # KerasTuner sends the numbers of a worker and not its message.
    _complete(search.oracle, search.oracle.create_trial("worker"), failed=1.0)
    (row,) = search.rows()
    assert row["status"] == "failed"
    assert row["reason"] == "see the output of its worker"
    assert tuning.best([row]) is None


# The recipe.

SHORT = ["--dataset", "digits", "--epochs", "4"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--depths", "8", "9"], ["--depths", "9", "6n+2"]),
        (["--depths", "8", "8"], ["--depths", "twice", "8 8"]),
        (["--learning-rates", "1", "0.1"], ["--learning-rates", "0.1 1"]),
        (["--learning-rates", "0.1"], ["--learning-rates", "2"]),
        (["--max-trials", "0"], ["--max-trials", "'0'"]),
        (["--tuner", "grid"], ["--tuner", "'grid'", "'random'"]),
        (["--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
        (["--lost-after", "9"], ["--lost-after", "9", "KERASTUNER_TUNER_ID"]),
        (
            [*SHORT, "--depths", "110", "--schedules", "step-decay"],
            ["--depths", "110 layers", "has 156"],
        ),
    ],
)
def test_wrong_usage_leaves_no_folder(
    flags, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    check_refused(lambda: run_recipe(tune, flags), capsys, words)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("wrong", "right", "words"),
    [
        ({"epochs": 20}, {"epochs": 21}, ["110 layers", "has 780", "--epochs"]),
        (
            {"epochs": 40, "batch_sizes": (32, 64)},
            {"epochs": 40},
            ["(epochs 40, batch size 64)", "--batch-sizes"],
        ),
        # It begins with a ninth of the epochs.
        (
            {"epochs": 26, "tuner": "hyperband"},
            {"epochs": 26, "tuner": "bayesian"},
            ["(epochs 3, batch size 32)", "another --tuner"],
        ),
    ],
)
def test_trials_of_too_few_steps_are_refused(wrong, right, words):
    usual = tune.Settings(
        dataset="digits", depths=(8, 110), schedules=("one-cycle", "step-decay")
    )
    wrong = dataclasses.replace(usual, **wrong)
    with pytest.raises(UsageError) as caught:
        tune.check_steps(wrong, 1257)
    assert all(word in str(caught.value) for word in words)
    tune.check_steps(dataclasses.replace(wrong, schedules=()), 1257)
    tune.check_steps(dataclasses.replace(usual, **right), 1257)


def test_an_interrupted_search_says_so_and_removes_its_bar(
    tmp_path, monkeypatch, capsys
):
    class Interrupted:
        def __init__(self, *args, **kwargs):
            pass

        def search(self, callbacks):
            model = keras.Sequential([keras.Input((1,))])
            model.compile()
            bars.extend(callbacks)
            bars[0].set_model(model)
            bars[0].set_params({"steps": 1, "epochs": 1})
            bars[0].on_train_begin()
            raise KeyboardInterrupt

    bars = []
    monkeypatch.setattr(tuning, "Search", Interrupted)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run_recipe(tune, [*SHORT, "--output", 30 * "a "])
    assert caught.value.code == 130
    # A closed bar is disabled.
    assert bars[0]._bar.disable
    words = capsys.readouterr().out.partition("Interrupted. ")[2]
    assert "--resume to continue." in words
    assert max(map(len, words.splitlines())) <= 80


def test_half_a_distributed_search_is_wrong_usage(monkeypatch, capsys):
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    words = ["not set: KERASTUNER_ORACLE_IP"]
    run = functools.partial(run_recipe, tune, ["--dataset", "digits"])
    check_refused(run, capsys, words)


def _several(count, synchronized=True):
    """Stands for devices that are not there."""
    several = devices.Devices()
    several.count, several.synchronized = count, synchronized
    return several


@pytest.mark.parametrize(
    ("installed", "called"),
    [
        ((), ["python", "recipes/cifar10.py"]),
        (("keras-resnet", "tune"), ["keras-resnet", "cifar10"]),
    ],
)
def test_the_command_stands_for_the_settings(installed, called, monkeypatch):
    monkeypatch.setattr(command, "installed", installed)
    settings = tune.Settings(dataset="digits", epochs=3, seed=5)
    values = {"depth": 14, "learning_rate": 0.1234, "shortcut": "B"}
    values |= {"weight_decay": 0.002, "batch_size": 16, "label_smoothing": 0.1}
    values |= {"schedule": "step-decay"}
    expected = tune.run_settings(settings, values)
    for name, value in values.items():
        assert getattr(expected, name) == value
    assert (expected.epochs, expected.seed) == (3, 5)
    one = devices.Devices()
    words = shlex.split(tune.command(settings, values, "jax", one))
    assert words[:3] == ["KERAS_BACKEND=jax", *called]
    assert settings_of(cifar10, words[3:]) == expected


@pytest.mark.parametrize("synchronized", [True, False])
def test_the_command_names_devices_that_change_the_numbers(synchronized):
    two = _several(2, synchronized)
    settings = tune.Settings(dataset="digits")
    words = shlex.split(tune.command(settings, {"depth": 8}, "torch", two))
    chosen = settings_of(cifar10, words[3:])
    assert chosen.devices == (None if synchronized else 2)
    if not synchronized:
        assert chosen.normalization == "per-device"


def test_batches_of_trials_alone_must_have_equal_parts(monkeypatch):
    three = _several(3)
    monkeypatch.setattr(training, "use_devices", lambda settings: three)
    tune.use_devices(tune.Settings(batch_sizes=(96, 192)))
    for sizes, wrong in ((), 128), ((96, 64), 64):
        with pytest.raises(devices.DevicesError, match=f"batch of {wrong} "):
            tune.use_devices(tune.Settings(batch_sizes=sizes))


# A network of eight layers, one epoch: seconds on any backend.
FLAGS = (
    *("--dataset", "digits", "--epochs", "1", "--depths", "8"),
    *("--batch-sizes", "64", "--learning-rates", "0.05", "0.5"),
)


def _start(*flags, **variables):
    return subprocess.Popen(
        [sys.executable, "recipes/tune.py", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def _run(*flags):
    """Run the recipe in this process and returns what it printed."""
    flags = list(map(str, flags))
    policy = keras.config.dtype_policy()
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recipes/tune.py", *flags])
        with contextlib.redirect_stdout(out):
            run_recipe(tune, flags)
    keras.config.set_dtype_policy(policy)
    return out.getvalue()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A search that was killed in its second trial, and resumed.

    Its folder, its flags, and what was printed after the kill.
    """
    folder = tmp_path_factory.mktemp("tune") / "search"
    flags = (*FLAGS, "--max-trials", 2, "--output", folder)
    process = _start(*flags)
    try:
        for line in process.stdout:
            if line.startswith("trial 0"):
                break
        else:
            raise AssertionError(f"exit status {process.wait()}")
        second = folder / "search" / "trial_1" / "trial.json"
        deadline = time.monotonic() + 300
        while not second.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert read_json(second)["status"] == "RUNNING"
    return folder, flags, _run(*flags, "--resume")


def test_killed_it_goes_on_and_leaves_everything(killed):
    folder, flags, out = killed
    (line,) = [x for x in out.splitlines() if x.startswith("trial ")]
    assert line.startswith("trial 1 (2 of 2): depth 8, learning rate 0.")
    rows = read_rows(folder / "trials.csv")
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert {row["status"] for row in rows} == {"completed"}
    pictures = "learning_rates.png", "parallel_coordinates.png"
    assert {path.name for path in folder.iterdir()} == {
        *("result.json", "retrained", "search", "settings.json", *pictures),
        *("report.html", "trials.csv", "trials.md"),
    }
    for name in pictures:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert (folder / "trials.md").read_text("utf-8") in out
    (line,) = (folder / "result.json").read_text("utf-8").splitlines()
    result = json.loads(line)
    lowest = min(float(row["val_error"]) for row in rows)
    assert result["validation_error"] == pytest.approx(lowest, abs=1e-4)
    assert result["best_command"] in out
    assert (result["trials"], result["failed_trials"]) == (2, 0)
    assert result["test_images"] == 360
    assert f"test error {100 * result['test_error']:.2f} %" in out
    assert str(flags[-1]) in result["command"]


def test_searches_are_collected(killed, tmp_path):
    folder, _, _ = killed
    flags = [str(folder), "--output", str(tmp_path)]
    run_recipe(results, flags)
    # Once more from what was kept alone.
    run_recipe(results, flags[1:])
    page = (tmp_path / "README.md").read_text("utf-8")
    assert (folder / "trials.md").read_text("utf-8") in page
    for name in re.findall(r"\]\((.*?)\)", page):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    result = read_json(tmp_path / "searches/search.json")
    assert result["best_command"] in page
    assert f"test error {100 * result['test_error']:.2f} % (360" in page


def test_the_best_network_saw_all_training_images(killed):
    folder, _, _ = killed
    digits = data.load("digits")
    retrained = read_json(folder / "retrained/result.json")
    assert retrained["iterations"] == round((1257 + 180) / 64)
    # There is nothing left to choose by.
    assert not (folder / "retrained/best.keras").exists()
    model = keras.models.load_model(folder / "retrained/final.keras")
    everything = np.concatenate([digits.train.images, digits.validation.images])
    mean = np.ravel(model.get_layer("per_pixel_mean").mean)
    np.testing.assert_allclose(
        mean, np.ravel(everything.mean(axis=0)), atol=1e-3
    )
    logits = model.predict(digits.test.images.astype("float32"), verbose=0)
    error = (logits.argmax(axis=1) != digits.test.labels).mean()
    assert error == pytest.approx(retrained["test_error"], abs=5e-4)


def test_the_command_gives_the_error_of_the_trial(killed, tmp_path):
    folder, _, _ = killed
    result = read_json(folder / "result.json")
    words = shlex.split(result["best_command"])[3:]
    run_recipe(cifar10, [*words, "--output", str(tmp_path / "run")])
    run = read_json(tmp_path / "run/result.json")
    # 180 images; another process may add in another order.
    assert run["validation_error"] == pytest.approx(
        result["validation_error"], abs=2.5 / 180
    )


def test_a_finished_search_is_left_alone(killed, capsys):
    folder, flags, _ = killed
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert "is finished" in _run(*flags, "--resume")
    check_refused(lambda: _run(*flags), capsys, ["--resume"], status=1)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def _kill_who_has_a_trial(workers, state):
    """Kill the first worker that has a trial, and return its name."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if state.exists():
            for name in read_json(state)["ongoing_trials"]:
                workers[name].kill()
                return name
        time.sleep(0.02)
    for worker in workers.values():
        worker.kill()
    raise AssertionError("no worker came to have a trial")


def test_chief_and_workers_outlive_a_killed_worker(tmp_path, monkeypatch):
    """The chief is this process, the two workers are others."""
    folder = tmp_path / "search"
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(free_port()))
    flags = (*FLAGS, "--max-trials", 2, "--lost-after", 10, "--output", folder)
    workers = {
        name: _start(*flags, KERASTUNER_TUNER_ID=name)
        for name in ("worker0", "worker1")
    }
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    try:
        with futures.ThreadPoolExecutor(1) as pool:
            kill = pool.submit(
                _kill_who_has_a_trial, workers, folder / "search/oracle.json"
            )
            out = _run(*flags)
        lost = workers.pop(kill.result())
        lost.communicate()
        assert lost.returncode == -signal.SIGKILL
        ((name, worker),) = workers.items()
        said, _ = worker.communicate(timeout=300)
    finally:
        for worker in workers.values():
            worker.kill()
    assert worker.returncode == 0, said
    assert f"worker {kill.result()} is lost" in out
    # The one that was left did both trials, that of the lost worker too.
    assert said.count("completed") == 2
    assert "the search is over" in said
    rows = read_rows(folder / "trials.csv")
    assert [row["status"] for row in rows] == ["completed"] * 2
    result = read_json(folder / "result.json")
    assert result["test_images"] == 360
