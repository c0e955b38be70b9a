"""`recipes/cifar10.py`, run as a user runs it."""

import contextlib
import functools
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")

from conftest import (
    ROOT,
    check_refused,
    check_run_folder,
    read_json,
    read_rows,
    run_recipe,
    settings_of,
)

from keras_resnet import data, table1
from keras_resnet_recipes import cifar10, experiment
from keras_resnet_recipes.experiment import UsageError, images, values
from keras_resnet_recipes.experiment.command import FLAGS
from keras_resnet_recipes.experiment.files import BrokenFileError

RECIPE = "recipes/cifar10.py"
# Eight layers on the digits: seconds on any backend.
SMALL = ("--dataset", "digits", "--preset", "fast", "--depth", "8")


def _settings(*flags):
    return settings_of(cifar10, flags)


@pytest.mark.once
def test_the_default_is_the_papers_procedure():
    s = _settings()
    assert (s.dataset, s.depth, s.shortcut) == ("cifar10", 20, "A")
    assert (s.steps, s.epochs, s.batch_size) == (64_000, None, 128)
    assert (s.schedule, s.learning_rate) == ("step-decay", 0.1)
    assert (s.weight_decay, s.precision) == (1e-4, "float32")
    assert not s.plain


def _tiny(*flags):
    """A compiled model of these flags and a batch for it."""
    from keras_resnet import data

    digits = data.load("digits")
    settings = _settings(*SMALL, *flags)
    rate = cifar10.learning_rate(settings, steps=100)
    model = cifar10.build(settings, digits, rate)
    images = digits.train.images[:8].astype("float32")
    return model, images, digits.train.labels[:8]


def test_bfloat16_keeps_weights_pixels_and_logits_in_float32():
    model, images, labels = _tiny("--precision", "bfloat16")
    assert model.get_layer("stage1_block1").compute_dtype == "bfloat16"
    assert model.get_layer("per_pixel_mean").compute_dtype == "float32"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    loss, _ = model.train_on_batch(images, labels)
    assert np.isfinite(loss)
    assert model.predict(images, verbose=0).dtype == np.float32


def test_flags_reach_the_network():
    plain, _, _ = _tiny("--plain")
    assert not plain.get_layer("stage2_block1").residual
    option_c, _, _ = _tiny("--shortcut", "C")
    assert option_c.get_layer("stage1_block1").shortcut_conv is not None
    assert len([x for x in option_c.layers if "block" in x.name]) == 3
    tuned, _, _ = _tiny("--weight-decay", "0.02", "--learning-rate", "0.3")
    assert tuned.optimizer.coupled_decay == 0.02
    rate = tuned.optimizer.get_config()["learning_rate"]["config"]
    assert rate["warmup_target"] == 0.3


