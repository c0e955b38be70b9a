"""PyTorch: a recorded training step is the ordinary one, proven on a CPU.

A tape stands for the CUDA graph: it records the operations of a step without
effect, and runs them again on the same tensors.
"""

import collections
import contextlib
import gc
import weakref

import keras
import numpy as np
import pytest
from networks import small

import keras_resnet
from keras_resnet import training

if keras.backend.backend() != "torch":
    pytest.skip("only PyTorch has CUDA graphs here", allow_module_level=True)

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_resnet.backend import parallel
from keras_resnet.backend.torch import cuda_graph, graph, waits

BATCH, CLASSES = 4, 5
_rng = np.random.default_rng(0)
IMAGES = _rng.uniform(0, 1, (72, 8, 8, 3)).astype("float32")
LABELS = _rng.integers(0, CLASSES, 72)
# While a GPU records, no value can be read, and none sent that is not pinned.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh")


def _tensors(values):
    leaves = torch.utils._pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _memory(tensor):
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """A `cuda_graph.Recorder` of operations on the processor."""

    made = []

    def __init__(self, device):
        super().__init__()
        self.operations, self.replays, self.overwritten = None, 0, {}
        Tape.made.append(self)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation._schema.name.removeprefix("aten::") in WAITING:
            raise RuntimeError(f"{operation} while a stream is captured")
        kwargs = kwargs or {}
        if operation._schema.is_mutable:
            for tensor in _tensors((args, kwargs)):
                self.overwritten.setdefault(
                    _memory(tensor), (tensor, tensor.clone())
                )
        result = operation(*args, **kwargs)
        self.operations.append((operation, args, kwargs, result))
        return result

    def warm_up(self, function):
        return function()

    def record(self, function):
        self.operations = []
        try:
            with self:
                return function()
        finally:
            with torch.no_grad():
                for tensor, value in self.overwritten.values():
                    tensor.copy_(value)
            self.overwritten = {}

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for operation, args, kwargs, result in self.operations:
            if operation._schema.is_mutable:
                operation(*args, **kwargs)
                continue
            inputs = set(map(_memory, _tensors((args, kwargs))))
            results = _tensors(result)
            # A view shows the new values already.
            if results and inputs.issuperset(map(_memory, results)):
                continue
            again = _tensors(operation(*args, **kwargs))
            for old, new in zip(results, again, strict=True):
                old.copy_(new)


class _Keep(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        self.kept.append(logs)


def _model(
    optimizer=None, precision="float32", build=small, eagerly=False, **kwargs
):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    model = build((1,), (16,), size=(8, 8), classifier_activation=None)
    arguments = {
        "loss": training.crossentropy(),
        "weighted_metrics": ["accuracy"],
        **kwargs,
    }
    optimizer = optimizer() if optimizer else training.CoupledSGD(0.05)
    model.compile(optimizer, run_eagerly=eagerly, **arguments)
    return model


def _fit(model, n=72, callbacks=(), **kwargs):
    arguments = {"epochs": 1, "batch_size": BATCH, "shuffle": False}
    return model.fit(
        *(IMAGES[:n], LABELS[:n]),
        verbose=0,
        callbacks=list(callbacks),
        **arguments | kwargs,
    ).history


def _state(model):
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    return [keras.ops.convert_to_numpy(v) for v in variables]


@pytest.fixture
def taped(monkeypatch):
    """Return a function after which training is recorded by tapes."""

    def begin():
        Tape.made = []
        monkeypatch.setattr(cuda_graph, "Recorder", Tape)
        monkeypatch.setattr(
            graph.Model, "_device", lambda _: torch.device("cuda")
        )
        return Tape.made

    return begin


def _same(taped, fit=_fit, **kwargs):
    """Train as usual and by tapes, compare all values, return the tapes."""
    results = []
    tapes = []
    for recorded in (False, True):
        if recorded:
            tapes = taped()
        model, keep = _model(**kwargs), _Keep()
        history = fit(model, callbacks=[keep])
        # Read only now, when later steps have overwritten what they could.
        logs = [dict(each) for each in keep.kept]
        results.append((_state(model), logs, history))
    np.testing.assert_equal(results[1], results[0])
    return tapes


class _Halves(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 if float(step) < 9 else 0.05


OPTIMIZERS = {
    "constant": None,
    "step decay": lambda: training.CoupledSGD(
        training.step_decay(0.1, 20, warmup_steps=6)
    ),
    "one cycle": lambda: training.CoupledSGD(
        training.one_cycle(0.1, 18), nesterov=True
    ),
    "warm-up": lambda: training.CoupledSGD(
        training.WarmUp(
            keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.5), 4
        ),
        momentum_correction=True,
    ),
    # Keras's warm-up reads a value, and so does this one of a user.
    "Keras's warm-up": lambda: training.CoupledSGD(
        keras.optimizers.schedules.CosineDecay(
            0.01, 12, warmup_target=0.1, warmup_steps=6
        )
    ),
    "own schedule": lambda: training.CoupledSGD(_Halves()),
    "function": lambda: training.CoupledSGD(lambda: 0.05),
    "Lamb": lambda: training.Lamb(training.one_cycle(0.01, 18)),
    "AdamW": lambda: keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(0.01, 18)
    ),
    "clipping": lambda: training.CoupledSGD(0.1, global_clipnorm=0.5),
    "averages": lambda: training.CoupledSGD(0.1, use_ema=True),
}


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((n, "float32") for n in OPTIMIZERS), ("one cycle", "mixed_bfloat16")],
)
def test_recorded_steps_are_ordinary_ones(taped, name, precision):
    """Weights, statistics, rate, metrics and logs differ by exactly 0."""
    (tape,) = _same(taped, optimizer=OPTIMIZERS[name], precision=precision)
    assert tape.replays == 72 // BATCH - cuda_graph.WARM_UP_STEPS == 14


