"""Writes every format by one backend, runs the files, and makes the table.

    KERAS_BACKEND=jax python tests/exports.py FOLDER [DEPTH ...]

FOLDER gets a BACKEND-DEPTH.json for each depth (20, 18, 34, 50 unless given)
and README.md, the tables of all such files. ResNet-20 and 56 have the
weights CIFAR10_WEIGHTS/resnetDEPTH.th and must name the same class for each
test image of CIFAR-10. PyTorch quantizes them, too. The others have weights of
seed 0 and must give the same logits to 1e-4 on the images in IMAGENET_SAMPLE.
In int8 the error may rise by 0.3 points, the file must have at most 0.3 of the
bytes, and it must be 1.5 times as fast as Keras. A net whose variable is not
set is left out.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np
from networks import call, draw_weights

import keras_resnet
from keras_resnet import data, preprocessing
from keras_resnet.training import write_atomically
from keras_resnet_recipes import export
from keras_resnet_recipes.experiment import report
from keras_resnet_recipes.experiment.provenance import origin

BACKEND = keras.backend.backend()
SEED, BATCH, TOLERANCE = 0, 50, 1e-4
RUNTIMES = ("onnxruntime", "ai-edge-litert", "openvino")
CONVERTERS = ("jax2onnx", "litert-torch", "onnxscript", "tf2onnx")


CIFAR_DEPTHS = 20, 56
KERAS, FLOAT32, INT8 = (
    "Keras, float32",
    "onnxruntime, float32",
    "onnxruntime, int8",
)


def network(depth):
    """Return a network with logits, and images as it takes them."""
    if depth in CIFAR_DEPTHS:
        weights = Path(os.environ["CIFAR10_WEIGHTS"], f"resnet{depth}.th")
        model = keras_resnet.ResNetCIFAR(
            depth, weights=weights, classifier_activation=None
        )
        images = data.load("cifar10").test.images
        return model, preprocessing.preprocess_input(images, "cifar")
    model = keras_resnet.ResNetImageNet(depth, classifier_activation=None)
    draw_weights(model, SEED)
    files = sorted(Path(os.environ["IMAGENET_SAMPLE"]).rglob("*.JPEG"))
    images = [
        preprocessing.preprocess_input(
            np.asarray(data.read_image(file)), "imagenet", resize=True
        )
        for file in files
    ]
    return model, np.stack(images)


def outputs(function, x):
    """Return the outputs of batches of one size, the last one filled up."""
    filled = np.concatenate([x, x[: -len(x) % BATCH]])
    parts = [
        function(filled[i : i + BATCH]) for i in range(0, len(filled), BATCH)
    ]
    return np.concatenate(parts)[: len(x)]


def attempt(model, kind, batch, x, expected):
    """Write a file and run it; return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, f"net{kind.suffix}"))
        try:
            export.write(model, kind, path, batch)
            actual = outputs(kind.load(path), x)
        except Exception as error:
            words = " ".join(str(error).split())
            return {"error": f"{type(error).__name__}: {words[:200]}"}
    return {
        "difference": float(np.abs(actual - expected).max()),
        "others": int((actual.argmax(1) != expected.argmax(1)).sum()),
    }


def measure(depth):
    """Return the rows of a network: all formats, forms and batches."""
    net, x = network(depth)
    rows = []
    for form in ("whole", "folded"):
        model = keras_resnet.fold_batch_norm(net) if form == "folded" else net
        expected = outputs(lambda x, m=model: call(m, x, training=False), x)
        for name, kind in export.FORMATS.items():
            for batch in (BATCH, None):
                row = {"form": form, "format": name, "batch": batch}
                row |= attempt(model, kind, batch, x, expected)
                print(BACKEND, depth, row, flush=True)
                rows.append(row)
    return rows


def run(session, x):
    (y,) = session.run(None, {"image": x})
    return y


def measure_int8(depth, rounds=7):
    """Return what quantizing a folded network costs and gains, on one core."""
    import onnxruntime

    net, x = network(depth)
    cifar10 = data.load("cifar10")
    images = cifar10.train.images[: export.CALIBRATION_IMAGES]
    calibration = preprocessing.preprocess_input(images, "cifar")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{n}.onnx")) for n in ("float32", "int8")]
        folded = keras_resnet.fold_batch_norm(net)
        export.write(folded, export.FORMATS["onnx"], paths[0], None)
        shutil.copyfile(*paths)
        export.quantize(paths[1], calibration, None)
        sizes = [os.path.getsize(path) for path in paths]
        sessions = [
            onnxruntime.InferenceSession(path, options) for path in paths
        ]
    functions = {
        KERAS: net.predict_on_batch,
        FLOAT32: lambda x: run(sessions[0], x),
        INT8: lambda x: run(sessions[1], x),
    }
    errors = {
        name: float((outputs(f, x).argmax(1) != cifar10.test.labels).mean())
        for name, f in functions.items()
    }
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            outputs(function, x[: 10 * BATCH])
            seconds[name].append(time.perf_counter() - start)
    return {
        "bytes": dict(zip((FLOAT32, INT8), sizes, strict=True)),
        "test_error": errors,
        "images_per_second": {
            name: 10 * BATCH / median(values)
            for name, values in seconds.items()
        },
    }