def test_a_seed_gives_the_same_weights_again():
    first, other, again = (
        _tiny("--seed", seed)[0].get_weights() for seed in ("1", "2", "1")
    )
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any((a != b).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("depth", "rate"), [(110, 0.01), (20, 0.1)])
def test_depth_110_warms_up(depth, rate):
    settings = _settings("--depth", str(depth))
    schedule = cifar10.learning_rate(settings, 64_000)
    assert float(schedule(0)) == pytest.approx(rate)
    assert float(schedule(400)) == pytest.approx(0.1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--dept", "20"], ["--dept", "--help"]),
        (["--depth", "21"], ["--depth", "21", "6n+2", "20"]),
        (["--depth", "60000000008"], ["--depth", "at most 9998"]),
        (["--save-every", "10s"], ["--save-every", "'10s'", "500", "10m"]),
        (["--save-every", "0m"], ["--save-every", "'0m'"]),
        (["--learning-rate", "nan"], ["--learning-rate", "'nan'"]),
        (["--weight-decay", "-1"], ["--weight-decay", "'-1'"]),
        (["--seed", "-1"], ["--seed", "'-1'"]),
        (["--warmup", "0.1"], ["--warmup", "one-cycle"]),
        (["--padding", "-1"], ["--padding", "'-1'"]),
        (["--preset", "fast", "--warmup", "2"], ["--warmup", "'2'"]),
        (["--plain", "--shortcut", "B"], ["--plain", "--shortcut"]),
        (["--dataset", "digits", "--data-dir", "x"], ["--data-dir"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_refused(lambda: run_recipe(cifar10, flags), capsys, words)


@pytest.mark.once
def test_depth_110_needs_more_steps_than_its_warm_up(tmp_path, capsys):
    flags = ["--dataset", "digits", "--depth", "110", "--steps", "801"]
    flags += ["--output", str(tmp_path / "run")]
    check_refused(
        lambda: run_recipe(cifar10, flags), capsys, ["400 steps", "801 steps"]
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.once
def test_a_batch_that_is_too_large_is_refused(tmp_path, capsys, monkeypatch):
    flags = [*SMALL, "--batch-size", "1000000000", "--output"]
    check_refused(
        lambda: run_recipe(cifar10, [*flags, tmp_path / "run"]),
        capsys,
        ["--batch-size", "1,000,000,000", "1,257 images", "at most 1,257"],
    )
    assert not (tmp_path / "run").exists()
    images.check_batch(1257, (8, 8, 1), 1257)
    monkeypatch.setattr(images, "memory", lambda: 1000)
    images.check_batch(6, (8, 8, 1), processes=2)
    with pytest.raises(UsageError, match="8x8x1 do not fit.*: take at most 3$"):
        images.check_batch(4, (8, 8, 1))
    with pytest.raises(UsageError, match="--image-size"):
        images.check_batch(1, (32, 32, 1))
    images.check_scales((9,))
    with pytest.raises(UsageError, match="--scales: 640 .* at most 9$"):
        images.check_scales((9, 640))


@pytest.mark.once
def test_the_deepest_net_is_the_packages():
    assert values.MAX_DEPTH == table1.MAX_CIFAR_DEPTH
    assert table1.is_cifar_depth(values.MAX_DEPTH)
    for depth in (values.MAX_DEPTH + 6, 60000000008):
        with pytest.raises(ValueError, match=f"1202, ..., {values.MAX_DEPTH}"):
            table1.cifar_depths(depth)


@pytest.mark.once
def test_failures_are_one_line_and_status_1(capsys):
    def fail(_):
        raise ValueError("two\nlines")

    run = functools.partial(experiment.execute, cifar10.Settings, fail, [])
    check_refused(run, capsys, ["ValueError: two lines"], status=1)
    with pytest.raises(ValueError, match="two"):
        experiment.execute(cifar10.Settings, fail, ["--debug"])


@pytest.mark.once
def test_errors_of_the_package_name_the_flags_to_give(capsys):
    from keras_resnet import data

    def fail(_):
        raise data.DataUnavailableError("name it by `data_dir`")

    with pytest.raises(SystemExit, match="1"):
        experiment.execute(cifar10.Settings, fail, [])
    assert capsys.readouterr().err.endswith(": name it by --data-dir\n")
    package = Path(data.__file__).parents[1].rglob("*.py")
    sources = "".join(path.read_text("utf-8") for path in package)
    assert all(argument in sources for argument in FLAGS)


@pytest.mark.once
def test_output_adapts_to_the_encoding_of_the_terminal(monkeypatch):
    written = io.BytesIO()
    terminal = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    experiment.execute(cifar10.Settings, lambda _: print("1 ± 2"), [])
    terminal.flush()
    assert written.getvalue() == b"1 ? 2\n"


@pytest.mark.once
def test_standard_output_may_be_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def use(_):
        for stream in (sys.stdout, sys.stderr):
            assert not stream.isatty()
            stream.close()

    experiment.execute(cifar10.Settings, use, [])


def _run(*flags):
    """Run the recipe in this process, which has loaded its backend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [RECIPE, *flags])
        run_recipe(cifar10, flags)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder, flags and output of one small run, seen through to its end."""
    folder = tmp_path_factory.mktemp("recipe") / "run"
    flags = [*SMALL, "--epochs", "2", "--seed", "3", "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _run(*flags)
    return folder, flags, printed.getvalue()


def test_input_on_the_device_trains_the_same(finished, tmp_path, capsys):
    folder, flags, _ = finished
    flags = [*flags[:-1], str(tmp_path / "run"), "--input", "device"]
    if keras.backend.backend() == "tensorflow":
        check_refused(lambda: _run(*flags), capsys, ["only from tf.data"])
        assert not (tmp_path / "run").exists()
        return
    _run(*flags)
    for row, expected in zip(
        read_rows(tmp_path / "run" / "history.csv"),
        read_rows(folder / "history.csv"),
        strict=True,
    ):
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert float(row[key]) == pytest.approx(float(expected[key]), 1e-5)
    result = read_json(tmp_path / "run" / "result.json")
    assert result["input"] == "device"
    first = read_json(folder / "result.json")
    assert first["input"] == "tf.data"


def test_a_seed_of_several_is_a_run_of_its_own(finished, tmp_path, capsys):
    """The second of two is compared, which the first might disturb."""
    folder, flags, _ = finished
    study = tmp_path / "study"
    flags = [*flags[:-4], "--output", str(study)]
    _run(*flags, "--seed", "2", "--seeds", "2")
    printed = capsys.readouterr().out
    assert {path.name for path in study.iterdir()} == {
        *("seed2", "seed3", "settings.json", "report.html"),
        *("curves.png", "results.json", "table.md"),
    }
    assert read_json(study / "seed3/settings.json") == read_json(
        folder / "settings.json"
    )
    actual, expected = (
        read_rows(path / "history.csv") for path in (study / "seed3", folder)
    )
    for row in actual + expected:
        del row["seconds"], row["images_per_second"]
    assert actual == expected
    lines = read_json(study / "results.json")
    assert list(lines) == ["seed2", "seed3"]
    table = (study / "table.md").read_text("utf-8")
    assert table in printed
    for line in lines.values():
        assert f"{100 * line['test_error']:.2f} %" in table
    # Its rounding is exact.
    mean = statistics.mean(100 * line["test_error"] for line in lines.values())
    assert f"{mean:.2f} ± " in table
    # Another seed, later.
    shutil.copytree(study / "seed3", study / "seed5")
    _run(*flags, "--seed", "3", "--seeds", "1", "--resume")
    assert "seeds 2, 3, 5" in (study / "table.md").read_text("utf-8")


@pytest.mark.once
def test_a_study_is_a_result(finished, tmp_path):
    from keras_resnet_recipes import results
    from keras_resnet_recipes.experiment import study

    folder, _, _ = finished
    path = tmp_path / "study"
    shutil.copytree(folder, path / "seed3")
    study.summarize(_settings(*SMALL, "--seeds", "1"), path)
    run_recipe(results, [path, "--output", tmp_path / "results"])
    page = (tmp_path / "results/README.md").read_text("utf-8")
    assert "![curves](studies/study-curves.png)" in page
    assert "predictions" not in page
    assert (tmp_path / "results/studies/study.md").read_text("utf-8") in page


def test_a_run_leaves_everything(finished):
    folder, flags, printed = finished
    result = check_run_folder(folder)
    assert list(folder.glob("tensorboard/*/events*"))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    backend = keras.backend.backend()
    assert result["backend"] == backend
    assert result["command"].startswith(f"KERAS_BACKEND={backend} python")
    assert all(flag in result["command"] for flag in flags)
    assert result["settings"]["seed"] == 3
    assert result["iterations"] == 2 * round(1257 / 32)
    assert result["test_images"] == 360
    assert result["seconds"] > 0
    assert result["images_per_second"] > 0
    assert result["versions"]["keras"] == keras.__version__
    errors = [row["val_error"] for row in read_rows(folder / "history.csv")]
    assert result["validation_error"] == pytest.approx(
        float(errors[-1]), abs=1e-4
    )
    assert f"test error {100 * result['test_error']:.2f} %" in printed


def test_the_saved_model_takes_raw_pixels(finished):
    folder, _, _ = finished
    from keras_resnet import data

    result = read_json(folder / "result.json")
    test = data.load("digits").test
    model = keras.models.load_model(folder / "final.keras")
    logits = model.predict(test.images.astype("float32"), verbose=0)
    error = (logits.argmax(axis=1) != test.labels).mean()
    assert error == pytest.approx(result["test_error"], abs=5e-4)


def test_a_finished_run_is_left_alone(finished, capsys):
    folder, flags, _ = finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    check_refused(lambda: _run(*flags), capsys, ["--resume"], status=1)
    _run(*flags, "--resume")
    assert "is finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.once
def test_images_have_their_channels_last_whatever_keras_setting_is(tmp_path):
    keras.config.set_image_data_format("channels_first")
    _run(*SMALL, "--steps", "1", "--output", str(tmp_path / "run"))
    model = keras.models.load_model(tmp_path / "run/final.keras")
    assert model.get_layer("stem_conv").kernel.shape == (3, 3, 1, 16)


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:Limiting epochs")
def test_a_training_that_keras_ends_early_is_not_finished(
    finished, tmp_path, capsys, monkeypatch
):
    _, flags, _ = finished
    # As Keras reads it, when it is imported.
    monkeypatch.setenv("KERAS_MAX_EPOCHS", "1")
    keras.config.set_max_epochs(1)
    other = tmp_path / "run"
    try:
        with pytest.raises(SystemExit, match="1"):
            _run(*flags[:-1], str(other))
    finally:
        keras.config.set_max_epochs(None)
    error = capsys.readouterr().err
    assert "39 of 78 steps" in error
    assert "KERAS_MAX_EPOCHS" in error
    assert not (other / "result.json").exists()


# A locale that knows ASCII alone, a narrow terminal, another time zone.
ELSEWHERE = {
    "PYTHONUNBUFFERED": "1",
    # Other packages do not state their encodings either.
    "PYTHONWARNDEFAULTENCODING": "",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "COLUMNS": "20",
    "TERM": "dumb",
    "TZ": "Pacific/Kiritimati",
}


@pytest.mark.once
def test_a_process_is_interrupted_and_says_so(finished, tmp_path):
    """As a cluster ends a job, on somebody else's machine."""
    folder, flags, _ = finished
    other = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, RECIPE, *flags[:-1], other],
        cwd=ROOT,
        env=os.environ | ELSEWHERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    deadline = time.monotonic() + 300
    while not (other / "last.keras").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    # No traceback, and nothing of what frameworks say when they start.
    assert err == "cifar10.py: ended by SIGTERM\n"
    (reached,) = map(int, re.findall(r"up to iteration (\d+);", out))
    assert 39 < reached < 78
    assert "--resume" in out
    assert len(read_rows(other / "history.csv")) == 1
    _run(*flags[:-1], str(other), "--resume")
    assert len(read_rows(other / "history.csv")) == 2
    straight, resumed = (
        keras.models.load_model(path / "final.keras").get_weights()
        for path in (folder, other)
    )
    np.testing.assert_equal(straight, resumed)


@pytest.mark.once
def test_results_are_made_from_the_lines_of_runs(finished, tmp_path, capsys):
    from keras_resnet_recipes import results

    folder, _, _ = finished
    # Not to be mistaken for the results' own folder of studies.
    output = tmp_path / "studies" / "results"
    check_refused(
        lambda: run_recipe(results, [tmp_path, "--output", output]),
        capsys,
        ["no finished run"],
    )
    run_recipe(results, [folder, "--output", output])
    page = (output / "README.md").read_text("utf-8")
    result = read_json(folder / "result.json")
    assert f"{100 * result['test_error']:.2f} %" in page
    assert result["command"] in page
    assert (output / "run.png").read_bytes().startswith(b"\x89PNG")
    assert not list(output.glob(".partial*"))
    # Another run of that name, given at once or there already.
    twin = tmp_path / "other" / "run"
    shutil.copytree(folder, twin)
    line = result | {"settings": result["settings"] | {"seed": 4}}
    (twin / "result.json").write_text(json.dumps(line), "utf-8")
    before = {p: p.read_bytes() for p in output.iterdir()}
    for runs, words in (
        ([twin], [str(output / "run.json")]),
        ([folder, twin], [str(folder), str(twin)]),
    ):
        check_refused(
            lambda runs=runs: run_recipe(
                results, [*map(str, runs), "--output", str(output)]
            ),
            capsys,
            [*words, "the same name as"],
        )
    assert before == {p: p.read_bytes() for p in output.iterdir()}
    # Under another name it is a second seed of the first.
    twin = twin.rename(tmp_path / "twin")
    line["test_error"] += 0.02
    (twin / "result.json").write_text(json.dumps(line), "utf-8")
    run_recipe(results, [twin, "--output", output])
    page = (output / "README.md").read_text("utf-8")
    mean = 100 * (result["test_error"] + 0.01)
    assert f"{mean:.2f} ± 1.41 %" in page
    (folder / "curves.png").rename(tmp_path / "curves.png")
    with pytest.raises(UsageError, match=r"curves\.png is missing"):
        results.kind(folder)
    (tmp_path / "curves.png").rename(folder / "curves.png")
    line["versions"] = 3
    (twin / "result.json").write_text(json.dumps(line), "utf-8")
    with pytest.raises(BrokenFileError, match=r"result\.json .*: wrong value"):
        results.kind(twin)


@pytest.mark.once
def test_evaluations_are_results(finished, tmp_path, capsys):
    from keras_resnet_recipes import results

    line = read_json(finished[0] / "result.json")
    line |= {"top1": 0.9173, "top5": 0.9966, "images": 10000}
    path = tmp_path / "resnet20.json"
    path.write_text(json.dumps(line), "utf-8")
    output = tmp_path / "results"
    run_recipe(results, [path, "--output", output])
    page = (output / "README.md").read_text("utf-8")
    assert "10,000 of digits" in page
    assert "8.27 %" in page
    copy = output / "evaluations/resnet20.json"
    assert copy.read_bytes() == path.read_bytes()
    # On a folder of two classes.
    del line["top5"]
    line["settings"] |= {"dataset": None, "folder": "pets/val"}
    (tmp_path / "pets.json").write_text(json.dumps(line), "utf-8")
    run_recipe(results, [tmp_path / "pets.json", "--output", output])
    assert "10,000 of pets/val" in (output / "README.md").read_text("utf-8")
    for text in ("{}", "no JSON", '{"top1": 0.5}'):
        path.write_text(text, "utf-8")
        check_refused(
            lambda: run_recipe(results, [path, "--output", output]),
            capsys,
            ["resnet20.json", "evaluate.py"],
        )


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("result.json", b'{"settings": {}}'),
        ("history.csv", b"epoch,iterations\n1"),
        ("curves.png", b"\x89PNG"),
    ],
)
def test_a_broken_run_is_named_before_anything_is_copied(
    finished, tmp_path, capsys, name, contents
):
    from keras_resnet_recipes import results

    folder = shutil.copytree(finished[0], tmp_path / "run")
    (folder / name).write_bytes(contents)
    check_refused(
        lambda: run_recipe(results, [folder, "--output", tmp_path / "results"]),
        capsys,
        [f"{folder / name} is broken"],
        status=1,
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.once
def test_only_the_papers_procedure_is_compared_with_the_paper():
    from keras_resnet_recipes import results

    def is_papers(*flags):
        stored = settings_of(cifar10, flags).stored()
        return results.is_papers(stored | {"backend": "jax"})

    assert is_papers("--depth", "110", "--seed", "3", "--every", "100")
    for flags in ("--steps 100", "--plain", "--dataset mnist"):
        assert not is_papers(*flags.split()), flags


@pytest.mark.once
def test_cifar100_has_its_fine_classes(tmp_path, monkeypatch):
    """Prepared by its own builder, from images made here, without names."""
    tfds = pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)

    def examples(count):
        for i in range(count):
            image = rng.integers(256, size=(32, 32, 3)).astype("uint8")
            yield (
                i,
                {
                    "id": f"{i:05}",
                    "image": image,
                    "label": i % 100,
                    "coarse_label": i % 20,
                },
            )

    builder = tfds.builder("cifar100", data_dir=tmp_path)
    monkeypatch.setattr(
        type(builder),
        "_split_generators",
        lambda *_: {"train": examples(32), "test": examples(16)},
    )
    builder.download_and_prepare()
    monkeypatch.setattr(data.datasets, "HELD_OUT", 16)
    cifar100 = data.load("cifar100", tmp_path)
    assert len(cifar100.class_names) == 100
    assert sorted(cifar100.test.labels) == list(range(16))
    flags = ["--dataset", "cifar100", "--data-dir", str(tmp_path)]
    flags += ["--depth", "8", "--steps", "2", "--batch-size", "8"]
    run_recipe(cifar10, [*flags, "--output", str(tmp_path / "run")])
    model = keras.models.load_model(tmp_path / "run/final.keras")
    assert model.output_shape == (None, 100)


@pytest.mark.once
def test_one_result_is_counted_in_the_singular():
    from keras_resnet_recipes import results

    one, two = ["a"], ["a", "b"]
    lines = {".": one, "studies": [], "searches": one, "evaluations": two}
    text = "1 training, 0 studies, 1 search, 2 evaluations"
    assert results.listed(lines) == text
