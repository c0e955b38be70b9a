"""Collects finished runs into a folder of results with one table.

    python recipes/results.py runs/cifar10-resnet20A-fast-torch-seed0

For each run the folder gets NAME.json (its result line), NAME.csv (its
history) and NAME.png (its learning curves), NAME being the run's folder; for
each study of several seeds studies/NAME.json (its result lines), .md (its
table) and its figures; for each search by tune.py searches/NAME.json, .csv and
.md (its trials) and two figures; for each line that evaluate.py --output has
written evaluations/NAME.json. The page, README.md, is then made from all
result lines there.
"""

import dataclasses
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
from keras_resnet_recipes.experiment.report import origin, percent, table

HEAD = """\
# Results

Made by `python recipes/results.py` from the lines that runs leave; each name
links to its learning curves, and stands for NAME.json (everything that
determined the run) and NAME.csv (its history) beside this page.

Test error is that of the final weights on all test images, looked at once.
Images per second are the median over epochs of training steps alone; seconds
are those of training and validation.
"""


# What is kept, and as what: of a run of cifar10.py, of a study of several
# seeds, of a search by tune.py.
RUN = {"result.json": ".json", "history.csv": ".csv", "curves.png": ".png"}
STUDY = {
    "results.json": ".json",
    "table.md": ".md",
    "curves.png": "-curves.png",
}
# Of the studies by mnist.py alone.
PREDICTIONS = {"predictions.png": "-predictions.png"}
SEARCH = {
    "result.json": ".json",
    "trials.csv": ".csv",
    "trials.md": ".md",
    "learning_rates.png": "-learning_rates.png",
    "parallel_coordinates.png": "-parallel_coordinates.png",
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
    output: Path = option(
        Path("docs/results"),
        "folder of results",
    )


# Pages of others beside this one.
OTHERS = {
    "figures/README.md": "Why residual networks learn, in figures",
    "benchmarks/README.md": "Speed, beside the alternatives",
}


def page(results, studies, searches, evaluations, others=()):
    """Return the page of mappings from names to result lines.

    Args:
        results: Of runs.
        studies: Of studies: triples of result lines, table and names of
            pictures.
        searches: Of searches: pairs of result line and table of trials.
        evaluations: Of weights.
        others: Names in `OTHERS` of pages that there are.
    """
    rows = [f"- [{OTHERS[name]}]({name})" for name in others]
    rows += [""] if others else []
    head = ["run", "net", "preset", "backend", "images/s", "seconds"]
    head += ["validation error", "test error", "paper"]
    rows.append(table(head, [cells(*line) for line in sorted(results.items())]))
    rows += ["", "## Commands, versions, machines", ""]
    rows += [
        f"- {name}: `{result['command']}`  \n  {origin(result)}; "
        f"{result['parameters']:,} trainable parameters"
        for name, result in sorted(results.items())
    ]
    if evaluations:
        rows += ["", "## Weights", "", *evaluation_rows(evaluations)]
    if studies:
        rows += ["", "## Studies"]
    for name, parts in sorted(studies.items()):
        rows += study(name, *parts)
    if searches:
        rows += ["", "## Searches"]
    for name, (result, trials) in sorted(searches.items()):
        rows += search(name, result, trials)
    return "\n".join([HEAD, *rows, ""])


def cells(name, result):
    """Return the row of a run in the table."""
    s = result["settings"]
    net = f"ResNet-{s['depth']} ({s['shortcut']})"
    net = f"plain-{s['depth']}" if s["plain"] else net
    net += f", {s['block']}" if s.get("block") else ""
    paper = cifar10.PAPER.get(s["depth"]) if is_papers(s) else None
    return [
        f"[{name}]({name}.png)",
        f"{net}, {s['dataset']}",
        f"{s['preset']}, {result['iterations']:,} steps, seed {s['seed']}",
        result["backend"],
        f"{result['images_per_second']:.0f}",
        f"{result['seconds']:.0f}",
        percent(result["validation_error"]),
        # ImageNet's test images have no labels that one may have.
        percent(result["test_error"]) if "test_error" in result else "",
        f"{paper} %" if paper else "",
    ]


def evaluation_rows(lines):
    """Return the lines of the page about evaluations of weights."""
    head = ["weights", "images", "backend", "top-1 error", "top-5 error"]
    cells = [
        [
            f"[{name}](evaluations/{name}.json)",
            f"{line['images']:,} of {line['settings']['dataset']}",
            line["backend"],
            percent(1 - line["top1"]),
            percent(1 - line["top5"]),
        ]
        for name, line in sorted(lines.items())
    ]
    made = [
        f"- {name}: `{line['command']}`  \n  {origin(line)}"
        for name, line in sorted(lines.items())
    ]
    return [table(head, cells), "", *made]


def is_papers(settings):
    """Return whether settings are the paper's, of any depth and seed."""
    usual = cifar10.Settings().stored()
    # What the numbers do not depend on.
    for name in ("depth", "seed", "every"):
        del usual[name]
    return all(settings.get(k, v) == v for k, v in usual.items())


def study(name, lines, nets, pictures):
    """Return the lines of the page about a study of several seeds."""
    first = next(iter(lines.values()))
    return [
        "",
        f"### {name}",
        "",
        # Several, if seeds were added later.
        "  \n".join(dict.fromkeys(f"`{x['command']}`" for x in lines.values())),
        "",
        *nets.rstrip().splitlines(),
        "",
        *(f"![{what}](studies/{name}-{what}.png)" for what in pictures),
        "",
        origin(first),
    ]


def search(name, result, trials):
    """Return the lines of the page about a search by tune.py."""
    figures = [
        f"![{words}](searches/{name}-{words.replace(' ', '_')}.png)"
        for words in ("learning rates", "parallel coordinates")
    ]
    return [
        "",
        f"### {name}",
        "",
        f"`{result['command']}`, in {result['seconds']:.0f} s of training and "
        "validation; the best first:",
        "",
        *trials.rstrip().splitlines(),
        "",
        f"The best, trained again on all training images: test error "
        f"{percent(result['test_error'])} ({result['test_images']:,} "
        f"images). Its command: `{result['best_command']}`",
        "",
        *figures,
        "",
        f"KerasTuner {result['keras_tuner']}, {origin(result)}",
    ]


def main(settings):
    """Copy the files of the runs, and write the page."""
    output = settings.output
    given = [(run, *kind(run)) for run in settings.runs]
    places = {}
    for run, folder, files in given:
        place = output / folder / f"{name_of(run)}.json"
        line = run / next(iter(files)) if files else run
        check_place(line, place, places.setdefault(place, line))

    # Only now, since it waits for Keras.
    from keras_resnet import training

    for run, folder, files in given:
        keep(run, output / folder, files)
    results = read_lines(output)
    studies = {
        name: (line, _table(output / "studies", name), _pictures(output, name))
        for name, line in read_lines(output / "studies").items()
    }
    searches = {
        name: (line, _table(output / "searches", name))
        for name, line in read_lines(output / "searches").items()
    }
    evaluations = read_lines(output / "evaluations")
    others = [name for name in OTHERS if (output / name).exists()]
    training.write_atomically(
        output / "README.md",
        page(results, studies, searches, evaluations, others),
    )
    print(
        f"{output / 'README.md'} has {len(results)} of trainings, "
        f"{len(studies)} of studies, {len(searches)} of searches, "
        f"{len(evaluations)} of evaluations"
    )


def _table(folder, name):
    return (folder / f"{name}.md").read_text("utf-8")


def _pictures(output, name):
    """Return what the pictures of a study show."""
    return [
        what
        for what in ("curves", "predictions")
        if (output / "studies" / f"{name}-{what}.png").exists()
    ]


def kind(run):
    """Return the folder for what a run left, and what is kept of it.

    Raises:
        UsageError: If it is not finished, or not whole.
    """
    if run.is_file():
        try:
            known = "top1" in read_json(run)
        except BrokenFileError:
            known = False
        if not known:
            raise UsageError(f"{run} is no result line of evaluate.py")
        return "evaluations", {}
    if (run / "results.json").exists():
        folder, files = "studies", STUDY
        if (run / "predictions.png").exists():
            files = files | PREDICTIONS
    elif not (run / "result.json").exists():
        raise UsageError(
            f"{run} holds no finished run: there is no result.json"
        )
    elif (run / "trials.csv").exists():
        folder, files = "searches", SEARCH
    else:
        folder, files = ".", RUN
    missing = [name for name in files if not (run / name).exists()]
    if missing:
        raise UsageError(f"{run} is not whole: {missing[0]} is missing")
    for name in files:
        check(run / name)
    if files is RUN:
        line = run / "result.json"
        try:
            page({run.name: read_json(line)}, {}, {}, {})
        except (KeyError, TypeError) as error:
            raise BrokenFileError(line, f"it lacks {error}") from None
    return folder, files


def check_place(line, place, first):
    """Raise an error if another run has the name of a run already.

    Args:
        line: Path of the run's result line.
        place: Path for it among the results.
        first: Path of the first line given with that place.
    """
    if first != line:
        other = first.parent
    elif place.exists() and settings_of(place) != settings_of(line):
        other = place
    else:
        return
    raise UsageError(
        f"{line.parent} has the name of another, {other}: rename its folder"
    )


def settings_of(path):
    """Return what determined the run of a result line, or a study."""
    line = read_json(path)
    if "settings" in line:
        return line["settings"]
    # A study, to which seeds may have been added.
    settings = next(iter(line.values()))["settings"]
    return {k: v for k, v in settings.items() if k not in ("seed", "net")}


def keep(run, folder, files):
    """Copy what a run left into a folder, by the run's name.

    The result line, which the page is made from, comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    from keras_resnet.atomic import replacing

    name = name_of(run)
    sources = {run / source: suffix for source, suffix in files.items()}
    for source, suffix in reversed((sources or {run: ".json"}).items()):
        with replacing(folder / f"{name}{suffix}") as partial:
            shutil.copyfile(source, partial)


def name_of(run):
    """Return the name of a run's folder, or of a file without its ending."""
    return run.stem if run.is_file() else run.resolve().name


def read_lines(folder):
    """Return the result lines in a folder, by the names of their runs."""
    return {
        path.stem: read_json(path)
        # Not what a killed process left: its name begins with a dot.
        for path in folder.glob("[!.]*.json")
    }


if __name__ == "__main__":
    execute(Settings, main)
