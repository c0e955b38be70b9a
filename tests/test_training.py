"""The paper's optimizer and schedules, callbacks, and the folder of a run."""

import json
import math
import signal

import keras
import numpy as np
import pytest
from keras import ops
from networks import assert_close, only

from keras_resnet import training


def _model(optimizer, **regularizers):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, **regularizers)]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    model.compile(optimizer, "mse")
    return model


def _batch(seed=1):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(8, 4)).astype("float32"),
        rng.normal(size=(8, 3)).astype("float32"),
    )


@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_coupled_decay_is_half_the_squared_norm_in_the_loss(
    nesterov, decay_norm_and_bias
):
    # As in Caffe, the rate at a step is in the velocity when it changes.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [1], [0.5, 0.05]
    )
    coupled = _model(
        training.CoupledSGD(
            schedule,
            nesterov=nesterov,
            coupled_decay=0.1,
            decay_norm_and_bias=decay_norm_and_bias,
        )
    )
    # The paper's weight decay d is Keras's L2(d / 2).
    half = keras.regularizers.L2(0.1 / 2)
    penalized = _model(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=nesterov),
        kernel_regularizer=half,
        bias_regularizer=half if decay_norm_and_bias else None,
    )
    for step in range(5):
        coupled.train_on_batch(*_batch(step))
        penalized.train_on_batch(*_batch(step))
    assert_close(coupled.get_weights(), penalized.get_weights(), atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
def test_corrected_momentum_is_pytorchs_when_the_rate_changes(nesterov):
    torch = pytest.importorskip("torch")
    kernel = [[2.0, -1.0]]
    w = torch.tensor(kernel, requires_grad=True)
    theirs = torch.optim.SGD(
        [w], lr=0, momentum=0.9, weight_decay=0.01, nesterov=nesterov
    )
    variables = {c: keras.Variable(kernel) for c in (True, False)}
    rates = [0.0, 0.5, 0.5, 0.05, 0.005]
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [0, 1, 2, 3], rates
    )
    optimizers = {
        correction: training.CoupledSGD(
            schedule,
            nesterov=nesterov,
            coupled_decay=0.01,
            momentum_correction=correction,
        )
        for correction in variables
    }
    rng = np.random.default_rng(0)
    for rate in rates:
        gradient = rng.normal(size=(1, 2)).astype("float32")
        theirs.param_groups[0]["lr"] = rate
        w.grad = torch.tensor(gradient)
        theirs.step()
        for correction, variable in variables.items():
            optimizers[correction].apply(
                [ops.convert_to_tensor(gradient)], [variable]
            )
    expected = w.detach().numpy()
    actual = ops.convert_to_numpy(variables[True])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert np.abs(ops.convert_to_numpy(variables[False]) - expected).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (training.CoupledSGD, {"momentum": 0.8, "nesterov": True}),
        (training.CoupledSGD, {"momentum_correction": True}),
        (training.CoupledSGD, {"decay_norm_and_bias": False}),
        (training.Lamb, {}),
    ],
)
def test_optimizers_survive_serialization(kind, options):
    optimizer = kind(training.one_cycle(0.3, 100), coupled_decay=0.2, **options)
    config = json.loads(json.dumps(keras.optimizers.serialize(optimizer)))
    copy = keras.optimizers.deserialize(config)
    assert copy.get_config() == optimizer.get_config()
    for name, value in {**options, "coupled_decay": 0.2}.items():
        assert getattr(copy, name) == value


@pytest.mark.parametrize("kind", [training.CoupledSGD, training.Lamb])
def test_a_negative_decay_is_refused(kind):
    with pytest.raises(ValueError, match=r"coupled_decay=-0\.1"):
        kind(0.1, coupled_decay=-0.1)


def _rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_step_decay_is_the_papers():
    schedule = training.step_decay(0.1, 64_000)
    # Steps count from zero: 31,999 is the last of the first 32k.
    rates = _rates(schedule, [0, 31_999, 32_000, 47_999, 48_000, 63_999])
    expected = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    # For depth 110 it warms up.
    schedule = training.step_decay(0.1, 64_000, warmup_steps=400)
    rates = _rates(schedule, [0, 399, 400, 31_999, 32_000, 48_000])
    expected = [0.01, 0.01, 0.1, 0.1, 0.01, 0.001]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    training.step_decay(0.1, 802, warmup_steps=400)
    with pytest.raises(ValueError, match="warmup_steps=400, steps=801"):
        training.step_decay(0.1, 801, warmup_steps=400)


