"""The benchmarks compare like with like, and report what they measured."""

import dataclasses
import json
import re
import sys
import time

import compare
import cost
import gpu
import gpu_parts
import keras
import matplotlib
import numpy as np
import pytest
from conftest import (
    BACKENDS,
    ROOT,
    check_refused,
    read_json,
    read_rows,
    run_recipe,
)
from networks import only

import keras_resnet
from comparison import cases, cores, history, implementation, measure, report
from comparison.network import Network
from comparison.network import imagenet as imagenet_network
from keras_resnet_recipes import imagenet

matplotlib.use("agg")

BACKEND = keras.backend.backend()
CIFAR = Network((1, 1), (4, 8), 8, 5, "cifar")
# Odd sizes show where a stride begins.
IMAGENET = Network(
    (1, 1), (4, 8), 33, 5, "imagenet", True, "B", "1x1", epsilon=1e-3
)


@pytest.fixture(autouse=True)
def _backend(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", BACKEND)


def _trained(name, network, weights, images, labels):
    built = implementation.build(name, network, weights)
    logits = built.predict(images, len(images))
    built.train(images, labels, 4)
    return logits, built.weights()


@pytest.mark.parametrize("network", [CIFAR, IMAGENET], ids=lambda n: n.stem)
def test_implementations_compute_and_train_the_same_network(network):
    weights = network.draw(1)
    images, labels = network.random_batches(8)
    arguments = network, weights, images, labels
    expected, after = _trained("ours", *arguments)
    # Logits of a size at which 1e-4 says something.
    assert 0.1 < expected.std() < 3
    moved = [np.abs(after[n] - weights[n]).max() for n in weights]
    assert min(moved) > 1e-6
    folded = implementation.build("ours, folded", network, weights)
    assert implementation.difference(folded, expected, images) <= 1e-4
    with pytest.raises(
        implementation.Mismatch, match="Folded does not compute"
    ):
        implementation.difference(folded, expected + 0.01, images)
    for name in ("stock Keras", "native"):
        logits, trained = _trained(name, *arguments)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        assert trained.keys() == weights.keys()
        for path in weights:
            # The fused normalizations of PyTorch and TensorFlow keep the
            # unbiased variance.
            unbiased = name == "native" and path.endswith("variance")
            np.testing.assert_allclose(
                trained[path],
                after[path],
                rtol=0,
                atol=0.05 if unbiased else 1e-5,
                err_msg=f"{name}: {path}",
            )


@only("jax", "torch")
def test_native_code_computes_in_bfloat16():
    images, labels = CIFAR.random_batches(8)
    weights = CIFAR.draw(1)
    network = dataclasses.replace(CIFAR, precision="bfloat16")
    weights_of = {}
    for name in ("ours", "stock Keras", "native"):
        in_float32, _ = _trained(name, CIFAR, weights, images, labels)
        logits, weights_of[name] = _trained(
            name, network, weights, images, labels
        )
        # 8 bits behind the point.
        assert 1e-4 < np.abs(logits - in_float32).max() < 0.1
    for name, trained in weights_of.items():
        for path, value in trained.items():
            assert value.dtype == np.float32
            if name != "stock Keras" and not path.endswith("variance"):
                assert np.abs(value - weights_of["ours"][path]).max() < 0.02


def test_keras_applications_computes_the_same_network():
    network = imagenet_network(
        50, size=32, classes=7, bottleneck_stride="1x1", epsilon=1.001e-5
    )
    weights = network.draw()
    images, _ = network.random_batches(2)
    ours = implementation.build("ours", network, weights)
    expected = ours.predict(images, 2)
    peer = implementation.build("keras.applications", network, weights)
    assert implementation.difference(peer, expected, images) <= 1e-4
    np.testing.assert_equal(peer.weights(), weights)


@pytest.mark.once
def test_implementations_alternate_and_the_first_round_warms_up():
    prepared, calls = [], []
    seconds = {"ours": iter([9, 4, 2, 1]), "b": iter([9, 2, 2, 2])}

    def run(name):
        calls.append(name)
        return next(seconds[name])

    runs = {name: lambda name=name: run(name) for name in seconds}
    slower = measure.compare("x", "s", runs, 3, prepare=prepared.append)
    assert slower.values == {"ours": [4, 2, 1], "b": [2, 2, 2]}
    assert prepared == calls
    for i in range(0, 8, 2):
        assert set(calls[i : i + 2]) == {"ours", "b"}
    assert slower.ratios("b") == [0.5, 1, 2]
    seconds = {"ours": iter([4, 2, 1]), "b": iter([2, 2, 2])}
    faster = measure.compare(
        "x", "images/s", runs, 3, lambda s: 8 / s, warmup=0
    )
    assert faster.values == {"ours": [2, 4, 8], "b": [4, 4, 4]}
    assert faster.ratios("b") == [0.5, 1, 2]
    assert measure.spread([3, 1, 2000.4]) == "3 (1 to 2,000)"


def run(*flags):
    run_recipe(compare, flags)


@pytest.mark.once
@pytest.mark.usefixtures("no_text_is_cut")
def test_a_run_leaves_values_tables_and_figures(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)

    # Two cases that take no time.
    def tiny(settings):
        names, name = ("ours", "native", "KerasHub"), "tiny, batch 2"
        return [cases.compare_models(settings, name, CIFAR, names, 2, 2, False)]

    def growing(settings):
        return [
            cases.compare_models(
                settings, "Depth 6", CIFAR, ["ours"], 2, 2, by_step=True
            )
        ]

    monkeypatch.setitem(cases.CASES, "train20", tiny)
    monkeypatch.setitem(cases.CASES, "depth", growing)
    output = tmp_path / "results"
    flags = ("--case", "train20", "depth", "--rounds", "2", "--steps", "2")
    run(*flags, "--output", str(output))
    printed = capsys.readouterr()
    assert "round 2 of 2" in printed.err
    assert "round" not in printed.out
    folder = output / "benchmarks"
    n = len(cores.available())
    name = f"train20-{BACKEND}-{n}threads"
    line = read_json(folder / f"{name}.json")
    assert line["case"] == "train20"
    assert line["threads"] == n
    assert line["backend"] == BACKEND
    assert line["versions"]["keras"] == keras.__version__
    assert line["settings"]["rounds"] == 2
    assert line["command"].startswith(f"KERAS_BACKEND={BACKEND} python")
    comparison = line["comparisons"][0]
    assert set(comparison["values"]) == {"ours", "native"}
    assert all(len(v) == 2 for v in comparison["values"].values())
    assert set(comparison["differences"]) == {"native"}
    page = (folder / "README.md").read_text("utf-8")
    assert "## tiny, batch 2" in page
    assert "KerasHub was left out" in page
    assert measure.spread(comparison["values"]["ours"]) in page
    for figure in ("ratios", "growth"):
        data = (folder / f"{figure}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert f"]({figure}.png)" in page
    assert not list(folder.glob(".partial*"))

    (folder / "README.md").unlink()
    run("--table", "--output", str(output))
    assert (folder / "README.md").read_text("utf-8") == page


@pytest.mark.once
def test_history_says_what_got_slower_beyond_the_spread(tmp_path, capsys):
    def measured(commit, machine="A", release="1", **units):
        """Append rounds of ours and of Keras, by unit."""
        line = {
            **{"case": "train20", "backend": "jax", "threads": 1},
            **{"versions": {"keras_resnet": release, "jax": "1"}},
            **{"device": machine, "commit": commit},
            "settings": {"rounds": 3, "steps": None},
            "comparisons": [
                measure.Comparison(
                    unit, unit, {"ours": ours, "stock Keras": keras}
                )
                for unit, (ours, keras) in units.items()
            ],
        }
        history.append(tmp_path / "benchmarks", line)

    (tmp_path / "benchmarks").mkdir()
    flags = "--history", "--output", str(tmp_path)
    measured("a", **{"images/s": ([9, 8, 10], [4, 4, 4]), "s": ([2], [4])})
    # A measurement on another machine is not compared.
    measured("b", "B", **{"images/s": ([1, 1, 1], [1, 1, 1])})
    run(*flags)
    assert capsys.readouterr().out == "0 of 0 measured before got slower\n"
    # One round reaches what was the slowest, and fewer seconds are better.
    measured("c", **{"images/s": ([6, 6, 8], [4, 4, 4]), "s": ([1], [4])})
    run(*flags)
    assert capsys.readouterr().out == "0 of 2 measured before got slower\n"
    measured("d", **{"images/s": ([3, 3, 3], [3, 2, 4]), "s": ([2], [4])})
    run(*flags)
    out = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in out.splitlines()[2:4]
    ]
    assert rows == [
        ["images/s: ours", "jax, 1 core", "6 (6 to 8) images/s, c"]
        + ["3 (3 to 3) images/s, d", "0.50", "0.75"],
        ["s: ours", "jax, 1 core", "1 (1 to 1) s, c"]
        + ["2 (2 to 2) s, d", "2.00", "1.00"],
    ]
    assert out.endswith("2 of 2 measured before got slower\n")
    # A second measurement of the commit has the same slow rounds.
    measured("d", **{"images/s": ([3, 3, 3], [3, 2, 4]), "s": ([2], [4])})
    run(*flags)
    assert capsys.readouterr().out == out
    # The release before counts, and not the commit before.
    for commit in "ef":
        measured(commit, release="2", **{"images/s": ([2, 2, 2], [4, 4, 4])})
    run(*flags)
    out = capsys.readouterr().out
    assert "| 3 (3 to 3) images/s, d | 2 (2 to 2) images/s, f | " in out
    first = read_rows(tmp_path / "benchmarks/history.csv")[1]
    assert first["implementation"] == "stock Keras"
    assert (first["median"], first["ratio"]) == ("4", "2.25")


