"""Print docs/models.md: every network with its size and its weights.

python docs/models.py > docs/models.md
"""

import json
from pathlib import Path
from statistics import median

import keras_resnet
from keras_resnet_recipes.cifar10 import PAPER
from keras_resnet_recipes.experiment.report import origin, table

BENCHMARKS = Path(__file__).parent / "results" / "benchmarks"
IMPLEMENTATIONS = "ours", "ours, folded", "stock Keras", "keras.applications"
NAMES = {"imagenet": "torchvision", "keras": "Keras"}
IMAGENET = 18, 34, 50, 101, 152


def size(depth):
    """Return the cells of parameters, multiply-adds and megabytes."""
    model = getattr(keras_resnet, f"ResNet{depth}")()
    counts = keras_resnet.complexity(model)
    return (
        f"{counts.parameters:,}",
        f"{counts.macs:,}",
        f"{4 * counts.parameters / 1e6:.1f}",
    )


def speed(measurement):
    """Return a table of images per second, and how they were measured."""
    rows = [
        [f"`ResNet{depth}`"]
        + [
            f"{median(comparison['values'][name]):.3g}"
            if name in comparison["values"]
            else ""
            for name in IMPLEMENTATIONS
        ]
        for depth, comparison in zip(
            IMAGENET, measurement["comparisons"], strict=True
        )
    ]
    cores = measurement["threads"]
    return [
        table(["images/s", *IMPLEMENTATIONS], rows),
        "",
        f"`{measurement['command']}`, {origin(measurement)}; {cores} "
        f"core{'s' if cores > 1 else ''}.",
        "",
    ]


def page():
    """Return the page as a list of lines."""
    return [
        "# Models",
        "",
        "`python docs/models.py` made this page. `keras_resnet.complexity`",
        "computes the parameters and the multiply-adds of one image. MB is the",
        "size of the parameters in float32.",
        "",
        "## ImageNet, 224x224",
        "",
        table(
            ["network", "parameters", "multiply-adds", "MB"],
            [[f"`ResNet{d}`", *size(d)] for d in IMAGENET],
        ),
        "",
        table(
            [
                *("network", "weights", "strides in"),
                *("top-1", "top-5", "source", "licence"),
            ],
            [
                [
                    f"`{each.network}`",
                    f'`"{each.weights}"`',
                    each.bottleneck_stride or "",
                    f"{each.top1:.1f} %",
                    f"{each.top5:.1f} %",
                    f"[{NAMES[each.weights]}]({each.source})",
                    each.license,
                ]
                for each in keras_resnet.list_weights()
            ],
        ),
        "",
        "Top-1 and top-5 are accuracies on ImageNet's validation images, one",
        "crop each, as the sources publish them. torchvision's weights are",
        "loaded from timm's copies on the Hugging Face hub, which states their",
        "licence. Keras's licence is that of the package keras-applications,",
        "which states none for its files of weights.",
        "`keras_resnet.list_weights()` returns this table.",
        '`weights="owner/name"` takes any repository of the hub that timm or',
        "transformers wrote, under the licence on its page.",
        "",
        "## Speed of inference",
        "",
        "Batches have 8 images. Strides are in the 1x1 convolution, as in",
        "keras.applications. [All values](results/benchmarks/README.md).",
        "",
        *(
            line
            for path in sorted(BENCHMARKS.glob("models-*.json"))
            for line in speed(json.loads(path.read_text("utf-8")))
        ),
        "## CIFAR-10, 32x32",
        "",
        table(
            ["network", "parameters", "multiply-adds", "MB", "error (paper)"],
            [[f"`ResNet{d}`", *size(d), f"{e} %"] for d, e in PAPER.items()],
        ),
        "",
        "`ResNetCIFAR(depth)` takes any depth of 6n+2, `ResNet` any depths and",
        "widths. [Weights](weights.md) explains which files fit.",
    ]


if __name__ == "__main__":
    print("\n".join(page()))
