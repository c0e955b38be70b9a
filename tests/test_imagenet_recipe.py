"""`recipes/imagenet.py`, and `recipes/evaluate.py` on what it leaves."""

import contextlib
import io
import shutil

import keras
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="the recipes feed by tf.data")
pytest.importorskip("PIL", reason="the files are written with Pillow")

from conftest import (
    SHALLOW,
    check_refused,
    check_run_folder,
    read_json,
    read_rows,
    run_recipe,
    settings_of,
)
from imagenet_files import (
    CMYK,
    PNG,
    encoded,
    image_folder,
    imagenet_tars,
    jpeg,
    picture,
    write,
)
from networks import call, only
from test_export import EXPORT_WARNS, PROGRAM
from test_folding import randomize

import keras_resnet
from keras_resnet import table1, training
from keras_resnet.devices import Devices
from keras_resnet_recipes import evaluate, imagenet
from keras_resnet_recipes.experiment import UsageError, terminal
from keras_resnet_recipes.export import FORMATS

BACKEND = keras.backend.backend()
# 18 layers on 32 pixels: seconds on any backend.
TINY = ("--depth", "18", "--image-size", "32", "--test-size", "32")
TINY += ("--test-resize", "36")
LATER = ("--mean", "channel", "--schedule", "cosine")


def _settings(*flags):
    return settings_of(imagenet, flags)


