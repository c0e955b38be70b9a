"""Each row of the table in docs/errors.md, in the words that stand there."""

import json
import re
import resource
import shutil
import zipfile
from pathlib import Path

import keras
import pytest
from conftest import PREPARED, ROOT, run_recipe
from imagenet_files import image_folder

import keras_resnet
from keras_resnet_recipes import (
    cifar10,
    compare,
    evaluate,
    imagenet,
    mnist,
    results,
    tune,
)
from keras_resnet_recipes.experiment import command

pytest.importorskip("sklearn")

DIGITS = "--dataset digits --preset fast --depth 8 --steps 3"
SMALL = "--preset fast --depth 8 --steps 3 --output run --data-dir"
FOLDER = (
    "--dataset folder --preset fast --depth 18 --epochs 1 --warmup-epochs 0 "
    "--batch-size 4 --image-size 32 --first-size 32 --test-size 32 "
    "--test-resize 32 --output run --folder"
)
SCORE = "--preprocessing cifar --dataset digits --weights"


def set_backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "pytorch")


def leave_run(settings="{}", **results):
    """Return a function that makes the folder of a run."""

    def make(_):
        Path("run").mkdir()
        Path("run/settings.json").write_text(settings, "utf-8")
        for name, text in results.items():
            Path(f"run/{name}.json").write_text(text, "utf-8")

    return make


def other_settings(_):
    other = cifar10.Settings.settle({"dataset": "digits", "depth": 20})
    leave_run(json.dumps(other.stored() | {"backend": "tensorflow"}))(_)


def empty_result(_):
    chosen = {"dataset": "digits", "depth": 8, "preset": "fast", "steps": 3}
    stored = cifar10.Settings.settle(chosen).stored()
    leave_run(json.dumps(stored | {"backend": "tensorflow"}), result="")(_)


def file_for_folder(_):
    Path("file").touch()


def fill_disk(_):
    # A limit of each file's size acts as a full disk does.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))


def need_cifar10():
    if PREPARED is None or not (PREPARED / "cifar10").exists():
        pytest.skip("CIFAR-10 is not prepared here")


def prepared(harm):
    """Return a function that leaves a harmed copy of prepared CIFAR-10."""

    def make(_):
        need_cifar10()
        shutil.copytree(PREPARED / "cifar10", "data/cifar10")
        (folder,) = Path("data/cifar10").iterdir()
        harm(folder)

    return make


def lose_records(folder):
    for path in folder.glob("*.tfrecord*"):
        path.unlink()


def cut_records(folder):
    for path in folder.glob("*.tfrecord*"):
        path.write_bytes(path.read_bytes()[:100_000])


def break_description(folder):
    (folder / "dataset_info.json").write_text("{", "utf-8")


def lose_classes(folder):
    path = folder / "features.json"
    text = path.read_text("utf-8").replace('"10"', '"7"')
    path.write_text(text, "utf-8")
    path = folder / "label.labels.txt"
    names = path.read_text("utf-8").splitlines()[:7]
    path.write_text("\n".join(names), "utf-8")


def empty_folder(_):
    Path("images/train").mkdir(parents=True)


def other_classes(_):
    image_folder(Path("images/train"), classes=2, each=4)
    image_folder(Path("images/val"), classes=3, each=2)


def broken_images(_):
    image_folder(Path("images/train"), classes=2, each=4, corrupt=3)
    image_folder(Path("images/val"), classes=2, each=2)


def network(**options):
    """Return a function that saves a network."""

    def make(_):
        keras_resnet.ResNetCIFAR(8, **options).save("net.keras")

    return make


def grey_network(_):
    need_cifar10()
    network(input_shape=(32, 32, 1))(_)


def weights(name, contents=b"nothing of the kind"):
    """Return a function that writes a file of weights."""
    return lambda _: Path(name).write_bytes(contents)


