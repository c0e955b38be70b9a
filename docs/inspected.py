"""Gives the site the docstrings that `factories.py` puts together."""

import importlib
import inspect

import griffe


class Inspected(griffe.Extension):
    """Takes the docstrings of the factories from the imported module.

    Griffe reads files, where a network has a line of its own and its
    arguments are those of its family.
    """

    def on_function(self, *, func: griffe.Function, **kwargs) -> None:
        if not func.path.startswith("keras_resnet.factories.ResNet"):
            return
        module = importlib.import_module(func.module.path)
        text = inspect.getdoc(getattr(module, func.name))
        func.docstring = griffe.Docstring(
            text,
            parent=func,
            parser=func.docstring.parser,
            parser_options=func.docstring.parser_options,
        )