@pytest.fixture
def _shallow(monkeypatch):
    monkeypatch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 images to train on, one of them corrupt, and 11 to validate on."""
    path = tmp_path_factory.mktemp("images")
    image_folder(path / "train", each=6, corrupt=1)
    image_folder(path / "val", each=3, first=500, corrupt=1)
    return path


def _from(folder, *flags):
    return [
        *("--dataset", "folder", "--folder", str(folder), *TINY),
        *("--batch-size", "8", "--max-unreadable", "0.1", *flags),
    ]


def _run(flags, status=0, main=imagenet):
    """Run a recipe in this process, which has loaded its backend."""
    actual = 0
    try:
        run_recipe(main, list(map(str, flags)))
    except SystemExit as caught:
        actual = caught.code
    assert actual == status


def _weights(folder, name="final.keras"):
    return keras.models.load_model(folder / name).get_weights()


@pytest.mark.once
def test_the_default_is_the_papers_procedure():
    s = _settings()
    assert (s.depth, s.steps, s.batch_size) == (50, 600_000, 256)
    assert (s.schedule, s.learning_rate) == ("plateau", 0.1)
    assert (s.weight_decay, s.bottleneck_stride) == (1e-4, "1x1")
    assert (s.sampling, s.mean, s.color) == ("paper", "pixel", True)
    assert s.image_size == 224


@pytest.mark.once
@pytest.mark.parametrize("preset", ["finetune", "fast"])
def test_a_run_on_a_folder_has_a_name_and_flags(preset):
    flags = ["--preset", preset, "--dataset", "folder", "--folder", "DIR"]
    settings = _settings(*flags, "--depth", "18")
    name = f"folder-resnet18B-{preset}-jax-seed0"
    assert settings.name("jax") == name
    assert _settings(*settings.flags()) == settings


@pytest.mark.once
def test_goyal_scales_the_rate_with_the_batch():
    assert _settings("--preset", "goyal").learning_rate == 0.1
    s = _settings("--preset", "goyal", "--batch-size", "128")
    assert (s.warmup_rate, s.learning_rate) == (0.05, 0.05)
    s = _settings("--preset", "goyal", "--batch-size", "8192")
    assert s.learning_rate == pytest.approx(3.2)
    assert (s.epochs, s.zero_init, s.decay_norm_and_bias) == (90, True, False)
    # 156 steps an epoch: warm-up from 0.1, then divided after 30, 60, 80.
    rate = imagenet.learning_rate(s, 90 * 156, 156)
    at = [0, 2.5, 5, 29.9, 30.1, 59.9, 60.1, 79.9, 80.1, 89.9]
    actual = [float(rate(epoch * 156)) for epoch in at]
    expected = [0.1, 1.65, 3.2, 3.2, 0.32, 0.32, 0.032, 0.032, 0.0032, 0.0032]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)
    schedules = keras.optimizers.schedules
    again = schedules.deserialize(schedules.serialize(rate))
    assert float(again(100)) == float(rate(100))


@pytest.mark.once
def test_other_schedules():
    s = _settings("--preset", "a3")
    rate = imagenet.learning_rate(s, 1000, 10)
    assert float(rate(0)) == 0
    assert float(rate(25)) == pytest.approx(4e-3, rel=0.01)
    assert float(rate(500)) == pytest.approx(4e-3, rel=0.01)
    assert float(rate(1000)) == pytest.approx(0, abs=1e-6)
    s = _settings("--schedule", "exponential")
    rate = imagenet.learning_rate(s, 1000, 10)
    assert float(rate(500)) == pytest.approx(0.1 * 1e-3**0.5, rel=1e-3)
    assert imagenet.learning_rate(_settings(), 1000, 10) == 0.1
    with pytest.raises(UsageError, match="50 steps of 50"):
        imagenet.learning_rate(_settings("--preset", "a3"), 50, 10)


@pytest.mark.once
def test_fast_grows():
    s = _settings("--preset", "fast")
    sizes = imagenet.sizes(s, 16)
    assert sizes == sorted(sizes)
    assert set(sizes) == {128, 160, 192}
    assert sizes[11:] == [192] * 5
    assert imagenet.sizes(s, 1) == [128]
    assert imagenet.sizes(_settings(), 3) == [224] * 3


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--depth", "20"], ["--depth", "20", "18, 34"]),
        (["--dataset", "folder"], ["--folder"]),
        (["--folder", "x"], ["--folder", "--dataset folder"]),
        (
            ["--dataset", "imagenette", "--manual-dir", "x"],
            ["--manual-dir", "imagenet2012"],
        ),
        (["--cache", "x"], ["--cache", "--cache-side"]),
        (["--warmup-epochs", "1"], ["--warmup-epochs", "--schedule"]),
        (
            ["--preset", "fast", "--epochs", "2"],
            ["--warmup-epochs 2", "--epochs 2"],
        ),
        (
            ["--preset", "a3", "--momentum-correction"],
            ["--momentum-correction", "--optimizer sgd"],
        ),
        (["--accumulate", "3"], ["--accumulate 3", "256"]),
        (["--image-size", "160"], ["--mean pixel", "160", "224"]),
        (
            ["--depth", "34", "--bottleneck-stride", "3x3"],
            ["--bottleneck-stride", "--depth 50"],
        ),
        (
            ["--preset", "goyal", "--warmup-rate", "0.2"],
            ["--warmup-rate 0.2", "--learning-rate 0.1"],
        ),
        (
            [*LATER, "--every", "5", "--steps-per-execution", "2"],
            ["--every 5", "--steps-per-execution 2"],
        ),
        (["--mean", "weights"], ["--mean weights", "--weights"]),
        (
            ["--zero-init", "--weights", "keras"],
            ["--zero-init", "--weights"],
        ),
        (
            ["--dataset", "folder", "--folder", "x"]
            + ["--validation-share", "1"],
            ["--validation-share", "below 1"],
        ),
        (["--freeze", "2"], ["--freeze", "--weights"]),
        (["--freeze", "5", "--weights", "keras"], ["--freeze", "5", "4"]),
        (["--test-resize", "200"], ["--test-resize 200", "224"]),
        (["--ema", "1"], ["--ema"]),
        (["--every", "5"], ["--every", "plateau"]),
        (["--max-unreadable", "2"], ["--max-unreadable", "'2'"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_refused(lambda: run_recipe(imagenet, flags), capsys, words)


def test_flags_reach_the_model():
    s = _settings("--preset", "a3", "--depth", "18", "--ema", "0.9")
    model = imagenet.build(s, 12, 1e-3)
    assert isinstance(model.optimizer, training.Lamb)
    assert model.optimizer.coupled_decay == 0.02
    assert model.optimizer.ema_momentum == 0.9
    assert model.inputs[0].shape == (None, None, None, 3)
    how = model.preprocessing
    assert (how.size, how.resize, how.interpolation) == (224, 235, "bicubic")
    assert isinstance(model.loss, keras.losses.BinaryCrossentropy)
    s = _settings("--preset", "goyal", "--depth", "18", "--accumulate", "2")
    model = imagenet.build(s, 12, 0.1)
    assert not model.optimizer.decay_norm_and_bias
    assert model.optimizer.momentum_correction
    assert model.optimizer.gradient_accumulation_steps == 2
    assert not _settings("--preset", "goyal", "--plain").zero_init
    gamma = model.get_layer("stage2_block1").bn2.gamma
    assert not keras.ops.convert_to_numpy(gamma).any()
    s = _settings("--depth", "18", "--precision", "bfloat16")
    mean = np.full((224, 224, 3), 100, "float32")
    model = imagenet.build(s, 12, 0.1, mean)
    assert model.get_layer("stage1_block1").compute_dtype == "bfloat16"
    assert model.get_layer("per_pixel_mean").compute_dtype == "float32"
    assert {v.dtype for v in model.trainable_variables} == {"float32"}


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """One small run of two epochs of the paper's: folder, flags, output."""
    path = tmp_path_factory.mktemp("recipe") / "run"
    flags = _from(folder, "--epochs", "2", "--learning-rate", "0.01")
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(table1.IMAGENET_SPECS, 18, SHALLOW)
        _run([*flags, "--output", path])
    return path, flags, out.getvalue(), err.getvalue()


