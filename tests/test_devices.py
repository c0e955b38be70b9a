"""Several devices train as one does: see `devices_worker.py`.

On two devices of the processor, or in two processes, as the backend has it.
"""

import functools
import itertools
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import (
    ROOT,
    SHALLOW,
    check_refused,
    free_port,
    read_json,
    run_recipe,
)
from networks import only, to_numpy

pytest.importorskip("tensorflow", reason="tf.data feeds every backend")

import devices_worker
from imagenet_files import image_folder

import keras_resnet
from keras_resnet import data, devices, table1, training
from keras_resnet_recipes import imagenet
from keras_resnet_recipes.experiment import RunSettings, UsageError
from keras_resnet_recipes.experiment.files import read_history
from keras_resnet_recipes.experiment.training import use_devices

BACKEND = keras.backend.backend()
WORKER = ROOT / "tests" / "devices_worker.py"
TOLERANCE = 1e-4
# The variables that would make a process of these tests one of several.
LAUNCHERS = devices.engine._LAUNCHERS


def _environment(**values):
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHERS}
    # Half the time of a test is compilation; threads of processes that share
    # two cores wait for each other.
    usual = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "OMP_NUM_THREADS": "1"}
    return kept | usual | values


def _two_devices():
    """Environments of one process with two devices."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=2"
    # TensorFlow's are made by the worker.
    return [_environment(XLA_FLAGS=flags)]


def _two_processes():
    """Environments of two processes, as Keras or torchrun would set them."""
    port = str(free_port())
    if BACKEND == "jax":
        return [
            _environment(
                KERAS_DISTRIBUTION_JOB_ADDRESSES=f"127.0.0.1:{port}",
                KERAS_DISTRIBUTION_NUM_PROCESSES="2",
                KERAS_DISTRIBUTION_PROCESS_ID=i,
            )
            for i in "01"
        ]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return [_environment(RANK=i, LOCAL_RANK=i, **where) for i in "01"]


WAYS = {
    "tensorflow": {"devices": _two_devices},
    "jax": {"devices": _two_devices, "processes": _two_processes},
    "torch": {"processes": _two_processes},
}[BACKEND]


def _run(command, environments, status=0):
    """Run a command in each environment at once; returns what they printed."""
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for environment in environments
    ]
    try:
        outputs = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    errors = "\n".join(error for _, error in outputs)
    assert {p.returncode for p in processes} == {status}, errors
    return [printed for printed, _ in outputs]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("devices") / "start.weights.h5"
    devices_worker.model_of(seed=2).save_weights(path)
    return path


@pytest.fixture(scope="module")
def one_device(weights):
    return devices_worker.train(devices.Devices(), weights)


@pytest.fixture(scope="module", params=WAYS)
def two_devices(request, weights, tmp_path_factory):
    """Path of what two devices made, and the number of their processes."""
    path = tmp_path_factory.mktemp("devices") / "result.npz"
    ended = _run([WORKER, weights, path, 2], WAYS[request.param]())
    return path, len(ended)


def _read(path):
    with np.load(path) as result:
        return dict(result)


def _difference(one, other):
    """The largest difference between the variables of two models."""
    names = [n for n in one if n.startswith(("start_", "weight_"))]
    assert set(one) == set(other)
    # A NaN is no difference to tolerate.
    return max(
        np.nan_to_num(np.abs(one[n] - other[n]).max(), nan=np.inf)
        for n in names
    )


def test_two_train_as_one(one_device, two_devices):
    path, processes = two_devices
    result = _read(path)
    assert result["devices"].tolist() == [2, processes]
    # All processes end where the first one fails, and it alone says why.
    first, *others = result.pop("endings")
    assert first == repr(ZeroDivisionError("division by zero"))
    assert others == [repr(SystemExit(1))] * (processes - 1)
    assert result["weight_coupled_sgd/iteration"] == 20
    assert _difference(one_device, result) <= TOLERANCE
    # All variables have moved, and by more than is tolerated.
    started = [name for name in result if name.startswith("start_")]
    assert len(started) == 37
    for name in started:
        moved = result[name.replace("start_", "weight_")] - result[name]
        assert np.abs(moved).max() > 5 * TOLERANCE, name
    # Logs and evaluation are those of all devices.
    for name in one_device:
        if name.startswith(("train_", "eval_")):
            np.testing.assert_allclose(result[name], one_device[name], 1e-4)
    # Each image once in each epoch, counted by the devices themselves.
    assert result["train_images"].tolist() == [devices_worker.IMAGES] * 2
    assert result["train_most"].tolist() == [1, 1]
    assert result["eval_images"] == devices_worker.EVALUATED
    assert result["eval_most"] == 1


@only("tensorflow", "torch")
def test_normalization_per_device(one_device, two_devices):
    path, _ = two_devices
    result = _read(path.with_name("result-per-device.npz"))
    # Other numbers, but the same images.
    assert _difference(one_device, result) > 10 * TOLERANCE
    assert result["train_images"].tolist() == [devices_worker.IMAGES] * 2
    assert np.isfinite(result["train_loss"]).all()


# The recipe, with two devices of the processor where TensorFlow needs them.
RECIPE = f"""
import runpy, sys
if {BACKEND == "tensorflow"}:
    import tensorflow as tf
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
sys.argv[0] = "recipes/cifar10.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_recipe(tmp_path):
    (way, *_) = WAYS.values()
    flags = "--dataset digits --preset fast --depth 8 --steps 30 --every 15"
    folder = tmp_path / "run"
    command = ["-c", RECIPE, *flags.split(), "--output", folder]
    ended = _run([*command, "--devices", "all"], way())
    assert "test error" in ended[0]
    # Only JAX's messages on CPUs may be here.
    for line in "".join(ended[1:]).splitlines():
        assert line.startswith("[Gloo]")
    result = read_json(folder / "result.json")
    assert result["devices"] == {
        "count": 2,
        "processes": len(ended),
        "normalization": "synchronized",
    }
    assert result["iterations"] == 30
    assert result["test_images"] == 360
    history = read_history(folder / "steps.csv")
    assert history["iterations"] == [15, 30]
    # The saved model gives the results of the evaluation, on all devices and on
    # one.
    model = keras.models.load_model(folder / "final.keras")
    digits = data.load("digits")
    for split, error in (
        (digits.validation, history["val_error"][-1]),
        (digits.test, result["test_error"]),
    ):
        actual = model.evaluate(
            data.evaluation_batches(split), return_dict=True, verbose=0
        )
        assert 1 - actual["accuracy"] == pytest.approx(error, abs=1e-4)


