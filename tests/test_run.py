"""The folder of a run: what stops a run, and what is broken in its folder."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from conftest import read_rows
from networks import only

from keras_resnet import data, training
from keras_resnet.atomic import PARTIAL, replacing
from keras_resnet.training import backup
from keras_resnet.training.background import BackgroundSaver
from keras_resnet_recipes.experiment import (
    Failure,
    Job,
    files,
    provenance,
    values,
)
from keras_resnet_recipes.experiment.run import Run, RunError
from keras_resnet_recipes.experiment.training import train

EPOCH, STEPS = 5, 13
# Values that differ between two runs of the same settings.
CLOCK = ("seconds", "images_per_second")


def _arrays(seed, n=8):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype("int32")
    return rng.normal(size=(n, 4)).astype("float32"), labels


def _batches(start):
    """A batch is a function of its step."""
    while True:
        yield _arrays(start)
        start += 1


def _build(rate=0.1, shape=(4,), **kwargs):
    keras.utils.set_random_seed(0)
    flatten = [keras.layers.Flatten()] if len(shape) > 1 else []
    model = keras.Sequential(
        [keras.Input(shape), *flatten, keras.layers.Dense(3)]
    )
    model.compile(
        training.CoupledSGD(rate, momentum=0.9, **kwargs),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


class _At(keras.callbacks.Callback):
    """Does something before a step, numbered from 0."""

    def __init__(self, step, act):
        super().__init__()
        self.step = step
        self.act = act

    def on_train_begin(self, logs=None):
        self.batches = training.batches_seen(self.model)

    def on_train_batch_begin(self, batch, logs=None):
        if self.batches == self.step:
            self.act()
        self.batches += 1


def _job(build=_build, at=None, **kwargs):
    usual = {"batches": _batches, "validation": _arrays(1000, 30)}
    return Job(
        build=build,
        steps=STEPS,
        steps_per_epoch=EPOCH,
        batch_size=8,
        callbacks=lambda run: [] if at is None else [_At(*at)],
        **usual | kwargs,
    )


class _Killed(Exception):
    pass


def _kill():
    raise _Killed


def _rows(path):
    rows = read_rows(path)
    return [{k: v for k, v in x.items() if k not in CLOCK} for x in rows]


def _check_same(run, other, model, expected):
    """Check that two runs have left the same, to the last bit."""
    one, two = (
        [
            keras.ops.convert_to_numpy(v)
            for v in [*m.variables, *m.optimizer.variables]
        ]
        for m in (model, expected)
    )
    np.testing.assert_equal(one, two)
    assert _rows(run / "history.csv") == _rows(other / "history.csv")
    if (run / "steps.csv").exists():
        assert (run / "steps.csv").read_bytes() == (
            other / "steps.csv"
        ).read_bytes()
    one, two = (
        keras.models.load_model(r / "best.keras").get_weights()
        for r in (run, other)
    )
    np.testing.assert_equal(one, two)


def _on_the_device():
    """Return arguments of `_job` for batches that are cut on the device."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (36, 2, 2, 1), dtype="uint8")
    split = data.Split(images, rng.integers(0, 3, 36))
    return {
        "build": lambda: _build(shape=(2, 2, 1)),
        "batches": lambda start: data.resident.training_batches(
            split, 8, padding=1, horizontal_flip=True, start=start
        ),
        "validation": data.resident.evaluation_batches(split, 16),
    }