def test_a_run_leaves_everything(finished):
    path, _, printed, errors = finished
    result = check_run_folder(path)
    assert result["iterations"] == 6
    assert result["training_images"] == 24
    assert result["validation_images"] == 11
    assert len(result["unreadable"]) == 2
    assert errors.count("skipped: ") == 2
    assert "2 images could not be decoded" in printed
    assert (
        "24 training and 12 validation images of 4 classes: class0, class1"
        in printed
    )
    history = read_rows(path / "history.csv")
    assert [int(row["iterations"]) for row in history] == [3, 6]
    assert result["validation_error"] == pytest.approx(
        float(history[-1]["val_error"]), abs=1e-4
    )
    assert f"{100 * result['validation_error']:.2f} %" in printed


@pytest.mark.once
def test_a_share_needs_a_folder_without_validation_images(folder, capsys):
    flags = _from(folder, "--epochs", "1", "--validation-share", "0.5")
    words = ["--validation-share", "val has the validation images"]
    check_refused(lambda: run_recipe(imagenet, flags), capsys, words)


@pytest.mark.once
def test_train_may_be_a_class(tmp_path):
    for name in ("bus", "train"):
        for i in range(4):
            write(tmp_path / "vehicles" / name / f"{i}.jpg", jpeg(i))
    image_folder(tmp_path / "kinds/train", each=4)
    image_folder(tmp_path / "kinds/test", each=2)
    for folder, count in (("vehicles", 2), ("kinds", 4)):
        flags = _from(tmp_path / folder, *LATER, "--epochs", "1")
        train, _ = imagenet.load(_settings(*flags))
        assert len(train.class_names) == count


