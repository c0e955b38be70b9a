"""PyTorch: training by a replayed trace is training layer by layer."""

import copy
import gc
import pickle
import weakref
from concurrent import futures

import keras
import numpy as np
import pytest
from keras import layers, ops
from networks import assert_close

import keras_resnet
from keras_resnet.blocks import ResidualBlock
from keras_resnet.resnet import ResidualNetwork
from keras_resnet.training import CoupledSGD

if keras.backend.backend() != "torch":
    pytest.skip("only PyTorch replays traces", allow_module_level=True)

import torch

from keras_resnet.backend.torch import graph

CLASSES = 4
_rng = np.random.default_rng(0)
IMAGES = _rng.normal(size=(40, 8, 8, 3)).astype("float32")
LABELS = _rng.integers(0, CLASSES, 40)
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]
LOSS = "sparse_categorical_crossentropy"


def _net(**kwargs):
    keras.utils.set_random_seed(1)
    arguments = {"stem": "cifar", "input_shape": (8, 8, 3), "classes": CLASSES}
    return keras_resnet.ResNet((1, 1), (8, 16), **arguments | kwargs)


def _behind(layer):
    return _net(input_shape=None, input_tensor=layer(keras.Input((8, 8, 3))))


def _before(*more):
    net = _net()
    outputs = net.get_layer("avg_pool").output
    for layer in more:
        outputs = layer(outputs)
    return ResidualNetwork(net.inputs[0], net.get_layer("head")(outputs))


def _compile(model, eagerly=False, optimizer=None, loss=LOSS, **kwargs):
    optimizer = optimizer or (lambda: keras.optimizers.SGD(0.05, 0.9))
    model.compile(optimizer(), loss, run_eagerly=eagerly, **kwargs)
    return model


def _fit(model, x=IMAGES, y=LABELS, **kwargs):
    arguments = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    return model.fit(x, y, **arguments | kwargs).history


def _traces(model):
    """Number of the model's traces of training, and of others."""
    # A key has, as its sixth entry, whether gradients are wanted.
    keys = list(model._replay._traces)
    training = sum(key[5] for key in keys)
    return training, len(keys) - training


def _same_weights(model, other, atol=1e-6):
    ours, theirs = (
        [np.asarray(w, "float64") for w in m.get_weights()]
        for m in (model, other)
    )
    assert_close(ours, theirs, atol=atol, rtol=atol)


def _same_training(build=_net, fit=_fit, atol=1e-6, traces=(1, 0), **kwargs):
    """Train by replay and layer by layer, and compare both.

    Args:
        traces: Numbers of traces that the first then has, `None` for any.
    """
    models, logs = [], []
    for eagerly in (False, True):
        # Before `build`, which may make a layer before it makes the network.
        keras.utils.set_random_seed(1)
        model = build()
        before = model.get_weights()
        _compile(model, eagerly, **kwargs)
        logs.append(fit(model))
        models.append(model)
        # So that equality means something.
        moved = [
            np.abs(np.asarray(now - then, "float32")).max()
            for now, then in zip(model.get_weights(), before, strict=True)
        ]
        assert max(moved) > 1e-3
    _same_weights(*models, atol)
    assert logs[0].keys() == logs[1].keys()
    for name in logs[0]:
        np.testing.assert_allclose(
            logs[0][name], logs[1][name], atol=atol, rtol=atol
        )
    assert "_replay" not in vars(models[1])
    assert traces is None or _traces(models[0]) == traces


class _Traceable(ResidualBlock):
    traceable = True

    def activation(self, x):
        return ops.silu(x)


@pytest.mark.parametrize(
    "arguments",
    [
        {"residual": False},
        {"shortcut": "A"},
        {"shortcut": "B"},
        {"shortcut": "C"},
        {"bottleneck": True},
        {"bottleneck": True, "bottleneck_stride": "1x1"},
        {"stem": "imagenet", "zero_init_residual": True},
        {"block": keras_resnet.PreactivationBlock},
        {"block": _Traceable},
    ],
    ids=str,
)
def test_networks(arguments):
    _same_training(lambda: _net(**arguments))


