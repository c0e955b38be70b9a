"""Collects finished runs into a folder of results with one table.

    python recipes/results.py runs/cifar10-resnet20A-fast-torch-seed0

NAME is the run's folder. The folder of results gets these files:

NAME.json, .csv, .png    of a run: result line, history, learning curves
studies/NAME.*           of several seeds: result lines, table, figures
searches/NAME.*          of a search by tune.py: result, trials, figures
evaluations/NAME.json    the line that evaluate.py --output wrote

Its page, README.md, is then made from all result lines in it. --redraw draws
pictures again, from the numbers that they hold.
"""

import dataclasses
import json
import shutil
from pathlib import Path

from keras_resnet_recipes import cifar10
from keras_resnet_recipes.experiment import (
    CommandSettings,
    UsageError,
    execute,
    option,
)
from keras_resnet_recipes.experiment.files import (
    BrokenFileError,
    check,
    read_json,
)
from keras_resnet_recipes.experiment.report import (
    folded,
    mean_and_deviation,
    origin,
    percent,
    show,
    table,
)
from keras_resnet_recipes.experiment.settings import net_label

EXPLANATION = """\
A row combines all runs that differ only in their seed: the mean of their
errors, and one standard deviation. Its last column links to the learning curves
of each seed. Beside them NAME.json holds everything that determined a run, its
speed too, and NAME.csv its history. Test error is that of the final weights on
all test images, looked at once. `python recipes/results.py` made this page from
the lines that runs leave.
"""

