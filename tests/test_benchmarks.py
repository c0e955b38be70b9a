"""The benchmarks compare like with like, and report what they measured."""

import ast
import dataclasses
import json
import time

import cli
import compare
import cost
import imagenet
import keras
import matplotlib
import measure
import numpy as np
import pytest
import report
import sides
import works
from conftest import ROOT, check_parser_without_keras, check_wrong_usage
from sides.network import Network, cifar, resnet50

matplotlib.use("agg")

BACKEND = keras.backend.backend()
CIFAR = Network((1, 1), (4, 8), 8, 5, "cifar")
# Odd maps: where a stride begins, shows.
IMAGENET = Network(
    (1, 1), (4, 8), 33, 5, "imagenet", True, "B", "1x1", epsilon=1e-3
)


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)
    # Every side is given its weights. To draw others first, JAX compiles for
    # half a minute.
    monkeypatch.setattr(
        keras.initializers.VarianceScaling,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype),
    )


def _trained(name, network, weights, images, labels):
    side = sides.build(name, network, weights)
    logits = side.predict(images, len(images))
    side.train(images, labels, 4)
    return logits, side.weights()


@pytest.mark.parametrize("network", [CIFAR, IMAGENET], ids=lambda n: n.stem)
def test_sides_compute_and_train_the_same_network(network):
    weights = network.draw(1)
    images, labels = network.random_batches(8)
    arguments = network, weights, images, labels
    expected, after = _trained("ours", *arguments)
    # Logits of a size at which 1e-4 says something.
    assert 0.1 < expected.std() < 3
    moved = [np.abs(after[n] - weights[n]).max() for n in weights]
    assert min(moved) > 1e-6
    for name in ("stock Keras", "native"):
        logits, found = _trained(name, *arguments)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert found.keys() == weights.keys()
        for path in weights:
            # The fused normalizations of PyTorch and TensorFlow keep the
            # unbiased variance.
            unbiased = name == "native" and path.endswith("variance")
            np.testing.assert_allclose(
                found[path],
                after[path],
                rtol=0,
                atol=0.05 if unbiased else 1e-5,
                err_msg=f"{name}: {path}",
            )


def test_keras_applications_computes_the_same_network():
    network = resnet50(
        size=32, classes=7, bottleneck_stride="1x1", epsilon=1.001e-5
    )
    weights = network.draw()
    images, _ = network.random_batches(2)
    expected = sides.build("ours", network, weights).predict(images, 2)
    peer = sides.build("keras.applications", network, weights)
    assert sides.difference(peer, expected, images) <= 1e-4
    # It has biases, which take part.
    biases = [v for v in peer.model.variables if v.path.endswith("conv/bias")]
    assert len(biases) == 53
    assert all(np.abs(keras.ops.convert_to_numpy(b)).max() > 0 for b in biases)
    for name, value in peer.weights().items():
        np.testing.assert_allclose(value, weights[name], rtol=0, atol=1e-6)


def test_folded_copy_computes_the_same_network():
    network = IMAGENET
    weights = network.draw()
    images, _ = network.random_batches(4)
    expected = sides.build("ours", network, weights).predict(images, 4)
    folded = sides.build("ours, folded", network, weights)
    assert sides.difference(folded, expected, images) <= 1e-4


def test_another_network_is_noticed():
    network = CIFAR
    images, _ = network.random_batches(4)
    side = sides.build("native", network, network.draw(0))
    other = sides.build("native", network, network.draw(1))
    with pytest.raises(sides.Mismatch, match="Native does not compute"):
        sides.difference(side, other.predict(images, 4), images)


def test_peers_refuse_other_networks():
    for name in ("keras.applications", "KerasHub"):
        with pytest.raises(sides.Unavailable, match="epsilon"):
            sides.build(name, CIFAR, CIFAR.draw())


@pytest.mark.once
def test_network_has_the_layers_of_its_name():
    for network, depth in ((cifar(20), 20), (resnet50(), 50)):
        assert network.depth == depth
        projections = [b for b in network.blocks if b.projection]
        assert len(network.convs) + 1 - len(projections) == depth