@pytest.mark.usefixtures("_shallow")
@only("jax", "torch")
@EXPORT_WARNS
def test_a_folder_of_classes_becomes_a_file_to_deploy(tmp_path, run_python):
    """Four classes, published weights, a frozen part, an exported network."""
    keras.utils.set_random_seed(1)
    published = keras_resnet.ResNetImageNet(18, input_shape=(32, 32, 3))
    randomize(published)
    published.preprocessing = keras_resnet.Preprocessing(
        (103.9, 116.8, 123.7), (1, 2, 3), scale=1, channels="BGR"
    )
    published.save(tmp_path / "published.keras")
    folder = image_folder(tmp_path / "images", classes=4, each=5)
    flags = [*TINY, "--preset", "finetune", "--folder", folder]
    flags += ["--weights", tmp_path / "published.keras", "--freeze", "2"]
    flags += ["--epochs", "2", "--batch-size", "8"]
    _run([*flags, "--output", tmp_path / "run"])
    line = read_json(tmp_path / "run/result.json")
    assert (line["training_images"], line["validation_images"]) == (16, 4)
    model = keras.models.load_model(tmp_path / "run/final.keras")
    before = {v.path: keras.ops.convert_to_numpy(v) for v in published.weights}
    for layer in model.layers:
        kept = "stem" in layer.name or layer.name.startswith(
            ("stage1", "stage2")
        )
        for weight in layer.weights:
            if "stage" not in layer.name and "stem" not in layer.name:
                continue
            same = np.array_equal(
                keras.ops.convert_to_numpy(weight), before[weight.path]
            )
            assert same == kept, weight.path
    # Raw pixels in, prepared as the published weights want them.
    image = picture(3, rows=32, columns=32)[None].astype("float32")
    mean = model.get_layer("per_channel_statistics").mean
    assert keras.ops.convert_to_numpy(mean).ravel() == pytest.approx(
        (103.9, 116.8, 123.7)
    )
    expected = call(model, image, training=False)
    np.save(tmp_path / "x.npy", image)
    kind = "pt2" if BACKEND == "torch" else "savedmodel"
    path = str(tmp_path / f"exported{FORMATS[kind].suffix}")
    model.export(path, format=FORMATS[kind].keras, verbose=False)
    run_python("-c", PROGRAM, kind, tmp_path / "x.npy", path)
    np.testing.assert_allclose(np.load(f"{path}.npy"), expected, atol=1e-4)


@pytest.mark.once
def test_what_a_run_leaves_can_be_evaluated(finished, folder, tmp_path):
    path, *_ = finished
    output = tmp_path / "result.json"
    flags = ["--weights", path / "final.keras", "--folder", folder / "val"]
    _run([*flags, "--output", output], main=evaluate)
    result = read_json(output)
    assert result["images"] == 11
    assert len(result["unreadable"]) == 1
    error = read_json(path / "result.json")["validation_error"]
    assert 1 - result["top1"] == pytest.approx(error, abs=1e-4)
    assert result["preprocessing"]["resize"] == 36
    # Its mean image is of one size; other crops take it all the same.
    flags += ["--crops", "multi-scale", "--scales", "32,40"]
    _run([*flags, "--output", tmp_path / "scales.json"], main=evaluate)
    assert read_json(tmp_path / "scales.json")["images"] == 11


@pytest.mark.usefixtures("_shallow")
def test_interrupted_and_resumed_it_ends_as_if_never_stopped(
    finished, tmp_path, capsys, interrupt_after
):
    path, flags, *_ = finished
    other = tmp_path / "run"
    flags = [*flags, "--output", str(other)]
    interrupt_after(4)
    _run(flags, 130)
    assert "--resume" in capsys.readouterr().out
    assert len(read_rows(other / "history.csv")) == 1
    _run([*flags, "--resume"])
    assert len(read_rows(other / "history.csv")) == 2
    np.testing.assert_equal(_weights(path), _weights(other))


@pytest.mark.once
def test_a_run_does_not_go_on_with_other_images(
    finished, folder, tmp_path, capsys
):
    path, flags, *_ = finished
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    flags = [*flags, "--output", path, "--resume", "--folder", moved]
    _run(flags)
    assert "is finished" in capsys.readouterr().out
    image = moved / "train" / "class0" / "0.JPEG"
    image.rename(moved / "train" / "class1" / "other.JPEG")
    _run(flags, 1)
    error = capsys.readouterr().err
    assert "train was '24 images, SHA-256 of names" in error
    assert "val was" not in error


@pytest.mark.usefixtures("_shallow")
def test_too_many_unreadable_images_end_a_run(folder, tmp_path, capsys):
    flags = _from(folder, "--epochs", "1", *LATER)
    flags += ["--output", tmp_path / "run", "--max-unreadable", "0.01"]
    _run(flags, 1)
    error = capsys.readouterr().err.splitlines()
    assert "TensorFlow" not in error[-1]
    assert "of 24 images cannot be decoded" in error[-1]
    assert "0.01" in error[-1]


@pytest.mark.once
@pytest.mark.usefixtures("_shallow")
def test_long_tasks_before_a_training_have_bars(folder, tmp_path, monkeypatch):
    shown = []

    def progress(items, desc, unit):
        shown.append((desc, len(items), unit))
        return items

    monkeypatch.setattr(terminal, "Progress", progress)
    cache = str(tmp_path / "cache")
    flags = _from(folder, "--cache", cache, "--cache-side", "68")
    imagenet.job(_settings(*flags), Devices()).build()
    assert shown == [("caching", 24, "image"), ("mean image", 2, "batch")]