# The files to keep of a run, a study of several seeds and a search, with the
# endings of their new names. The result line comes first.
FILES = {
    ".": {"result.json": ".json", "history.csv": ".csv", "curves.png": ".png"},
    "studies": {
        "results.json": ".json",
        "table.md": ".md",
        "curves.png": "-curves.png",
        "predictions.png": "-predictions.png",
    },
    "searches": {
        "result.json": ".json",
        "trials.csv": ".csv",
        "trials.md": ".md",
        "learning_rates.png": "-learning_rates.png",
        "parallel_coordinates.png": "-parallel_coordinates.png",
    },
}
# Title of the section on the origin of results.
MADE = "Commands, versions, machines"
# Only studies by mnist.py have this file.
OPTIONAL = "predictions.png"
# Pages of other commands that this page links to.
OTHERS = {
    "figures/README.md": "Why residual networks learn, in figures",
    "benchmarks/README.md": "Speed, beside the alternatives",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(CommandSettings):
    """Settings of a collection."""

    runs: tuple[Path, ...] = option(
        (),
        "folders of finished runs, studies and searches, and lines of "
        "evaluate.py, to collect (default: none, only make the page again)",
        metavar="RUN",
        positional=True,
    )
    output: Path = option(Path("docs/results"), "folder of results")
    redraw: bool = option(
        False,
        "draw the pictures in that folder and below again, from the numbers "
        "that they hold",
    )


def page(output, lines):
    """Return the page of the results in a folder.

    Args:
        output: `Path` of the folder.
        lines: Dictionary from its subfolders to mappings from names to result
            lines.
    """
    others = [
        f"- [{title}]({name})"
        for name, title in OTHERS.items()
        if (output / name).exists()
    ]
    parts = ["# Results", "", *best(lines), *others, ""]
    parts += trainings(lines["."])
    if lines["evaluations"]:
        parts += ["", "## Weights", "", *evaluations(lines["evaluations"])]
    for folder, tell in (("studies", study), ("searches", search)):
        parts += ["", f"## {folder.title()}"] if lines[folder] else []
        for name, line in lines[folder].items():
            text = (output / folder / f"{name}.md").read_text("utf-8")
            above, below, versions = tell(line)
            parts += ["", f"### {name}", "", above, "", text.rstrip(), ""]
            parts += below
            parts += [
                f"![{suffix[1:-4].replace('_', ' ')}]({folder}/{name}{suffix})"
                for suffix in FILES[folder].values()
                if suffix.endswith(".png")
                and (output / folder / f"{name}{suffix}").exists()
            ]
            parts += ["", versions]
    return "\n".join([*parts, ""])


def best(lines):
    """Return the lowest errors, as items of a list."""
    items = []
    runs = [x for x in lines["."].values() if "test_error" in x]
    if runs:
        run = min(runs, key=lambda result: result["test_error"])
        items.append(
            "- Lowest test error of a training: "
            f"{percent(run['test_error'])} ({'; '.join(net_and_preset(run))}; "
            f"seed {run['settings']['seed']})."
        )
    if lines["evaluations"]:
        name, line = max(
            lines["evaluations"].items(), key=lambda item: item[1]["top1"]
        )
        items.append(
            f"- Lowest error of evaluated weights: {percent(1 - line['top1'])} "
            f"({name})."
        )
    return items


def trainings(lines):
    """Return the lines of the page about runs.

    Runs that differ only in their seed share a row.
    """
    sets, usual = {}, cifar10.Settings().stored()
    for name, line in lines.items():
        # A line of an earlier version may lack a setting.
        key = usual | line["settings"]
        key |= {"seed": None, "steps": line["iterations"]}
        sets.setdefault(json.dumps(key, sort_keys=True), {})[name] = line
    head = ["net", "preset", "backend", "n", "validation error", "test error"]
    return [
        table([*head, "paper", "runs"], [row(runs) for runs in sets.values()]),
        "",
        EXPLANATION,
        folded(
            MADE,
            "\n".join(
                f"{made(name, line)}; {line['parameters']:,} trainable "
                "parameters"
                for name, line in lines.items()
            ),
        ),
    ]


def row(runs):
    """Return the row of runs that differ only in their seed."""
    results = list(runs.values())
    s = results[0]["settings"]
    paper = cifar10.PAPER.get(s["depth"]) if is_papers(s) else None
    links = [f"[{r['settings']['seed']}]({n}.png)" for n, r in runs.items()]
    return [
        *net_and_preset(results[0]),
        results[0]["backend"],
        len(results),
        errors(results, "validation"),
        # The labels of ImageNet's test images are not public.
        errors(results, "test") if "test_error" in results[0] else "",
        f"{paper} %" if paper else "",
        ", ".join(links),
    ]


def net_and_preset(result):
    """Return the network, and the preset and steps, of a run as texts."""
    s = result["settings"]
    return (
        f"{net_label(s)}, {s['dataset']}",
        f"{s['preset']}, {result['iterations']:,} steps",
    )


def errors(results, which):
    """Return mean and deviation of the errors of runs, as text."""
    values = [100 * result[f"{which}_error"] for result in results]
    return mean_and_deviation(values, "%")


def is_papers(settings):
    """Return whether settings are the paper's, of any depth and seed."""
    usual = cifar10.Settings().stored()
    # These may have any value in the paper's procedure.
    for name in ("depth", "seed", "every"):
        del usual[name]
    return all(settings.get(k, v) == v for k, v in usual.items())


def made(name, line):
    """Return command and origin of a result, as an item of a list."""
    return f"- {name}: `{line['command']}`  \n  {origin(line)}"


def evaluations(lines):
    """Return the lines of the page about evaluations of weights."""
    head = ["weights", "images", "backend", "top-1 error", "top-5 error"]
    rows = [
        [
            f"[{name}](evaluations/{name}.json)",
            f"{line['images']:,} of "
            f"{line['settings']['dataset'] or line['settings']['folder']}",
            line["backend"],
            percent(1 - line["top1"]),
            # Below ten classes there is no top-5 accuracy.
            percent(1 - line["top5"]) if "top5" in line else "",
        ]
        for name, line in lines.items()
    ]
    how = "\n".join(map(made, lines, lines.values()))
    return [table(head, rows), "", folded(MADE, how)]


def study(lines):
    """Return the text above a study's table, the lines below, and versions."""
    # There are several commands if seeds were added later.
    commands = dict.fromkeys(f"`{line['command']}`" for line in lines.values())
    return "  \n".join(commands), [], origin(next(iter(lines.values())))


def search(result):
    """Return the text above a search's table, the lines below, and versions."""
    return (
        f"`{result['command']}`, in {result['seconds']:.0f} s of training and "
        "validation; the best first:",
        [
            "The best, trained again on all training images: test error "
            f"{percent(result['test_error'])} ({result['test_images']:,} "
            f"images). Its command: `{result['best_command']}`",
            "",
        ],
        f"KerasTuner {result['keras_tuner']}, {origin(result)}",
    )


def main(settings):
    """Copy the files of the runs, and write the page."""
    output = settings.output
    given = [
        (run.stem if run.is_file() else run.resolve().name, *kind(run))
        for run in settings.runs
    ]
    places = {}
    for name, folder, files in given:
        place, line = output / folder / f"{name}.json", next(iter(files))
        check_place(line, place, places.setdefault(place, line))

    # Imported late, because it loads Keras.
    from keras_resnet.atomic import replacing, write_atomically

    for name, folder, files in given:
        (output / folder).mkdir(parents=True, exist_ok=True)
        # The result line comes last, because the page is made from it.
        for source, suffix in reversed(files.items()):
            with replacing(output / folder / f"{name}{suffix}") as partial:
                shutil.copyfile(source, partial)
    lines = {
        folder: {
            path.stem: read_json(path)
            # A dot begins the name of a file that a killed process left.
            for path in sorted(
                (output / folder).glob("[!.]*.json"), key=lambda p: p.stem
            )
        }
        for folder in (*FILES, "evaluations")
    }
    write_atomically(output / "README.md", page(output, lines))
    if settings.redraw:
        redraw(output)
    show(f"{output / 'README.md'} lists {listed(lines)}")


def listed(lines):
    """Return the numbers of results of each kind, as text."""
    words = {
        ".": ("training", "trainings"),
        "studies": ("study", "studies"),
        "searches": ("search", "searches"),
        "evaluations": ("evaluation", "evaluations"),
    }
    counts = {folder: len(lines[folder]) for folder in words}
    return ", ".join(f"{n} {words[k][n != 1]}" for k, n in counts.items())


def redraw(output):
    """Draw the pictures below a folder again, if they hold their numbers."""
    from keras_resnet import plots

    for path in sorted(output.rglob("*.png")):
        done = plots.redraw(path)
        print(f"{path}{'' if done else ': not redrawn, it holds no numbers'}")


def kind(run):
    """Return the folder for the results of a run, and the files to keep.

    Returns:
        Name of the folder, and a dictionary from paths to the endings of their
        new names, the result line first.

    Raises:
        UsageError: If the run is not finished, or if files are missing.
    """
    if run.is_file():
        try:
            evaluations({run.stem: read_json(run)})
        except (BrokenFileError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{run} is no result line of evaluate.py"
            ) from None
        return "evaluations", {run: ".json"}
    line = run / "result.json"
    if (run / "results.json").exists():
        folder = "studies"
    elif not line.exists():
        raise UsageError(f"{run} has no finished run: there is no result.json")
    else:
        folder = "searches" if (run / "trials.csv").exists() else "."
    files = {
        run / name: suffix
        for name, suffix in FILES[folder].items()
        if name != OPTIONAL or (run / name).exists()
    }
    for path in files:
        if not path.exists():
            raise UsageError(f"{run} is incomplete: {path.name} is missing")
    for path in files:
        check(path)
    if folder == ".":
        try:
            trainings({run.name: read_json(line)})
        except KeyError as error:
            raise BrokenFileError(line, f"it lacks {error}") from None
        except (TypeError, AttributeError) as error:
            raise BrokenFileError(line, f"wrong value: {error}") from None
    return folder, files


def check_place(line, place, first):
    """Raise `UsageError` if another run has the same name.

    The run's `line` will be copied to `place`. `first` is the first of the
    given lines with that place.
    """
    if first != line:
        other = first.parent
    elif place.exists() and settings_of(place) != settings_of(line):
        other = place
    else:
        return
    raise UsageError(
        f"{line.parent} has the same name as {other}: rename its folder"
    )


def settings_of(path):
    """Return the settings of the run or the study of a result line."""
    line = read_json(path)
    if "settings" in line:
        return line["settings"]
    # A study may have got more seeds since, so these do not count.
    settings = next(iter(line.values()))["settings"]
    return {k: v for k, v in settings.items() if k not in ("seed", "net")}


if __name__ == "__main__":
    execute(Settings, main)
