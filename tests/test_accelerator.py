"""Operations that would make a GPU wait, counted on a CPU."""

import collections
import contextlib

import keras
import networks
import numpy as np
import pytest
from networks import only

import keras_resnet
from keras_resnet import data, training

BATCH, STEPS = 4, 7
# From here on all batches are replayed.
FIRST = 4


def _model(rate, label_smoothing, precision):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    image = keras.Input((8, 8, 3))
    mean = np.full((8, 8, 3), 100.0)
    centered = keras.layers.Normalization(
        axis=(1, 2, 3), mean=mean, variance=mean**0, dtype="float32"
    )(image)
    model = keras_resnet.ResNet(
        (1,),
        (16,),
        stem="cifar",
        input_tensor=centered,
        classes=10,
        classifier_activation=None,
    )
    networks.draw_weights(model, 0)
    model.compile(
        training.CoupledSGD(rate),
        training.crossentropy(label_smoothing),
        weighted_metrics=["accuracy"],
    )
    return model


class _Ends(keras.callbacks.Callback):
    """Counts the operations of the steps from `FIRST` on."""

    def __init__(self):
        super().__init__()
        self.counts = collections.Counter()
        self.counting = False

    def on_train_batch_end(self, batch, logs=None):
        self.counting = FIRST <= batch + 1 < STEPS

    @contextlib.contextmanager
    def operations(self):
        from torch.utils._python_dispatch import TorchDispatchMode

        count = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, op, types, args=(), kwargs=None):
                if count.counting:
                    count.counts[op.name()] += 1
                return op(*args, **(kwargs or {}))

        with Mode():
            yield


def _train(rate, label_smoothing, precision):
    """Return the weights, the logs and the counted operations of a training."""
    rng = np.random.default_rng(0)
    split = data.Split(
        rng.integers(0, 256, (32, 8, 8, 3), dtype="uint8"),
        rng.integers(0, 10, 32),
    )
    model = _model(rate, label_smoothing, precision)
    batches = data.resident.training_batches(
        split, BATCH, padding=1, horizontal_flip=True
    )
    ends = _Ends()
    with ends.operations():
        history = model.fit(
            batches,
            steps_per_epoch=STEPS,
            shuffle=False,
            verbose=0,
            callbacks=[
                training.StopAt(STEPS),
                training.FailOnDivergence(),
                training.Throughput(BATCH),
                ends,
            ],
        ).history
    values = [*model.variables, *model.optimizer.variables]
    numbers = {k: history[k] for k in ("loss", "accuracy")}
    return list(map(keras.ops.convert_to_numpy, values)), numbers, ends.counts


def _schedules():
    decay = training.step_decay(0.1, 64, warmup_steps=4)
    exponential = keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5)
    return {
        "constant": (0.1, 0.0, "float32"),
        "step decay": (decay, 0.0, "float32"),
        "one cycle": (training.one_cycle(0.1, 16), 0.1, "mixed_bfloat16"),
        "warm-up": (training.WarmUp(exponential, 4), 0.0, "float32"),
    }


@only("torch")
@pytest.mark.parametrize("case", _schedules())
def test_a_step_makes_no_tensors_of_numbers_and_reads_none(monkeypatch, case):
    """On a GPU each would be a copy that the host waits for."""
    import torch

    from keras_resnet.backend.torch import cuda_graph, graph

    arguments = _schedules()[case]
    weights, logs, usual = _train(*arguments)
    # The context of an accelerator, on the processor.
    monkeypatch.setattr(graph.Model, "_device", lambda _: torch.device("cuda"))
    # Not as one CUDA graph, which asks even less.
    monkeypatch.setattr(cuda_graph, "TrainingStep", lambda *args: args[-1])
    kept_weights, kept_logs, kept = _train(*arguments)
    new, read = "aten::lift_fresh", "aten::_local_scalar_dense"
    assert usual[new] >= 4 * (STEPS - FIRST)
    assert kept[new] == 0
    assert kept[read] == usual[read] == 0
    # Constants of the traced graph are copied and computed when it is traced.
    for name in ("lift_fresh_copy", "sqrt", "maximum"):
        assert kept[f"aten::{name}"] == usual[f"aten::{name}"] == 0
    np.testing.assert_equal(kept_weights, weights)
    assert kept_logs == logs


