"""Type hints: the whole public interface has them, and the package says so."""

import importlib
import inspect
from pathlib import Path

import pytest

pytest.importorskip("tensorflow", reason="`data` imports it")
pytest.importorskip("keras_tuner", reason="an extra: tuning")

import keras_resnet

pytestmark = pytest.mark.once

MODULES = ["", ".analysis", ".data", ".devices", ".plots", ".training"]
MODULES += [".weights", ".tuning", ".data.imagenet", ".data.pipeline"]
MODULES += [".data.resident", ".preprocessing", ".shortcuts", ".table1"]
# This runs on TensorFlow, where JAX and PyTorch may be missing.
MODULES += [".backend", ".backend.keras_ops", ".backend.memory"]
MODULES += [".backend.parallel", ".backend.tensorflow_ops", ".weights.files"]
MODULES += [".weights.hub", ".weights.sources", ".preactivation", ".steps"]
MODULES += [".stochastic_depth"]
# Methods whose names begin with an underscore and that users rely on.
SPECIAL = ("__init__", "__call__", "__len__", "__getitem__", "__iter__")


def _functions(thing):
    """Yield the functions of a public object that this package defines."""
    if inspect.isclass(thing):
        for name, value in vars(thing).items():
            if name.startswith("_") and name not in SPECIAL:
                continue
            value = getattr(value, "__func__", value)
            yield getattr(value, "fget", value)
    else:
        yield thing


def _unannotated():
    for module in MODULES:
        module = importlib.import_module(f"keras_resnet{module}")
        public = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_")
            and getattr(value, "__module__", None) == module.__name__
        ]
        for name in getattr(module, "__all__", public):
            for f in _functions(getattr(module, name)):
                if not inspect.isfunction(f) or not f.__module__.startswith(
                    "keras_resnet"
                ):
                    continue
                # Those that a dataclass writes have hints, too.
                signature = inspect.signature(f)
                for p in signature.parameters.values():
                    named = p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
                    named = named and p.name not in ("self", "cls")
                    if named and p.annotation is p.empty:
                        yield f"{f.__module__}.{f.__qualname__}({p.name})"
                if signature.return_annotation is signature.empty:
                    yield f"{f.__module__}.{f.__qualname__}() ->"


def test_the_public_interface_has_type_hints():
    assert sorted(set(_unannotated())) == []


def test_the_package_says_that_it_has_type_hints():
    assert (Path(keras_resnet.__file__).parent / "py.typed").exists()