def cut_network(_):
    network()(_)
    contents = Path("net.keras").read_bytes()
    Path("net.keras").write_bytes(contents[: len(contents) // 2])


def future_network(_):
    network()(_)
    with zipfile.ZipFile("net.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    config["config"]["layers"][1] |= {
        "class_name": "Future",
        "registered_name": "Future",
        "module": "keras_resnet.future",
    }
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile("net.keras", "w") as archive:
        for name, contents in files.items():
            archive.writestr(name, contents)


def two_sets(_):
    for seed, name in enumerate("ab"):
        line = {"settings": {"seed": seed}, "test_error": 0.1}
        Path(f"{name}.json").write_text(json.dumps(line), "utf-8")


# By row: the recipe, its flags, and what makes the input.
CASES = {
    "a flag that is not there": (cifar10, "--learning-rat 0.1"),
    "a number out of range": (cifar10, "--depth 21"),
    "a depth that cannot be built": (cifar10, "--depth 60000000008"),
    "a batch larger than the dataset": (
        cifar10,
        f"{DIGITS} --batch-size 1000000000 --output run",
    ),
    "images larger than the memory": (
        evaluate,
        f"{SCORE} net.keras --crops multi-scale --scales 9000000",
        network(),
    ),
    "a flag without effect": (cifar10, "--plain --shortcut B"),
    "flags that exclude each other": (imagenet, "--every 5"),
    "two lengths of a training": (cifar10, "--steps 5 --epochs 5"),
    "a value that is given twice": (tune, "--dataset digits --depths 8 8"),
    "a block that is not there": (cifar10, "--block nosuch:Block"),
    "a backend that is none": (cifar10, DIGITS, set_backend),
    "more images than there are": (
        mnist,
        "--dataset digits --train-images 99999 --output run",
    ),
    "a folder with a run": (cifar10, f"{DIGITS} --output run", leave_run()),
    "a run of other settings": (
        cifar10,
        "--dataset digits --depth 8 --output run --resume",
        other_settings,
    ),
    "a run that is not there": (cifar10, f"{DIGITS} --output run --resume"),
    "a run whose settings are cut": (
        cifar10,
        f"{DIGITS} --output run --resume",
        leave_run('{"depth'),
    ),
    "a run whose result is empty": (
        cifar10,
        f"{DIGITS} --output run --resume",
        empty_result,
    ),
    "a file in place of a folder": (
        cifar10,
        f"{DIGITS} --output file/run",
        file_for_folder,
    ),
    "a folder that nobody can write to": (
        cifar10,
        f"{DIGITS} --output /proc/run",
    ),
    "a full disk": (cifar10, f"{DIGITS} --output run", fill_disk),
    "a dataset that is not prepared, offline": (cifar10, f"{SMALL} data"),
    "a dataset without its records": (
        cifar10,
        f"{SMALL} data",
        prepared(lose_records),
    ),
    "a dataset with cut records": (
        cifar10,
        f"{SMALL} data",
        prepared(cut_records),
    ),
    "a dataset with a broken description": (
        cifar10,
        f"{SMALL} data",
        prepared(break_description),
    ),
    "a dataset with labels of other classes": (
        cifar10,
        f"{SMALL} data",
        prepared(lose_classes),
    ),
    "a folder of images that is not there": (imagenet, f"{FOLDER} images"),
    "a folder without images": (imagenet, f"{FOLDER} images", empty_folder),
    "validation images of other classes": (
        imagenet,
        f"{FOLDER} images",
        other_classes,
    ),
    "broken images": (imagenet, f"{FOLDER} images", broken_images),
    "an image that is not there": (
        evaluate,
        "none.jpg --preprocessing cifar --weights net.keras",
        network(),
    ),
    "weights that are not there": (evaluate, f"{SCORE} net.keras"),
    "weights that are empty": (
        evaluate,
        f"{SCORE} net.keras",
        weights("net.keras", b""),
    ),
    "a model in another format": (
        evaluate,
        f"{SCORE} net.keras",
        weights("net.keras"),
    ),
    "a model that is cut": (evaluate, f"{SCORE} net.keras", cut_network),
    "a model of another version": (
        evaluate,
        f"{SCORE} net.keras",
        future_network,
    ),
    "weights that are cut": (
        evaluate,
        f"{SCORE} net.safetensors --depth 8",
        weights("net.safetensors"),
    ),
    "weights in a format that is not known": (
        evaluate,
        f"{SCORE} net.npz --depth 8",
        weights("net.npz"),
    ),
    "a model of other classes": (
        evaluate,
        f"{SCORE} net.keras",
        network(classes=7),
    ),
    "a model of other channels": (
        evaluate,
        "--preprocessing cifar --dataset cifar10 --weights net.keras",
        grey_network,
    ),
    "a model of other sizes": (evaluate, f"{SCORE} net.keras", network()),
    "weights without the preparation of images": (
        evaluate,
        "--dataset digits --weights net.keras",
        network(),
    ),
    "results of a run that has not ended": (results, "run", leave_run()),
    "sets of runs without a common seed": (
        compare,
        "a.json --to b.json",
        two_sets,
    ),
}


def rows():
    """Return message and status by the first column of the table."""
    text = (ROOT / "docs/errors.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| `(.+)` \| (\d) \|$", text, re.M)
    return {
        title: (message.replace("\\|", "|"), int(status))
        for title, message, status in rows
    }


@pytest.mark.once
def test_every_row_has_a_case():
    assert list(rows()) == list(CASES)


@pytest.mark.once
@pytest.mark.parametrize("title", CASES)
def test_a_row_says_what_is_said(title, tmp_path, monkeypatch, capfd):
    recipe, flags, *make = CASES[title]
    message, status = rows()[title]
    monkeypatch.chdir(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for function in make:
            function(monkeypatch)
        before = contents(tmp_path)
        with pytest.raises(SystemExit) as raised:
            run_recipe(recipe, flags.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.code == status
    # Threads that decode images may still name one after the message.
    lines = capfd.readouterr().err.splitlines()
    (said,) = (line for line in lines if ": error:" in line)
    pattern = ".+".join(map(re.escape, message.split("...")))
    assert re.fullmatch(rf"\S+: error: {pattern}( \(--.+\))?", said), said
    # The files that were there are unchanged.
    assert before.items() <= contents(tmp_path).items()


def contents(folder):
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.once
def test_names_have_spaces_and_letters_of_every_alphabet(
    tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "ein Lauf, पहला – 実行"
    monkeypatch.setattr("sys.argv", ["cifar10.py"])
    run_recipe(cifar10, [*DIGITS.split(), "--output", folder])
    assert str(folder) in capsys.readouterr().out
    run_recipe(results, [folder, "--output", tmp_path / "Résultats"])
    assert folder.name in (tmp_path / "Résultats/README.md").read_text("utf-8")


def test_memory_that_runs_out_is_said_in_words():
    settings = cifar10.Settings.settle({"depth": 110, "batch_size": 4096})
    with pytest.raises(Exception, match=".") as raised:
        keras.ops.zeros((2**20, 2**20, 2**10))
    line = command.explain(raised.value, settings)
    assert "ran out with --batch-size 4096 --depth 110: take a smaller" in line
    assert "--debug" in line
    # A model of its own file has no depth to name.
    evaluation = evaluate.Settings(weights="net.keras")
    assert "None" not in command.explain(MemoryError(), evaluation)


@pytest.mark.once
def test_an_error_without_words_is_not_silent():
    assert command.explain(LookupError(), None).startswith(
        "LookupError: no message"
    )
