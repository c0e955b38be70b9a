"""Every command of README, docs and recipes is taken, and runs.

It runs on a few small images and, where it trains, for a few steps of a small
network. The published weights and datasets are drawn, because a test has no
internet.
"""

import importlib
import re
import shlex
import subprocess
import types

import numpy as np
import pytest
from conftest import ROOT, SHALLOW, run_recipe, settings_of
from networks import draw_weights, only
from test_samples import SAMPLE, SAVED

import keras_resnet
from keras_resnet import data, preprocessing, table1
from keras_resnet.weights import loading, published
from keras_resnet_recipes import cifar10, imagenet, nets
from keras_resnet_recipes.experiment import Failure

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").glob("*.py")),
]
# A line, or a text in `backticks`.
COMMAND = re.compile(
    r"(?:^|`)(?:\w+=\S+ )*"
    r"(?:(?:python|(?:torchrun|srun)\b(?:[^\n\\]|\\\n)*?) "
    r"(?:recipes/(\w+)|benchmarks/(\w+))\.py|keras-resnet ([a-z]\w+))"
    r"((?:[^\n`#\\]|\\\n)*)",
    re.MULTILINE,
)
# These need a download, several processes, or several devices of a process.
ELSEWHERE = "imagenette", "KERASTUNER_TUNER_ID", "--devices 2"
# ImageNet's ids of some classes.
IDS = "n01440764", "n01443537", "n01484850", "n01491361"


def _commands(everywhere=False):
    """Return recipe and flags of each command that has a line of its own.

    With `everywhere`, also of those within lines, and of benchmarks.
    """
    for page in PAGES:
        # A recipe's docstring has two backslashes where a line goes on.
        text = page.read_text("utf-8").replace("\\\\\n", "\\\n")
        for match in COMMAND.finditer(text):
            if (match[2] or match[0].startswith("`")) and not everywhere:
                continue
            flags = tuple(shlex.split(match[4].replace("\\\n", " ")))
            yield pytest.param(
                match[1] or match[3] or f"benchmarks.{match[2]}",
                flags,
                id=f"{page.stem}: {' '.join(match[0].split())}",
            )


def _write_own_block(folder):
    """Write the block that docs/blocks.md tells its readers to save."""
    text = (ROOT / "docs/blocks.md").read_text("utf-8")
    saved = SAVED.search(text)
    (folder / saved[1]).write_text(SAMPLE.search(text, saved.end())[2], "utf-8")


@pytest.fixture
def own_block(tmp_path, monkeypatch):
    _write_own_block(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.once
@pytest.mark.usefixtures("own_block")
@pytest.mark.parametrize(("recipe", "flags"), list(_commands(True)))
def test_a_command_is_one_that_its_parser_takes(recipe, flags):
    # The tests have benchmarks/ on their path.
    folder, _, name = recipe.rpartition(".")
    name = name if folder else f"keras_resnet_recipes.{recipe}"
    module = importlib.import_module(name)
    if not flags or "--help" in flags:
        return
    try:
        settings_of(module, flags)
    except Failure as error:
        # An export by packages that are not here.
        if "pip install" not in str(error):
            raise


@pytest.mark.once
def test_commands_set_the_backend_whose_runs_they_compare():
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            if "compare.py runs" in block:
                for name in re.findall(r"-(jax|tensorflow|torch)\b", block):
                    assert f"KERAS_BACKEND={name}" in block, block


# A later flag takes the place of an earlier one.
SHORTER = {
    "cifar10": "--depth 8 --steps 2 --batch-size 8 --every 2",
    "mnist": "--depth 8 --epochs 1 --train-images 32 --batch-size 8 "
    "--validation-images 8 --test-images 8 --every 4",
    "imagenet": "--epochs 1 --batch-size 4 "
    "--image-size 32 --first-size 32 --test-size 32 --test-resize 36",
    "tune": "--max-trials 1 --epochs 1 --depths 8 --batch-sizes 8",
}
# The same, where a command has a word.
SHORTER_WITH = {
    ("figures", "lesions"): "--images 8",
    ("figures", "landscape"): "--images 8 --points 3",
    ("figures", "--seeds"): "--seeds 2",
    **{
        ("imagenet", preset): "--warmup-epochs 0"
        for preset in ("goyal", "a3", "fast", "finetune")
    },
}


def _short(recipe, flags):
    """Return the flags of a command, and those that shorten it."""
    more = [SHORTER.get(recipe, "")]
    more += [SHORTER_WITH.get((recipe, word), "") for word in flags]
    if recipe == "figures" and "--weights" not in flags:
        more.append("--depths 14 --steps 8")
    return [*flags, *" ".join(more).split()]


def _drawn(name, data_dir=None):
    """Return a dataset of random images, in the shapes of a real one."""
    rng = np.random.default_rng(0)
    shape = {"mnist": (28, 28, 1), "digits": (8, 8, 1)}.get(name, (32, 32, 3))
    classes = 100 if name == "cifar100" else 10
    images = rng.integers(256, size=(256, *shape)).astype("uint8")
    split = data.Split(images, np.arange(256) % classes)
    names = tuple(f"class {i}" for i in range(classes))
    return data.ImageData(name, split, split[:16], split[:16], names)


def _draw_published(model, *_):
    draw_weights(model, 0)
    model.preprocessing = preprocessing.PREPROCESSINGS["imagenet"]


def _classes():
    return [*((i, i) for i in IDS), *((f"n{i:08}", str(i)) for i in range(996))]


def _without_internet(patch):
    """Draw what a command would download, and make its networks shallow."""
    patch.setattr(data, "load", _drawn)
    patch.setattr(published, "_load_repository", _draw_published)
    patch.setattr(preprocessing, "imagenet_classes", _classes)
    patch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)
    patch.setitem(table1.IMAGENET_SPECS, 50, (True, (1, 1, 1, 1)))

    def run(command, env):
        run_recipe(cifar10, command[2:])
        return subprocess.CompletedProcess(command, 0)

    # figures.py trains its nets in processes, which have nothing of this.
    patch.setattr(nets, "subprocess", types.SimpleNamespace(run=run))


