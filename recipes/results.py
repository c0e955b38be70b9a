"""Collects finished runs into a folder of results with one table.

    python recipes/results.py runs/cifar10-resnet20A-fast-torch-seed0

For each run the folder gets NAME.json (its result line), NAME.csv (its
history) and NAME.png (its learning curves), NAME being the run's folder; for
each study of recipes/mnist.py, a folder NAME with its table, result lines and
pictures. The page, README.md, is then made from all result lines there.
"""

import json
import shutil
import statistics
from pathlib import Path

import cli

# What a model of the paper reached (table 6), by depth and option.
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}

HEAD = """\
# Results

Made by `python recipes/results.py` from the lines that runs leave; each name
links to its learning curves, and stands for NAME.json (everything that
determined the run) and NAME.csv (its history) beside this page.

Test error is that of the final weights on all test images, looked at once.
Images per second are the median over epochs of training steps alone; seconds
are those of training and validation.
"""


def make_parser():
    """Returns the parser of this recipe's flags."""
    parser = cli.Parser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="folders of finished runs and studies to collect (default: none, "
        "only make the page again)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="docs/results",
        help="folder of results (default: docs/results)",
    )
    return parser


def table(results):
    """Returns one row per result: a mapping of names to lines."""
    rows = [
        "| run | net | preset | backend | images/s | seconds | "
        "validation error | test error | paper |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items()):
        s = result["settings"]
        if s["plain"]:
            net = f"plain-{s['depth']}"
        else:
            net = f"ResNet-{s['depth']} ({s['shortcut']})"
        from_paper = s["dataset"] == "cifar10" and s["preset"] == "paper"
        paper = "" if s["plain"] else PAPER.get(s["depth"], "")
        cells = (
            f"[{name}]({name}.png)",
            f"{net}, {s['dataset']}",
            f"{s['preset']}, {result['iterations']:,} steps, seed {s['seed']}",
            result["backend"],
            f"{result['images_per_second']:.0f}",
            f"{result['seconds']:.0f}",
            f"{100 * result['validation_error']:.2f} %",
            f"{100 * result['test_error']:.2f} %",
            f"{paper} %" if from_paper and paper else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def commands(results):
    """Returns the page's lines on how each result came about."""
    rows = ["", "## Commands, versions, machines", ""]
    for name, result in sorted(results.items()):
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        commit = result.get("commit")
        rows.append(
            f"- {name}: `{result['command']}`  \n"
            f"  {versions}; {result['device']}; "
            f"{result['parameters']:,} trainable parameters"
            f"{f'; commit {commit}' if commit else ''}"
        )
    return rows


STUDY_FILES = ("table.md", "results.json", "curves.png", "predictions.png")


def studies(output):
    """Returns the page's lines on the studies, and their first result lines."""
    rows, lines = [], {}
    for path in sorted(output.glob("*/table.md")):
        name = path.parent.name
        rows += ["", f"## {name}", "", path.read_text().rstrip(), ""]
        rows += [
            f"![{title}]({name}/{title}.png)"
            for title in ("curves", "predictions")
        ]
        found = json.loads((path.parent / "results.json").read_text())
        lines[name] = next(iter(found.values()))
    return rows, lines


def mean_and_deviation(values, unit=""):
    """Returns "mean ± standard deviation unit" of some numbers, as text."""
    digits = 2 if unit else 4
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return f"{text} {unit}".rstrip()


def files_of(run):
    """Returns what to copy of a run or a study: sources to names.

    Raises:
        cli.UsageError: If it is neither, or not finished.
    """
    name = run.resolve().name
    if (run / "result.json").exists():
        return {
            run / "result.json": f"{name}.json",
            run / "history.csv": f"{name}.csv",
            run / "curves.png": f"{name}.png",
        }
    if (run / "results.json").exists():
        return {run / file: f"{name}/{file}" for file in STUDY_FILES}
    raise cli.UsageError(
        f"{run} holds no finished run: there is no result.json"
    )


def main(arguments):
    """Copies what the runs left, and writes the page."""
    output = Path(arguments.output)
    found = [files_of(Path(run)) for run in getattr(arguments, "runs", ())]
    output.mkdir(parents=True, exist_ok=True)
    for source, name in (item for files in found for item in files.items()):
        (output / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source, output / name)
    results = {
        path.stem: json.loads(path.read_text())
        for path in output.glob("*.json")
    }
    rows, lines = studies(output)
    (output / "README.md").write_text(
        "\n".join(
            [HEAD, *table(results), *rows, *commands(results | lines), ""]
        )
    )
    print(
        f"{output / 'README.md'} has {len(results)} runs and "
        f"{len(lines)} studies"
    )


if __name__ == "__main__":
    cli.run(make_parser(), main)