@pytest.mark.once
def test_sides_alternate_and_the_first_round_warms_up():
    calls = []
    values = {"a": iter([9, 1, 2, 4]), "b": iter([9, 2, 2, 2])}

    def run(side):
        calls.append(side)
        return next(values[side])

    found = measure.alternate(
        {side: lambda side=side: run(side) for side in values}, 3, "x", 1
    )
    assert found == {"a": [1, 2, 4], "b": [2, 2, 2]}
    for i in range(0, 8, 2):
        assert set(calls[i : i + 2]) == {"a", "b"}
    faster = measure.Case("x", "images/s", True, "a", found)
    assert faster.ratios("b") == [0.5, 1, 2]
    slower = measure.Case("x", "s", False, "a", found)
    assert slower.ratios("b") == [2, 1, 0.5]
    assert measure.spread([3, 1, 2000.4]) == "3 (1 to 2,000)"


@pytest.fixture
def _tiny_works(monkeypatch):
    """Two works that take no time."""

    def tiny(settings):
        names = ("ours", "native", "KerasHub")
        return [
            works.model_case(
                settings, "tiny, batch 2", CIFAR, names, 2, 2, work="predict"
            )
        ]

    def growing(settings):
        name = "Depth 6, training, batch 2"
        return [
            works.model_case(
                settings, name, CIFAR, ["ours"], 2, 2, work="train", host=True
            )
        ]

    monkeypatch.setitem(works.WORKS, "train20", tiny)
    monkeypatch.setitem(works.WORKS, "depth", growing)


def run(*flags):
    cli.run(compare.make_parser(), compare.main, flags)


@pytest.mark.once
@pytest.mark.usefixtures("_tiny_works")
def test_a_run_leaves_values_tables_and_figures(tmp_path, capsys):
    output = tmp_path / "results"
    flags = ("--work", "train20", "depth", "--rounds", "2", "--steps", "2")
    run(*flags, "--output", str(output))
    printed = capsys.readouterr()
    assert "round 2 of 2" in printed.err
    assert "round" not in printed.out
    folder = output / "benchmarks"
    n = len(compare.cores())
    name = f"train20-{BACKEND}-{n}threads"
    line = json.loads((folder / f"{name}.json").read_text("utf-8"))
    assert line["work"] == "train20"
    assert line["threads"] == n
    assert line["backend"] == BACKEND
    assert line["versions"]["keras"] == keras.__version__
    assert line["settings"]["rounds"] == 2
    assert line["command"].startswith(f"KERAS_BACKEND={BACKEND} python")
    case = line["cases"][0]
    assert set(case["values"]) == {"ours", "native"}
    assert all(len(v) == 2 for v in case["values"].values())
    assert set(case["differences"]) == {"native"}
    page = (folder / "README.md").read_text("utf-8")
    assert "## tiny, batch 2" in page
    assert "KerasHub was left out" in page
    assert measure.spread(case["values"]["ours"]) in page
    for figure in ("ratios", "growth"):
        data = (folder / f"{figure}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert f"]({figure}.png)" in page
    assert not list(folder.glob(".partial*"))

    (folder / "README.md").unlink()
    run("--table", "--output", str(output))
    assert (folder / "README.md").read_text("utf-8") == page


@pytest.mark.parametrize(
    "side", [pytest.param("ours", marks=pytest.mark.once), "native"]
)
def test_a_fresh_process_starts_a_side(side):
    request = {
        "side": side,
        "network": dataclasses.asdict(CIFAR),
        "batch_size": 2,
        "steps": 2,
        "begin": time.time(),
    }
    printed = works._python(works.FRESH, json.dumps(request))
    found = json.loads(printed.splitlines()[-1])
    assert 0 < found["first_step"] < 300
    assert 50 < found["peak_memory"] < 8000


@pytest.mark.once
def test_native_sides_import_no_keras():
    imported = set()
    for path in (ROOT / "benchmarks" / "sides").glob("*.py"):
        if path.stem.startswith(("native", "network", "__init__")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported.update(name.name for name in node.names)
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module)
    assert {"tensorflow", "jax", "torch", "sides.network"} <= imported
    assert not [name for name in imported if name.startswith("keras")]


