"""Evaluation: crops, scales, counting, and `recipes/evaluate.py`."""

import argparse
import importlib.util
import os
import types

import keras
import networks
import numpy as np
import pytest
from conftest import read_json, run_recipe
from networks import draw_weights

import keras_resnet
from keras_resnet import preprocessing, training
from keras_resnet.preprocessing import resize_shorter_side
from keras_resnet.training import EvaluationError, evaluation
from keras_resnet_recipes import evaluate
from keras_resnet_recipes.experiment import Failure
from keras_resnet_recipes.experiment.run import RunError, write_new


def decodes(test):
    """Mark a test of files, which TensorFlow decodes for every backend."""
    missing = importlib.util.find_spec("tensorflow") is None
    skip = pytest.mark.skipif(missing, reason="TensorFlow decodes files")
    return pytest.mark.once(skip(test))


# Images of 32 x 32, cut from the middle of 40 x 40.
SMALL = keras_resnet.Preprocessing(
    (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), size=32, resize=40
)


def picture(rows, columns, channels=3, seed=0):
    """An image of squares of 8 x 8 pixels: its crops look different."""
    rng = np.random.default_rng(seed)
    shape = rows // 8 + 1, columns // 8 + 1, channels
    squares = rng.integers(256, size=shape).astype("uint8")
    return squares.repeat(8, axis=0).repeat(8, axis=1)[:rows, :columns]


def small(**options):
    options = {"stem": "imagenet", "classes": 12, **options}
    model = networks.small((1, 1), size=(32, 32), **options)
    draw_weights(model, 3)
    model.preprocessing = SMALL
    return model


@pytest.fixture(scope="module")
def net():
    keras.config.set_image_data_format("channels_last")
    return small()


def prepared(crops):
    """The statistics of `SMALL`, by hand."""
    mean, std = np.array(SMALL.mean), np.array(SMALL.std)
    return ((np.asarray(crops) / 255 - mean) / std).astype("float32")


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def run(model, x):
    return np.asarray(model.predict_on_batch(x))


# Crops.


@pytest.mark.once
def test_ten_crops_are_those_of_the_paper():
    x = np.arange(5 * 7 * 2).reshape(5, 7, 2)
    crops = training.ten_crops(x, 3)
    expected = [x[:3, :3], x[:3, 4:], x[2:, :3], x[2:, 4:], x[1:4, 2:5]]
    expected += [crop[:, ::-1] for crop in expected]
    assert crops.shape == (10, 3, 3, 2)
    np.testing.assert_array_equal(crops, expected)
    with pytest.raises(EvaluationError, match=r"6 x 6.*\(5, 7, 2\)"):
        training.ten_crops(x, 6)


def test_one_crop_is_the_prepared_centre(net):
    images = [picture(40, 47), picture(40, 40, seed=1)]
    expected = run(
        net, prepared([images[0][4:36, 4:36], images[1][4:36, 4:36]])
    )
    # 47 - 32 is odd: 7.5 is rounded to 8, as torchvision does.
    expected[0] = run(net, prepared([images[0][4:36, 8:40]] * 2))[0]
    actual = training.one_crop(net)(images)
    assert expected.std() > 0.05
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    # An image of another size is resized first.
    large = picture(60, 90)
    resized = resize_shorter_side(large, 40)
    assert resized.shape == (40, 60, 3)
    np.testing.assert_allclose(
        training.one_crop(net)([large]),
        training.one_crop(net)([resized]),
        atol=1e-6,
    )


def test_ten_crop_averages_the_softmax(net):
    images = [picture(40, 44), picture(46, 40, seed=1)]
    # Another test checks the crops.
    crops = [prepared(training.ten_crops(image, 32)) for image in images]
    expected = [run(net, ten).mean(axis=0) for ten in crops]
    # In groups that straddle images.
    actual = training.ten_crop(net, batch_size=8)(images)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert abs(actual - training.one_crop(net)(images)).max() > 1e-3
    # Logits become probabilities.
    logits = small(classifier_activation=None)
    logits.set_weights(net.get_weights())
    for crops in (training.one_crop, training.ten_crop):
        np.testing.assert_allclose(
            crops(logits)(images), crops(net)(images), atol=1e-5
        )