@pytest.mark.once
def test_the_page_in_the_docs_is_made_of_the_files_beside_it():
    folder = ROOT / "docs/results/benchmarks"
    page = (folder / "README.md").read_text("utf-8")
    assert page == report.page(report.read(folder), ["ratios", "growth"])
    assert page.index("than Keras by a factor") < page.index("![ratios]")


@pytest.mark.once
def test_the_history_has_every_measurement_that_is_kept():
    folder = ROOT / "docs/results/benchmarks"
    rows = read_rows(folder / history.NAME)
    for line in report.read(folder).values():
        for row in history.rows(line):
            assert {k: str(v) for k, v in row.items()} in rows


@pytest.mark.parametrize(
    "name", [pytest.param("ours", marks=pytest.mark.once), "native"]
)
def test_a_fresh_process_starts_an_implementation(name):
    request = {
        "name": name,
        "network": dataclasses.asdict(CIFAR),
        "batch_size": 2,
        "steps": 2,
        "begin": time.time(),
    }
    result = json.loads(cases._python(cases.FRESH, json.dumps(request)))
    assert 0 < result["first_step"] < 300
    assert 50 < result["peak_memory"] < 8000


@pytest.mark.once
@pytest.mark.parametrize(
    "name",
    [
        *(f"native_{backend}" for backend in BACKENDS),
        *("network", "implementation", "__init__"),
    ],
)
def test_native_implementations_import_no_keras(name):
    text = (ROOT / f"benchmarks/comparison/{name}.py").read_text("utf-8")
    assert not re.search(r"^\s*(import|from) keras", text, re.MULTILINE)