@pytest.mark.once
def test_pipelines_give_the_same_kind_of_batches():
    pytest.importorskip("tensorflow")
    from keras_resnet import data

    split = works.random_split(40, size=8)
    mean = np.full((8, 8, 3), 100, "float32")
    for dataset in (
        data.training_batches(
            split, 16, mean=mean, padding=1, horizontal_flip=True
        ),
        works.per_image_pipeline(split, 16, mean, padding=1),
    ):
        images, labels = next(iter(dataset))
        assert images.shape == (16, 8, 8, 3)
        assert images.dtype == "float32"
        assert labels.shape == (16,)
        # Raw pixels, with the mean where the image was shifted from.
        assert 0 <= images.numpy().min() < 20
        assert 235 < images.numpy().max() <= 255


@pytest.mark.once
@pytest.mark.parametrize("box", ["inception", "paper"])
def test_ways_from_files_give_the_same_kind_of_batches(box, tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("PIL")
    from sides import images

    from keras_resnet import data

    # The others draw from the generators of the process.
    keras.utils.set_random_seed(0)
    source = data.Folder(images.make(tmp_path, n=4))
    ours = data.imagenet.training_batches(source, 16, image_size=64, box=box)
    ways = {
        "ours": next(iter(ours))[0].numpy(),
        "tf.data": next(iter(images.plain(source.paths, 16, 64, box))).numpy(),
        "Pillow": next(images.pillow(source.paths, 16, 64, box)),
    }
    for batch in ways.values():
        assert batch.shape == (16, 64, 64, 3)
        assert batch.dtype == "float32"
        # The pictures are grey on average, sixteen parts of them nearly so,
        # and have all shades.
        assert 103 < batch.mean() < 153
        assert 35 < batch.std() < 55


@pytest.mark.once
def test_decoding_is_measured_by_core(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("PIL")
    from sides import images

    folder = images.make(tmp_path, n=4)
    settings = works.Settings(rounds=1, steps=1, images=str(folder))
    cases = works.decode(settings, 32, 4)
    assert len(cases) == 2
    for case in cases:
        assert {*case.values} == {"ours", "tf.data", "Pillow"}
        assert all(values[0] > 1 for values in case.values.values())


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "x", "--work", "host"], ["--images", "decode"]),
        (["--work", "train21"], ["--work", "'train21'", "train20"]),
        (["--rounds", "0"], ["--rounds", "'0'"]),
        (["--steps", "5", "--work", "import"], ["--steps", "import"]),
        (["--steps", "3"], ["--steps 3", "start", "--work"]),
        (["--threads", "100000"], ["--threads", "100000", "cores"]),
        (["--table", "--rounds", "3"], ["--table", "--rounds"]),
        (["--full", "--work", "host"], ["--full", "depth"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_wrong_usage(lambda: run(*flags), capsys, words)


@pytest.mark.once
def test_no_measurement_is_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--table", "--output", str(tmp_path))
    assert caught.value.code == 1
    assert "no measurement" in capsys.readouterr().err


@pytest.mark.once
def test_works_are_those_of_the_command_line():
    assert tuple(works.WORKS) == measure.WORKS


@pytest.mark.once
def test_help_does_not_wait_for_keras(run_python):
    check_parser_without_keras(run_python, "compare", "benchmarks")


@pytest.mark.once
def test_the_recipes_table_does_not_see_benchmarks():
    pattern = "*.json"
    results = ROOT / "docs" / "results"
    assert not [p for p in results.glob(pattern) if "threads" in p.name]


@pytest.mark.once
def test_report_orders_backends(tmp_path):
    line = {
        "command": "python",
        "commit": None,
        "versions": {"keras": "3"},
        "device": "a processor",
        "work": "train20",
        "settings": {"rounds": 1},
        "load_before": 0.0,
    }
    case = measure.Case("x", "s", False, "ours", {"ours": [1], "native": [2]})
    for backend in ("torch", "tensorflow"):
        for threads in (2, 1):
            text = json.dumps(
                line
                | {"backend": backend, "threads": threads}
                | {"cases": [dataclasses.asdict(case)]}
            )
            (tmp_path / f"{backend}{threads}.json").write_text(text, "utf-8")
    report.write(tmp_path)
    page = (tmp_path / "README.md").read_text("utf-8")
    places = [
        page.index(f"| {text} | ours |")
        for text in (
            "tensorflow, 1 core",
            "tensorflow, 2 cores",
            "torch, 1 core",
            "torch, 2 cores",
        )
    ]
    assert places == sorted(places)
    assert "| torch, 1 core | native | 2 (2 to 2) | 2 (2 to 2) |  |" in page


# Costs.

NET = cost.Network(25_557_032, 53, 26_560)


def _cost(preset, gpus, **kwargs):
    settings = imagenet.settled({"preset": preset} | kwargs)
    return cost.cost(settings, gpus, cost.rate_of(None, gpus), 100.0, NET)


@pytest.mark.once
def test_what_gpus_tell_each_other_is_resnet50s():
    assert cost.network() == NET


@pytest.mark.once
def test_costs_by_hand():
    """Against arithmetic, and the 14 hours that NVIDIA took for 90 epochs."""
    one = _cost("goyal", 1)
    assert one.hours == pytest.approx(90 * 1_281_167 / 2470 / 3600)
    assert 12 < one.hours < 14
    assert (one.gigabits, one.messages) == (0, 0)
    assert one.cores == pytest.approx(24.7)
    # NVIDIA's 8 GPUs took about 3 hours, 6.72 times as fast as one.
    eight = _cost("goyal", 8)
    assert 1.5 < eight.hours < 3
    assert one.hours / eight.hours == pytest.approx(6.72, abs=0.02)
    many = _cost("goyal", 64)
    assert (one.batch, many.batch) == (256, 2048)
    assert many.gpu_hours == pytest.approx(eight.gpu_hours)
    assert many.cores == pytest.approx(8 * eight.cores)
    steps = 8 * 16_621 / 2048
    assert many.messages == pytest.approx(106 * steps)
    # All weights there and back, nearly: 204 MB less a 64th part.
    assert many.gigabits == pytest.approx(
        8 * steps * 4 * (25_557_032 + 106_240) * 2 * 63 / 64 / 1e9
    )
    assert _cost("paper", 1).images == 600_000 * 256
    # Smaller images, less work, and more of them to decode.
    small = _cost("a3", 1)
    assert small.images_per_second == pytest.approx(2470 * (224 / 160) ** 2)
    assert 2470 < _cost("fast", 1).images_per_second < 2470 * (224 / 128) ** 2


@pytest.mark.once
def test_hours_are_whole_minutes():
    assert cost.hours_and_minutes(3.995) == "4:00"
    assert cost.hours_and_minutes(1.26) == "1:16"


@pytest.mark.once
def test_costs_are_of_a_measurement_of_decoding(tmp_path):
    path = tmp_path / "train20.json"
    path.write_text(json.dumps({"work": "train20", "cases": []}), "utf-8")
    with pytest.raises(cli.Failure, match="the work train20.*decode"):
        cost.decoded(path)


@pytest.mark.once
def test_costs_are_a_page_of_every_preset(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost, "network", lambda: NET)
    line = {
        "command": "python benchmarks/compare.py --work decode",
        "versions": {"keras": "3.15.1"},
        "device": "a processor",
        "cases": [
            {"name": name, "values": {"ours": [90.0, 110.0, 100.0]}}
            for name in cost.CASES.values()
        ],
    }
    (tmp_path / "decode.json").write_text(json.dumps(line), "utf-8")
    flags = ["--gpus", "1", "8", "--decode", str(tmp_path / "decode.json")]
    cost.main(cost.make_parser().parse_args(flags))
    printed = capsys.readouterr().out
    rows = [x.split(" | ") for x in printed.splitlines() if x.startswith("| `")]
    assert [row[0].strip("| `") for row in rows] == [
        preset for preset in imagenet.PRESETS for _ in range(2)
    ]
    assert "100 images" in printed
    assert "2,470 (one GPU)" in printed
    assert "a processor, keras" in printed.replace("; ", ", ")
    with pytest.raises(cli.Failure, match="--work decode"):
        cost.main(cost.make_parser().parse_args(["--decode", "nowhere.json"]))


@pytest.mark.once
def test_costs_name_cases_that_the_benchmark_has(monkeypatch):
    monkeypatch.setattr(works, "alternate", lambda runs, rounds, name: {})
    monkeypatch.setattr(works, "Case", lambda name, *args: name)
    found = works.decode(works.Settings(rounds=1))
    assert set(found) == set(cost.CASES.values())