def int8_rows(result):
    int8 = result["int8"]
    first = next(iter(int8["images_per_second"].values()))
    return [
        [
            f"ResNet-{result['depth']}",
            name,
            f"{int8['bytes'][name]:,}" if name in int8["bytes"] else "",
            f"{100 * int8['test_error'][name]:.2f} %",
            f"{speed:,.0f}",
            f"{speed / first:.2f}",
        ]
        for name, speed in int8["images_per_second"].items()
    ]


def cell(row):
    if "error" in row:
        return "-"
    good = row["others"] == 0 and row["difference"] <= TOLERANCE
    return (
        f"{row['difference']:.0e}" if good else f"**{row['difference']:.0e}**"
    )


def fails(row):
    """Return whether a file that the backend should write is none or wrong."""
    if BACKEND not in export.FORMATS[row["format"]].writers:
        return False
    if "error" in row:
        # PyTorch's LiteRT has a fixed batch.
        fixed = (BACKEND, row["format"]) == ("torch", "litert")
        return row["batch"] is not None or not fixed
    return "**" in cell(row)


def int8_fails(int8):
    """Return whether int8 costs too much, or gains too little."""
    error, size, speed = (
        int8[key] for key in ("test_error", "bytes", "images_per_second")
    )
    return (
        error[INT8] > error[KERAS] + 0.003
        or size[INT8] > 0.3 * size[FLOAT32]
        or speed[INT8] < 1.5 * speed[KERAS]
    )


def page(folder):
    results = [
        json.loads(p.read_text("utf-8")) for p in sorted(folder.glob("*.json"))
    ]
    heads = sorted(
        {(r["depth"], w["form"]) for r in results for w in r["rows"]}
    )
    cells, errors = {}, {}
    for result in results:
        for row in result["rows"]:
            batch = "any" if row["batch"] is None else "fixed"
            key = result["backend"], row["format"], batch
            cells.setdefault(key, {})[result["depth"], row["form"]] = cell(row)
            if "error" in row:
                errors[key] = row["error"]
    table = report.table(
        ["backend", "format", "batch", *(f"{d} {form}" for d, form in heads)],
        [
            [*key, *(row.get(head, "") for head in heads)]
            for key, row in cells.items()
        ],
    )
    return "\n".join(
        [
            "# Exports",
            "",
            "Each number is the largest difference of a logit between the "
            "file, run by its own runtime, and Keras; bold: above 1e-4, or "
            "another class for an image; -: it cannot be written or run. A "
            f"fixed batch has {BATCH} images.",
            "",
            table,
            "",
            "## int8",
            "",
            "Folded and quantized by onnxruntime, calibrated on "
            f"{export.CALIBRATION_IMAGES} training images: error on all "
            "10,000 test images, and images per second on one core in batches "
            f"of {BATCH}, the median of turns.",
            "",
            report.table(
                ["network", "", "bytes", "test error", "images/s", "ratio"],
                [
                    row
                    for result in results
                    if "int8" in result
                    for row in int8_rows(result)
                ],
            ),
            "",
            "What cannot be written or run:",
            "",
            *(f"- {', '.join(key)}: `{e}`" for key, e in errors.items()),
            "",
            f"Made with seed {SEED} by:",
            "",
            *(f"- `{r['command']}`: {report.origin(r)}" for r in results),
            "",
        ]
    )


def main(folder, *depths):
    from importlib import metadata

    folder, failed = Path(folder), False
    folder.mkdir(parents=True, exist_ok=True)
    for depth in map(int, depths or (20, 18, 34, 50)):
        cifar = depth in CIFAR_DEPTHS
        variable = "CIFAR10_WEIGHTS" if cifar else "IMAGENET_SAMPLE"
        if variable not in os.environ:
            print(f"ResNet-{depth} is left out: {variable} is not set")
            continue
        start = time.perf_counter()
        rows = measure(depth)
        result = origin() | {
            "depth": depth,
            "rows": rows,
            "seconds": round(time.perf_counter() - start),
        }
        if cifar and BACKEND == "torch":
            result["int8"] = measure_int8(depth)
            failed |= int8_fails(result["int8"])
        result["versions"] |= {
            name: metadata.version(name) for name in (*CONVERTERS, *RUNTIMES)
        }
        path = folder / f"{BACKEND}-{depth}.json"
        write_atomically(path, json.dumps(result, indent=1) + "\n")
        failed |= any(map(fails, rows))
    write_atomically(folder / "README.md", page(folder))
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