@pytest.mark.once
def test_pipelines_give_the_same_kind_of_batches():
    pytest.importorskip("tensorflow")
    from comparison import inputs
    from keras_resnet import data

    split = inputs.random_split(40, size=8)
    mean = np.full((8, 8, 3), 100, "float32")
    kwargs = {"mean": mean, "padding": 1, "horizontal_flip": True}
    for dataset in (
        data.training_batches(split, 16, **kwargs),
        inputs.by_image(split, 16, mean, padding=1),
    ):
        images, labels = next(iter(dataset))
        assert images.shape == (16, 8, 8, 3)
        assert images.dtype == "float32"
        assert labels.shape == (16,)
        # Raw pixels, with the mean where the image was shifted from.
        assert 0 <= images.numpy().min() < 20
        assert 235 < images.numpy().max() <= 255


@pytest.mark.once
def test_ways_from_files_give_the_same_kind_of_batches(tmp_path):
    pytest.importorskip("tensorflow")
    pytest.importorskip("PIL")
    from comparison import inputs

    # The others draw from the generators of the process.
    keras.utils.set_random_seed(0)
    folder = inputs.make_pictures(tmp_path, n=4)
    for box in ("inception", "paper"):
        makers = inputs.decoders(folder, 16, 64, box)
        assert {*makers} == {"ours", "tf.data", "Pillow"}
        for make in makers.values():
            batch = np.asarray(next(iter(make()))[0])
            assert batch.shape == (16, 64, 64, 3)
            assert batch.dtype == "float32"
            # The pictures are grey on average, sixteen parts of them nearly
            # so, and have all shades.
            assert 103 < batch.mean() < 153
            assert 35 < batch.std() < 55
    settings = compare.Settings(rounds=1, steps=1, images=folder)
    comparisons = cases.decode(settings, 32, 4)
    assert len(comparisons) == 2
    for comparison in comparisons:
        assert {*comparison.values} == {"ours", "tf.data", "Pillow"}
        assert all(values[0] > 1 for values in comparison.values.values())


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images", "x", "--case", "host"], ["--images", "decode"]),
        (["--case", "train21"], ["--case", "'train21'", "train20"]),
        (["--rounds", "0"], ["--rounds", "'0'"]),
        (["--steps", "5", "--case", "import"], ["--steps", "import"]),
        (["--steps", "3"], ["--steps 3", "start", "--case"]),
        (["--threads", "100000"], ["--threads", "100000", "cores"]),
        (["--table", "--rounds", "3"], ["--table", "--rounds"]),
        (["--history", "--case", "host"], ["--history", "--case"]),
        (["--full", "--case", "host"], ["--full", "depth"]),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(flags, words, capsys):
    check_refused(lambda: run(*flags), capsys, words)


