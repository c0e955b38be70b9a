"""`recipes/mnist.py`, run as a user runs it."""

import csv
import dataclasses
import functools
import json
import math
import re
import shutil

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

from conftest import SHALLOW, check_refused, read_json, run_recipe, settings_of

import keras_resnet
from keras_resnet import data, table1
from keras_resnet.devices import Devices
from keras_resnet_recipes import mnist, results


def _settings(*flags):
    return settings_of(mnist, flags)


@pytest.mark.once
def test_the_default_is_the_course_experiment():
    s = _settings()
    assert (s.dataset, s.train_images) == ("mnist", 2000)
    assert (s.validation_images, s.test_images) == (200, 200)
    assert (s.epochs, s.batch_size, s.learning_rate) == (5, 64, 0.005)
    assert (s.momentum, s.weight_decay, s.schedule) == (0, 0, "constant")
    assert (s.every, s.augment, s.padding) == (15, False, 0)
    assert (s.seed, s.seeds) == (0, 1)
    assert dataclasses.replace(
        s, preset="batch128", batch_size=128, learning_rate=0.01
    ) == _settings("--preset", "batch128")


@pytest.mark.once
def test_full_takes_all_images():
    s = _settings("--full", "--epochs", "3")
    assert (s.train_images, s.validation_images, s.test_images) == (None,) * 3
    assert s.epochs == 3
    assert s.augment
    assert s.padding == 3
    assert s.flags() == ["--dataset", "mnist", "--full", "--epochs", "3"]
    names = {
        _settings(*flags).name("jax")
        for flags in (
            (),
            ("--full",),
            ("--epochs", "4"),
            ("--preset", "batch128"),
            ("--dataset", "digits"),
        )
    }
    assert len(names) == 5


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
        (
            ["--seed", "2147483646", "--seeds", "3"],
            ["--seed", "2147483648", "2147483647"],
        ),
        (
            ["--dataset", "digits", "--train-images", "1258"],
            ["--train-images 1258", "1,257"],
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_refused(lambda: run_recipe(mnist, flags), capsys, words)


@pytest.mark.once
def test_deep_nets_are_those_of_cifar():
    settings = _settings("--preset", "deep", "--dataset", "digits")
    assert (settings.depth, settings.momentum) == (56, 0.9)
    digits = mnist.select(settings, data.load("digits"))
    resnet, plain = (
        mnist.build(settings, digits, 10, net, seed=3) for net in mnist.NETS
    )
    # That of ResNet-56 with one channel instead of three.
    costs = [keras_resnet.complexity(model) for model in (resnet, plain)]
    for cost in costs:
        assert cost.trainable_parameters == 853_018 - 2 * 9 * 16
    assert costs[0].macs == costs[1].macs
    assert _settings("--depth", "34").net_name("plain") == "plain-34"


@pytest.mark.once
def test_the_difference_is_counted_in_images():
    settings = _settings()
    right = {
        "resnet": np.arange(200) < 190,
        "plain": (np.arange(200) >= 8) & (np.arange(200) < 192),
    }
    # 8 images against 2: p = 2 (1 + 10 + 45) / 1024. The interval is that of
    # Clopper and Pearson for 8 of 10, 0.4439 to 0.9748.
    assert mnist.difference_of_images(settings, right) == (
        "Of 200 test images, only ResNet-18 is right on 8 and only plain-18 on "
        "2: a difference of +6 images or +3.0 points (95 % confidence interval "
        "-0.6 to +4.7; p = 0.11, McNemar's exact test)."
    )
    right["plain"] = right["resnet"]
    text = mnist.difference_of_images(settings, right)
    assert "a difference of +0 images or +0.0 points. There is no conf" in text


@pytest.mark.once
def test_the_difference_of_seeds_is_counted_in_images():
    lines = {
        (seed, net): {"test_accuracy": accuracy, "test_images": 200}
        for net, accuracies in (("resnet", (0.9, 0.95)), ("plain", (0.9, 0.92)))
        for seed, accuracy in enumerate(accuracies)
    }
    text = mnist.difference_of_seeds(_settings(), lines, [0, 1])
    assert "is +1.50 points (95 % confidence interval -17.56 to +20.56;" in text
    assert text.endswith("or +3.0 of 200 images.")


@pytest.mark.once
@pytest.mark.parametrize(
    ("resnet", "plain", "words"),
    [
        (0.95, 0.10, "which the paper calls degradation"),
        (0.997, 0.906, "learns more slowly. Take more --epochs"),
        (0.95, 0.93, "can still be trained"),
        (0.80, 0.95, "the plain net fits the images it is trained on better"),
        (0.22, 0.14, "neither has learned the images that it is trained on"),
    ],
)
def test_the_curves_are_explained(resnet, plain, words):
    histories = {
        "resnet": [{"accuracy": [0.1, resnet]}],
        "plain": [{"accuracy": [0.1, plain]}],
    }
    text = mnist.lesson(_settings("--preset", "deep"), histories)
    assert words in text
    assert f"ResNet-56 is {100 - 100 * resnet:.1f} %" in text
    assert "--preset deep" not in text


@pytest.mark.once
def test_nets_that_both_fit_name_the_preset_with_one_that_does_not():
    histories = {net: [{"accuracy": [0.95]}] for net in mnist.NETS}
    text = mnist.lesson(_settings(), histories)
    assert text.endswith("the paper; --preset deep has one that cannot.")


@pytest.mark.once
def test_images_are_enlarged_by_whole_pixels():
    settings = _settings("--dataset", "digits")
    digits = data.load("digits")
    actual = mnist.select(settings, digits)
    assert len(actual.train) == 1257
    assert len(actual.test) == 200
    assert actual.train.images.shape[1:] == (32, 32, 1)
    np.testing.assert_array_equal(
        actual.train.images[:, 1::4, 2::4], digits.train.images
    )
    # 28 pixels: as they are, with a black border.
    images = np.full((3, 28, 28, 1), 7, "uint8")
    split = data.Split(images, np.arange(3))
    small = dataclasses.replace(
        digits, train=split, validation=split, test=split
    )
    settings = dataclasses.replace(settings, test_images=None)
    actual = mnist.select(settings, small).train.images
    np.testing.assert_array_equal(actual[:, 2:-2, 2:-2], images)
    assert actual.sum(dtype="int64") == images.sum(dtype="int64")


@pytest.mark.once
def test_shifted_images_are_nothing_but_shifted():
    settings = _settings("--dataset", "digits", "--augment")
    digits = mnist.select(settings, data.load("digits")).train
    job, _ = mnist.jobs(settings, Devices())
    images, labels = next(iter(job.batches(0)))
    drawn = data.draw_epoch(
        len(digits), 0, padding=4, horizontal_flip=False, seed=0
    )[: settings.batch_size]
    assert len({*map(tuple, drawn[:, 1:3])}) > 10
    black = [(0, 0), (4, 4), (4, 4), (0, 0)]
    padded = np.pad(digits.images, black)[drawn[:, 0]]
    expected = [
        data.cut(image, window, (32, 32))
        for image, window in zip(padded, drawn[:, 1:], strict=True)
    ]
    np.testing.assert_array_equal(images, expected)
    np.testing.assert_array_equal(labels, digits.labels[drawn[:, 0]])


def test_the_twins_begin_alike():
    settings = _settings("--dataset", "digits")
    digits = mnist.select(settings, data.load("digits"))
    resnet, plain = (
        mnist.build(settings, digits, 10, net, seed=3) for net in mnist.NETS
    )
    # PyTorch's count of ResNet-18, for one channel and ten classes.
    assert (
        sum(int(np.prod(v.shape)) for v in resnet.trainable_variables)
        == 11_175_370
    )
    weights = {v.path: keras.ops.convert_to_numpy(v) for v in resnet.variables}
    for variable in plain.variables:
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(variable), weights[variable.path]
        )
    assert {path for path in weights if "shortcut" in path} == set(weights) - {
        v.path for v in plain.variables
    }
    for model in (resnet, plain):
        assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
        assert model.optimizer.momentum == 0


