"""Logs of a batch are read from the device when a callback looks at them."""

import json
import time

import keras
import numpy as np
import pytest
from networks import small

from keras_resnet import training
from keras_resnet.backend import logs as logs_
from keras_resnet_recipes.experiment import Job
from keras_resnet_recipes.experiment.run import Run

N, BATCH = 48, 4


def _data(n=N):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 1, (n, 8, 8, 3)).astype("float32")
    return images, rng.integers(0, 5, n)


class _SumOfLabels(keras.metrics.Sum):
    """A metric whose result is its variable."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true)


def _model(**kwargs):
    keras.utils.set_random_seed(0)
    model = small((1,), (16,), size=(8, 8), classifier_activation=None)
    model.compile(training.CoupledSGD(1e-3), training.crossentropy(), **kwargs)
    return model


@pytest.fixture
def readings(monkeypatch):
    """A list that grows with each value that is read from the device."""
    seen = []
    read = keras.src.backend.convert_to_numpy
    monkeypatch.setattr(
        "keras.src.backend.convert_to_numpy",
        lambda x: (seen.append(1), read(x))[1],
    )
    return seen


@pytest.mark.parametrize("every", [None, 6])
def test_no_step_of_a_run_reads_a_value(readings, tmp_path, every):
    """However many steps an epoch, or the part between evaluations, has."""
    x, y = _data()
    model = _model(weighted_metrics=["accuracy"])
    counts = []
    for steps, every_ in ((6, every), (12, every and 2 * every)):
        run = Run(tmp_path / f"{steps}", {})
        callbacks = run.callbacks(
            Job(
                build=None,
                batches=None,
                steps=training.steps_done(model) + 2 * steps,
                steps_per_epoch=steps,
                batch_size=BATCH,
                validation=(x, y),
                every=every_,
            )
        )
        with run:
            readings.clear()
            model.fit(
                x[: steps * BATCH],
                y[: steps * BATCH],
                batch_size=BATCH,
                epochs=2,
                validation_data=None if every else (x, y),
                callbacks=callbacks,
                verbose=0,
            )
            counts.append(len(readings))
            run.end_training()
    assert counts[0] == counts[1] > 0


class _Keep(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        self.kept.append(logs)

    on_test_batch_end = on_train_batch_end


def test_callbacks_get_what_keras_gives_them():
    x, y = _data()
    got = []
    for own in (False, True):
        model = _model(metrics=["accuracy", _SumOfLabels(name="labels")])
        keep = _Keep()
        callbacks = [keep]
        if not own:
            callbacks = keras.callbacks.CallbackList(
                callbacks, add_history=True, model=model
            )
        history = model.fit(
            *(x, y, 8, 2, 0, callbacks), shuffle=False, validation_split=0.5
        ).history
        # Read only now, when later steps have overwritten what they could.
        got.append(([dict(logs) for logs in keep.kept], history))
    (by_keras, history), (by_us, same) = got
    assert by_us == by_keras
    assert same == history
    assert len(by_us) == 2 * (3 + 3)
    assert all(type(v) is float for each in by_us for v in each.values())


def test_callbacks_know_model_and_parameters(monkeypatch):
    monkeypatch.setattr(keras.config, "max_epochs", lambda: 2)
    x, y = _data(20)
    model = _model()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((self.model is model, self.params))

        on_test_begin = on_train_begin

    history = model.fit(x, y, 8, 5, 0, [Look()], steps_per_epoch=None)
    assert seen.pop() == (True, {"verbose": 0, "epochs": 2, "steps": 3})
    model.evaluate(x, y, verbose=0, batch_size=5, callbacks=[Look()])
    assert seen.pop() == (True, {"verbose": 0, "epochs": 1, "steps": 4})
    assert history.model is model
    with pytest.raises(TypeError, match="epoch"):
        model.fit(x, y, epoch=1)


def test_keras_callbacks_read_what_they_show(monkeypatch, tmp_path, capsys):
    """The bar by the clock; TensorBoard by epochs, or batches if asked to."""
    x, y = _data()
    model = _model()
    got = {}

    Bar, Board = keras.callbacks.ProgbarLogger, keras.callbacks.TensorBoard
    for kind in (Bar, Board):

        def look(self, batch, logs=None, usual=kind.on_train_batch_end):
            got.setdefault(self, []).append(dict(logs))
            usual(self, batch, logs)

        monkeypatch.setattr(kind, "on_train_batch_end", look)

    class Own(Board):
        """Gets logs, because it may read them."""

    monkeypatch.setattr(logs_, "INTERVAL", 100.0)
    bar = Bar()
    epochs, batches, own = boards = [
        kind(str(tmp_path), write_graph=False, update_freq=frequency)
        for kind, frequency in ((Board, "epoch"), (Board, 2), (Own, "epoch"))
    ]
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[bar, *boards])
    assert [bool(logs) for logs in got[bar]] == 2 * [True, *5 * [False]]
    assert not any(got[epochs])
    assert all(got[batches])
    assert all(got[own])
    assert capsys.readouterr().out.count("loss: ") >= 4


@pytest.mark.once
def test_logs_are_a_dictionary_that_reads_what_is_used(readings):
    def logs():
        one = keras.ops.convert_to_tensor(1.5)
        return logs_.UnreadLogs({"b": {"c": one}, "a": one, "text": "x"})

    values = {"a": 1.5, "c": 1.5, "text": "x"}
    some = logs()
    assert "c" in some
    assert list(some) == list(some.keys()) == list(values)
    assert len(some) == 3
    assert not readings
    assert some["a"] == some["a"] == 1.5
    assert len(readings) == 1
    assert some.get("a") == 1.5
    assert some.get("z") is None
    assert isinstance(some, dict)
    for whole in (dict, lambda x: {**x}, lambda x: x | {}, lambda x: x.copy()):
        assert list(whole(logs()).items()) == list(values.items())
    for take in (
        lambda x: x.pop("a"),
        lambda x: x.setdefault("a", 0.0),
        lambda x: (x.pop("text"), x.pop("c"), x.popitem()[1])[-1],
    ):
        assert type(take(logs())) is float
    assert logs().pop("z", None) is None
    assert logs().setdefault("z", 2.0) == 2.0
    with pytest.raises(KeyError):
        logs().pop("z")
    with pytest.raises(KeyError):
        logs_.UnreadLogs(None).popitem()
    assert logs() == values
    assert json.loads(json.dumps(logs())) == values
    assert repr(logs()) == repr(values)
    some["z"] = 2.0
    del some["a"]
    assert dict(some) == {"c": 1.5, "text": "x", "z": 2.0}
    assert not logs_.UnreadLogs(None)


def test_divergence_is_seen_within_an_epoch_and_its_step_is_the_first():
    x, y = _data()
    model = _model()
    model.optimizer.learning_rate = 1e38
    with pytest.raises(training.DivergenceError, match="at step 2: "):
        model.fit(
            *(x, y, BATCH),
            callbacks=[training.FailOnDivergence(every=5)],
            verbose=0,
        )
    assert training.steps_done(model) == 5


@pytest.mark.once
def test_throughput_waits_for_the_last_step(monkeypatch):
    clock = [0.0]

    class Slow(logs_.UnreadLogs):
        def __getitem__(self, name):
            clock[0] += 7.0
            return 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    throughput = training.Throughput(10)
    throughput.set_model(_model())
    for validated in (False, True):
        throughput.on_epoch_begin(0)
        for batch in range(3):
            clock[0] += 1.0
            throughput.on_train_batch_end(batch, Slow({"loss": 1.0}))
        if validated:
            throughput.on_test_begin()
            clock[0] += 100.0
        logs = {}
        throughput.on_epoch_end(0, logs)
        # Two steps of one second, without the first, and the wait.
        assert logs["images_per_second"] == 2 * 10 / (2 + 7)