INTERRUPT = """
import signal
import keras
from keras_resnet_recipes.experiment.run import Run

usual = Run.callbacks

def callbacks(run, *args, **kwargs):
    interrupt = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: batch == 12
        and run.devices.process == run.devices.processes - 1
        and signal.raise_signal(signal.SIGTERM)
    )
    return [interrupt, *usual(run, *args, **kwargs)]

Run.callbacks = callbacks
"""


# The recipe is the same on every backend, and so are its devices, which the
# tests above are about: one backend shows it, by two processes.
by_two_processes = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=() if BACKEND == "torch" else pytest.mark.slow)
        for way in WAYS
    ],
)


@by_two_processes
def test_recipe_continues_within_an_epoch(tmp_path, way):
    """A signal to one process ends all of them after the same step."""
    flags = "--dataset digits --preset fast --depth 8 --steps 45 --every 15"
    command = [*flags.split(), "--devices", "all", "--output"]

    def run(name, *more, before="", status=0):
        recipe = ["-c", before + RECIPE, *command, tmp_path / name, *more]
        return _run(recipe, WAYS[way](), status)

    run("straight")
    ended = run("stopped", before=INTERRUPT, status=143)
    stopped = 13 if len(ended) == 1 else 20
    assert f"up to iteration {stopped};" in ended[0]
    run("stopped", "--resume")
    one, two = (
        (
            read_history(tmp_path / name / "steps.csv"),
            keras.models.load_model(
                tmp_path / name / "final.keras"
            ).get_weights(),
        )
        for name in ("straight", "stopped")
    )
    np.testing.assert_equal(one, two)


def _train_on_large_images(output, images, environments=()):
    """Run the paper's procedure, with an average, on one device or two."""
    flags = f"--dataset folder --folder {images} --depth 18 --epochs 2 "
    flags += "--image-size 32 --test-size 32 --test-resize 36 --ema 0.5 "
    flags += "--batch-size 8 --max-unreadable 0.1 --learning-rate 1e-5"
    flags = [*flags.split(), "--output", str(output)]
    if environments:
        recipe = "from keras_resnet import table1\n"
        recipe += f"table1.IMAGENET_SPECS[18] = {SHALLOW}\n"
        recipe += RECIPE.replace("cifar10.py", "imagenet.py")
        command = ["-c", recipe, *flags, "--devices", "2"]
        _run(command, environments)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)
            run_recipe(imagenet, flags)
    result = read_json(output / "result.json")
    assert result["validation_images"] == 11
    assert len(result["unreadable"]) == 2
    return result


@pytest.fixture(scope="module")
def large_images(tmp_path_factory):
    """A folder of images, two of them corrupt, and a run on one device."""
    pytest.importorskip("PIL", reason="the files are written with Pillow")
    path = tmp_path_factory.mktemp("large")
    images = path / "images"
    image_folder(images / "train", each=6, corrupt=1)
    image_folder(images / "val", each=3, first=500, corrupt=1)
    _train_on_large_images(path / "one", images)
    return images, path / "one"