class _Count(TorchDispatchMode):
    """Counts the operations of a step after the one that was recorded."""

    def __init__(self):
        super().__init__()
        self.names = collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names[operation._schema.name.removeprefix("aten::")] += 1
        return operation(*args, **(kwargs or {}))


def test_a_recorded_step_asks_nothing_of_the_host(taped, monkeypatch):
    """No number is sent and no value read, and few kernels are launched."""
    taped()
    model = _model()
    x, y = (torch.from_numpy(a[:BATCH]) for a in (IMAGES, LABELS))
    model._symbolic_build(data_batch=(x, y, None))
    model.make_train_function()
    for _ in range(cuda_graph.WARM_UP_STEPS + 1):
        model.train_function([(x, y, None)])
    (tape,) = Tape.made
    assert len(tape.operations) > 100
    monkeypatch.setattr(Tape, "replay", lambda _: None)
    with _Count() as count:
        logs = model.train_function([(x, y, None)])
    # The batch is copied to its place, and the logs out of theirs.
    assert count.names == {"copy_": 2, "clone": len(logs)}


def _rebind(model):
    kernel = model.get_layer("stem_conv").kernel.value
    kernel.data = kernel.data.clone()


def _assign(model):
    gamma = model.get_layer("stem_bn").gamma
    gamma.assign(gamma * 2)


def _freeze(model):
    model.get_layer("stage1_block1").trainable = False


def _set_steps(model):
    model.optimizer.iterations.assign(3)


def _hook(model):
    kernel = model.get_layer("stem_conv").kernel.value
    kernel.register_hook(lambda gradient: gradient * 2)


