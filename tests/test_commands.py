"""Every command of README, docs and recipes has flags that its parser takes.

What the recipes then do is for the tests of each.
"""

import importlib
import re
import shlex

import pytest
from conftest import ROOT, settings_of
from test_samples import SAMPLE, SAVED

from keras_resnet_recipes.experiment import Failure

pytestmark = pytest.mark.once

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.py")),
]
COMMAND = re.compile(
    r"^(?:\w+=\S+ )*(?:python recipes/(\w+)\.py|keras-resnet (\w+))"
    r"((?:[^\n`#\\]|\\\n)*)",
    re.MULTILINE,
)


def _commands():
    for page in PAGES:
        # A recipe's docstring has two backslashes where a line goes on.
        text = page.read_text("utf-8").replace("\\\\\n", "\\\n")
        for match in COMMAND.finditer(text):
            recipe, flags = match[1] or match[2], match[3]
            yield pytest.param(recipe, flags, id=f"{page.stem}: {match[0]}")


@pytest.fixture
def own_block(tmp_path, monkeypatch):
    """The block that docs/blocks.md tells its readers to save."""
    text = (ROOT / "docs/blocks.md").read_text("utf-8")
    saved = SAVED.search(text)
    (tmp_path / saved[1]).write_text(
        SAMPLE.search(text, saved.end())[2], "utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_block")
@pytest.mark.parametrize(("recipe", "flags"), list(_commands()))
def test_a_command_is_one_that_its_parser_takes(recipe, flags):
    module = importlib.import_module(f"keras_resnet_recipes.{recipe}")
    flags = shlex.split(flags.replace("\\\n", " "))
    if "--help" in flags:
        return
    try:
        settings_of(module, flags)
    except Failure as error:
        # An export by packages that are not here.
        if "pip install" not in str(error):
            raise