WAYS = {
    "by step": {"every": 3},
    "average": {
        "build": lambda: _build(use_ema=True, ema_momentum=0.5),
        "average": True,
    },
}
if keras.backend.backend() != "tensorflow":
    WAYS["on the device"] = _on_the_device()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Runs that were never stopped, and their models, by way."""
    runs = {}
    for way, job in WAYS.items():
        with Run(tmp_path_factory.mktemp(way) / "run", {}) as run:
            runs[way] = run, train(run, _job(**job))
    return runs


@pytest.mark.parametrize(
    ("way", "save_every", "kills"),
    [
        ("by step", values.Interval(steps=1), (1, 4, 5, 7)),
        ("by step", values.SAVE_EVERY, (7,)),
        ("average", values.Interval(steps=2), (9,)),
        pytest.param(
            *("on the device", values.Interval(steps=1), (3,)),
            marks=only("jax", "torch"),
        ),
    ],
)
def test_killed_anywhere_a_run_ends_as_if_never_stopped(
    straight, tmp_path, way, save_every, kills
):
    job = WAYS[way]
    path = tmp_path / "run"
    for step in kills:
        with (
            Run(path, {}, step > kills[0], save_every=save_every) as run,
            pytest.raises(_Killed),
        ):
            train(run, _job(at=(step, _kill), **job))
        each = save_every.steps or EPOCH
        assert run.saved == step // EPOCH * EPOCH + step % EPOCH // each * each
    with Run(path, {}, resume=True) as run:
        model = train(run, _job(**job))
    other, expected = straight[way]
    _check_same(run, other, model, expected)


def test_steps_go_on_while_a_save_is_written(straight, tmp_path, monkeypatch):
    """And what is written has the values of its own step."""
    write, go = BackgroundSaver._write, threading.Event()

    def wait_and_write(*args):
        assert go.wait(60)
        write(*args)

    def kill():
        assert run.saved == 2
        assert not (run / "last.keras").exists()
        go.set()
        _kill()

    monkeypatch.setattr(BackgroundSaver, "_write", wait_and_write)
    every, path = values.Interval(steps=2), tmp_path / "run"
    with Run(path, {}, save_every=every) as run, pytest.raises(_Killed):
        train(run, _job(at=(3, kill), every=3))
    assert training.steps_done(keras.models.load_model(run / "last.keras")) == 2
    with Run(path, {}, resume=True) as run:
        model = train(run, _job(every=3))
    other, expected = straight["by step"]
    _check_same(run, other, model, expected)


@pytest.mark.once
def test_a_save_that_fails_ends_the_run(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BackgroundSaver, "_write", fail)
    run = Run(tmp_path / "run", {}, save_every=values.Interval(steps=3))
    with run, pytest.raises(OSError, match="No space left"):
        train(run, _job())
    # Before the end of the epoch is saved.
    assert run.saved == 3


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
)
def test_a_signal_saves_after_the_current_batch(tmp_path, number, capsys):
    before = signal.getsignal(number)
    for stop in (2, 7):
        with Run(tmp_path / "run", {}, resume=stop > 2) as run:
            job = _job(at=(stop, lambda: signal.raise_signal(number)))
            with pytest.raises(KeyboardInterrupt) as raised:
                train(run, job)
            assert raised.value.args == (number,)
            # Though no epoch has ended since.
            assert run.saved == stop + 1
            assert f"up to iteration {stop + 1};" in capsys.readouterr().out
        assert signal.getsignal(number) is before
    assert training.steps_done(keras.models.load_model(run / "last.keras")) == 8


def test_a_signal_in_the_last_step_waits_for_the_end_of_the_epoch(tmp_path):
    job = _job(at=(STEPS - 1, lambda: signal.raise_signal(signal.SIGTERM)))
    with Run(tmp_path / "run", {}) as run:
        with pytest.raises(KeyboardInterrupt):
            train(run, dataclasses.replace(job, validation=None))
        assert run.saved == STEPS


@pytest.mark.once
def test_an_ignored_signal_stays_ignored(tmp_path):
    """As under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        job = _job(at=(2, lambda: signal.raise_signal(signal.SIGHUP)))
        with Run(tmp_path / "run", {}) as run:
            assert training.steps_done(train(run, job)) == STEPS
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.once
def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seen = []

    def step(batch, logs):
        now[0] += 45 if len(seen) < EPOCH else 25
        seen.append(run.saved)

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=step)
    job = dataclasses.replace(_job(), callbacks=lambda _: [callback])
    every = values.Interval(seconds=120)
    with Run(tmp_path / "run", {}, save_every=every) as run:
        train(run, job)
    # Each is seen a step later. After two minutes; in the second epoch its
    # last step but one, because a validation follows.
    assert seen == [0, 0, 0, 3, 3, 5, 5, 5, 5, 9, 10, 10, 10]


@pytest.mark.once
@pytest.mark.parametrize("rounds", [True, False])
def test_a_result_says_whether_a_gpu_rounds(rounds, monkeypatch):
    monkeypatch.setattr(provenance, "accelerators", lambda: ["H100", "H100"])
    monkeypatch.setattr(provenance, "tensor_float32", lambda: rounds)
    expected = "H100; H100 with TF32; " if rounds else "H100; H100; "
    assert provenance.device().startswith(expected)


