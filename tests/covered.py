"""Prints how many lines the tests ran, by folder: `tox -e coverage`.

python tests/covered.py coverage.json
"""

import collections
import json
import sys
from pathlib import Path

from keras_resnet_recipes.experiment.report import table


def main(path):
    """Print a table of folders, and the files with the most lines left."""
    files = json.loads(Path(path).read_text("utf-8"))["files"]
    folders = collections.defaultdict(lambda: [0, 0])
    for name, file in files.items():
        summary = file["summary"]
        folder = folders[Path(name).parent.as_posix()]
        folder[0] += summary["num_statements"]
        folder[1] += summary["covered_lines"]
    rows = [
        [name, f"{lines:,}", f"{100 * covered / lines:.1f} %"]
        for name, (lines, covered) in sorted(folders.items())
        if lines
    ]
    print(table(["folder", "statements", "run by tests"], rows))
    left = {name: file["missing_lines"] for name, file in files.items()}
    for name in sorted(left, key=lambda name: -len(left[name]))[:25]:
        print(f"{name}: {', '.join(map(str, left[name]))}")


if __name__ == "__main__":
    main(sys.argv[1])