@by_two_processes
def test_recipe_of_large_images(large_images, tmp_path, way):
    """The paper's procedure, which needs a mean image and the history."""
    images, alone = large_images
    together = tmp_path / "two"
    result = _train_on_large_images(together, images, WAYS[way]())
    assert result["devices"]["count"] == 2
    # The averages agree: they are far closer to each other than to the weights
    # that were averaged. At usual rates rounding errors grow tenfold with each
    # step of so small a batch.
    last, one, two = (
        np.concatenate(
            [
                np.ravel(to_numpy(v))
                for v in keras.models.load_model(path).trainable_variables
            ]
        )
        for path in (
            alone / "last.keras",
            alone / "final.keras",
            together / "final.keras",
        )
    )
    norm = np.linalg.norm
    assert norm(one - two) < 0.05 * norm(one - last)
    a, b = (read_history(path / "history.csv") for path in (alone, together))
    # On several devices an unreadable image is a loss of 0.
    np.testing.assert_allclose(
        a["val_loss"], np.multiply(b["val_loss"], 12 / 11), rtol=1e-3
    )
    np.testing.assert_allclose(a["val_error"], b["val_error"], atol=1e-6)


def _use(*flags):
    parser = RunSettings.parser()
    return use_devices(RunSettings.settle(vars(parser.parse_args(flags))))


@pytest.fixture
def _launched_alone(monkeypatch):
    for name in (*LAUNCHERS, "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_launched_alone")
def test_one_device_is_the_default():
    for flags in ([], ["--devices", "1"]):
        one = _use(*flags)
        assert (one.count, one.shard) == (1, (0, 1))
        assert one.pad_to_multiple_of is None
        assert one.settings() == {}
        assert one.on_first(lambda: 3) == 3
        one.check_batch(7)
    two = _Two()
    assert two.settings() == {}
    two.synchronized = False
    assert two.settings() == {"normalization": "per device, 2 devices"}


@pytest.mark.usefixtures("_launched_alone")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_several_processes_need_the_flag(monkeypatch, launcher):
    monkeypatch.setenv(launcher, "4")
    with pytest.raises(
        devices.DevicesError, match='4 processes.*`devices="all"`'
    ):
        _use()


@pytest.mark.usefixtures("_launched_alone")
def test_devices_that_are_not_there(monkeypatch):
    match = {
        "tensorflow": "99 devices were requested, but TensorFlow has",
        "jax": "99 devices were requested, but JAX has",
        "torch": "torchrun --standalone --nproc-per-node=99",
    }[BACKEND]
    with pytest.raises(devices.DevicesError, match=match):
        _use("--devices", "99")
    if BACKEND == "torch":
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(devices.DevicesError, match="torchrun started 2"):
            _use("--devices", "3")


@pytest.mark.usefixtures("_launched_alone")
@pytest.mark.parametrize("count", [0, -1, "2"])
def test_no_number_of_devices(count):
    with pytest.raises(ValueError, match="`devices` must be None"):
        devices.use(count)


