"""Prints docs/models.md: every network with its size and its weights.

python docs/models.py > docs/models.md
"""

import keras_resnet

NAMES = {"imagenet": "torchvision", "keras": "Keras"}
IMAGENET = 18, 34, 50, 101, 152
CIFAR = 20, 32, 44, 56, 110, 1202
# The paper's test errors on CIFAR-10 (table 6).
PAPER = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.43, 1202: 7.93}


def row(*cells):
    """Return a row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def size(depth):
    """Return the cells of parameters, multiply-adds and megabytes."""
    model = getattr(keras_resnet, f"ResNet{depth}")()
    counts = keras_resnet.complexity(model)
    return (
        f"{counts.parameters:,}",
        f"{counts.macs:,}",
        f"{4 * counts.parameters / 1e6:.1f}",
    )


def page():
    """Return the page as a list of lines."""
    return [
        "# Models",
        "",
        "`python docs/models.py` made this page. Parameters, multiply-adds of",
        "one image and megabytes of the float32 weights are what",
        "`keras_resnet.complexity` computes.",
        "",
        "## ImageNet, 224x224",
        "",
        row("network", "parameters", "multiply-adds", "MB"),
        row(*["---"] * 4),
        *(row(f"`ResNet{d}`", *size(d)) for d in IMAGENET),
        "",
        row("network", "weights", "strides in", "top-1", "top-5", "source"),
        row(*["---"] * 6),
        *(
            row(
                f"`{each.network}`",
                f'`"{each.weights}"`',
                each.bottleneck_stride or "",
                f"{each.top1:.1f} %",
                f"{each.top5:.1f} %",
                f"[{NAMES[each.weights]}]({each.source})",
            )
            for each in keras_resnet.list_weights()
        ),
        "",
        "Top-1 and top-5 are accuracies on ImageNet's validation images, one",
        "crop each, as the sources publish them. torchvision's weights are",
        "loaded from timm's copies on the Hugging Face hub, which states their",
        "licence, BSD-3-Clause. `keras_resnet.list_weights()` returns this",
        'table. `weights="owner/name"` takes any repository of the hub that',
        "timm or transformers wrote, under the licence on its page.",
        "",
        "## CIFAR-10, 32x32",
        "",
        row("network", "parameters", "multiply-adds", "MB", "error (paper)"),
        row(*["---"] * 5),
        *(row(f"`ResNet{d}`", *size(d), f"{PAPER[d]} %") for d in CIFAR),
        "",
        "`ResNetCIFAR(depth)` takes any depth of 6n+2, `ResNet` any depths and",
        "widths. [Weights](weights.md) says which files fit.",
    ]


if __name__ == "__main__":
    print("\n".join(page()))
