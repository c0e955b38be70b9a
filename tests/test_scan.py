"""Several steps in one loop on JAX, on a CPU as on an accelerator."""

import contextlib
import functools
import itertools

import keras
import numpy as np
import pytest
from conftest import check_refused, run_recipe
from networks import assert_close, only, small, values

from keras_resnet import data, training
from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment import Job, UsageError
from keras_resnet_recipes.experiment.run import Run

pytestmark = only("jax")

STEPS, BATCH = 4, 4


def _split(n=32):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 8, 8, 3), dtype="uint8")
    return data.Split(images, rng.integers(0, 5, n))


def _batches(split, start=0):
    return data.resident.training_batches(
        split, BATCH, padding=1, horizontal_flip=True, start=start
    )


def _model(steps=STEPS, precision="float32"):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    model = small((1,), (16,), size=(8, 8), classifier_activation=None)
    model.compile(
        training.CoupledSGD(training.step_decay(0.05, 16)),
        training.crossentropy(),
        weighted_metrics=["accuracy"],
        steps_per_execution=steps,
    )
    return model


@pytest.fixture
def accelerator(monkeypatch):
    """Trace as on an accelerator, and compute on the CPU."""
    import jax

    from keras_resnet.backend import jax_scan

    monkeypatch.setattr(jax_scan, "accelerators", lambda: ["GPU"])
    # On a CPU the gradients of convolutions have loops of their own.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")


def _primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _primitives(inner)


def _traced(model):
    """Return state, batches, and the equations of a call for all of them."""
    import jax

    batches = [
        (*batch, None) for batch in itertools.islice(_batches(_split()), STEPS)
    ]
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batches[0])
    model.make_train_function()
    state = jax.tree.map(
        jax.numpy.array, model._get_jax_state(True, True, True, True)
    )
    jaxpr = jax.make_jaxpr(lambda s, b: model.train_function(s, iter(b)))(
        state, batches
    )
    return state, batches, list(_primitives(jaxpr.jaxpr))


@pytest.mark.usefixtures("accelerator")
def test_four_steps_are_one_loop_that_overwrites_the_state():
    import jax

    model = _model()
    state, batches, equations = _traced(model)
    (scan,) = (e for e in equations if e.primitive.name == "scan")
    assert scan.params["length"] == STEPS
    # The whole call is one program, to which all of the state is given away.
    donated = equations[0].params["donated_invars"]
    leaves = jax.tree.leaves(state)
    assert sum(donated) == len(leaves) > 20
    assert len(donated) == len(leaves) + 2 * STEPS
    _, after = model.train_function(state, iter(batches))
    assert all(leaf.is_deleted() for leaf in leaves)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


@pytest.mark.usefixtures("accelerator")
def test_the_state_of_a_loop_keeps_its_dtypes_in_bfloat16():
    _, _, equations = _traced(_model(precision="mixed_bfloat16"))
    assert sum(e.primitive.name == "scan" for e in equations) == 1


def test_on_a_cpu_keras_runs_the_steps():
    _, _, equations = _traced(_model())
    calls = [e for e in equations if e.params.get("name") == "train_step"]
    assert len(calls) == STEPS
    assert not any(
        e.primitive.name == "scan" and e.params["length"] == STEPS
        for e in equations
    )


class _Watch(keras.callbacks.Callback):
    """Keeps the logs, and forbids transfers in the second execution."""

    def on_train_begin(self, logs=None):
        self.guard = contextlib.ExitStack()
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        import jax

        self.guard.close()
        if not self.seen:
            self.guard.enter_context(jax.transfer_guard("disallow_explicit"))
        self.seen.setdefault(int(batch), logs)


@pytest.mark.usefixtures("accelerator")
def test_scanned_steps_are_single_steps():
    """The batches that are left over are run step by step."""
    n = 2 * STEPS + 2
    split = _split(n * BATCH)
    results = []
    for steps in (1, STEPS):
        model, watch = _model(steps), _Watch()
        batches = itertools.islice(_batches(split), n)
        history = model.fit(
            (batch for batch in batches),
            steps_per_epoch=n,
            shuffle=False,
            verbose=0,
            callbacks=[watch],
        ).history
        scores = model.evaluate(
            split.images, split.labels, BATCH, verbose=0, return_dict=True
        )
        seen = {batch: dict(logs) for batch, logs in watch.seen.items()}
        results.append((values(model), seen, history, scores))
        assert training.steps_done(model) == n
    (weights, seen, *logs), (scanned, some, *same) = results
    # XLA may order the sums of a loop in another way.
    assert_close(scanned, weights, atol=1e-6)
    assert [*some] == [STEPS - 1, 2 * STEPS - 1, 3 * STEPS - 1]
    for batch in (STEPS - 1, 2 * STEPS - 1):
        assert some[batch] == pytest.approx(seen[batch], abs=1e-6)
    for ours, others in zip(same, logs, strict=True):
        assert ours.keys() == others.keys()
        for name, value in others.items():
            np.testing.assert_allclose(ours[name], value, atol=1e-6)


def _job():
    split = _split()
    return Job(
        build=_model,
        batches=functools.partial(_batches, split),
        steps=28,
        steps_per_epoch=12,
        batch_size=BATCH,
        validation=data.resident.evaluation_batches(split, 16),
        every=8,
        steps_per_execution=STEPS,
    )


@pytest.mark.usefixtures("accelerator")
def test_a_run_that_scans_ends_and_resumes_exactly(tmp_path, interrupt_after):
    from keras_resnet_recipes.experiment import training as loop

    with Run(tmp_path / "whole", {}) as run:
        whole = loop.train(run, _job())
        history = run.history("steps.csv")
    assert training.steps_done(whole) == 28
    assert history["iterations"] == [8, 16, 24, 28]
    interrupt_after(4)
    with (
        Run(tmp_path / "parts", {}) as run,
        pytest.raises(KeyboardInterrupt),
    ):
        loop.train(run, _job())
    assert run.saved == 20
    with Run(tmp_path / "parts", {}, resume=True) as run:
        resumed = loop.train(run, _job())
        assert run.history("steps.csv") == history
    np.testing.assert_equal(values(resumed), values(whole))


def test_a_run_resumes_at_a_multiple():
    from keras_resnet_recipes.experiment import training as loop

    loop.check_execution(_job(), 16)
    with pytest.raises(UsageError, match="step 18, .* 4: .* do: 2$"):
        loop.check_execution(_job(), 18)


def test_the_recipe_refuses_executions_that_do_not_fit(tmp_path, capsys):
    flags = ["--dataset", "digits", "--steps", "12", "--output", tmp_path / "x"]
    flags += ["--steps-per-execution", "5"]
    words = ["--steps-per-execution 5", "12", "these do: 2, 3, 4, 6, 12"]
    check_refused(lambda: run_recipe(cifar10, flags), capsys, words)
    assert not (tmp_path / "x").exists()
    flags += ["--every", "7"]
    words = ["--every 7", "--steps-per-execution 5"]
    check_refused(lambda: run_recipe(cifar10, flags), capsys, words)