def test_one_cycle_goes_up_and_down_once():
    rates = _rates(training.one_cycle(0.4, 100), range(101))
    assert rates[0] == 0
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) == 25
    assert rates[-1] == pytest.approx(0, abs=1e-7)
    assert (np.diff(rates[:26]) > 0).all()
    assert (np.diff(rates[25:]) < 0).all()


def _fit(model, callbacks, epochs=1, initial_epoch=0, steps=4, **kwargs):
    x, y = _batch()
    return model.fit(
        np.tile(x, (steps, 1)),
        np.tile(y, (steps, 1)),
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial_epoch,
        callbacks=callbacks,
        verbose=0,
        **kwargs,
    )


def test_stop_at_stops_within_an_epoch():
    model = _model(training.CoupledSGD(0.01))
    _fit(model, [training.StopAt(6)], epochs=5)
    assert int(model.optimizer.iterations) == 6
    # Steps made before count too.
    _fit(model, [training.StopAt(9)], epochs=5)
    assert int(model.optimizer.iterations) == 9


def test_pace_counts():
    model = _model(training.CoupledSGD(0.01))
    history = _fit(model, [training.Throughput(8)], epochs=3).history
    assert history["iterations"] == [4, 8, 12]
    assert all(0 < s < 60 for s in history["seconds"])
    assert all(r > 0 for r in history["images_per_second"])
    history = _fit(model, [training.Throughput(8)], steps=1).history
    assert 0 < history["images_per_second"][0] < math.inf
    throughput = training.Throughput(8)
    throughput.set_model(model)
    throughput.on_epoch_begin(0)
    throughput.on_train_batch_end(0)
    logs = {"accuracy": 0.75, "val_accuracy": 0.625}
    throughput.on_epoch_end(0, logs)
    assert (logs["error"], logs["val_error"]) == (0.25, 0.375)


def test_divergence_is_an_error():
    model = _model(training.CoupledSGD(1e30))
    with pytest.raises(training.DivergenceError, match="step 2.*learning rate"):
        _fit(model, [training.FailOnDivergence()], epochs=3, steps=8)


