"""The published weights that have a name of their own here."""

from typing import NamedTuple

TORCHVISION = "https://pytorch.org/vision/stable/models.html"
KERAS = "https://keras.io/api/applications/"


class PublishedWeights(NamedTuple):
    """Weights that a network of this package takes by a name."""

    network: str
    weights: str
    bottleneck_stride: str | None
    top1: float
    top5: float
    source: str


def list_weights() -> tuple[PublishedWeights, ...]:
    """Return the published weights that `weights=` takes by a name.

    `weights=` also takes any repository of the Hugging Face hub that timm or
    transformers wrote.

    Returns:
        Tuple of `PublishedWeights` with fields `network`, such as `"ResNet50"`;
        `weights`, `"imagenet"` or `"keras"`; `bottleneck_stride`, `"1x1"`,
        `"3x3"` or `None` for basic blocks; `top1` and `top5`, accuracies in
        percent on ImageNet's validation images, one crop each, as published;
        and `source`, the page that publishes them.
    """
    return (
        *(
            PublishedWeights(name, "imagenet", stride, *shares, TORCHVISION)
            for name, stride, *shares in (
                ("ResNet18", None, 69.758, 89.078),
                ("ResNet34", None, 73.314, 91.420),
                ("ResNet50", "3x3", 76.130, 92.862),
                ("ResNet101", "3x3", 77.374, 93.546),
                ("ResNet152", "3x3", 78.312, 94.046),
            )
        ),
        *(
            PublishedWeights(name, "keras", "1x1", *shares, KERAS)
            for name, *shares in (
                ("ResNet50", 74.9, 92.1),
                ("ResNet101", 76.4, 92.8),
                ("ResNet152", 76.6, 93.1),
            )
        ),
    )
