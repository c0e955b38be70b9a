"""Collects finished runs into a folder of results with one table.

    python recipes/results.py runs/cifar10-resnet20A-fast-torch-seed0

For each run the folder gets NAME.json (its result line), NAME.csv (its
history) and NAME.png (its learning curves), NAME being the run's folder. The
table, README.md, is then made from all result lines in the folder.
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
        help="folders of finished runs to collect (default: none, only make "
        "the table again)",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        default="docs/results",
        help="folder of results (default: docs/results)",
    )
    return parser


def table(results):
    """Returns the page with one row per result: a mapping of names to lines."""
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
            # ImageNet's test images have no labels that one may have.
            f"{100 * result['test_error']:.2f} %"
            if "test_error" in result
            else "",
            f"{paper} %" if from_paper and paper else "",
        )
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "## Commands, versions, machines", ""]
    for name, result in sorted(results.items()):
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        commit = result.get("commit")
        rows.append(
            f"- {name}: `{result['command']}`  \n"
            f"  {versions}; {result['device']}; "
            f"{result['parameters']:,} trainable parameters"
            f"{f'; commit {commit}' if commit else ''}"
        )
    return "\n".join([HEAD, *rows, ""])


def mean_and_deviation(values, unit=""):
    """Returns "mean ± standard deviation unit" of some numbers, as text."""
    digits = 2 if unit else 4
    text = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.{digits}f}"
    return f"{text} {unit}".rstrip()


def main(arguments):
    """Copies what the runs left, and writes the table."""
    output = Path(arguments.output)
    runs = [Path(run) for run in arguments.runs]
    for run in runs:
        if not (run / "result.json").exists():
            raise cli.UsageError(
                f"{run} holds no finished run: there is no result.json"
            )
    output.mkdir(parents=True, exist_ok=True)
    for run in runs:
        name = run.resolve().name
        for source, suffix in (
            ("result.json", "json"),
            ("history.csv", "csv"),
            ("curves.png", "png"),
        ):
            shutil.copyfile(run / source, output / f"{name}.{suffix}")
    results = {
        path.stem: json.loads(path.read_text())
        for path in output.glob("*.json")
    }
    (output / "README.md").write_text(table(results))
    print(f"{output / 'README.md'} has {len(results)} runs")


if __name__ == "__main__":
    cli.run(make_parser(), main)
