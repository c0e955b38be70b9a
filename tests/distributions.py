"""Checks which files the sdist and the wheel in a folder hold.

python -m build --outdir DIST && python tests/distributions.py DIST
"""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def main(folder):
    """Compare the files with those that git has."""
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    (sdist,), (wheel,) = (
        Path(folder).glob("*.tar.gz"),
        Path(folder).glob("*.whl"),
    )
    with tarfile.open(sdist) as file:
        held = {
            member.name.partition("/")[2]
            for member in file.getmembers()
            if member.isfile()
        }
    made = {name for name in held if ".egg-info" in name}
    made |= {"PKG-INFO", "setup.cfg"}
    check("sdist", held - made, {t for t in tracked if t[0] != "."})
    expected = {
        name.replace("recipes/", "keras_resnet_recipes/", 1)
        if name.startswith("recipes/")
        else name
        for name in tracked
        if name.startswith(("keras_resnet/", "recipes/"))
    }
    with zipfile.ZipFile(wheel) as file:
        held = {n for n in file.namelist() if ".dist-info/" not in n}
    check("wheel", held, expected)


def check(name, held, expected):
    """Exit with what is missing from a distribution, or too much in it."""
    if held != expected:
        sys.exit(
            f"{name}: missing {sorted(expected - held)}, "
            f"too much {sorted(held - expected)}"
        )
    print(f"{name}: {len(held)} files, all that git has of it")


if __name__ == "__main__":
    main(sys.argv[1])