def test_interrupts_come_after_a_batch_and_handlers_return():
    class Press(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    model = _model(training.CoupledSGD(0.01))
    with pytest.raises(KeyboardInterrupt):
        _fit(model, [training.Interruptible(), Press()])
    assert int(model.optimizer.iterations) == 3
    assert signal.getsignal(signal.SIGINT) is before
    _fit(model, [training.Interruptible()])
    assert signal.getsignal(signal.SIGINT) is before


def test_checkpoint_keeps_the_best(tmp_path):
    path = tmp_path / "best.keras"
    model = _model(training.CoupledSGD(0.01))
    model.train_on_batch(*_batch())  # so that there is an optimizer to save
    checkpoint = training.Checkpoint(path, monitor="val_error")
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {"val_error": 0.5})
    best = [w.copy() for w in model.get_weights()]
    model.set_weights([w + 1 for w in best])
    for value in (0.5, 0.6, math.nan):
        checkpoint.on_epoch_end(1, {"val_error": value})
    np.testing.assert_equal(keras.models.load_model(path).get_weights(), best)
    assert [p.name for p in tmp_path.iterdir()] == ["best.keras"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.keras"
    model = _model(training.CoupledSGD(0.01))
    checkpoint = training.Checkpoint(path)
    checkpoint.set_model(model)
    checkpoint.on_epoch_end(0, {})
    before = path.read_bytes()

    def fail(self, filepath, **kwargs):
        filepath.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(keras.Model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.on_epoch_end(1, {})
    assert path.read_bytes() == before


class _Rows(keras.callbacks.Callback):
    """Keeps what it gets, and the weights that the model then has."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        weights = [w.copy() for w in self.model.get_weights()]
        self.rows.append((epoch, logs, weights))


def _stepwise(every):
    """Two epochs of five steps of two images, evaluated in between."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4)), rng.normal(size=(10, 3))
    rows = _Rows()
    evaluation = training.StepEvaluation(_batch(5), every or 1, [rows])
    model = _model(keras.optimizers.SGD(0.1))
    model.compile(model.optimizer, "mse", metrics=["mae"])
    history = model.fit(
        x.astype("float32"),
        y.astype("float32"),
        batch_size=2,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[evaluation] if every else [],
    )
    return evaluation.history, rows.rows, history.history, model.get_weights()


def test_step_evaluation_is_of_the_weights_at_its_step():
    history, rows, logs, weights = _stepwise(every=3)
    assert [row["iterations"] for row in history] == [3, 6, 9, 10]
    # As epochs of which Keras numbers the first 0.
    assert [epoch for epoch, _, _ in rows] == [2, 5, 8, 9]
    x, y = _batch(5)
    for _, row, (kernel, bias) in rows:
        error = x @ kernel + bias - y
        assert row["val_loss"] == pytest.approx((error**2).mean(), rel=1e-5)
        assert row["val_mae"] == pytest.approx(np.abs(error).mean(), rel=1e-5)
    # The training is as it was.
    _, _, expected, without = _stepwise(every=None)
    np.testing.assert_equal(weights, without)
    for key, values in expected.items():
        np.testing.assert_allclose(logs[key], values, rtol=1e-6)


def test_step_evaluation_averages_training_over_its_steps():
    # One evaluation for each step: what `fit` says of epochs of one step.
    each, *_ = _stepwise(every=1)
    losses = [row["loss"] for row in each]
    few, *_ = _stepwise(every=4)
    assert [row["iterations"] for row in few] == [4, 8, 10]
    # The second goes on from one epoch to the next.
    for row, steps in zip(few, ((0, 4), (4, 8), (8, 10)), strict=True):
        expected = np.mean(losses[slice(*steps)])
        assert row["loss"] == pytest.approx(expected, rel=1e-4)
    # The first loss is that of the weights before any step.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4))[:2], rng.normal(size=(10, 3))[:2]
    kernel, bias = _model("sgd").get_weights()
    expected = ((x @ kernel + bias - y) ** 2).mean()
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="at least 1"):
        training.StepEvaluation(_batch(5), 0)


@pytest.mark.parametrize("scaled", [False, True])
def test_step_evaluation_counts_steps_of_the_optimizer(scaled):
    x, y = _batch(8)
    evaluation = training.StepEvaluation((x, y), 2)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    if scaled:
        # As Keras does for float16.
        optimizer = keras.optimizers.LossScaleOptimizer(
            optimizer, initial_scale=2.0
        )
    model = _model(optimizer)
    model.fit(x, y, batch_size=1, verbose=0, callbacks=[evaluation])
    assert [row["iterations"] for row in evaluation.history] == [2, 4]
    assert int(model.optimizer.iterations) == 4
    # One loss for each batch, whatever the optimizer does with it.
    losses = [row["loss"] for row in evaluation.history]
    assert np.mean(losses) == pytest.approx(
        model.history.history["loss"][0], rel=1e-4
    )


def test_the_last_step_is_evaluated_before_the_epoch_is_saved():
    """Else a run that stops in that evaluation would never get it."""
    order = []
    each, save = (
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs, kind=kind: order.append(
                (kind, logs.get("iterations"))
            )
        )
        for kind in ("evaluated", "saved")
    )
    evaluation = training.StepEvaluation(_batch(5), 4, [each])
    model = _model(keras.optimizers.SGD(0.1))
    _fit(model, [training.StopAt(6), evaluation, save], epochs=2)
    assert order == [
        ("evaluated", 4),
        ("saved", None),
        ("evaluated", 6),
        ("saved", None),
    ]


def test_label_smoothing_spreads_a_share_of_the_label():
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], "float32")
    labels = np.array([0, 2])
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = 0.9 * np.eye(3)[labels] + 0.1 / 3
    expected = -(target * log_p).sum(axis=1).mean()
    loss = training.crossentropy(0.1)
    for shape in ((2,), (2, 1)):
        got = float(loss(labels.reshape(shape), logits))
        assert got == pytest.approx(expected, 1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(labels, logits)) == pytest.approx(expected, 1e-5)
    plain = training.crossentropy()
    assert type(plain) is keras.losses.SparseCategoricalCrossentropy
    assert float(plain(labels, logits)) == pytest.approx(
        float(training.SmoothedCrossentropy(0.0)(labels, logits)), 1e-5
    )