@pytest.mark.once
def test_no_measurement_is_an_error(tmp_path, capsys):
    flags = "--table", "--output", str(tmp_path)
    check_refused(lambda: run(*flags), capsys, ["no measurement"], status=1)


@pytest.mark.once
def test_help_explains_every_case():
    text = " ".join(compare.Settings.parser().format_help().split())
    for name, case in cases.CASES.items():
        assert f"{name}: {case.__doc__}" in text


def _cost(preset, gpus, **kwargs):
    settings = imagenet.Settings.settle({"preset": preset} | kwargs)
    return cost.cost(settings, gpus, 100.0)


@pytest.mark.once
def test_what_gpus_tell_each_other_is_resnet50s():
    model = keras_resnet.ResNet50(weights=None)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(layers) == cost.NORMALIZATIONS
    assert sum(layer.gamma.shape[0] for layer in layers) == cost.CHANNELS
    assert (
        sum(int(keras.ops.size(v)) for v in model.trainable_variables)
        == cost.PARAMETERS
    )


@pytest.mark.once
def test_costs_by_hand():
    """Against arithmetic, and the 14 hours that NVIDIA took for 90 epochs."""
    one = _cost("goyal", 1)
    assert one.hours == pytest.approx(90 * 1_281_167 / 2470 / 3600)
    assert 12 < one.hours < 14
    assert (one.gigabits_per_gpu, one.messages) == (0, 0)
    assert one.decode_cores == pytest.approx(24.7)
    # NVIDIA's 8 GPUs took about 3 hours, 6.72 times as fast as one.
    eight = _cost("goyal", 8)
    assert 1.5 < eight.hours < 3
    assert one.hours / eight.hours == pytest.approx(6.72, abs=0.02)
    many = _cost("goyal", 64)
    assert (one.batch, many.batch) == (256, 2048)
    assert 64 * many.hours == pytest.approx(8 * eight.hours)
    assert many.decode_cores == pytest.approx(8 * eight.decode_cores)
    steps = 8 * 16_621 / 2048
    assert many.messages == pytest.approx(106 * steps)
    # All weights there and back, nearly: 204 MB less a 64th part.
    assert many.gigabits_per_gpu == pytest.approx(
        8 * steps * 4 * (25_557_032 + 106_240) * 2 * 63 / 64 / 1e9
    )
    # 600,000 steps of 256 images.
    paper = _cost("paper", 1)
    assert paper.hours == pytest.approx(600_000 * 256 / 2470 / 3600)
    # Smaller images, less work, and more of them to decode.
    small = _cost("a3", 1)
    assert small.images_per_second == pytest.approx(2470 * (224 / 160) ** 2)
    assert 2470 < _cost("fast", 1).images_per_second < 2470 * (224 / 128) ** 2