def test_the_layout_is_the_models_and_not_keras_setting():
    images = [picture(40, 40), picture(32, 48, seed=1)]
    how = preprocessing.Preprocessing(
        (0.5,) * 3, (0.25,) * 3, size=32, resize=32
    )
    models = []
    for data_format in ("channels_last", "channels_first"):
        keras.config.set_image_data_format(data_format)
        models.append(networks.small((1, 1), size=(32, 32)))
        draw_weights(models[-1], 4)
    for data_format in ("channels_first", "channels_last"):
        keras.config.set_image_data_format(data_format)
        last, first = (
            training.one_crop(model, how)(images) for model in models
        )
        np.testing.assert_allclose(first, last, atol=1e-5)
        last, first = (
            training.multi_scale(model, how, scales=(32, 40))(images)
            for model in models
        )
        np.testing.assert_allclose(first, last, atol=1e-5)


# Fully convolutional.


@pytest.mark.parametrize(
    ("data_format", "activation"),
    [("channels_last", "softmax"), ("channels_first", None)],
)
def test_fully_convolutional_by_hand(data_format, activation):
    keras.config.set_image_data_format(data_format)
    first = data_format == "channels_first"
    model = small(
        classifier_activation=activation,
        input_shape=(3, 32, 32) if first else (32, 32, 3),
    )
    # The same graph without head, for any size.
    shape = (3, None, None) if first else None
    body = small(include_top=False, input_shape=shape)
    body.set_weights(model.get_weights()[:-2])
    x = np.random.default_rng(0).normal(size=(2, 48, 56, 3)).astype("float32")

    def laid_out(x):
        return x.transpose(0, 3, 1, 2) if first else x

    maps = run(body, laid_out(x))
    maps = maps.transpose(0, 2, 3, 1) if first else maps
    assert maps.shape == (2, 6, 7, 32)
    kernel, bias = model.get_weights()[-2:]
    # At stride 8, 32 pixels are 4 positions.
    scores = [
        softmax(maps[:, i : i + 4, j : j + 4].mean(axis=(1, 2)) @ kernel + bias)
        for i in range(3)
        for j in range(4)
    ]
    everywhere = training.fully_convolutional(model)
    actual = run(everywhere, laid_out(x))
    assert np.std(scores, axis=0).max() > 1e-3
    np.testing.assert_allclose(actual, np.mean(scores, axis=0), atol=1e-5)
    # At the training size its scores are the network's.
    x = laid_out(x[:, :32, :32])
    expected = run(model, x)
    expected = expected if activation else softmax(expected)
    np.testing.assert_allclose(run(everywhere, x), expected, atol=1e-5)