def _save(model, folder):
    _draw_published(model)
    folder.mkdir(parents=True)
    for name in ("best.keras", "final.keras"):
        model.save(folder / name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A folder with the files and runs that the commands name."""
    import torch
    from imagenet_files import image_folder, imagenet_tars, jpeg, write

    folder = tmp_path_factory.mktemp("scene")
    for name in ("cat.jpg", "dog.jpg", "photo.jpg"):
        write(folder / name, jpeg(len(name)))
    for name in ("DIR/train", "DIR/val", "flowers", "pictures", "val"):
        image_folder(folder / name)
    for number, wnid in enumerate(IDS):
        (folder / f"val/class{number}").rename(folder / "val" / wnid)
    images = {wnid: {f"{wnid}_1.JPEG": jpeg(1)} for wnid in IDS}
    imagenet_tars(folder / "TARS", images, 3)
    for depth in (20, 56):
        model = keras_resnet.ResNetCIFAR(depth)
        draw_weights(model, 0)
        arrays = loading.to_torch_arrays(model, "akamaster")
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
        torch.save({"state_dict": tensors}, folder / f"resnet{depth}.th")
    _write_own_block(folder)
    with pytest.MonkeyPatch.context() as patch:
        _without_internet(patch)
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        for name, *flags in (
            ("resnet20A-fast-jax",),
            ("plain20-fast-jax", "--plain"),
            (
                "resnet20A-myblock.SwishBlock-fast-jax",
                *("--block", "myblock:SwishBlock"),
            ),
        ):
            flags += ["--seeds", "2", "--output", f"runs/cifar10-{name}"]
            flags = _short("cifar10", ["--preset", "fast", *flags])
            run_recipe(cifar10, flags)
        runs = folder / "runs"
        (runs / "cifar").symlink_to(runs / "cifar10-resnet20A-fast-jax/seed0")
        (folder / "RUNS").symlink_to(runs / "cifar10-plain20-fast-jax")
        (folder / "OTHER_RUNS").symlink_to(runs / "cifar10-resnet20A-fast-jax")
        for classes, name in ((4, "flowers"), (1000, "imagenet")):
            _save(keras_resnet.ResNetImageNet(18, classes=classes), runs / name)
        flags = ["--manual-dir", "TARS", "--data-dir", "tfds"]
        flags += ["--output", "runs/first"]
        run_recipe(imagenet, _short("imagenet", flags))
    return folder


def _trained(flags):
    """Return which run of the scene a command means by runs/NAME."""
    if "imagenet2012" in flags:
        return "imagenet"
    own = {"DIR/val", "photo.jpg", "flowers"} & {*flags}
    return "flowers" if own else "cifar"


@pytest.mark.slow
@only("torch")
@pytest.mark.parametrize(
    ("recipe", "flags"), {p.values: p for p in _commands()}.values()
)
def test_a_command_runs(
    recipe, flags, scene, tmp_path, monkeypatch, request, capsys
):
    if any(word in request.node.name for word in ELSEWHERE):
        pytest.skip("tests of data, searches and devices run it")
    if {"--help", "--resume"} & {*flags}:
        pytest.skip("tests of settings and of searches run it")
    for source in scene.iterdir():
        if source.name != "runs":
            (tmp_path / source.name).symlink_to(source)
    (tmp_path / "runs").mkdir()
    for source in (scene / "runs").iterdir():
        (tmp_path / "runs" / source.name).symlink_to(source)
    named = scene / "runs" / _trained(flags)
    (tmp_path / "runs/NAME").symlink_to(named)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(scene / "tfds"))
    # TensorFlow Datasets read the variable when it was imported.
    constants = "tensorflow_datasets.core.constants.DATA_DIR"
    monkeypatch.setattr(constants, str(scene / "tfds"))
    _without_internet(monkeypatch)
    module = importlib.import_module(f"keras_resnet_recipes.{recipe}")
    try:
        run_recipe(module, _short(recipe, flags))
    except SystemExit:
        if "pip install" in (error := capsys.readouterr().err):
            pytest.skip(error)
        raise