@only("torch")
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_moving_statistics_are_updated_together(monkeypatch, precision):
    """By three operations in each step, with the same numbers."""
    from keras_resnet.backend.torch import program

    arguments = (0.1, 0.0, precision)
    weights, logs, counts = _train(*arguments)
    monkeypatch.setattr(program, "_average_together", lambda graph: None)
    same_weights, same_logs, apart = _train(*arguments)
    steps = STEPS - FIRST
    for one, many, n in (
        # Means and variances of three normalizations.
        ("aten::lerp.Scalar", "aten::_foreach_lerp.Scalar", 6),
        # Variances are computed from inverse deviations.
        ("aten::pow.Tensor_Scalar", "aten::_foreach_pow.Scalar", 3),
        ("aten::sub.Tensor", "aten::_foreach_sub.Scalar", 3),
    ):
        assert apart[one] - counts[one] == n * steps
        assert counts[many] - apart[many] == steps
    np.testing.assert_equal(weights, same_weights)
    assert logs == same_logs


@only("torch")
def test_statistics_of_an_own_layer_stay_the_same():
    """Differences of two tensors, or of a multiple, are no constant shifts."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from keras_resnet.backend.torch import program

    def statistics(average, x, y):
        return (
            torch.lerp(average, x - y, 0.1),
            torch.lerp(average, torch.sub(x, 2.0, alpha=3.0), 0.1),
            torch.lerp(average, torch.pow(x, 2) - 0.5, 0.1),
        )

    tensors = [torch.arange(4.0) + i for i in range(3)]
    module = make_fx(statistics)(*tensors)
    program._average_together(module.graph)
    module.recompile()
    for actual, expected in zip(
        module(*tensors), statistics(*tensors), strict=True
    ):
        assert torch.equal(actual, expected)


@only("torch")
def test_weights_and_gradients_are_converted_together(monkeypatch):
    """By one operation each in a step, with the same numbers."""
    from keras_resnet.backend.torch import program

    arguments = (0.1, 0.0, "mixed_bfloat16")
    weights, logs, counts = _train(*arguments)
    monkeypatch.setattr(program, "_convert_together", lambda graph: None)
    same_weights, same_logs, apart = _train(*arguments)
    steps = STEPS - FIRST
    one, many = "aten::_to_copy", "aten::_foreach_copy_"
    # Three kernels, forward and backward; the head computes in float32.
    assert apart[one] - counts[one] == 6 * steps
    assert counts[many] - apart[many] == 2 * steps
    np.testing.assert_equal(weights, same_weights)
    assert logs == same_logs


@only("torch")
def test_numbers_are_kept_as_they_were():
    import torch

    from keras_resnet.backend.torch import numbers

    values = [0, 0.0, -0.0, False, 1, 1.0, True, (2, 3), float("nan")]

    def tensors():
        made = [torch.as_tensor(value, device="cpu") for value in values]
        made.append(torch.as_tensor(1, dtype=torch.int64, device="cpu"))
        made.append(torch.as_tensor(1, dtype=torch.float32, device="cpu"))
        made.append(torch.as_tensor(np.ones(2)))
        return made

    expected = tensors()
    with numbers.kept(torch.device("cuda")):
        for _ in range(2):
            for tensor, usual in zip(tensors(), expected, strict=True):
                assert tensor.dtype == usual.dtype
                np.testing.assert_equal(tensor.numpy(), usual.numpy())
                assert np.signbit(
                    tensor.numpy().astype("float64")
                ).tolist() == (
                    np.signbit(usual.numpy().astype("float64")).tolist()
                )
                # As Keras does with the zero of a sum.
                tensor.logical_not_()
        for i in range(3 * numbers.MOST):
            torch.as_tensor(i, device="cpu")
        assert len(numbers._tensors) <= numbers.MOST
    before = dict(numbers._tensors)
    with numbers.kept(torch.device("cpu")):
        torch.as_tensor(0.125, device="cpu")
    assert numbers._tensors == before


def test_one_cycle_has_the_rates_of_keras():
    ours = training.one_cycle(0.3, 40)
    theirs = keras.optimizers.schedules.CosineDecay(**ours.get_config())
    for step in range(45):
        step = keras.ops.convert_to_tensor(step)
        assert float(ours(step)) == float(theirs(step))


@only("torch")
@pytest.mark.parametrize("kind", ["cpu", "cuda", "mps"])
def test_the_resident_input_is_sent_without_waiting(monkeypatch, kind):
    import torch

    from keras_resnet import backend

    sent = []

    class Device:
        type = kind

    class Reference:
        device = Device()

    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda x: (sent.append("pinned"), x)[1]
    )
    monkeypatch.setattr(
        torch.Tensor, "to", lambda x, *a, **k: (sent.append(k), x)[1]
    )
    array = np.arange(6, dtype="int32").reshape(3, 2)
    tensor = backend.to_device(array, Reference())
    # Elsewhere the memory could be freed before it is copied.
    assert sent == (
        ["pinned", {"non_blocking": True}] if kind == "cuda" else [{}]
    )
    np.testing.assert_array_equal(tensor, array)


DETERMINISTIC = """
import os
import keras, numpy as np, keras_resnet
keras_resnet.devices.use(deterministic=True)
keras.utils.set_random_seed(0)
model = keras_resnet.ResNet([1, 1], [16, 32], stem="imagenet", classes=3,
                            input_shape=(32, 32, 3))
