"""Writes every format by one backend, runs the files, and makes the table.

    KERAS_BACKEND=jax python tests/exports.py FOLDER [DEPTH ...]

FOLDER gets a BACKEND-DEPTH.json for each depth (20, 18, 34, 50 unless given)
and README.md, the table of all that lie there. ResNet-20 has the weights
CIFAR10_WEIGHTS/resnet20.th and must name the same class for each test image of
CIFAR-10; the others have weights of seed 0 and must give the same logits to
1e-4 on the images in IMAGENET_SAMPLE. Without a variable the net is left out.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

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


def network(depth):
    """Return a network with logits, and its images in whole batches."""
    if depth == 20:
        weights = Path(os.environ["CIFAR10_WEIGHTS"], "resnet20.th")
        model = keras_resnet.ResNet20(
            weights=weights, classifier_activation=None
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


def cell(row):
    """Return what the table says of a row."""
    if "error" in row:
        return "-"
    good = row["others"] == 0 and row["difference"] <= TOLERANCE
    return (
        f"{row['difference']:.0e}" if good else f"**{row['difference']:.0e}**"
    )


def page(folder):
    """Return the page of all results in a folder."""
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
        variable = "CIFAR10_WEIGHTS" if depth == 20 else "IMAGENET_SAMPLE"
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
        result["versions"] |= {
            name: metadata.version(name) for name in (*CONVERTERS, *RUNTIMES)
        }
        path = folder / f"{BACKEND}-{depth}.json"
        write_atomically(path, json.dumps(result, indent=1) + "\n")
        writes = {f for f, k in export.FORMATS.items() if BACKEND in k.writers}
        failed |= any(
            "**" in cell(row) or ("error" in row and row["batch"])
            for row in rows
            if row["format"] in writes
        )
    write_atomically(folder / "README.md", page(folder))
    sys.exit(failed)


if __name__ == "__main__":
    main(*sys.argv[1:])
