"""The network that all implementations compute: its graph, and its weights.

An implementation supplies the operations, `Network.forward` puts them together
and `Network.draw` makes the weights, so the graph is written once. Nothing
here imports a framework, so each implementation can start in a process of its
own.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

MOMENTUM = 0.9
LEARNING_RATE = 1e-3
DECAY = 1e-4


class Conv(NamedTuple):
    """A convolution and the batch normalization after it."""

    name: str  # as `keras_resnet` has it
    kernel: int  # rows and columns
    in_channels: int
    channels: int
    stride: int

    @property
    def norm(self):
        """Name of the normalization."""
        return self.name.replace("conv", "bn")

    @property
    def padding(self):
        """Zeros before and after the rows and columns."""
        return self.kernel // 2


class Block(NamedTuple):
    """A residual block."""

    branch: list[Conv]
    projection: Conv | None
    stride: int
    new_channels: int  # that the output has more than the input


@dataclasses.dataclass(frozen=True)
class Network:
    """A residual network with classifier, as `keras_resnet.ResNet` builds it.

    The arguments are those of `ResNet`, with `size` rows and columns.
    `precision` is that of the computation; weights are float32.
    """

    depths: tuple
    widths: tuple
    size: int
    classes: int
    stem: str
    bottleneck: bool = False
    shortcut: str = "A"
    bottleneck_stride: str = "3x3"
    epsilon: float = 1e-5
    precision: str = "float32"

    @functools.cached_property
    def stem_conv(self):
        """The first convolution."""
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        return Conv("stem_conv", kernel, 3, self.widths[0], stride)

    @functools.cached_property
    def blocks(self):
        """All blocks, in order."""
        blocks, channels = [], self.widths[0]
        for stage, depth in enumerate(self.depths, start=1):
            for i in range(1, depth + 1):
                name, width = f"stage{stage}_block{i}", self.widths[stage - 1]
                stride = 2 if stage > 1 and i == 1 else 1
                blocks.append(self._block(name, channels, width, stride))
                channels += blocks[-1].new_channels
        return blocks

    def _block(self, name, in_channels, width, stride):
        if not self.bottleneck:
            plan = (3, width, stride), (3, width, 1)
        elif self.bottleneck_stride == "1x1":
            plan = (1, width, stride), (3, width, 1), (1, 4 * width, 1)
        else:
            plan = (1, width, 1), (3, width, stride), (1, 4 * width, 1)
        branch, channels = [], in_channels
        for i, (kernel, filters, step) in enumerate(plan, start=1):
            branch.append(
                Conv(f"{name}/conv{i}", kernel, channels, filters, step)
            )
            channels = filters
        projection = None
        if self.shortcut == "B" and (stride > 1 or channels != in_channels):
            projection = Conv(
                f"{name}/shortcut_conv", 1, in_channels, channels, stride
            )
        return Block(branch, projection, stride, channels - in_channels)

    @property
    def convs(self):
        """All convolutions, a block's projection after its branch."""
        convs = [self.stem_conv]
        for block in self.blocks:
            convs += [*block.branch, block.projection]
        return [conv for conv in convs if conv]

    @property
    def features(self):
        """Channels that the classifier reads."""
        return self.blocks[-1].branch[-1].channels

    def forward(self, operations, x):
        """Return the logits of images, by given operations."""
        x = operations.relu(operations.conv_norm(x, self.stem_conv))
        if self.stem == "imagenet":
            x = operations.max_pool(x)
        for block in self.blocks:
            y = x
            for conv in block.branch[:-1]:
                y = operations.relu(operations.conv_norm(y, conv))
            y = operations.conv_norm(y, block.branch[-1])
            if block.projection:
                x = operations.conv_norm(x, block.projection)
            elif block.stride > 1 or block.new_channels:
                x = operations.zero_padding(x, block.stride, block.new_channels)
            y += x  # in place where the framework can
            x = operations.relu(y)
        return operations.head(x)

    def draw(self, seed=0):
        """Return random weights by name, as float32 NumPy arrays.

        The statistics of the normalizations are random too, or else
        forgetting one would go unnoticed. Each branch ends in a small scale,
        without which the activations would double with every block.
        """
        rng = np.random.default_rng(seed)
        last = {block.branch[-1].norm for block in self.blocks}
        small = len(self.blocks) ** -0.5
        weights = {}
        for conv in self.convs:
            n = conv.channels
            shape = (conv.kernel, conv.kernel, conv.in_channels, n)
            deviation = (2 / np.prod(shape[:3])) ** 0.5
            scale = small if conv.norm in last else 1.0
            weights |= {
                f"{conv.name}/kernel": rng.normal(0, deviation, shape),
                f"{conv.norm}/gamma": rng.uniform(0.5, 1.5, n) * scale,
                f"{conv.norm}/beta": rng.normal(0, 0.1, n),
                f"{conv.norm}/moving_mean": rng.normal(0, 0.1, n),
                f"{conv.norm}/moving_variance": rng.uniform(0.7, 1.5, n),
            }
        n = self.features
        weights |= {
            "head/kernel": rng.normal(0, n**-0.5, (n, self.classes)),
            "head/bias": rng.normal(0, 0.1, self.classes),
        }
        return {k: v.astype("float32") for k, v in weights.items()}

    def random_batches(self, n):
        """Return `n` random images and their random labels."""
        rng = np.random.default_rng(0)
        images = rng.normal(size=(n, self.size, self.size, 3))
        labels = rng.integers(0, self.classes, n).astype("int32")
        return images.astype("float32"), labels


def cifar(depth):
    """Return the CIFAR-10 network of depth 6n+2."""
    depths = ((depth - 2) // 6,) * 3
    return Network(depths, (16, 32, 64), 32, 10, "cifar")


# Blocks of the stages of the ImageNet networks.
IMAGENET = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


def imagenet(depth, size=224, classes=1000, **kwargs):
    """Return the ImageNet network of a depth."""
    depths, widths = IMAGENET[depth], (64, 128, 256, 512)
    bottleneck = depth >= 50
    return Network(
        depths, widths, size, classes, "imagenet", bottleneck, "B", **kwargs
    )