@pytest.mark.once
def test_docs_show_the_costs_of_every_preset():
    rows = cost.costs().splitlines()[2:]
    cells = [row.strip("|").split("|") for row in rows]
    assert [[cell.strip() for cell in row[:2]] for row in cells] == [
        [f"`{preset}`", str(gpus)]
        for preset in ("paper", "goyal", "a3", "fast")
        for gpus in (1, 8, 64)
    ]
    page = (ROOT / "docs/scale.md").read_text("utf-8")
    assert f"\n{cost.costs()}\n" in page
    inception, paper = cost.decoding().values()
    assert f"{inception:.0f} images per second and core" in page
    assert f"{paper:.0f} for the paper's crops" in page


# The command for a GPU.


@only("jax", "torch")
@pytest.mark.slow
def test_the_command_for_a_gpu_measures_every_part(capsys):
    run_recipe(gpu, ["--quick", "--backend", BACKEND])
    printed = capsys.readouterr().out
    for word in ("stopped after", "failed", "Error"):
        assert word not in printed
    for words in (
        ["ResNet-20: ours ", "ms per step"],
        ["ResNet-20: stock Keras", "ms per step"],
        ["ResNet-20: native", "ms per step"],
        ["ResNet-20: the recipe", "ms per step"],
        ["64,000 iterations of the recipe", "s, projected"],
        ["profile", "none is on a GPU"],
        ["ResNet-50: native", "images/s"],
        ["numerics: native", "beside the CPU's weights"],
        ["ResNet-152, peak memory: ours", "no GPU"],
        ["input: ours, on the device", "ms per batch"],
        ["| ResNet-20 against stock Keras", ">= 2.0", BACKEND],
    ):
        assert any(
            all(word in line for word in words) for line in printed.splitlines()
        )
    for line in printed.splitlines():
        if "beside the CPU's weights" in line:
            assert float(line.partition(" at most")[0].split()[-1]) < 1e-5


PROCESS = """
import json, subprocess, sys, time
print("not for us")
print(json.dumps(["x", 1.5, sys.argv[1]]), flush=True)
if sys.argv[1] == "sleeps":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
if sys.argv[1] == "fails":
    raise RuntimeError("because")
"""


@pytest.mark.once
@pytest.mark.parametrize(
    ("part", "seconds", "last"),
    [
        ("ends", 60, None),
        ("fails", 60, "failed with status 1: RuntimeError: because"),
        ("sleeps", 2, "stopped after 2 s"),
    ],
)
def test_a_part_that_fails_costs_only_itself(tmp_path, part, seconds, last):
    worker = tmp_path / "worker.py"
    worker.write_text(PROCESS, "utf-8")
    begin = time.monotonic()
    lines = list(gpu.run(part, {}, {}, seconds, worker))
    assert time.monotonic() - begin < 30
    assert lines[:1] == [["x", 1.5, part]]
    assert lines[1:] == ([] if last is None else [(part, None, last)])


@pytest.mark.once
def test_the_backends_share_ten_minutes():
    one, two = (
        list(gpu.turns(tuple(gpu.PARTS), backends))
        for backends in (["torch"], ["torch", "jax"])
    )
    assert one[0] == ("resnet20", "torch", 150)
    assert two[:2] == [("resnet20", "torch", 75), ("resnet20", "jax", 150)]
    for turns in (one, two):
        assert [end for *_, end in turns] == sorted({end for *_, end in turns})
        assert turns[-1][-1] == pytest.approx(600)
    assert list(gpu.turns(("memory",), ["jax"])) == [("memory", "jax", 600)]