@pytest.mark.usefixtures("_shallow")
def test_a3_trains_with_everything(folder, tmp_path, capsys):
    """Growing images, mixing, averages, accumulation, a cache, a profile."""
    flags = _from(folder, "--preset", "a3", "--epochs", "2")
    # JAX compiles a step for each size, and for many seconds.
    first = "64" if BACKEND == "jax" else "32"
    flags += ["--first-size", first, "--image-size", "64", "--ema", "0.5"]
    flags += ["--accumulate", "2", "--warmup-epochs", "1"]
    flags += ["--cache", tmp_path / "cache", "--cache-side", "68"]
    flags += ["--profile", "--output", tmp_path / "run"]
    _run(flags)
    result = read_json(tmp_path / "run" / "result.json")
    assert result["iterations"] == 6
    assert result["training_images"] == 23
    traces = [
        p.name
        for p in (tmp_path / "run" / "tensorboard").rglob("*")
        if p.name.endswith((".xplane.pb", ".pt.trace.json"))
    ]
    assert len(traces) == 1
    # The last epoch's validation was of the average, which is the end's.
    row = read_rows(tmp_path / "run" / "history.csv")[-1]
    assert result["validation_error"] == pytest.approx(
        float(row["val_error"]), abs=1e-4
    )
    last = _weights(tmp_path / "run", "last.keras")
    final = _weights(tmp_path / "run")
    assert any((a != b).any() for a, b in zip(last, final, strict=True))


@pytest.mark.usefixtures("_shallow")
def test_steps_per_execution(folder, tmp_path, capsys):
    flags = _from(folder, "--epochs", "2", *LATER, "--batch-size", "12")
    flags += ["--output", tmp_path / "run", "--steps-per-execution"]
    if BACKEND == "torch":
        _run([*flags, "2"], 2)
        assert "PyTorch" in capsys.readouterr().err
        return
    _run([*flags, "3"], 2)
    assert "these do: 2" in capsys.readouterr().err
    if BACKEND == "jax":
        return  # Keras compiles the steps one after another there
    _run([*flags, "2"])
    rows = read_rows(tmp_path / "run" / "history.csv")
    assert [int(row["iterations"]) for row in rows] == [2, 4]


@pytest.mark.once
@pytest.mark.usefixtures("_shallow")
def test_imagenet2012_from_tars_to_evaluation(tmp_path, capsys):
    """Prepared by TensorFlow Datasets, trained on, evaluated."""
    pytest.importorskip("tensorflow_datasets")
    images = {
        "n01440764": {f"n01440764_{i}.JPEG": jpeg(i) for i in range(5)},
        "n01739381": {CMYK: encoded(picture(11), mode="CMYK")},
        "n02105855": {PNG: encoded(picture(12), "PNG")},
        "n02102040": {"n02102040_1.JPEG": encoded(picture(13), mode="L")},
    }
    imagenet_tars(tmp_path / "tars", images, 3)
    places = ["--data-dir", tmp_path / "tfds"]
    flags = ["--preset", "goyal", *TINY, *places]
    flags += ["--manual-dir", tmp_path / "tars"]
    flags += ["--batch-size", "8", "--output", tmp_path / "run"]
    # The preset's warm-up is longer than the run, which only the data tell.
    _run([*flags, "--steps", "5"], 2)
    assert "--warmup-epochs 5" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    _run([*flags, "--epochs", "1", "--warmup-epochs", "0"])
    result = read_json(tmp_path / "run" / "result.json")
    assert result["validation_images"] == 3
    assert result["training_images"] == 8
    assert 0 <= result["validation_top5_error"] <= 1
    _run(
        [
            *("--weights", tmp_path / "run" / "final.keras"),
            *("--dataset", "imagenet2012", *places),
            *("--crops", "10", "--output", tmp_path / "result.json"),
        ],
        main=evaluate,
    )
    actual = read_json(tmp_path / "result.json")
    assert actual["images"] == 3