@only("tensorflow")
@pytest.mark.usefixtures("_launched_alone")
def test_tensorflow_says_that_it_trains_in_one_process(monkeypatch):
    workers = {"cluster": {"worker": ["a:1", "b:1"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(workers))
    with pytest.raises(devices.DevicesError, match="keras#20585"):
        _use("--devices", "all")


@pytest.mark.usefixtures("_launched_alone")
def test_normalization_flag(capsys):
    with pytest.raises(UsageError, match="--normalization needs --devices"):
        _use("--normalization", "per-device")
    with pytest.raises(SystemExit):
        _use("--devices", "0")
    assert "'0'" in capsys.readouterr().err
    if BACKEND == "jax":
        with pytest.raises(devices.DevicesError, match="synchronized=False"):
            _use("--devices", "1", "--normalization", "per-device")


class _Two(devices.Devices):
    """Two devices that one need not have."""

    count = 2


def test_what_two_devices_cannot_train():
    two = _Two()
    two.check_batch(8)
    with pytest.raises(devices.DevicesError, match="6 or 8"):
        two.check_batch(7)
    image = keras.Input((4, 4, 3))
    x = keras_resnet.BatchNormalization()(image)
    model = keras.Model(image, x)
    model.compile(loss="mse", weighted_metrics=["mae"])
    two.check_model(model)
    model.compile(loss="mse", metrics=["mae"])
    devices.Devices().check_model(model)
    with pytest.raises(devices.DevicesError, match="weighted_metrics"):
        two.check_model(model)
    if BACKEND != "jax":
        x = keras.layers.BatchNormalization(name="others")(x)
        model = keras.Model(image, x)
        model.compile(loss="mse")
        with pytest.raises(devices.DevicesError, match="others"):
            two.check_model(model)


@only("tensorflow")
def test_tensorflow_does_not_accumulate_on_two(tmp_path, monkeypatch, capsys):
    two = _Two()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = training.CoupledSGD(gradient_accumulation_steps=2)
    model.compile(optimizer, "mse")
    devices.Devices().check_model(model)
    with pytest.raises(devices.DevicesError, match="accumulation_steps=2"):
        two.check_model(model)
    model.compile(keras.optimizers.LossScaleOptimizer(optimizer), "mse")
    with pytest.raises(devices.DevicesError, match="accumulation_steps=2"):
        two.check_model(model)
    monkeypatch.setattr(devices, "use", lambda *_, **__: two)
    flags = ["--dataset", "folder", "--folder", str(tmp_path), "--devices", "2"]
    flags += ["--accumulate", "2", "--output", str(tmp_path / "run")]
    run = functools.partial(run_recipe, imagenet, flags)
    check_refused(run, capsys, ["--accumulate 2"])
    assert not (tmp_path / "run").exists()


# TensorFlow's input is tf.data.
INPUTS = [n for n in data.INPUTS if (n, BACKEND) != ("device", "tensorflow")]


@pytest.mark.parametrize("name", INPUTS)
def test_parts_are_the_batch(name):
    split = _numbered(20)
    flags = {"padding": 1, "horizontal_flip": True, "seed": 3, "start": 2}
    inputs = data.INPUTS[name]

    def batches(part):
        actual = inputs.training_batches(split, 6, shard=part, **flags)
        return [list(map(to_numpy, b)) for b in _take(actual, name, 5)]

    parts = [batches((i, 3)) for i in range(3)]
    together = [
        [np.concatenate(arrays) for arrays in zip(*step, strict=True)]
        for step in zip(*parts, strict=True)
    ]
    np.testing.assert_equal(together, batches((0, 1)))


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    ("n", "batch", "processes", "multiple"),
    [(20, 5, 1, None), (20, 6, 2, None), (13, 5, 2, 4), (12, 4, 2, 2)],
)
def test_evaluation_counts_each_image_once(name, n, batch, processes, multiple):
    split = _numbered(n)
    weights, sizes, seen = np.zeros(n), [], []
    for i in range(processes):
        batches = data.INPUTS[name].evaluation_batches(
            split, batch, shard=(i, processes), pad_to_multiple_of=multiple
        )
        for arrays in _take(batches, name):
            images, labels, *given = map(to_numpy, arrays)
            given = given[0] if given else np.ones(len(labels))
            np.add.at(weights, labels, given)
            sizes.append(len(labels))
            seen += labels[given > 0].tolist()
            expected = split.images[labels].astype("float32")
            np.testing.assert_array_equal(images, expected)
    assert sorted(seen) == list(range(n))
    assert len(set(sizes)) == 1
    np.testing.assert_allclose(weights / sum(sizes), 1 / n, rtol=1e-6)


def test_parts_must_be_equal():
    with pytest.raises(ValueError, match="batch_size=7"):
        data.training_batches(_numbered(20), 7, shard=(0, 2))
    with pytest.raises(ValueError, match="shard=\\(2, 2\\)"):
        data.training_batches(_numbered(20), 8, shard=(2, 2))


def _take(batches, name, n=None):
    """The first so many batches of an input, or all."""
    if name == "device" and n is None:
        return [batches[i] for i in range(batches.num_batches)]
    return list(itertools.islice(batches, n))


def _numbered(n):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 4, 4, 3)).astype("uint8")
    return data.Split(images, np.arange(n))


@only("torch")
@pytest.mark.parametrize("gpu", [False, True])
def test_processes_wait_for_a_dataset_and_use_their_gpu(monkeypatch, gpu):
    import torch

    from keras_resnet.devices import torch_engine

    given = []
    for owner, name, function in (
        (torch.cuda, "is_available", lambda: gpu),
        (torch.cuda, "current_device", lambda: 3),
        (torch.distributed, "get_world_size", lambda: 8),
        (torch.distributed, "get_rank", lambda: 3),
        (torch_engine.atexit, "register", lambda _: None),
        (
            torch.distributed,
            "init_process_group",
            lambda backend, **kwargs: given.append((backend, kwargs)),
        ),
    ):
        monkeypatch.setattr(owner, name, function)
    assert torch_engine.TorchDevices(True).shard == (3, 8)
    ((backend, kwargs),) = given
    assert backend == ("cpu:gloo,cuda:nccl" if gpu else "gloo")
    assert kwargs["device_id"] == (torch.device("cuda", 3) if gpu else None)
    assert kwargs["timeout"].days >= 1