model.compile("sgd", "sparse_categorical_crossentropy")
model.fit(np.zeros((4, 32, 32, 3)), np.zeros(4), verbose=0)
backend = keras.backend.backend()
if backend == "torch":
    import torch
    assert torch.are_deterministic_algorithms_enabled()
elif backend == "tensorflow":
    from tensorflow.python.framework import config
    assert config.is_op_determinism_enabled()
else:
    assert "--xla_gpu_deterministic_ops=true" in os.environ["XLA_FLAGS"]
"""


def test_deterministic_kernels_are_all_that_a_network_takes(run_python):
    run_python("-c", DETERMINISTIC)


@only("torch")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_normalization_takes_cudnns_kernels(axis, dtype):
    """A GPU chooses among the kernels of this one operation."""
    import torch
    from torch.overrides import TorchFunctionMode

    from keras_resnet import backend

    called = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            called.append(getattr(function, "__name__", ""))
            return function(*args, **(kwargs or {}))

    rng = np.random.default_rng(0)
    shape = (4, 5, 5, 8) if axis == -1 else (4, 8, 5, 5)
    x = torch.tensor(rng.normal(size=shape), dtype=getattr(torch, dtype))
    x.requires_grad_()
    gamma, beta = (
        torch.tensor(v, dtype=torch.float32, requires_grad=True)
        for v in rng.uniform(0.5, 2, (2, 8))
    )

    def gradients(y):
        return torch.autograd.grad(y.float().square().sum(), (x, gamma, beta))

    with Mode():
        y, mean, variance = backend.batch_normalization(
            x, gamma, beta, 1e-3, axis
        )
    assert "_batch_norm_impl_index" in called
    assert "native_batch_norm" not in called
    first = x.permute(0, 3, 1, 2) if axis == -1 else x
    expected, means, inverse = torch.native_batch_norm(
        first, gamma, beta, None, None, True, 0.0, 1e-3
    )
    if axis == -1:
        expected = expected.permute(0, 2, 3, 1)
    assert torch.equal(y, expected)
    assert torch.equal(mean, means)
    assert torch.equal(variance, inverse**-2 - 1e-3)
    for ours, theirs in zip(gradients(y), gradients(expected), strict=True):
        assert torch.equal(ours, theirs)
    if dtype == "float32":

        def operation(beta, gamma):
            return backend.batch_normalization(x, gamma, beta, 1e-3, axis)

        gammas = torch.stack([gamma, 2 * gamma]).detach()
        both = backend.vectorized(operation, 2)(beta, gammas)
        for i in range(2):
            one = operation(beta, gammas[i])
            for ours, theirs in zip(both, one, strict=True):
                torch.testing.assert_close(ours[i], theirs)


@only("torch")
def test_a_relu_overwrites_what_cudnn_returns():
    """On a CPU it overwrites the output of the normalization, too."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    from keras_resnet.backend.torch import program

    def forward(x, gamma, beta):
        y, *_ = torch.ops.aten.cudnn_batch_norm(
            x, gamma, beta, None, None, True, 0.0, 1e-5
        )
        return torch.relu(y)

    # Tensors without values have a GPU's device on every machine.
    with FakeTensorMode():
        x = torch.empty(4, 8, 5, 5, device="cuda")
        statistics = torch.empty(8, device="cuda")
        graph = make_fx(forward)(x, statistics, statistics).graph
    for node in graph.nodes:
        program._write_in_place(node)
    targets = [node.target for node in graph.nodes]
    assert torch.ops.aten.cudnn_batch_norm.default in targets
    assert torch.ops.aten.relu_.default in targets