@pytest.mark.once
def test_a_run_compares_both_nets(tmp_path, capsys, monkeypatch):
    """One short epoch, once more with --resume, and a seed that is there."""
    monkeypatch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)
    folder = tmp_path / "study"
    # Batches of one size: each would be compiled.
    few = ["--dataset", "digits", "--train-images", "150"]
    few += ["--validation-images", "30", "--test-images", "30"]
    flags = [*few, "--epochs", "1", "--batch-size", "30", "--every", "2"]
    flags += ["--output", str(folder)]
    run_recipe(mnist, flags)
    printed = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        *("curves.png", "predictions.png", "report.html", "results.json"),
        *("seed0", "settings.json", "table.md"),
    }
    table = (folder / "table.md").read_text("utf-8")
    assert table.splitlines()[0] in printed
    words = " ".join(table.split())
    assert "Of 30 test images, only ResNet-18 is right on" in words
    assert "At the end the training error of ResNet-18 is" in words
    lines = read_json(folder / "results.json")
    assert set(lines) == {"seed0-resnet", "seed0-plain"}
    test = mnist.select(_settings(*few), data.load("digits"))
    assert len(test.test) == 30
    for net in mnist.NETS:
        line = lines[f"seed0-{net}"]
        with open(
            folder / "seed0" / net / "steps.csv", newline="", encoding="utf-8"
        ) as file:
            rows = list(csv.DictReader(file))
        assert [int(row["iterations"]) for row in rows] == [2, 4, 5]
        accuracies = [float(row["val_accuracy"]) for row in rows]
        best = accuracies.index(max(accuracies))
        assert line["best_step"] == [2, 4, 5][best]
        assert line["best_validation_accuracy"] == pytest.approx(
            max(accuracies), abs=1e-4
        )
        model = keras.models.load_model(folder / "seed0" / net / "best.keras")
        logits = model.predict(
            test.test.images.astype("float32"), batch_size=30, verbose=0
        ).astype("float64")
        hits = logits.argmax(1) == test.test.labels
        assert line["test_accuracy"] == pytest.approx(hits.mean(), abs=1e-4)
        shifted = logits - logits.max(1, keepdims=True)
        picked = shifted[np.arange(30), test.test.labels]
        loss = (np.log(np.exp(shifted).sum(1)) - picked).mean()
        assert line["test_loss"] == pytest.approx(loss, abs=1e-3)
        assert f"{100 * line['test_accuracy']:.2f} %" in table
        assert math.isfinite(float(rows[-1]["loss"]))
    run_recipe(results, [folder, "--output", tmp_path / "results"])
    page = (tmp_path / "results/README.md").read_text("utf-8")
    assert table in page
    assert lines["seed0-resnet"]["command"] in page
    assert (tmp_path / "results/studies/study-curves.png").exists()
    again = functools.partial(run_recipe, mnist, flags)
    check_refused(again, capsys, ["--resume"], status=1)
    # Of a seed that was trained earlier, too, the table says all.
    shutil.copytree(folder / "seed0", folder / "seed7")
    shutil.copytree(folder / "seed0", folder / "seed0 before")
    line = read_json(folder / "seed7/plain/result.json")
    line |= {"test_accuracy": line["test_accuracy"] + 0.1, "command": "other"}
    (folder / "seed7/plain/result.json").write_text(json.dumps(line), "utf-8")
    trained = {p: p.stat().st_mtime_ns for p in folder.glob("seed*/*/*")}
    run_recipe(mnist, [*flags, "--resume"])
    assert not re.search(r"step \d", capsys.readouterr().out)
    assert trained == {p: p.stat().st_mtime_ns for p in trained}
    table = (folder / "table.md").read_text("utf-8")
    words = " ".join(table.split())
    assert "seeds 0, 7: mean" in words
    mean = 100 * lines["seed0-plain"]["test_accuracy"] + 5
    assert f"{mean:.2f} ± 7.07 %" in table
    gap = 100 * lines["seed0-resnet"]["test_accuracy"] - mean
    assert f"paired by seed, is {gap:+.2f} points" in words
    lines = read_json(folder / "results.json")
    assert len(lines) == 4
    run_recipe(results, [folder, "--output", tmp_path / "results"])
    page = (tmp_path / "results/README.md").read_text("utf-8")
    assert "\n`other`\n" in page