def test_a_run_evaluates_within_epochs(straight):
    run, _ = straight["by step"]
    assert run.history("steps.csv")["iterations"] == [3, 6, 9, 12, 13]
    # Keras's empty columns for a validation after epochs are no history.
    assert "val_loss" not in run.history()
    assert run.history()["iterations"] == [5, 10, 13]


@pytest.mark.once
def test_run_refuses_to_overwrite(tmp_path):
    folder = tmp_path / "run"
    with Run(folder, {"depth": 20}):
        pass
    with pytest.raises(RunError, match="--resume"):
        Run(folder, {"depth": 20})
    with Run(folder, {"depth": 20}, resume=True):
        pass
    with pytest.raises(RunError, match="depth was 20 and is 56"):
        Run(folder, {"depth": 56}, resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        Run(tmp_path / "other", {}, resume=True)
    file = tmp_path / "file"
    file.write_text("mine", "utf-8")
    with pytest.raises(RunError, match="exists already"):
        Run(file, {})
    assert file.read_text("utf-8") == "mine"


def _leave_partial(path):
    (path.parent / f"{PARTIAL}123-{path.name}").write_text("{", "utf-8")


@pytest.mark.once
@pytest.mark.parametrize("resume", [False, True])
def test_killed_before_its_settings_a_run_begins_by_either_command(
    tmp_path, resume
):
    folder = tmp_path / "run"
    folder.mkdir()
    _leave_partial(folder / "settings.json")
    (folder / files.LOCK).touch()
    with Run(folder, {"a": 1}, resume=resume):
        assert files.read_json(folder / "settings.json") == {"a": 1}
    assert [p.name for p in folder.iterdir()] == ["settings.json"]


@pytest.mark.once
def test_leftovers_are_removed_when_a_run_is_resumed(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        (run / "search").mkdir()
        _leave_partial(run / "last.keras")
        _leave_partial(run / "search/oracle.json")
    with Run(tmp_path / "run", {}, resume=True):
        assert not [*run.path.rglob(f"{PARTIAL}*")]


@pytest.mark.once
def test_only_leftovers_of_a_run_are_removed(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.touch()
    _leave_partial(mine)
    before = sorted(tmp_path.iterdir())
    for resume in (False, True):
        with pytest.raises(RunError):
            Run(tmp_path, {}, resume=resume)
    assert sorted(tmp_path.iterdir()) == before


HOLD = """
import sys, time
from keras_resnet_recipes.experiment.files import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.once
def test_a_run_in_progress_is_left_alone(tmp_path):
    with Run(tmp_path / "run", {}) as run:
        for resume in (False, True):
            with pytest.raises(
                files.RunInProgressError, match=f"process {os.getpid()} on"
            ):
                Run(run.path, {}, resume=resume)
    assert not (run / files.LOCK).exists()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, run.path],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PYTHONWARNDEFAULTENCODING": ""},
    )
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(files.RunInProgressError, match=f"{process.pid} on"):
            Run(run.path, {}, resume=True)
    finally:
        process.kill()
        process.communicate()
    # The lock of a process that was killed does not count.
    assert (run / files.LOCK).exists()
    with Run(run.path, {}, resume=True):
        pass


@pytest.mark.once
def test_two_processes_write_to_files_of_their_own(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    with replacing(path) as one:
        monkeypatch.setattr(os, "getpid", lambda: 1)
        training.write_atomically(path, "two")
        one.write_text("one", "utf-8")
    assert path.read_text("utf-8") == "one"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.once
def test_an_error_names_the_file_and_not_its_partial_one(tmp_path):
    path = tmp_path / "no folder" / "x.txt"
    with pytest.raises(FileNotFoundError) as raised:
        training.write_atomically(path, "x")
    assert raised.value.filename == str(path)


@pytest.mark.once
def test_only_files_open_for_writing_are_flushed(tmp_path, monkeypatch):
    """Windows refuses to flush others."""
    fcntl = pytest.importorskip("fcntl")
    modes = []

    def flush(file):
        modes.append(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", flush)
    path = tmp_path / "x.csv"
    training.write_atomically(path, "x\n")
    assert backup._length_and_checksum(path)[0] == 2
    assert modes == [os.O_RDWR, os.O_RDWR]


@pytest.mark.once
def test_what_a_checkpoint_has_not_seen_is_forgotten(folder, straight):
    for name in files.HISTORIES:
        with open(folder / name, "a", encoding="utf-8") as file:
            # A process that is killed may leave half a line.
            file.write("12,0.5\n13,0.")
    with Run(folder, {}, resume=True) as run:
        model = train(run, _job(every=3))
    _check_same(run, straight["by step"][0], model, straight["by step"][1])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed in its third epoch."""
    path = tmp_path_factory.mktemp("run") / "run"
    with Run(path, {}) as run, pytest.raises(_Killed):
        train(run, _job(at=(12, _kill), every=3))
    return run.path


@pytest.fixture
def folder(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _damage(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 255
    path.write_bytes(contents)


@pytest.mark.once
@pytest.mark.parametrize("harm", [_cut, _damage, lambda p: p.write_bytes(b"")])
def test_a_run_goes_back_to_the_checkpoint_before_a_broken_one(
    folder, straight, capsys, harm
):
    harm(folder / "last.keras")
    with Run(folder, {}, resume=True) as run:
        model = run.load_last()
        assert training.steps_done(model) == 5
        error = capsys.readouterr().err
        assert "last.keras was broken" in error
        assert "at iteration 5" in error
        files.check_model(folder / "last.keras")
        if harm is _cut:
            model = train(run, _job(every=3))
            other, expected = straight["by step"]
            _check_same(run, other, model, expected)
            files.check_model(folder / "previous.keras")


@pytest.mark.once
def test_without_a_whole_checkpoint_nothing_is_trained(folder):
    before = (folder / "history.csv").read_bytes()
    for name in ("last.keras", "previous.keras"):
        _cut(folder / name)
    broken = pytest.raises(files.BrokenFileError, match=r"previous\.keras")
    with Run(folder, {}, resume=True) as run, broken:
        train(run, _job(every=3))
    assert (folder / "history.csv").read_bytes() == before


@pytest.mark.once
@pytest.mark.parametrize("name", files.HISTORIES)
@pytest.mark.parametrize("harm", [_cut, _damage, os.unlink])
def test_a_broken_history_is_named(folder, name, harm):
    harm(folder / name)
    broken = pytest.raises(files.BrokenFileError, match=name)
    with Run(folder, {}, resume=True) as run, broken:
        train(run, _job(every=3))


@pytest.mark.once
@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_json_file_is_named(folder, text):
    (folder / "result.json").write_text(text, "utf-8")
    with (
        Run(folder, {}, resume=True) as run,
        pytest.raises(
            files.BrokenFileError, match=r"result\.json is broken.*--resume"
        ),
    ):
        _ = run.finished
    (folder / "settings.json").write_text(text, "utf-8")
    with pytest.raises(files.BrokenFileError, match=r"settings\.json is br"):
        Run(folder, {}, resume=True)


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch,loss\n0,1\n", "iterations"),
        ("epoch,iterations\n0,1\n1\n", "line 3 has 1 values for 2"),
        ("epoch,iterations\n0,x\n", "line 2, iterations"),
        ("\0", ""),
    ],
)
def test_a_history_is_read_whole_or_not_at_all(tmp_path, text, words):
    path = tmp_path / "history.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(files.BrokenFileError, match=rf"history\.csv.*{words}"):
        files.read_history(path)


def test_divergence_ends_a_run_with_its_step_and_no_broken_best(tmp_path):
    def build():
        return _build(rate=1e38)

    with Run(tmp_path / "run", {}) as run, pytest.raises(Failure) as raised:
        train(run, _job(build, every=10))
    for words in ("at step 2:", "learning rate", "1e+38", "no checkpoint yet"):
        assert words in str(raised.value)
    assert not (run / "best.keras").exists()
    assert not (run / "last.keras").exists()


def test_a_model_with_broken_weights_is_not_saved(tmp_path):
    path = tmp_path / "x.keras"
    model = _build()
    for checkpoint in (
        training.Checkpoint(path),
        training.Checkpoint(path, monitor="val_error"),
    ):
        checkpoint.set_model(model)
        model.layers[0].bias.assign([0.0, np.nan, 0.0])
        with pytest.raises(training.DivergenceError, match="1 of 2 weights"):
            checkpoint.on_epoch_end(0, {"val_error": 0.5})
        assert not path.exists()
        model.layers[0].bias.assign(np.zeros(3))
    # Weights that are numbers may still give a loss that is none.
    checkpoint.on_epoch_end(0, {"val_error": 0.5, "val_loss": np.nan})
    assert not path.exists()
    checkpoint.on_epoch_end(0, {"val_error": 0.6, "val_loss": 1.0})
    assert path.exists()