def test_multi_scale_averages_scales(net):
    # 64 x 48 gives 42 x 32 and 64 x 48: nothing is cut off.
    images = [picture(64, 48), picture(40, 32, seed=1), picture(64, 48, seed=2)]
    everywhere = training.fully_convolutional(net)

    def scores(image, side):
        return run(everywhere, prepared([resize_shorter_side(image, side)]))[0]

    expected = [(scores(x, 32) + scores(x, 48)) / 2 for x in images]
    for batch_size in (1, 32):
        score = training.multi_scale(
            net, scales=(32, 48), batch_size=batch_size
        )
        np.testing.assert_allclose(score(images), expected, atol=1e-5)
    with pytest.raises(EvaluationError, match=r"at least .* 32.*\(32, 24\)"):
        training.multi_scale(net, scales=(32, 24))
    assert evaluation.SCALES == (224, 256, 384, 480, 640)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_statistics_of_each_pixel_are_averaged_over_pixels(data_format):
    keras.config.set_image_data_format(data_format)
    first = data_format == "channels_first"
    rng = np.random.default_rng(0)
    mean = 100 + rng.normal(0, 9, (32, 32, 3)).astype("float32")
    channel = mean.mean(axis=(0, 1))
    shape = (3, 32, 32) if first else (32, 32, 3)
    axis = 1 if first else -1
    models = []
    for axes, value in (((1, 2, 3), mean), (axis, channel)):
        if first and axes != axis:
            value = value.transpose(2, 0, 1)
        image = keras.Input(shape)
        x = keras.layers.Normalization(
            axis=axes, mean=value, variance=4 * np.ones_like(value)
        )(image)
        models.append(keras_resnet.ResNet([1], [16], classes=5, input_tensor=x))
    draw_weights(models[0], 3)
    models[1].set_weights(models[0].get_weights())
    x = rng.uniform(0, 255, (2, 40, 48, 3)).astype("float32")
    x = x.transpose(0, 3, 1, 2) if first else x
    actual, expected = (
        run(training.fully_convolutional(model, 32), x) for model in models
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    assert np.ptp(actual) > 1e-3
    # And the network itself has them as they are.
    x = x[:, :, :32, :32] if first else x[:, :32, :32]
    assert abs(run(models[0], x) - run(models[1], x)).max() > 1e-4


def test_networks_that_are_not_fit_are_refused(net):
    body = keras_resnet.ResNet([1], [16], include_top=False)
    with pytest.raises(EvaluationError, match="'avg_pool' and 'head'"):
        training.fully_convolutional(body)
    with pytest.raises(ValueError, match="does not say how its images"):
        training.one_crop(body)
    with pytest.raises(EvaluationError, match="neither a softmax nor"):
        training.one_crop(body, "imagenet")
    any_size = keras_resnet.ResNet([1], [16], input_shape=(None, None, 3))
    with pytest.raises(EvaluationError, match="give `size`"):
        training.fully_convolutional(any_size)


# Counting.


@pytest.mark.once
def test_every_image_counts_once_and_the_remainder_too():
    rng = np.random.default_rng(0)
    labels = rng.integers(12, size=23)
    scores = rng.random((23, 12))
    scores[np.arange(23), labels] += 0.4
    batches = [(scores[i : i + 5], labels[i : i + 5]) for i in range(0, 23, 5)]
    batches.insert(2, ([], []))
    seen = []
    result = training.evaluate(
        np.asarray, batches, on_batch=lambda n, result: seen.append(n)
    )
    ranks = [(s > s[k]).sum() for s, k in zip(scores, labels, strict=True)]
    assert result == {
        "images": 23,
        "top1": np.mean([r < 1 for r in ranks]),
        "top5": np.mean([r < 5 for r in ranks]),
    }
    assert 0 < result["top1"] < result["top5"] < 1
    assert seen == [5, 5, 5, 5, 3]
    # Fewer than ten classes.
    result = training.evaluate(np.asarray, [(scores[:, :9], labels % 9)])
    assert set(result) == {"images", "top1"}
    with pytest.raises(EvaluationError, match="no images"):
        training.evaluate(np.asarray, [([], [])])


@pytest.mark.once
def test_equal_scores_are_no_success():
    labels = np.arange(12)
    in_top = evaluation.in_top(np.ones((12, 12)), labels, 5)
    np.testing.assert_array_equal(in_top, labels < 5)
    with pytest.raises(EvaluationError, match="not finite"):
        evaluation.in_top(np.full((1, 12), np.nan), [0], 1)
    with pytest.raises(EvaluationError, match="0 to 11.*3 to 12"):
        evaluation.in_top(np.ones((2, 12)), [3, 12], 1)


# Files.


def write_image(path, image):
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(image).numpy())
    return path


