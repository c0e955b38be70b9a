"""Modules that `import keras_resnet` loads, and names that it offers."""

import ctypes
import json
import sys

import keras
import pytest

import keras_resnet
from keras_resnet.backend import accelerators

# Needs no Keras before it. Prints after each step whether the C library's
# `mallopt` was looked up.
MEMORY = """
import sys
names = []

def note(event, args):
    if event == "ctypes.dlsym":
        names.append(args[1])

sys.addaudithook(note)
import numpy
import keras_resnet
import keras_resnet.devices
print("mallopt" in names)
model = keras_resnet.ResNet((1,), (16,), input_shape=(8, 8, 3))
print("mallopt" in names)
model.predict(numpy.zeros((2, 8, 8, 3)), verbose=0)
print("mallopt" in names)
names.clear()
keras_resnet.devices.use()
print("mallopt" in names)
"""
# Prints what this package adds to the modules that Keras loads by itself, on
# import and in training: Keras imports some frameworks of its own accord.
TRAINED = """
import json, sys
import keras, numpy
keras.backend.backend()
before = {m.split(".")[0] for m in sys.modules}

def show_added():
    print(json.dumps(sorted({m.split(".")[0] for m in sys.modules} - before)))

import keras_resnet
show_added()
model = keras_resnet.ResNet((1,), (16,), input_shape=(8, 8, 3))
model.compile("sgd", "sparse_categorical_crossentropy")
model.train_on_batch(numpy.zeros((2, 8, 8, 3)), numpy.zeros(2))
model.predict_on_batch(numpy.zeros((2, 8, 8, 3)))
show_added()
"""
FRAMEWORKS = ("tensorflow", "jax", "torch")
# Only data, recipes, figures and downloads need these. Keras itself imports the
# name huggingface_hub, but not the modules by which that transfers files.
HEAVY = {"IPython", "filelock", "httpx", "httpx2", "keras_tuner", "matplotlib"}
HEAVY |= {"pandas", "scipy", "sklearn", "tensorboard", "tensorflow_datasets"}


def test_neither_import_nor_training_needs_another_framework(run_python):
    """TensorFlow would take 400 MB and two seconds."""
    result = run_python("-c", TRAINED)
    imported, trained = map(json.loads, result.stdout.splitlines()[-2:])
    assert "keras_resnet" in imported
    assert not (HEAVY | {*FRAMEWORKS}) & {*imported}
    assert not {*FRAMEWORKS} & {*trained}


@pytest.mark.skipif(
    not sys.platform.startswith("linux")
    or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="the C library is not GNU's",
)
@pytest.mark.skipif(bool(accelerators()), reason="memory of a CPU")
def test_import_leaves_memory_alone(run_python):
    lines = run_python("-c", MEMORY).stdout.splitlines()[-4:]
    on_jax = keras.backend.backend() == "jax"
    # Networks keep memory from the first batch on, and JAX's threads share
    # it when they are told so.
    assert lines == ["False", "False", "True", str(on_jax)]


def test_all_is_everything_public():
    modules = {"analysis", "atomic", "backend", "blocks", "complexity"}
    modules |= {
        "data",
        "plots",
        "devices",
        "factories",
        "finetuning",
        "folding",
    }
    modules |= {"preprocessing", "resnet", "shortcuts", "table1", "training"}
    modules |= {"initializers", "steps", "tuning", "types", "version"}
    modules |= {"preactivation", "stochastic_depth", "weights"}
    public = {n for n in dir(keras_resnet) if not n.startswith("_")}
    assert public - modules <= set(keras_resnet.__all__)