def test_binary_label_smoothing_is_timms():
    """`timm.loss.BinaryCrossEntropy`: off at s / n, on at 1 - s + s / n."""
    logits = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]], "float32")
    labels = np.eye(3, dtype="float32")[[0, 2]]
    target = np.where(labels > 0, 1 - 0.3 + 0.1, 0.1)
    expected = np.mean(
        np.log1p(np.exp(logits)) - target * logits  # of sigmoids
    )
    loss = training.SmoothedBinaryCrossentropy(0.3, from_logits=True)
    assert float(loss(labels, logits)) == pytest.approx(expected, 1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert float(again(labels, logits)) == pytest.approx(expected, 1e-5)


def test_lamb_by_hand():
    """Adam's step, with decay in it, as long as the weights times the rate."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(4, 3)), rng.normal(size=3), np.zeros((2, 2))]
    variables = [keras.Variable(v.astype("float32")) for v in values]
    optimizer = training.Lamb(0.1, coupled_decay=0.2)
    optimizer.build(variables)
    means = [np.zeros_like(v) for v in values]
    squares = [np.zeros_like(v) for v in values]
    for step in range(1, 4):
        gradients = [rng.normal(size=v.shape) for v in values]
        optimizer.apply(
            [ops.convert_to_tensor(g.astype("float32")) for g in gradients],
            variables,
        )
        for i, g in enumerate(gradients):
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.999 * squares[i] + 0.001 * g**2
            update = (means[i] / (1 - 0.9**step)) / (
                np.sqrt(squares[i] / (1 - 0.999**step)) + 1e-6
            )
            if g.ndim > 1:
                update += 0.2 * values[i]
                length = np.linalg.norm(values[i])
                # A weight that begins at zero moves by the step itself.
                update *= length / np.linalg.norm(update) if length else 1
            values[i] = values[i] - 0.1 * update
            np.testing.assert_allclose(
                ops.convert_to_numpy(variables[i]), values[i], rtol=1e-4
            )


@pytest.mark.parametrize("kind", [training.CoupledSGD, training.Lamb])
@pytest.mark.parametrize("how", ["name", "variable"])
def test_excluded_weights_do_not_decay(kind, how):
    kernel, other = (
        keras.Variable(np.ones((2, 2), "float32"), name=name)
        for name in ("kernel", "other")
    )
    optimizer = kind(0.1, coupled_decay=0.2)
    if how == "name":
        optimizer.exclude_from_weight_decay(var_names=["other"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[other])
    optimizer.build([kernel, other])
    optimizer.apply(2 * [ops.zeros((2, 2))], [kernel, other])
    assert (ops.convert_to_numpy(kernel) < 1).all()
    assert (ops.convert_to_numpy(other) == 1).all()


@only("jax")
def test_optimizers_compile_nothing_to_begin(caplog):
    import jax

    optimizers = training.CoupledSGD(), training.Lamb()
    variable = keras.Variable(np.ones((3, 41, 2), "float32"))
    with jax.log_compiles():
        for optimizer in optimizers:
            optimizer.build([variable])
        assert "Compiling" not in caplog.text
        # Keras's own zeros would be compiled.
        keras.ops.zeros(variable.shape)
    assert "Compiling" in caplog.text


@pytest.mark.parametrize("kind", [training.CoupledSGD, training.Lamb])
def test_accumulated_gradients_are_those_of_the_whole_batch(kind):
    """And the average moves as often as the optimizer steps."""
    x, y = _batch()
    average = {"use_ema": True, "ema_momentum": 0.5}
    whole = _model(kind(0.05, **average))
    parts = _model(kind(0.05, gradient_accumulation_steps=2, **average))
    for _ in range(3):
        whole.train_on_batch(x, y)
        parts.train_on_batch(x[:4], y[:4])
        parts.train_on_batch(x[4:], y[4:])
    assert int(parts.optimizer.iterations) == 3
    assert training.batches_seen(parts) == 6
    assert training.batches_seen(whole) == 3
    assert_close(whole.get_weights(), parts.get_weights(), atol=1e-6)
    for model in (whole, parts):
        model.optimizer.finalize_variable_values(model.trainable_variables)
    assert_close(whole.get_weights(), parts.get_weights(), atol=1e-6)


def test_warm_up_leads_to_the_schedule():
    cosine = keras.optimizers.schedules.CosineDecay(1.0, 100)
    schedule = training.WarmUp(cosine, 10, 0.5)
    # Up to the peak; from there on where the cosine is by then.
    expected = [0.5, 0.75]
    expected += [float(cosine(step)) for step in (10, 60)]
    np.testing.assert_allclose(
        _rates(schedule, [0, 5, 10, 60]), expected, rtol=1e-6
    )
    # As long as the whole training it goes up all the same.
    whole = training.WarmUp(cosine, 100)
    np.testing.assert_allclose(_rates(whole, [0, 50, 99]), [0, 0.5, 0.99])


def test_plateau_division_goes_on_after_a_resume():
    errors = [0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.7, 0.7, 0.7, 0.7]
    errors += [0.7] * 2

    def rates(stop):
        """Learning rates of epochs, with a stop after some of them."""
        actual, history = [], {}
        model = _model(training.CoupledSGD(0.1))
        for epochs in (range(stop), range(stop, len(errors))):
            division = training.PlateauDivision(
                lambda history=history: history,
                monitor="val_error",
                mode="min",
                factor=0.1,
                patience=3,
                min_lr=5e-4,
            )
            division.set_model(model)
            division.on_train_begin()
            for epoch in epochs:
                division.on_epoch_end(epoch, {"val_error": errors[epoch]})
                actual.append(float(model.optimizer.learning_rate))
            history = {"val_error": errors[:stop]}
        return actual

    straight = rates(0)
    expected = [0.1] * 4 + [0.01] * 6 + [0.001] * 3
    np.testing.assert_allclose(straight, expected, rtol=1e-5)
    for stop in range(1, len(errors)):
        np.testing.assert_allclose(rates(stop), straight, rtol=1e-5)


def test_checkpoint_of_the_average(tmp_path):
    model = _model(training.CoupledSGD(0.1, use_ema=True, ema_momentum=0.5))
    average = keras.callbacks.SwapEMAWeights()
    average.set_model(model)
    checkpoint = training.AverageCheckpoint(tmp_path / "x.keras")
    checkpoint.set_model(model)
    expected = None
    for step in range(3):
        model.train_on_batch(*_batch(step))
        weights = model.get_weights()
        expected = [
            w if expected is None else 0.5 * w + 0.5 * e
            for w, e in zip(weights, expected or weights, strict=True)
        ]
    model.evaluate(*_batch(), verbose=0, callbacks=[checkpoint, average])
    actual = keras.models.load_model(tmp_path / "x.keras").get_weights()
    assert_close(actual, expected, atol=1e-5)
    assert_close(model.get_weights(), weights, atol=1e-6)


@only("tensorflow", "jax")
def test_several_steps_per_execution_are_counted():
    model = _model(training.CoupledSGD(0.01))
    model.steps_per_execution = 3
    history = _fit(
        model, [training.StopAt(9), training.Throughput(8)], epochs=3, steps=6
    ).history
    assert int(model.optimizer.iterations) == 9
    assert history["iterations"] == [6, 9]
    assert all(rate > 0 for rate in history["images_per_second"])


@only("tensorflow", "jax")
def test_a_smaller_last_execution_is_counted():
    model = _model(training.CoupledSGD(0.01))
    model.steps_per_execution = 3
    evaluation = training.StepEvaluation(_batch(8), 2)
    _fit(model, [evaluation], epochs=2, steps=5)
    assert int(model.optimizer.iterations) == 10
    assert [row["iterations"] for row in evaluation.history] == [3, 5, 8, 10]


@pytest.mark.parametrize(
    ("first", "expected"), [(2, [2, 4]), (5, [5, 6]), (6, [6, 8])]
)
def test_profile_has_batches_where_epochs_end(first, expected, monkeypatch):
    done, seen = [], []

    class Trace:
        def __init__(self, folder):
            pass

        def __enter__(self):
            seen.append(len(done))

        def __exit__(self, *_):
            seen.append(len(done))

    monkeypatch.setattr(training.callbacks, "profiler", Trace)
    count = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_, **__: done.append(1)
    )
    model = _model(training.CoupledSGD(0.01))
    _fit(model, [count, training.Profile("", first, 2)], epochs=2, steps=6)
    assert seen == expected
