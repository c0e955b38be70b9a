"""The recipes as one command, `keras-resnet RECIPE ...`."""

import ast
import runpy
import sys
from pathlib import Path

from .experiment import command

PROGRAM = "keras-resnet"
RECIPES = (
    "cifar10",
    "imagenet",
    "mnist",
    "tune",
    "evaluate",
    "export",
    "compare",
    "figures",
    "results",
)


def main():
    """Run the recipe that the command line names, as if by its file."""
    given = sys.argv[1:] or ["--help"]
    if given[0] in ("-h", "--help"):
        print(_help())
        return
    if given[0] not in RECIPES:
        sys.stderr.write(
            f"{PROGRAM}: error: there is no recipe {given[0]!r}: take one of "
            f"{', '.join(RECIPES)} (--help says what they do)\n"
        )
        sys.exit(2)
    name = given[0]
    command.installed = PROGRAM, name
    del sys.argv[1]
    runpy.run_module(
        f"{__package__}.{name}", run_name="__main__", alter_sys=True
    )


def _help():
    lines = [f"usage: {PROGRAM} RECIPE [flags]", ""]
    for name in RECIPES:
        text = Path(__file__).with_name(f"{name}.py").read_text("utf-8")
        title = ast.get_docstring(ast.parse(text)).partition("\n")[0]
        lines.append(f"{name:10}{title}")
    return "\n".join(
        [*lines, "", f"{PROGRAM} RECIPE --help lists the flags of a recipe."]
    )


if __name__ == "__main__":
    main()
