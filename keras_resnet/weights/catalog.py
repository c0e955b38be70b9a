"""Published weights with a name in this package."""

from typing import NamedTuple

# The page of the accuracies, and the licence.
TORCHVISION = (
    "https://pytorch.org/vision/stable/models.html",
    "BSD-3-Clause",  # as timm's copies on the hub state it
)
KERAS = (
    "https://keras.io/api/applications/",
    "MIT",  # as the README of keras-applications states it for the package
)


class PublishedWeights(NamedTuple):
    """Weights that a network of this package loads by name."""

    network: str
    weights: str
    bottleneck_stride: str | None
    top1: float
    top5: float
    source: str
    license: str


WEIGHTS = tuple(
    PublishedWeights(*row)
    for row in (
        ("ResNet18", "imagenet", None, 69.758, 89.078, *TORCHVISION),
        ("ResNet34", "imagenet", None, 73.314, 91.420, *TORCHVISION),
        ("ResNet50", "imagenet", "3x3", 76.130, 92.862, *TORCHVISION),
        ("ResNet101", "imagenet", "3x3", 77.374, 93.546, *TORCHVISION),
        ("ResNet152", "imagenet", "3x3", 78.312, 94.046, *TORCHVISION),
        ("ResNet50", "keras", "1x1", 74.9, 92.1, *KERAS),
        ("ResNet101", "keras", "1x1", 76.4, 92.8, *KERAS),
        ("ResNet152", "keras", "1x1", 76.6, 93.1, *KERAS),
    )
)


def list_weights() -> tuple[PublishedWeights, ...]:
    """Return the published weights that `weights=` loads by name.

    `weights=` also loads repositories of the Hugging Face hub that timm,
    transformers or `save_pretrained` wrote.

    Returns:
        Tuple of `PublishedWeights` with fields `network`, such as `"ResNet50"`;
        `weights`, `"imagenet"` or `"keras"`; `bottleneck_stride`, `"1x1"`,
        `"3x3"` or `None` for basic blocks; `top1` and `top5`, accuracies in
        percent on ImageNet's validation images, one crop each, as published;
        `source`, the page with these accuracies; and `license`, such as
        `"BSD-3-Clause"`, which timm's copies of torchvision's weights state.
        `"MIT"` is that of the package keras-applications, which states none
        for its files of weights.
    """
    return WEIGHTS
