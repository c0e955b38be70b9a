"""Fixtures and checks of all tests."""

import ast
import builtins
import contextlib
import csv
import gc
import importlib.util
import inspect
import json
import os
import random
import re
import signal
import socket
import subprocess
import symtable
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
INSTALLED_BACKENDS = tuple(b for b in BACKENDS if importlib.util.find_spec(b))

# Without the variable Keras takes TensorFlow and fails where there is none.
os.environ.setdefault("KERAS_BACKEND", (INSTALLED_BACKENDS or BACKENDS)[0])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Under nohup or in a script the process would ignore these signals.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A user's own settings and downloads are not those that the tests expect.
_HOME = tempfile.TemporaryDirectory(prefix="keras-home-")
os.environ["KERAS_HOME"] = os.environ["HF_HOME"] = _HOME.name
# The prepared real data, if a folder beside the checkout has them.
PREPARED = next(ROOT.parent.glob("*/tensorflow_datasets"), None)
if PREPARED is not None:
    os.environ.setdefault("TFDS_DATA_DIR", str(PREPARED))
# Some images of ImageNet in folders of classes, beside the checkout too.
IMAGENET_SAMPLE = os.environ.get("IMAGENET_SAMPLE") or next(
    ROOT.parent.glob("*/imagenet-sample"), None
)

# In tests of a recipe ResNet-18 has this shape, because half the layers compile
# in half the time.
SHALLOW = False, (1, 1, 1, 1)


_EXACT = contextlib.ExitStack()


def pytest_collection_finish():
    """Keep what was imported out of every later garbage collection.

    On a GPU, turn off TF32, because tests ask for 1e-4.
    """
    from keras_resnet import backend

    if backend.accelerators():
        _EXACT.enter_context(backend.full_float32())
    gc.collect()
    gc.freeze()


def slopes(loss, tensors):
    """Return the gradients of `loss(*tensors)` by each tensor."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        return tape.gradient(value, tensors)
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(loss, tuple(range(len(tensors))))(*tensors)
    import torch

    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    return torch.autograd.grad(loss(*tensors), tensors)


def check_refused(run, capsys, words, status=2):
    """Check that a command ends with one line that has all words.

    Args:
        run: Callable that runs the command.
        capsys: The fixture.
        words: Sequence of strings.
        status: Integer, its exit status: 2 for wrong usage, 1 for a failure.
    """
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words)


def check_names(code):
    """Check that code makes each name it reads, and that this package has its.

    The names of this package are those after a dot.
    """
    tables = [symtable.symtable(code, "code", "exec")]
    made = {s.get_name() for s in tables[0].get_symbols() if s.is_assigned()}
    made |= {s.get_name() for s in tables[0].get_symbols() if s.is_imported()}
    for table in tables:
        tables += table.get_children()
    symbols = [symbol for table in tables for symbol in table.get_symbols()]
    read = {s.get_name() for s in symbols if s.is_global()}
    assert not read - made - {*dir(builtins)}

    nodes, names = [*ast.walk(ast.parse(code))], {}
    for node in nodes:
        imports = isinstance(node, (ast.Import, ast.ImportFrom))
        if imports and "keras_resnet" in ast.unparse(node):
            exec(ast.unparse(node), names)
    for node in nodes:
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node)
            root = names.get(path.partition(".")[0])
            if inspect.ismodule(root) and re.fullmatch(r"[\w.]+", path):
                eval(path, names)


def free_port():
    """Return a port of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def settings_of(recipe, flags=()):
    """Return the settings that flags of a recipe add up to."""
    kind = recipe.Settings
    return kind.settle(vars(kind.parser().parse_args(list(flags))))


def run_recipe(recipe, flags):
    """Run a recipe with flags in this process, as its last line does."""
    from keras_resnet_recipes import experiment

    flags = list(map(str, flags))
    if hasattr(recipe, "main") and recipe.main is not experiment.main:
        experiment.execute(recipe.Settings, recipe.main, flags)
        return
    jobs = getattr(recipe, "jobs", None) or recipe.job
    summarize = getattr(recipe, "summarize", None)
    experiment.main(recipe.Settings, jobs, summarize, flags)


def read_json(path):
    return json.loads(Path(path).read_text("utf-8"))


def read_rows(path):
    """Read the rows of a CSV file, as dictionaries of strings."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_run_folder(folder):
    """Check the files of a finished run, and return its result."""
    assert {path.name for path in folder.iterdir()} == {
        *("best.keras", "final.keras", "last.keras", "previous.keras"),
        *("curves.png", "history.csv", "report.html", "result.json"),
        *("settings.json", "tensorboard"),
    }
    # The line ends the run, so it comes last.
    ended = (folder / "result.json").stat().st_mtime_ns
    assert all(p.stat().st_mtime_ns <= ended for p in folder.iterdir())
    assert len((folder / "result.json").read_text("utf-8").splitlines()) == 1
    return read_json(folder / "result.json")


@pytest.fixture(autouse=True)
def _global_settings():
    """Give Keras's settings and the random states back as they were."""
    import keras
    import numpy as np

    policy = keras.config.dtype_policy()
    data_format = keras.config.image_data_format()
    floatx = keras.config.floatx()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format(data_format)
    keras.config.set_floatx(floatx)
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


@pytest.fixture
def no_text_is_cut(monkeypatch):
    """Draw all figures of a test, and look for text outside the canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from keras_resnet.plots import style

    figures, drawn = [], []

    class Recorded(Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            figures.append(self)

    draw = Text.draw

    def record(text, renderer):
        draw(text, renderer)
        if text.get_visible() and text.get_text():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))

    monkeypatch.setattr(style, "Figure", Recorded)
    yield
    monkeypatch.setattr(Text, "draw", record)
    for figure in figures:
        drawn.clear()
        FigureCanvasAgg(figure).draw()
        for text, box in drawn:
            assert box.x0 > -1, text
            assert box.y0 > -1, text
            assert box.x1 < figure.bbox.x1 + 1, text
            assert box.y1 < figure.bbox.y1 + 1, text


@pytest.fixture
def interrupt_after(monkeypatch):
    """Press Ctrl-C once, after so many batches of runs of this process."""

    def interrupt(batches):
        import keras

        from keras_resnet_recipes.experiment.run import Run

        seen = []

        def count(*_, **__):
            seen.append(1)
            if len(seen) == batches:
                signal.raise_signal(signal.SIGINT)

        usual = Run.callbacks
        monkeypatch.setattr(
            Run,
            "callbacks",
            lambda *args, **kwargs: [
                *usual(*args, **kwargs),
                keras.callbacks.LambdaCallback(on_train_batch_end=count),
            ],
        )

    return interrupt


@pytest.fixture(scope="session")
def run_python():
    """Run Python in a fresh process and return the finished process."""

    def run(*args, backend=None, check=True, timeout=600):
        env = dict(os.environ)
        if backend is not None:
            env["KERAS_BACKEND"] = backend
        result = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=ROOT,
            env=env,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )
        if check and result.returncode:
            raise AssertionError(
                f"exit status {result.returncode}\n{result.stdout}"
                f"\n{result.stderr}"
            )
        return result

    return run