def test_channels_first():
    keras.config.set_image_data_format("channels_first")
    _same_training(
        lambda: _net(input_shape=(3, 8, 8)),
        lambda m: _fit(m, np.moveaxis(IMAGES, -1, 1).copy()),
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    _same_training()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_weights_in_float32(policy):
    """A replay must not write back weights in the computation's precision."""
    keras.config.set_dtype_policy(policy)
    model = _net()
    before = model.get_weights()
    _compile(model, optimizer=lambda: keras.optimizers.SGD(1e-6))
    model.predict(IMAGES, batch_size=8, verbose=0)
    np.testing.assert_equal(model.get_weights(), before)
    _fit(model)
    assert _traces(model) == (1, 1)
    for variable, old in zip(model.variables, before, strict=True):
        if variable.trainable:
            now = keras.ops.convert_to_numpy(variable)
            np.testing.assert_allclose(now, old, atol=1e-4, rtol=0)


class _OtherLayout(layers.Layer):
    traceable = True

    def call(self, x):
        y = x.to(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        # A view, which only this layout allows.
        return y.view(len(x), -1).view(y.shape).permute(0, 3, 1, 2)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_layer_that_copies_its_input_into_another_layout(policy):
    """The copy is no conversion of a weight."""
    keras.config.set_dtype_policy(policy)
    _same_training(lambda: _behind(_OtherLayout()))


def test_without_top_and_written_into_views():
    """A layer after a sum written in place may view it as one row."""

    def build():
        net = _net()
        x = net.get_layer("stage1_block1").output
        y = keras_resnet.Convolution(8, 1)(x)
        y = ops.relu(ops.add(y, y))
        y = ops.add(ops.add(x, x), y)
        y = layers.Dense(CLASSES)(layers.Flatten()(y))
        return ResidualNetwork(net.inputs[0], y)

    _same_training(
        build,
        lambda m: _fit(m, y=ONE_HOT),
        loss="mse",
        optimizer=lambda: keras.optimizers.SGD(1e-3),
        atol=1e-5,
    )


# Functions, since a model needs an optimizer of its own.
OPTIMIZERS = {
    "nesterov": lambda: keras.optimizers.SGD(0.05, 0.9, nesterov=True),
    "coupled": lambda: CoupledSGD(0.05, coupled_decay=0.01),
    "corrected": lambda: CoupledSGD(
        keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.8),
        momentum_correction=True,
    ),
    "accumulating": lambda: keras.optimizers.SGD(
        0.05, gradient_accumulation_steps=3
    ),
    "averaging": lambda: keras.optimizers.SGD(
        0.05, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=4
    ),
    "clipping": lambda: CoupledSGD(0.05, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    _same_training(optimizer=OPTIMIZERS[name], atol=1e-5)


def test_losses_metrics_and_weights_of_samples():
    def loss(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), -1) + ops.max(y_pred, -1)

    def sure(y_true, y_pred):
        return ops.mean(ops.max(y_pred, -1))

    _same_training(
        fit=lambda m: _fit(
            m,
            y=ONE_HOT,
            sample_weight=np.linspace(0, 2, 40),
            validation_data=(IMAGES, ONE_HOT, np.linspace(2, 0, 40)),
        ),
        traces=(1, 1),
        loss=loss,
        metrics=["accuracy", sure],
        weighted_metrics=[keras.metrics.MeanSquaredError()],
    )


def test_kernel_regularizer_and_constraint():
    options = {"kernel_regularizer": "l2", "kernel_constraint": "unit_norm"}
    _same_training(lambda: _before(layers.Dense(16, **options)), atol=1e-5)


def test_a_smaller_last_batch():
    _same_training(
        fit=lambda m: _fit(m, IMAGES[:30], LABELS[:30], epochs=4),
        traces=(2, 0),
    )


def _freeze_stage(model):
    model.get_layer("stage2_block1").trainable = False


def _freeze_normalization(model):
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


@pytest.mark.parametrize("recompile", [False, True])
@pytest.mark.parametrize("freeze", [_freeze_stage, _freeze_normalization])
def test_freezing_between_two_fits(freeze, recompile):
    def fit(model):
        _fit(model)
        freeze(model)
        frozen = [
            w.copy() for w in model.get_layer("stage2_block1").get_weights()
        ]
        if recompile:
            _compile(model, model.run_eagerly)
        logs = _fit(model)
        if freeze is _freeze_stage:
            now = model.get_layer("stage2_block1").get_weights()
            np.testing.assert_equal(now, frozen)
        return logs

    _same_training(fit=fit, traces=(1 if recompile else 2, 0))


def test_a_callback_freezes_and_thaws_and_changes_the_rate():
    class Change(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            layer = self.model.get_layer("stage1_block1")
            layer.trainable = batch % 5 < 3
            self.model.optimizer.learning_rate = 0.05 / (1 + batch)

    _same_training(
        fit=lambda m: _fit(m, epochs=4, callbacks=[Change()]), traces=(2, 0)
    )


# Keras says that the frozen one has none, which is the point.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_pytorchs_own_way_to_freeze():
    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel = self.model.get_layer("stem_conv").kernel.value
            kernel.requires_grad_(epoch == 1)

    model = _compile(_net())
    stem = model.get_layer("stem_conv")
    kernels = []
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: kernels.append(stem.get_weights()[0])
    )
    _fit(model, callbacks=[Change(), stop])
    assert np.abs(kernels[1] - kernels[0]).max() > 1e-3


def _with_normalization():
    layer = layers.Normalization()
    layer.adapt(IMAGES)
    return _behind(layer)


def test_normalization_adapted_anew():
    def fit(model):
        _fit(model)
        model.layers[1].adapt(IMAGES * 3 + 1)
        # A trace must be right whether `adapt` compiles anew or not.
        return _fit(model)

    _same_training(_with_normalization, fit, traces=None)


def test_normalization_loaded_between_batches():
    other = layers.Normalization()
    other.adapt(IMAGES * 3 + 1)
    statistics = {}
    other.save_own_variables(statistics)

    class Load(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.layers[1].load_own_variables(statistics)

    _same_training(
        _with_normalization,
        lambda m: _fit(m, callbacks=[Load()], epochs=3),
        traces=(2, 0),
    )


@pytest.mark.parametrize(
    "adapt",
    [
        lambda model: model.get_layer("head").enable_lora(2),
        lambda model: model.get_layer("stage1_block1").conv1.enable_lora(2),
        lambda model: model.get_layer("head").quantize("int8"),
    ],
    ids=["lora", "lora in a block", "int8"],
)
def test_layers_adapted_between_predictions(adapt):
    model = _net()
    # LoRA freezes the kernel, and this alone would ask for another trace.
    model.trainable = False

    def predict():
        return model.predict(IMAGES, batch_size=8, verbose=0)

    before = predict()
    adapt(model)
    # The first time by layers, the second time by a new trace.
    for _ in range(2):
        for variable in model.weights:
            if "lora" in variable.name or "scale" in variable.name:
                variable.assign(_rng.normal(size=variable.shape))
        predicted = predict()
        called = ops.convert_to_numpy(model(IMAGES))
        np.testing.assert_allclose(predicted, called, atol=1e-5)
        assert np.abs(predicted - before).max() > 1e-3


def test_weights_assigned_between_batches(tmp_path):
    path = tmp_path / "w.weights.h5"
    other = _compile(_net(), True)
    _fit(other)
    other.save_weights(path)
    loaded = other.get_weights()

    class Assign(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.params["epoch"] != 1:
                return
            if batch == 0:
                self.model.set_weights(loaded)
            elif batch == 2:
                self.model.load_weights(path)
            elif batch == 3:
                gamma = self.model.get_layer("stem_bn").gamma
                gamma.assign(gamma * 2)

        def on_epoch_begin(self, epoch, logs=None):
            self.params["epoch"] = epoch

    _same_training(fit=lambda m: _fit(m, callbacks=[Assign()]))


def test_single_batches():
    def fit(model):
        losses = [
            model.train_on_batch(IMAGES[i : i + 8], LABELS[i : i + 8])
            for i in (0, 8, 16, 24, 32)
        ]
        losses += [model.test_on_batch(IMAGES, LABELS) for _ in range(4)]
        predicted = [model.predict_on_batch(IMAGES) for _ in range(4)]
        np.testing.assert_array_equal(predicted[0], predicted[3])
        return {"loss": losses}

    # Test and prediction are the same kind of batch.
    _same_training(fit=fit, traces=(1, 1))


# Keras says so too, of `aux`.
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.filterwarnings("ignore:.*runs layer by layer")
def test_several_outputs():
    """A gradient of zero is not none: decay would move `aux`."""

    def build():
        net = _net()
        x = net.get_layer("stage1_block1").output
        aux = layers.Dense(CLASSES, name="aux")
        return ResidualNetwork(
            net.inputs[0], [net.output, aux(layers.Flatten()(x))]
        )

    def fit(model):
        aux = model.get_layer("aux")
        before = aux.get_weights()
        logs = _fit(model, y=[ONE_HOT, ONE_HOT])
        np.testing.assert_equal(aux.get_weights(), before)
        return logs

    _same_training(
        build,
        fit,
        traces=None,
        loss=["mse", None],
        optimizer=lambda: CoupledSGD(0.05),
    )


def test_several_outputs_predict_by_replay():
    net = _net()
    outputs = {
        "head": net.output,
        "stem": net.get_layer("stem_relu").output,
        "image": net.input,
    }
    model = ResidualNetwork(net.input, outputs)
    actual = model.predict(IMAGES, batch_size=8, verbose=0)
    assert _traces(model) == (0, 1)
    for name, expected in model(IMAGES).items():
        np.testing.assert_allclose(
            actual[name], ops.convert_to_numpy(expected), atol=1e-6
        )


class _MyBlock(ResidualBlock):
    pass


class _OfTraceable(_Traceable):
    pass


class _MyLayer(layers.Layer):
    def call(self, x):
        self.add_loss(ops.mean(ops.square(x)))
        return x


class _MyStep(ResidualNetwork):
    def train_step(self, data):
        return super().train_step(data)


class _MyLoss(ResidualNetwork):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


class _MyOperation(keras.Operation):
    def call(self, x):
        return x * 2

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


def _subclassed(subclass):
    net = _net()
    return subclass(net.input, net.output)


def _own_step_in_the_instance():
    model = _net()
    step = model.train_step
    model.train_step = lambda data: step(data)
    return model


OPAQUE = {
    "block": lambda: _net(block=_MyBlock),
    "subclass": lambda: _net(block=_OfTraceable),
    "layer": lambda: _before(_MyLayer()),
    "train_step": lambda: _subclassed(_MyStep),
    "compute_loss": lambda: _subclassed(_MyLoss),
    "instance": _own_step_in_the_instance,
    "operation": lambda: _before(_MyOperation()),
    "activity": lambda: _before(layers.ActivityRegularization(l2=0.1)),
    "regularizer": lambda: _before(layers.Dense(16, activity_regularizer="l2")),
    "lambda": lambda: _before(layers.Lambda(lambda x: x * 2)),
    "torch_module": lambda: _before(
        layers.TorchModuleWrapper(
            torch.nn.BatchNorm1d(16), output_shape=(None, 16)
        )
    ),
}


def _recomputed():
    with keras.RematScope("full"):
        return _net()


# These train layer by layer, and are evaluated by replay.
EVALUATED = {
    "stochastic": lambda: _net(block=keras_resnet.StochasticDepthBlock),
    "dropout": lambda: _before(layers.Dropout(0.5, seed=1)),
    "flip": lambda: _behind(layers.RandomFlip(seed=1)),
    "recomputed": _recomputed,
}


def _warned(words, *args, **kwargs):
    """Return a fit that says once, with some words, that nothing is traced."""

    def fit(model):
        if model.run_eagerly:
            return _fit(model, *args, **kwargs)
        with pytest.warns(UserWarning, match=words) as actual:
            logs = _fit(model, *args, **kwargs)
        assert len([w for w in actual if "layer by" in str(w.message)]) == 1
        return logs

    return fit


@pytest.mark.parametrize("name", [*OPAQUE, *EVALUATED])
def test_what_is_not_replayed_says_so_once(name):
    evaluated = name in EVALUATED
    words = "draws random numbers" if evaluated else "runs layer by layer"
    words = "RematScope" if name == "recomputed" else words
    fit = _warned(words, validation_data=(IMAGES, LABELS))
    _same_training((OPAQUE | EVALUATED)[name], fit, traces=(0, int(evaluated)))


def test_dict_inputs():
    def build():
        net = _net()
        return ResidualNetwork({"image": net.input}, net.output)

    fit = _warned("other inputs than one", {"image": IMAGES})
    _same_training(build, fit, traces=None)


def test_masks_reach_the_loss():
    def build():
        net = _net()
        x = layers.ReLU()(layers.Dense(64)(net.output) - 1.0)
        return ResidualNetwork(
            net.input, layers.Masking()(layers.Reshape((32, 2))(x))
        )

    targets = np.random.default_rng(3).normal(size=(40, 32, 2))
    fit = _warned("have a mask", y=targets)
    _same_training(build, fit, traces=None, loss="mse")


def test_within_another_model():
    models = []
    for eagerly in (False, True):
        # It has a trace of its own from before.
        net = _compile(_net())
        _fit(net)
        assert _traces(net) == (1, 0)
        x = keras.Input((8, 8, 3))
        model = keras.Model(x, layers.Dense(CLASSES)(net(x)))
        _compile(model, eagerly, loss="mse")
        _fit(model, y=ONE_HOT)
        models.append(model)
    _same_weights(*models)


def test_a_network_within_a_network():
    def build():
        net = _compile(_net(), True)
        x = keras.Input((8, 8, 3))
        return ResidualNetwork(x, net(x))

    _same_training(build)


# PyTorch's, for images, which have no gradients.
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "kind",
    ["forward", "forward_pre", "full_backward", "full_backward_pre", "global"],
)
def test_hooks_are_called(kind, when):
    model = _compile(_net())
    if when == "after":
        _fit(model, epochs=1)
        assert _traces(model) == (1, 0)
    layer = model.get_layer("stage1_block1").conv1
    calls = []

    def hook(module, *args):
        if module is layer:
            calls.append(module)

    if kind == "global":
        handle = torch.nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = getattr(layer, f"register_{kind}_hook")(hook)
    _fit(model, epochs=1)
    handle.remove()
    # Keras builds once more, symbolically.
    count = len(calls)
    assert count in (5, 6)
    _fit(model, epochs=1)
    assert len(calls) == count
    assert _traces(model) == (1, 0)


def test_hooks_of_parameters_are_called():
    model = _compile(_net())
    calls = []
    kernel = model.get_layer("stem_conv").kernel.value
    kernel.register_hook(lambda gradient: calls.append(gradient.shape))
    _fit(model)
    assert len(calls) == 10
    assert _traces(model) == (1, 0)


def _trained():
    model = _compile(_net())
    _fit(model, validation_data=(IMAGES, LABELS))
    assert _traces(model) == (1, 1)
    return model


@pytest.mark.parametrize(
    "clone",
    [
        copy.copy,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        keras.models.clone_model,
    ],
    ids=["copy", "deepcopy", "pickle", "clone_model"],
)
def test_copies_are_models_of_their_own(clone):
    model = _trained()
    twin = clone(model)
    twin.set_weights(model.get_weights())
    expected = model.predict(IMAGES, verbose=0)
    before = model.get_weights()
    _compile(twin)
    np.testing.assert_allclose(
        twin.predict(IMAGES, verbose=0), expected, atol=1e-6
    )
    _fit(twin)
    assert _traces(twin) == (1, 0)
    assert twin._replay is not model._replay
    np.testing.assert_equal(model.get_weights(), before)


def test_saved_while_training_and_trained_on(tmp_path):
    path = tmp_path / "model.keras"

    def fit(model):
        _fit(model, callbacks=[keras.callbacks.ModelCheckpoint(path)])
        reloaded = keras.models.load_model(path)
        assert type(reloaded) is ResidualNetwork
        reloaded.run_eagerly = model.run_eagerly
        _same_weights(reloaded, model, 0)
        logs = _fit(reloaded)
        if not model.run_eagerly:
            assert _traces(reloaded) == (1, 0)
        model.set_weights(reloaded.get_weights())
        return logs

    _same_training(fit=fit)


def test_predict_and_evaluate_in_batches_of_any_size():
    model = _trained()
    twin = _compile(_net(), True)
    twin.set_weights(model.get_weights())
    for size in (8, 1, 7, 40, 8):
        np.testing.assert_allclose(
            model.predict(IMAGES, batch_size=size, verbose=0),
            twin.predict(IMAGES, batch_size=size, verbose=0),
            atol=1e-6,
        )
        np.testing.assert_allclose(
            model.evaluate(IMAGES, LABELS, batch_size=size, verbose=0),
            twin.evaluate(IMAGES, LABELS, batch_size=size, verbose=0),
            atol=1e-6,
        )
    _same_weights(model, twin, 0)


def test_integer_and_double_images():
    for dtype in ("uint8", "float64"):
        images = (np.abs(IMAGES) * 50).astype(dtype)
        _same_training(fit=lambda m, x=images: _fit(m, x))


def test_second_order_gradients_outside_fit():
    model = _trained()
    x = ops.convert_to_tensor(IMAGES[:8]).requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad.abs().max() > 0


def test_pytorchs_autocast_and_inference_mode():
    model = _trained()
    expected = model.predict(IMAGES, batch_size=8, verbose=0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.predict(IMAGES, batch_size=8, verbose=0)
    assert 1e-5 < np.abs(rough - expected).max() < 0.1
    fresh = _net()
    fresh.set_weights(model.get_weights())
    with torch.inference_mode():
        np.testing.assert_allclose(
            fresh.predict(IMAGES, batch_size=8, verbose=0), expected, atol=1e-6
        )
    np.testing.assert_allclose(
        fresh.predict(IMAGES, batch_size=8, verbose=0), expected, atol=1e-6
    )
    _compile(fresh)
    _fit(fresh)
    assert _traces(fresh) == (1, 0)


def test_switched_off_without_compiling():
    model = _trained()
    before = dict(model._replay._seen)
    model.run_eagerly = True
    _fit(model, batch_size=5)
    assert model._replay._seen == before


def test_models_are_forgotten():
    model = weakref.ref(_trained())
    keras.backend.clear_session()
    gc.collect()
    assert model() is None


def test_threads_share_a_model():
    model = _net()
    draw = np.random.default_rng(2).normal
    batches = [draw(size=(n, 8, 8, 3)).astype("float32") for n in range(2, 7)]
    expected = [keras.ops.convert_to_numpy(model(batch)) for batch in batches]

    def predict(seed):
        for i in np.random.default_rng(seed).integers(len(batches), size=25):
            actual = model.predict_on_batch(batches[i])
            np.testing.assert_allclose(actual, expected[i], atol=1e-5)

    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(predict, range(8)))
    assert _traces(model) == (0, len(batches))


def test_threads_train_models_of_their_own():
    expected = _compile(_net())
    _fit(expected)
    models = [_compile(_net()) for _ in range(4)]
    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(_fit, models))
    for model in models:
        assert _traces(model) == (1, 0)
        _same_weights(model, expected, atol=1e-5)
    # Tracing changed no global state of PyTorch.
    compiled = torch.compile(lambda x: 2 * x + 1, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [3, 3]


def test_traces_are_bounded_and_the_least_used_goes():
    model = _net(input_shape=(None, None, 3))
    sizes = range(8, 8 + 2 * graph.TRACES)

    def predict(size):
        model.predict_on_batch(np.zeros((1, size, size, 3), "float32"))

    for size in sizes:
        for _ in range(graph.UNTRACED_BATCHES + 1):
            predict(size)
        predict(sizes[0])
    traced = {key[0][1] for key in model._replay._traces}
    assert len(traced) == graph.TRACES
    assert {sizes[0], *sizes[1 - graph.TRACES :]} == traced
    assert set(model._replay._seen) == set(model._replay._traces)
