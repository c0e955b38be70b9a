"""What `import keras_resnet` loads, and what it offers."""

import json

import pytest

import keras_resnet

# Prints what this package adds to the modules that Keras loads by itself:
# on some backends Keras imports other frameworks of its own accord.
ADDED = """
import json, sys
import keras
keras.backend.backend()
before = set(sys.modules)
import keras_resnet
print(json.dumps(sorted({m.split(".")[0] for m in set(sys.modules) - before})))
"""
FRAMEWORKS = ("tensorflow", "jax", "torch")
# What only data, recipes and figures need.
HEAVY = (
    "IPython",
    "keras_tuner",
    "matplotlib",
    "pandas",
    "scipy",
    "sklearn",
    "tensorboard",
    "tensorflow_datasets",
)


def test_import_adds_no_framework(run_python):
    result = run_python("-c", ADDED)
    added = set(json.loads(result.stdout.splitlines()[-1]))
    assert "keras_resnet" in added
    assert not added & {*FRAMEWORKS, *HEAVY}


@pytest.mark.once
def test_import_needs_no_keras_before_it(run_python):
    result = run_python("-c", "import keras_resnet; print(keras_resnet.ResNet)")
    assert "function ResNet" in result.stdout


def test_all_is_sorted_and_resolves():
    # Names by their words and numbers: ResNet50 before ResNet101.
    names = keras_resnet.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(keras_resnet, name) is not None
    classes = [n for n in names if n[0].isupper() and not n[-1].isdigit()]
    functions = [n for n in names if n[0].islower()]
    depths = [int(n[6:]) for n in names if n[6:].isdigit()]
    assert classes == sorted(classes)
    assert functions == sorted(functions)
    assert depths == sorted(depths)
    assert names[-len(functions) :] == functions


def test_all_is_everything_public():
    modules = {"analysis", "backend", "blocks", "complexity", "data", "plots"}
    modules |= {"devices", "factories", "finetuning", "folding"}
    modules |= {"preprocessing", "resnet", "shortcuts", "table1", "training"}
    modules |= {"tuning", "version", "weights"}
    public = {n for n in dir(keras_resnet) if not n.startswith("_")}
    assert public - modules <= set(keras_resnet.__all__)


def test_star_import():
    namespace = {}
    exec("from keras_resnet import *", namespace)
    assert set(keras_resnet.__all__) <= set(namespace)


def test_version():
    assert keras_resnet.__version__.split(".")[0].isdigit()