@only("torch")
def test_a_side_has_no_cuda_graph(monkeypatch):
    import torch

    from keras_resnet.backend.torch import cuda_graph, graph

    monkeypatch.setattr(graph.Model, "_device", lambda _: torch.device("cuda"))
    steps = []
    monkeypatch.setattr(
        cuda_graph.TrainingStep,
        "__call__",
        lambda *_: steps.append(1) or {"loss": 0.0},
    )
    weights, batch = CIFAR.draw(), CIFAR.random_batches(4)
    for name, recorded in (("ours", 2), ("ours, without a CUDA graph", 0)):
        steps.clear()
        built = implementation.build(name, CIFAR, weights)
        built.train_epochs([batch], 2)
        assert len(steps) == recorded


@only("torch")
def test_memory_counts_what_a_cuda_graph_reserves(monkeypatch, capsys):
    import torch

    for name in ("allocated", "reserved"):
        monkeypatch.setattr(
            *(torch.cuda, f"max_memory_{name}", lambda n=name: len(n) * 2**30)
        )
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(gpu_parts, "accelerators", lambda: ["a GPU"])
    gpu_parts.memory(gpu_parts.QUICK)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)[1:] == [9, "GiB, and 8 reserved"]


@pytest.mark.once
def test_the_goals_stand_beside_what_was_measured():
    values = {
        "ResNet-20: ours": 2.0,
        "ResNet-20: ours, scanned": 0.5,
        "ResNet-20: stock Keras": 0.9,
        "ResNet-50: ours": 3000.0,
        "ResNet-50: native": 3000.0,
        "profile: copies": 1.0,
        "machine": None,
    }
    rows = {row[0]: row[1:] for row in gpu.goals({"jax": values})}
    assert rows["ResNet-20, ms per step"] == ("<= 1.0", "jax", "0.5", "yes")
    assert rows["ResNet-20 against stock Keras"][2:] == ("1.8", "no")
    assert rows["ResNet-20 against torch.compile"][2:] == ("", "")
    assert rows["ResNet-50, images/s"][2:] == ("3,000", "no")
    assert rows["ResNet-50 against native"][2:] == ("1", "yes")
    assert rows["copies per step"][2:] == ("1", "no")


@pytest.mark.once
def test_a_trace_is_counted_on_both_backends():
    def event(name, pid=1, tid=1, **more):
        return {"ph": "X", "name": name, "pid": pid, "tid": tid} | more

    by_torch = [
        event("conv", cat="kernel", dur=1500.0),
        event("Memcpy HtoD (Pinned -> Device)", cat="gpu_memcpy", dur=500.0),
        event("Memcpy DtoD", cat="gpu_memcpy", dur=0.0),
        event("cudaStreamSynchronize", cat="cuda_runtime"),
        event("cudaGraphLaunch", cat="cuda_runtime"),
        event("aten::conv2d", cat="cpu_op", dur=9000.0),
    ]
    labels = [
        ("process_name", 1, 0, "/device:GPU:0"),
        ("process_name", 2, 0, "/host:CPU"),
        ("thread_name", 1, 7, "Stream #7(Compute)"),
        ("thread_name", 1, 8, "XLA Ops"),
    ]
    by_jax = [
        {"ph": "M", "name": n, "pid": p, "tid": t, "args": {"name": text}}
        for n, p, t, text in labels
    ]
    by_jax += [
        event("fusion", tid=7, dur=1500.0),
        event("MemcpyD2H", tid=7, dur=500.0),
        event("loop", tid=7, dur=0.0),
        event("fusion", tid=8, dur=1500.0),
        event("cuStreamSynchronize", pid=2),
        event("cuGraphLaunch", pid=2),
    ]
    for events in (by_torch, by_jax):
        assert gpu_parts.counted(events) == {
            "kernels": 2,
            "busy ms": 2.0,
            "copies": 1,
            "waits": 1,
            "graph launches": 1,
        }
