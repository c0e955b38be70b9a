"""Prints docs/models.md: every network with its size and its weights.

python docs/models.py > docs/models.md
"""

import keras_resnet

HUB = "https://huggingface.co/timm/resnet"
# Top-1 and top-5 accuracy in percent on ImageNet's validation images, one crop
# of 224 pixels: https://pytorch.org/vision/stable/models.html and
# https://keras.io/api/applications/.
TORCHVISION = {
    18: (69.758, 89.078),
    34: (73.314, 91.420),
    50: (76.130, 92.862),
    101: (77.374, 93.546),
    152: (78.312, 94.046),
}
KERAS = {50: (74.9, 92.1), 101: (76.4, 92.8), 152: (76.6, 93.1)}
IMAGENET = tuple(TORCHVISION)
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
        "Parameters, multiply-adds of one image and megabytes of the float32",
        "weights are computed by `keras_resnet.complexity`. Accuracies are",
        "those that their sources publish. Made by `python docs/models.py`.",
        "",
        "## ImageNet, 224x224",
        "",
        row("network", "parameters", "multiply-adds", "MB"),
        row(*["---"] * 4),
        *(row(f"`ResNet{d}`", *size(d)) for d in IMAGENET),
        "",
        row("weights", "network", "strides in", "top-1", "top-5", "licence"),
        row(*["---"] * 6),
        *(
            row(
                '`"imagenet"`: torchvision\'s',
                f"`ResNet{d}`",
                "3x3" if d >= 50 else "",
                *(f"{x:.1f} %" for x in TORCHVISION[d]),
                f"[BSD-3-Clause]({HUB}{d}.tv_in1k)",
            )
            for d in TORCHVISION
        ),
        *(
            row(
                '`"keras"`: of keras.applications',
                f"`ResNet{d}`",
                "1x1",
                *(f"{x:.1f} %" for x in KERAS[d]),
                "see [Keras](https://keras.io/api/applications/)",
            )
            for d in KERAS
        ),
        row(
            '`"owner/name"`',
            "any",
            "as published",
            "",
            "",
            "see its page on the Hugging Face hub",
        ),
        "",
        "Top-1 and top-5 are accuracies on ImageNet's validation images, one",
        "crop each, from",
        "[torchvision](https://pytorch.org/vision/stable/models.html) and",
        "[Keras](https://keras.io/api/applications/).",
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