# Changes by a callback between two steps, and the recordings that follow.
CHANGES = {
    _assign: [14],
    _set_steps: [14],
    _freeze: [4, 6],
    _rebind: [4, 6],
    _hook: [4],
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_callbacks_change_is_noticed(taped, change):
    def fit(model, callbacks):
        do = keras.callbacks.LambdaCallback(
            on_train_batch_begin=lambda i, logs: i == 8 and change(model)
        )
        return _fit(model, callbacks=[do, *callbacks])

    tapes = _same(taped, fit, optimizer=OPTIMIZERS["step decay"])
    assert [tape.replays for tape in tapes] == CHANGES[change]


def test_a_rate_that_a_callback_sets(taped):
    def fit(model, callbacks):
        def rate(epoch, rate):
            return rate / 2

        callback = keras.callbacks.LearningRateScheduler(rate)
        return _fit(model, 24, callbacks=[callback, *callbacks], epochs=3)

    (tape,) = _same(taped, fit)
    assert tape.replays == 14


def test_smaller_last_batches_and_validation_in_between(taped):
    def fit(model, callbacks):
        return _fit(
            *(model, 34, callbacks),
            epochs=3,
            validation_data=(IMAGES, LABELS),
            class_weight={0: 2.0, 1: 0.5},
        )

    (tape,) = _same(taped, fit, optimizer=OPTIMIZERS["one cycle"])
    # 8 batches of four images, and one of two, in each epoch.
    assert tape.replays == 3 * 8 - 4


def test_a_recording_stays_for_the_next_fit(taped):
    def fit(model, callbacks):
        _fit(model, 24)
        model.evaluate(IMAGES, LABELS, verbose=0)
        model.fit(IMAGES, LABELS, batch_size=8, verbose=0, shuffle=False)
        return _fit(model, 24, callbacks)

    tapes = _same(taped, fit)
    # Batches of 8 are recorded anew, and so are those of 4.
    assert [tape.replays for tape in tapes] == [2, 5, 2]


def test_single_batches(taped):
    def fit(model, callbacks):
        keep = callbacks[0]
        for i in range(8):
            batch = slice(i * BATCH, (i + 1) * BATCH)
            logs = model.train_on_batch(
                IMAGES[batch], LABELS[batch], return_dict=True
            )
            keep.kept.append(logs)
        # These batches have no third part, which would be the weights.
        return _fit(model, 24, callbacks)

    tapes = _same(taped, fit)
    assert [tape.replays for tape in tapes] == [4, 2]


def test_a_step_of_your_own_takes_any_batch(taped):
    taped()
    model = _model()

    def train_step(data):
        images, labels, _, _ = data
        return type(model).train_step(model, (images, labels))

    model.train_step = train_step
    with pytest.warns(UserWarning, match="`train_step` of its own"):
        model.make_train_function()
    batch = IMAGES[:BATCH], LABELS[:BATCH], LABELS[:BATCH], LABELS[:BATCH]
    model.train_function([batch])
    assert not Tape.made


def test_variables_stay_where_they_are(taped):
    taped()
    model = _model(OPTIMIZERS["one cycle"])
    _fit(model, 8)
    variables = [*model.variables, *model.optimizer.variables]
    variables += model.metrics_variables
    before = [(v._value, v._value.data_ptr()) for v in variables]
    _fit(model)
    for variable, (value, address) in zip(variables, before, strict=True):
        assert variable._value is value
        assert value.data_ptr() == address


def test_a_resumed_training_is_the_same(taped, tmp_path):
    taped()
    whole = _model(OPTIMIZERS["one cycle"])
    _fit(whole, 36)
    whole.save(tmp_path / "half.keras")
    _fit(whole, 36)
    resumed = keras.models.load_model(tmp_path / "half.keras")
    _fit(resumed, 36)
    assert [tape.replays for tape in Tape.made] == [14, 5]
    np.testing.assert_equal(_state(resumed), _state(whole))


def _loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(
        y_true, y_pred, from_logits=True
    )


def _traceable(y_true, y_pred):
    return _loss(y_true, y_pred)


_traceable.traceable = True


class _Own(keras.metrics.SparseCategoricalAccuracy):
    pass


def _sgd(**kwargs):
    return {"optimizer": lambda: training.CoupledSGD(0.05, **kwargs)}


REFUSED = {
    "accumulates gradients": _sgd(gradient_accumulation_steps=2),
    "scales the loss": {"precision": "mixed_float16"},
    "averages overwrite": _sgd(use_ema=True, ema_overwrite_frequency=3),
    "reads a value.*local_scalar": {
        "optimizer": lambda: keras.optimizers.SGD(0.05)
    },
    "_loss may do more": {"loss": _loss},
    "_Own may do more": {"metrics": [_Own()]},
    "<lambda> may do more": {
        "build": lambda *a, **k: small(
            *a, **k, kernel_regularizer=lambda x: keras.ops.mean(x)
        )
    },
    "draws random": {
        "build": lambda *a, **k: small(
            *a, **k, block=keras_resnet.StochasticDepthBlock
        )
    },
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_not_recorded_says_so_once(taped, words):
    def fit(model, callbacks):
        if graph.Model._device(model).type == "cpu":
            return _fit(model, 40, callbacks)
        with pytest.warns(UserWarning, match=words) as seen:
            history = _fit(model, 40, callbacks)
        said = [str(w.message) for w in seen]
        assert sum("somewhat slower" in text for text in said) == 1
        return history

    if words == "draws random":
        taped()
        tapes = Tape.made
        fit(_model(**REFUSED[words]), [])
    else:
        tapes = _same(taped, fit, **REFUSED[words])
    assert sum(tape.replays for tape in tapes) == 0
    # A recording that fails is hard to undo.
    assert all(tape.operations is None for tape in tapes)


def test_code_that_says_so_is_recorded(taped):
    (tape,) = _same(taped, loss=_traceable)
    assert tape.replays == 14


def test_several_processes_are_not_recorded(taped, monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    with parallel.setting(processes=2):
        assert "several processes" in cuda_graph._reason_against(_model())


def test_eager_models_and_processors_record_nothing(taped):
    tapes = taped()
    _fit(_model(eagerly=True))
    assert not tapes
    graph.Model._device = lambda _: torch.device("cpu")
    _fit(_model())
    assert not tapes


# Operations on a tensor, and what the host waits for while they run.
NOTED = {
    "_local_scalar_dense": lambda x: float(x.sum()),
    "nonzero": torch.nonzero,
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "index.Tensor": lambda x: x[x > 0],
    "index_put_": lambda x: x.clone().index_put_((x > 0,), x),
    "repeat_interleave.Tensor": lambda x: x.repeat_interleave(x.long()),
    "_linalg_check_errors": lambda x: torch.linalg.inv(torch.diag(x)),
    "lift_fresh": lambda x: torch.tensor([1.0, 2.0]),
    "": lambda x: x[x.long()[:1] * 0] * (x > 0).to(torch.bfloat16),
}


@pytest.mark.parametrize("name", NOTED)
def test_operations_that_wait_are_noted(name):
    x = torch.ones(2)
    with waits.Watch(x.device) as watch:
        NOTED[name](x)
    assert (watch.operation or "").removeprefix("aten::") == name


# The same between a processor and another device.
COPIED = {
    "_to_copy": lambda host, x: host.to(x.device),
    "copy_": lambda host, x: x.copy_(host),
    "_foreach_copy_": lambda host, x: torch._foreach_copy_([x], [host]),
    # A number is an argument of the kernel.
    "": lambda host, x: (x * host[0], torch.tensor(1.0)),
}


@pytest.mark.parametrize("name", COPIED)
def test_copies_between_host_and_device_are_noted(name):
    host, x = torch.ones(2), torch.ones(2, device="meta")
    with waits.Watch(x.device) as watch:
        COPIED[name](host, x)
    assert (watch.operation or "").removeprefix("aten::") == name


class _Cycle:
    def __init__(self):
        self.itself = self


class _Stream:
    def __init__(self, device, device_index=1):
        self.device, self.device_index = device, device_index

    def wait_stream(self, other):
        assert other.device == self.device


@pytest.fixture
def cuda(monkeypatch):
    """Stand for `torch.cuda`, and return what is called, with the devices."""
    called = []

    def entered(name):
        @contextlib.contextmanager
        def context(value, **kwargs):
            called.append((name, getattr(value, "device", value)))
            yield

        return context

    def note(name):
        return lambda *args: called.append((name, *args))

    for name, value in {
        "CUDAGraph": lambda: None,
        "graph_pool_handle": lambda: (0, 7),
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": entered("stream"),
        "device": entered("device"),
        "graph": lambda graph, stream, **k: entered("graph")(stream),
        "set_stream": lambda stream: called.append(("set", stream.device)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, note(name))
    return called


def test_a_recording_is_on_the_device_of_the_variables(cuda):
    recorder = cuda_graph.Recorder("cuda:1")
    recorder.warm_up(lambda: None)
    cycle = weakref.ref(_Cycle())
    gc.disable()
    try:
        # What a recording cannot free is freed before it.
        assert cycle() is not None
        recorder.record(lambda: cuda.append(("run", cycle())))
    finally:
        gc.enable()
    assert cuda == [
        ("stream", "cuda:1"),
        ("device", "cuda:1"),
        ("graph", "cuda:1"),
        ("run", None),
    ]


@pytest.mark.parametrize("ends", [True, False])
def test_a_failed_recording_leaves_nothing_and_says_why(
    cuda, monkeypatch, ends
):
    @contextlib.contextmanager
    def recording(graph, **kwargs):
        try:
            yield
        finally:
            if not ends:
                raise RuntimeError("capture_end")

    def fail():
        raise ValueError("the cause")

    monkeypatch.setattr(torch.cuda, "graph", recording)
    with pytest.raises(ValueError, match="the cause"):
        cuda_graph.Recorder("cuda:1").record(fail)
    undone = [
        ("set", "cuda:1"),
        ("_cuda_endAllocateToPool", 1, (0, 7)),
        ("_cuda_releasePool", 1, (0, 7)),
    ]
    assert cuda == [("device", "cuda:1"), *([] if ends else undone)]
