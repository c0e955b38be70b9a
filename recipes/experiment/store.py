"""The finished runs of a recipe in a folder, trained there where missing."""

import os
import shlex
import signal
import subprocess
import sys

import keras

from .command import Failure
from .files import read_result


class RunStore:
    """Folder of runs of one recipe.

    Args:
        path: `Path` of the folder.
        recipe: Module of the recipe.
    """

    def __init__(self, path, recipe):
        self.path = path
        self.recipe = recipe.__file__

    def find(self, settings, suits):
        """Return the folder of a finished run of these settings, or `None`.

        A run of any backend will do, also one of several seeds.

        Args:
            settings: `RunSettings`.
            suits: Function from the folder to whether it has all that is
                needed.
        """
        places = "*/result.json", "*/seed*/result.json"
        for path in sorted(
            p for place in places for p in self.path.glob(place)
        ):
            stored = read_result(path)["settings"]
            stored.pop("backend", None)
            # A run of an earlier version may lack a setting.
            wanted = settings.stored()
            if dict.fromkeys(wanted) | stored == wanted and suits(path.parent):
                return path.parent
        return None

    def get(self, settings, flags, suits, suffix=""):
        """Return the folder of a finished run, which is trained if missing.

        Args:
            settings, suits: See `find`.
            flags: List of further flags for the training.
            suffix: String, appended to the name of the folder where there is
                a run already that does not suit.
        """
        path = self.find(settings, suits)
        if path is not None:
            print(f"{path}: trained already")
            return path
        path = self.path / settings.name(keras.backend.backend())
        if (path / "last.keras").exists() and not suits(path):
            path = path.with_name(f"{path.name}-{suffix}")
        self._train(settings, flags, path)
        return path

    def _train(self, settings, flags, path):
        """Train a net by the recipe, in a process of its own."""
        flags = [*settings.flags(), *flags, "--output", str(path)]
        if (path / "settings.json").exists():
            flags += ["--resume"]
        recipe = os.path.relpath(self.recipe)
        print(
            f"{path}: to be trained: {shlex.join([recipe, *flags])}",
            flush=True,
        )
        status = subprocess.run(
            [sys.executable, recipe, *flags],
            env=os.environ | {"KERAS_BACKEND": keras.backend.backend()},
        ).returncode
        if status in (129, 130, 143, -signal.SIGINT):
            # It was interrupted, so this process ends, too.
            raise KeyboardInterrupt(abs(status) % 128)
        if status:
            raise Failure(
                f"training of {path} failed with exit status {status}; its "
                "own message stands above"
            )