@decodes
def test_files_are_decoded_by_content(tmp_path):
    import tensorflow as tf

    from keras_resnet import data

    color, grey = picture(6, 5), picture(6, 5, 1)
    png = write_image(tmp_path / "a.jpg", color)  # not what its name says
    np.testing.assert_array_equal(data.read_image(png), color)
    png = write_image(tmp_path / "b.png", grey)
    np.testing.assert_array_equal(
        data.read_image(png), np.repeat(grey, 3, axis=-1)
    )
    np.testing.assert_array_equal(data.read_image(png, 1), grey)
    jpeg = tf.io.encode_jpeg(grey, quality=100).numpy()
    (tmp_path / "c.jpeg").write_bytes(jpeg)
    actual = np.asarray(data.read_image(tmp_path / "c.jpeg")).astype(int)
    assert actual.shape == (6, 5, 3)
    assert abs(actual - grey).max() < 6
    for content in (b"", b"no image", jpeg[: len(jpeg) // 2]):
        (tmp_path / "d.jpg").write_bytes(content)
        with pytest.raises(data.UnreadableImageError, match=r"d\.jpg: \w"):
            data.read_image(tmp_path / "d.jpg")
    with pytest.raises(data.UnreadableImageError, match=r"none: No such file"):
        data.read_image(tmp_path / "none")


@decodes
def test_batches_hold_every_readable_file_once_in_order(tmp_path):
    from keras_resnet import data

    paths = [
        write_image(tmp_path / f"{i}.png", picture(4, 4, seed=i))
        for i in range(7)
    ]
    paths.insert(2, tmp_path / "none.png")
    errors, places, sizes = [], [], []
    for images, actual in data.image_batches(paths, 3, on_error=errors.append):
        for image, i in zip(images, actual, strict=True):
            seed = i if i < 2 else i - 1
            np.testing.assert_array_equal(image, picture(4, 4, seed=seed))
        places += actual
        sizes.append(len(images))
    assert places == [0, 1, 3, 4, 5, 6, 7]
    assert sizes == [2, 3, 2]
    assert ["none.png" in str(e) for e in errors] == [True]
    with pytest.raises(data.UnreadableImageError):
        list(data.image_batches(paths, 3))


@decodes
def test_class_folders(tmp_path):
    from keras_resnet import data

    for name in ("dog/b.png", "cat/x/1.png", "cat/2.txt", "cat/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose.png").touch()
    actual = data.class_folders(tmp_path)
    assert list(actual) == ["cat", "dog", "empty"]
    assert actual["cat"] == [tmp_path / "cat/2.txt", tmp_path / "cat/x/1.png"]
    assert actual["empty"] == []
    for i in range(11):
        write_image(tmp_path / f"numbers/{i}/a.png", picture(8, 8))
    numbers = data.class_folders(tmp_path / "numbers")
    assert list(numbers) == [str(i) for i in range(11)]
    (tmp_path / "numbers/10").rename(tmp_path / "numbers/11")
    # As strings: they are not the numbers of all classes.
    numbers = data.class_folders(tmp_path / "numbers")
    assert list(numbers)[:3] == ["0", "1", "11"]
    with pytest.raises(data.DataUnavailableError, match="no files in folders"):
        data.class_folders(tmp_path / "cat/x")
    with pytest.raises(data.DataUnavailableError, match="no folder '.*none'"):
        data.class_folders(tmp_path / "none")
    for name in ("train", "val"):
        write_image(tmp_path / f"both/{name}/cat/1.png", picture(8, 8))
    with pytest.raises(data.DataUnavailableError, match="take .*val"):
        data.class_folders(tmp_path / "both")


@pytest.mark.once
@pytest.mark.parametrize("links", [True, False])
def test_a_result_is_not_overwritten(tmp_path, monkeypatch, links):
    def fail(*_):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr("os.link", fail)
    path = tmp_path / "result.json"
    write_new(path, "1")
    with pytest.raises(RunError, match="exists already"):
        write_new(path, "2")
    assert path.read_text("utf-8") == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


# The recipe. In this process, which has loaded its backend already.


def recipe(*argv):
    try:
        run_recipe(evaluate, list(map(str, argv)))
    except SystemExit as status:
        return status.code
    return 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory, net):
    path = tmp_path_factory.mktemp("net") / "net.keras"
    net.save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three images that can be read and one that cannot, of 12 classes."""
    for i in range(12):
        (tmp_path / f"folder/class{i:02}").mkdir(parents=True)
    names = "class03/a.png", "class03/b.png", "class11/c.png"
    for i, name in enumerate(names):
        write_image(tmp_path / "folder" / name, picture(40, 44, seed=i))
    (tmp_path / "folder/class00/broken.jpg").write_text("no image", "utf-8")
    return tmp_path / "folder"


@decodes
@pytest.mark.parametrize("crops", ["1", "10", "multi-scale"])
def test_recipe_on_a_folder(net, saved, folder, tmp_path, capsys, crops):
    output = tmp_path / "result.json"
    flags = ["--weights", saved, "--folder", folder, "--crops", crops]
    if crops == "multi-scale":
        flags += ["--scales", "32,40"]
    assert recipe(*flags, "--output", output, "--batch-size", 2) == 0
    score = {
        "1": training.one_crop(net),
        "10": training.ten_crop(net),
        "multi-scale": training.multi_scale(net, scales=(32, 40)),
    }[crops]
    order = np.argsort(-score([picture(40, 44, seed=i) for i in range(3)]))
    labels = np.array([[3], [3], [11]])
    result = read_json(output)
    assert result["images"] == 3
    assert result["top1"] == (order[:, :1] == labels).any(axis=1).mean()
    assert result["top5"] == (order[:, :5] == labels).any(axis=1).mean()
    assert len(result["unreadable"]) == 1
    assert "broken.jpg" in result["unreadable"][0]
    assert result["preprocessing"] == SMALL.get_config()
    assert result["backend"] == keras.backend.backend()
    printed = capsys.readouterr()
    assert "3 images" in printed.out
    assert "1 files could not be read" in printed.out
    assert "not counted: " in printed.err
    # A second time it would be overwritten.
    assert recipe(*flags, "--output", output) == 1
    assert read_json(output) == result


@decodes
def test_a_result_that_appears_meanwhile_is_kept(
    saved, folder, tmp_path, monkeypatch, capsys
):
    output, load = tmp_path / "result.json", evaluate.load_network

    def slow_load(settings):
        output.write_text("1", "utf-8")
        return load(settings)

    monkeypatch.setattr(evaluate, "load_network", slow_load)
    flags = ["--weights", saved, "--folder", folder, "--output", output]
    assert recipe(*flags) == 1
    assert "result.json exists already" in capsys.readouterr().err
    assert output.read_text("utf-8") == "1"


@decodes
def test_recipe_explains_files(saved, folder, tmp_path, capsys, monkeypatch):
    from keras_resnet import analysis

    calls, usual = [], analysis.grad_cam

    def counted(model, images, *args, **kwargs):
        calls.append(len(images))
        return usual(model, images, *args, **kwargs)

    monkeypatch.setattr(analysis, "grad_cam", counted)
    files = folder / "class03/a.png", folder / "class03/b.png"
    names = tmp_path / "names.txt"
    # No formulas.
    names.write_text("".join(f"a$b_{i}_c$\n" for i in range(12)), "utf-8")
    flags = [*files, "--weights", saved, "--class-names", names]
    flags += ["--explain", tmp_path / "why"]
    assert recipe(*flags) == 0
    pictures = [tmp_path / "why/1-a.png", tmp_path / "why/2-b.png"]
    printed = capsys.readouterr().out
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert str(path) in printed
    assert calls == [2]  # because each call compiles the network
    assert recipe(*flags) == 1
    assert "1-a.png exists already" in capsys.readouterr().err


@decodes
def test_names_of_classes_need_not_be_utf_8(saved, folder, tmp_path):
    for i in range(12):
        path = tmp_path / "classes" / os.fsdecode(b"\xff%d" % i)
        try:
            path.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system takes UTF-8 names alone")
        (path / "1.jpg").touch()
    flags = ["--weights", saved, "--class-names", tmp_path / "classes"]
    flags += ["--explain", tmp_path / "why", "--output", tmp_path / "x.json"]
    assert recipe(folder / "class03/a.png", *flags) == 0
    assert (tmp_path / "why/1-a.png").exists()


@decodes
def test_recipe_names_classes_of_files(net, saved, tmp_path, capsys):
    names = tmp_path / "names.txt"
    names.write_text(
        "".join(f"n{i:08} thing {i}\n" for i in range(12)), "utf-8"
    )
    image = write_image(tmp_path / "a.png", picture(40, 40))
    output = tmp_path / "result.json"
    flags = ["--weights", saved, "--class-names", names, "--top", "2"]
    missing = tmp_path / "b.png"
    assert recipe(image, missing, *flags, "--output", output) == 0
    (scores,) = training.one_crop(net)([picture(40, 40)])
    first, second = np.argsort(-scores)[:2]
    result = read_json(output)
    actual = result["predictions"][str(image)]
    assert [p["class"] for p in actual] == [first, second]
    assert actual[0]["id"] == f"n{first:08}"
    assert actual[0]["name"] == f"thing {first}"
    assert actual[0]["probability"] == pytest.approx(scores[first], abs=1e-5)
    printed = capsys.readouterr()
    assert f"thing {first} (n{first:08})" in printed.out
    assert "b.png: No such file" in printed.err
    # Nothing that can be read is a failure.
    assert recipe(missing, *flags) == 1
    assert "None of 1 files" in capsys.readouterr().err


@decodes
def test_recipe_takes_what_training_left(tmp_path, capsys):
    pytest.importorskip("sklearn")
    from keras_resnet import data
    from keras_resnet_recipes import cifar10

    digits = data.load("digits")
    settings = cifar10.Settings.settle(
        {"dataset": "digits", "depth": 8, "preset": "fast"}
    )
    model = cifar10.build(settings, digits, rate=0.1)
    path = tmp_path / "final.keras"
    model.save(path)
    output = tmp_path / "result.json"
    flags = ["--weights", path, "--dataset", "digits"]
    assert recipe(*flags, "--output", output, "--batch-size", 100) == 0
    # All 360 test images, though 100 do not divide them.
    logits = model.predict(digits.test.images.astype("float32"), verbose=0)
    result = read_json(output)
    assert result["images"] == 360
    assert (
        result["top1"] == (logits.argmax(axis=1) == digits.test.labels).mean()
    )
    keras_resnet.save_pretrained(model, tmp_path / "share")
    shared = ["--weights", tmp_path / "share", *flags[2:]]
    assert recipe(*shared, "--output", tmp_path / "share.json") == 0
    assert read_json(tmp_path / "share.json")["top1"] == result["top1"]
    assert recipe(*flags, "--preprocessing", "cifar") == 2
    assert "takes raw pixels" in capsys.readouterr().err
    # A mean of each pixel, which at other sizes there is not.
    flags += ["--output", tmp_path / "scales.json"]
    assert recipe(*flags, "--crops", "multi-scale", "--scales", "8,10") == 0
    result = read_json(tmp_path / "scales.json")
    assert result["images"] == 360


@decodes
def test_recipe_loads_weights_by_depth(tmp_path, capsys, monkeypatch):
    from safetensors.numpy import save_file

    from keras_resnet import data
    from keras_resnet.weights import loading

    model = keras_resnet.ResNetCIFAR(8)
    draw_weights(model, 0)
    path = tmp_path / "net.safetensors"
    save_file(loading.to_arrays(model, "akamaster"), path)
    images = np.stack([picture(32, 32, seed=i) for i in range(7)])
    split = data.Split(images, np.arange(7))
    fake = data.ImageData("cifar10", split, split, split, tuple("abcdefghij"))
    monkeypatch.setattr(data, "load", lambda name, folder: fake)
    flags = ["--weights", path, "--depth", "8", "--dataset", "cifar10"]
    # Such a file does not say how images are prepared.
    assert recipe(*flags) == 2
    assert "--preprocessing imagenet|keras|cifar" in capsys.readouterr().err
    output = tmp_path / "result.json"
    assert recipe(*flags, "--preprocessing", "cifar", "--output", output) == 0
    x = keras_resnet.preprocess_input(images, "cifar")
    best = model.predict(x, verbose=0).argmax(axis=1)
    assert read_json(output)["top1"] == np.mean(best == np.arange(7))
    # A head that does not fit is an error, not a random head.
    assert recipe(*flags, "--classes", "7", "--preprocessing", "cifar") == 1
    assert "classes=10" in capsys.readouterr().err


@decodes
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "image files, --folder or --dataset"),
        (["a.png", "--dataset", "digits"], "one of them"),
        (["a.png", "--weights", "imagenet"], "needs --depth"),
        (["a.png", "--weights", "."], "needs --depth"),
        (["a.png", "--depth", "19"], "--depth: 19"),
        (["a.png", "--shortcut", "A"], "--shortcut needs --depth"),
        (
            ["a.png", "--depth", "20", "--bottleneck-stride", "1x1"],
            "--bottleneck-stride needs --depth 50, 101 or 152",
        ),
        (["a.png", "--scales", "32"], "--scales needs --crops multi-scale"),
        (["--folder", "x", "--top", "3"], "--top needs image files"),
        (["x.png", "--explain", "y", "--crops", "10"], "--crops 1"),
        (["--dataset", "digits", "--data-dir", "x"], "--data-dir needs"),
        (["a.png", "--output", "none/x.json"], "no folder none"),
    ],
)
def test_usage_errors(flags, words, capsys):
    assert recipe("--weights", "x.keras", *flags) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


@pytest.mark.once
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="there is no /proc")
def test_output_is_tried_before_the_evaluation(tmp_path, capsys):
    # There is no such file of weights: it is not looked for.
    flags = ["--weights", "x.keras", "a.png", "--output", "/proc/x.json"]
    assert recipe(*flags) == 1
    message = capsys.readouterr().err
    assert "no file can be written to /proc: " in message
    assert message.count("\n") == 1
    link = tmp_path / "x.json"
    link.symlink_to(tmp_path / "nothing")
    assert recipe(*flags[:-1], link) == 1
    assert f"{link} exists already" in capsys.readouterr().err


@decodes
def test_classes_that_do_not_fit(saved, folder, tmp_path, capsys):
    flags = ["--weights", saved, "--folder", folder]
    names = ["--class-names", tmp_path / "names.txt"]
    for kind, n, words in (
        ("class", 11, "11 classes"),
        ("kind", 12, "not classes of the network"),
    ):
        lines = "\n".join(f"{kind}{i:02}" for i in range(n))
        names[1].write_text(lines, "utf-8")
        assert recipe(*flags, *names) == 2
        assert words in capsys.readouterr().err
    (folder / "class01").rmdir()
    assert recipe(*flags) == 2
    words = "11 folders, and the network 12 classes"
    assert words in capsys.readouterr().err


@pytest.mark.once
def test_folders_are_found_by_id_or_name(tmp_path):
    from keras_resnet_recipes import evaluate
    from keras_resnet_recipes.experiment import UsageError

    names = tmp_path / "names.txt"
    arguments = argparse.Namespace(class_names=names, folder="val")

    def indices(lines, folders):
        names.write_text("\n".join(lines), "utf-8")
        return evaluate.class_indices(folders, arguments, len(lines))

    # The order of a folder of classes is not that of `ls`.
    arguments.class_names = tmp_path / "classes"
    for i in range(11):
        (tmp_path / f"classes/{i}").mkdir(parents=True)
        (tmp_path / f"classes/{i}/1.jpg").touch()
    assert evaluate.class_indices(["10", "2"], arguments, 11)["10"] == 10
    arguments.class_names = names
    # A mark of Windows, and not the number of a line.
    assert indices(["\ufeffcat", "dog"], ["cat", "dog"]) == {"cat": 0, "dog": 1}
    numbers = sorted(map(str, range(12)))
    assert indices(numbers, ["10", "2"]) == {"10": 2, "2": 4}
    cranes = ["n02012849 crane", "n03126707 crane", "n01440764 tench"]
    actual = indices(cranes, ["n03126707", "tench"])
    assert actual == {"n03126707": 1, "tench": 2}
    with pytest.raises(UsageError, match="0 and 1, which have the same name"):
        indices(cranes, ["crane", "tench"])


def test_a_network_of_any_size_needs_one():
    net = keras_resnet.ResNet([1], [16], input_shape=(None, None, 3))
    settings = types.SimpleNamespace(
        preprocessing="none", depth=None, weights="net.keras"
    )
    with pytest.raises(Failure, match="images of any size, and does not say"):
        evaluate.preprocessing_of(net, settings)
