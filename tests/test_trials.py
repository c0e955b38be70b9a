"""Trials of a search, which train on the backend of this process."""

import signal

import keras
import numpy as np
import pytest

keras_tuner = pytest.importorskip("keras_tuner", reason="an extra: tuning")
pytest.importorskip("tensorflow", reason="tf.data feeds the trials")

import searches
from conftest import read_json, run_recipe

from keras_resnet import tuning
from keras_resnet_recipes import tune

BACKEND = keras.backend.backend()


def test_values_reach_our_builders():
    hp = keras_tuner.HyperParameters()
    for name, value in {
        "depth": 8,
        "learning_rate": 0.3,
        "shortcut": "C",
        "weight_decay": 0.02,
        "batch_size": 16,
        "label_smoothing": 0.1,
        "schedule": "step-decay",
        "tuner/epochs": 3,
    }.items():
        hp.Fixed(name, value)
    model = searches.hypermodel(
        epochs=9,
        shortcut=("A", "C"),
        weight_decay=(0.01, 0.1),
        batch_size=(16, 32),
        label_smoothing=(0.0, 0.1),
        schedule=("one-cycle", "step-decay"),
    ).build(hp)
    # Where the shape stays, C alone projects.
    assert model.get_layer("stage1_block1").shortcut_conv is not None
    assert len([x for x in model.layers if "block" in x.name]) == 3
    assert model.optimizer.coupled_decay == 0.02
    assert model.loss.label_smoothing == 0.1
    # Three of Hyperband's epochs of four steps each: divided by ten after six.
    schedule = model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in (5, 6, 9)]
    np.testing.assert_allclose(rates, [0.3, 0.03, 0.003], rtol=1e-5)


def test_diverged_and_exhausted_trials_fail_and_the_search_goes_on(tmp_path):
    """Four in a row: KerasTuner would stop after three."""
    hypermodel = searches.hypermodel(learning_rate=(0.01, 0.1), depth=(8,))
    calls = []

    def make(values, steps):
        calls.append(values)
        if len(calls) == 1:
            # A network that really diverges.
            values = values | {"learning_rate": 1e30}
            return hypermodel._compiled(values, steps)
        if len(calls) == 2:
            # Memory that really is not there: a pebibyte.
            keras.ops.zeros((2**48,), "float32") + 1
        if len(calls) <= 4:
            raise _out_of_memory_errors()[0]
        return searches.one_layer(values, steps)

    hypermodel._make = make
    rows = []
    search = searches.search(
        hypermodel, tmp_path / "s", trials=5, report=rows.append
    )
    before = signal.getsignal(signal.SIGINT)
    search.search()
    assert signal.getsignal(signal.SIGINT) is before
    assert [row["status"] for row in rows] == ["failed"] * 4 + ["completed"]
    assert "training diverged" in rows[0]["reason"]
    assert all("out of memory" in row["reason"] for row in rows[1:4])
    assert rows == search.rows()
    best = tuning.best(search.rows())
    assert best == rows[-1]
    assert 0 <= best["val_error"] <= 1
    # The files say the same.
    again = searches.search(hypermodel, tmp_path / "s", trials=5)
    assert again.rows() == rows


def _out_of_memory_errors():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return [tf.errors.ResourceExhaustedError(None, None, "OOM")]
    if BACKEND == "jax":
        import jax

        return [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of mem")]
    import torch

    return [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ]


def test_each_backends_own_error_is_known():
    for error in [*_out_of_memory_errors(), MemoryError()]:
        assert tuning.is_out_of_memory(error)
    assert not tuning.is_out_of_memory(RuntimeError("shape mismatch"))
    if BACKEND == "jax":
        import jax

        other = jax.errors.JaxRuntimeError("INTERNAL: broken")
        assert not tuning.is_out_of_memory(other)


# KerasTuner saves the optimizer too, and loads it into one not built yet.
@pytest.mark.filterwarnings("ignore:Skipping variable loading:UserWarning")
def test_keras_tuners_own_tuners_take_the_hypermodel(tmp_path):
    """Its Hyperband goes on with the weights of the round before."""
    starts = []

    class Watched(tuning.ResNetHyperModel):
        def fit(self, hp, model, **kwargs):
            result = super().fit(hp, model, **kwargs)
            starts.append(
                (kwargs["initial_epoch"], int(model.optimizer.iterations))
            )
            return result

    hypermodel = Watched(
        searches.tiny_data(), 2, batch_size=32, make=searches.one_layer
    )
    tuner = keras_tuner.Hyperband(
        hypermodel,
        objective=keras_tuner.Objective("val_error", "min"),
        max_epochs=2,
        factor=2,
        directory=tmp_path,
        seed=1,
    )
    tuner.oracle.max_trials = 3
    tuner.search(verbose=0)
    assert (0, 2) in starts
    assert (1, 4) in starts
    assert tuner.get_best_hyperparameters()[0].get("learning_rate") > 0


def test_the_recipe_searches_and_retrains(tmp_path, capsys):
    flags = "--dataset digits --epochs 1 --depths 8 --batch-sizes 64"
    flags = [
        *flags.split(),
        "--max-trials",
        "1",
        "--output",
        str(tmp_path / "s"),
    ]
    run_recipe(tune, flags)
    result = read_json(tmp_path / "s/result.json")
    assert result["trials"] == 1
    assert f"test error {100 * result['test_error']:.2f} %" in (
        capsys.readouterr().out
    )
