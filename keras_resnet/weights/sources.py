"""Names of layers in the sources of published weights.

A weight of this package is identified by its path, such as
`("stage2_block1", "conv1", "kernel")` or `("head", "", "bias")`. A `Naming`
translates paths to the names of a source, in this direction only. To find the
path of a name, we translate the paths of all possible layers.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from keras_resnet import table1

TORCH_EPSILON = 1e-5
# Layer, sublayer (or "") and weight.
WeightPath = tuple[str, str, str]
HEAD = ("head", "", "kernel")
WEIGHTS: dict[str, tuple[str, ...]] = {
    "conv": ("kernel", "bias"),
    "bn": ("gamma", "beta", "moving_mean", "moving_variance"),
}
TORCH_WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclasses.dataclass(frozen=True)
class Naming:
    """Names of weights in one source."""

    # The stem's convolution and normalization.
    stem: tuple[str, str]
    # From stage and block, both from 1, to the beginning of a block's names.
    block: Callable[[int, int], str]
    # From a convolution's number in the block, from 1, to names of layers.
    conv: Callable[[int], str]
    bn: Callable[[int], str]
    # The projection's convolution and normalization.
    shortcut: tuple[str, str]
    # The classifier, and whether it is a 1x1 convolution.
    head: str
    convolutional_head: bool = False
    # The first normalization of a pre-activated block, and the one after all.
    preact: str = "preact_bn"
    end: str = "end_bn"
    # Whether names and order of axes are PyTorch's, not Keras's.
    torch: bool = True
    # Names that are not weights: PyTorch's counters of batches.
    ignored: str = r".*num_batches_tracked"
    # Whether option A adds zero channels on both sides, not after the others.
    centred_zeros: bool = False
    # The strided convolution, "3x3" or "1x1", if the naming determines it.
    bottleneck_stride: str | None = None
    # Epsilon of the source's normalizations, or `None` for any.
    epsilon: float | None = TORCH_EPSILON
    # Whether blocks are `PreactivationBlock`s, or `None` for both kinds.
    preactivated: bool | None = False

    def name(self, path: WeightPath) -> str:
        """Return the source's name of a weight."""
        layer, part, weight = path
        if layer == "head":
            base = self.head
        elif layer == "end_bn":
            base = self.end
        elif layer.startswith("stem"):
            base = self.stem[layer == "stem_bn"]
        else:
            base = self.block(*table1.stage_and_block(layer))
            numbered = re.fullmatch(r"(conv|bn)(\d)", part)
            if numbered:
                base += getattr(self, numbered[1])(int(numbered[2]))
            elif part.startswith("shortcut"):
                base += self.shortcut[part == "shortcut_bn"]
            else:
                # Parts other than `preact_bn` belong to a custom block.
                base += self.preact if part == "preact_bn" else part
        end = f".{TORCH_WEIGHTS[weight]}" if self.torch else f"/{weight}"
        return base + end


TORCHVISION = Naming(
    stem=("conv1", "bn1"),
    block=lambda stage, block: f"layer{stage}.{block - 1}.",
    conv=lambda i: f"conv{i}",
    bn=lambda i: f"bn{i}",
    shortcut=("downsample.0", "downsample.1"),
    head="fc",
    bottleneck_stride="3x3",
)
KERAS_APPLICATIONS = Naming(
    stem=("conv1_conv", "conv1_bn"),
    block=lambda stage, block: f"conv{stage + 1}_block{block}_",
    conv=lambda i: f"{i}_conv",
    bn=lambda i: f"{i}_bn",
    shortcut=("0_conv", "0_bn"),
    head="predictions",
    torch=False,
    bottleneck_stride="1x1",
    epsilon=1.001e-5,
)
NAMINGS = {
    # torchvision and timm.
    "torchvision": TORCHVISION,
    # timm's ResNetV2 with batch normalization.
    "timm_v2": Naming(
        stem=("stem.conv", "stem.norm"),
        block=lambda stage, block: f"stages.{stage - 1}.blocks.{block - 1}.",
        conv=lambda i: f"conv{i}",
        bn=lambda i: f"norm{i + 1}",
        shortcut=("downsample.conv", "downsample.norm"),
        head="head.fc",
        preact="norm1",
        end="norm",
        bottleneck_stride="3x3",
        preactivated=True,
        convolutional_head=True,
    ),
    "transformers": Naming(
        stem=(
            "resnet.embedder.embedder.convolution",
            "resnet.embedder.embedder.normalization",
        ),
        block=lambda stage, block: (
            f"resnet.encoder.stages.{stage - 1}.layers.{block - 1}."
        ),
        conv=lambda i: f"layer.{i - 1}.convolution",
        bn=lambda i: f"layer.{i - 1}.normalization",
        shortcut=("shortcut.convolution", "shortcut.normalization"),
        head="classifier.1",
    ),
    # akamaster/pytorch_resnet_cifar10.
    "akamaster": dataclasses.replace(
        TORCHVISION,
        shortcut=("shortcut.0", "shortcut.1"),
        head="linear",
        centred_zeros=True,
    ),
    "keras.applications": KERAS_APPLICATIONS,
    # KerasHub's ResNetBackbone, with pre-activation or without.
    "keras_hub": dataclasses.replace(
        KERAS_APPLICATIONS,
        block=lambda stage, block: f"stack{stage - 1}_block{block - 1}_",
        preact="pre_activation_bn",
        end="post_bn",
        bottleneck_stride="3x3",
        epsilon=TORCH_EPSILON,
        preactivated=None,
    ),
    # Another model of this package.
    "keras_resnet": Naming(
        stem=("stem_conv", "stem_bn"),
        block=lambda stage, block: f"{table1.block_name(stage, block)}/",
        conv=lambda i: f"conv{i}",
        bn=lambda i: f"bn{i}",
        shortcut=("shortcut_conv", "shortcut_bn"),
        head="head",
        torch=False,
        epsilon=None,
        preactivated=None,
    ),
}
TORCH_NAMINGS = tuple(n for n, naming in NAMINGS.items() if naming.torch)


def recognize(
    names: Collection[str], key: str | None = None
) -> tuple[str | None, dict[str, WeightPath]]:
    """Return the naming that knows most of `names`, and the paths of these.

    The result is `(None, {})` if no naming knows the kernel of a stem. `key`
    restricts the search to one naming.
    """
    best, meanings = None, {}
    # Of equal namings the first is taken, torchvision. Without head and
    # projections akamaster has the same names; `loading.convert` checks this.
    for k in [key] if key else NAMINGS:
        known = _meanings(NAMINGS[k], set(names))
        has_stem = ("stem_conv", "", "kernel") in known.values()
        if has_stem and len(known) > len(meanings):
            best, meanings = k, known
    return best, meanings


def _meanings(naming, names):
    """Return the paths of those `names` that a naming knows."""
    meanings = {}

    def collect(layer, part, kind):
        paths = [(layer, part, weight) for weight in WEIGHTS[kind]]
        known = {naming.name(path): path for path in paths}
        known = {name: path for name, path in known.items() if name in names}
        meanings.update(known)
        return bool(known)

    collect("stem_conv", "", "conv")
    collect("stem_bn", "", "bn")
    collect("end_bn", "", "bn")
    collect("head", "", "conv")
    parts = [(f"{k}{i}", k) for i in (1, 2, 3) for k in WEIGHTS]
    parts += [("shortcut_conv", "conv"), ("shortcut_bn", "bn")]
    parts += [("preact_bn", "bn")]
    stage, block, exists = 1, 1, True
    # A missing block ends its stage, and a missing stage ends the search.
    while exists or block > 1:
        if not exists:
            stage, block = stage + 1, 1
        layer = table1.block_name(stage, block)
        exists = sum(collect(layer, *part) for part in parts) > 0
        block += exists
    if naming is NAMINGS["keras_resnet"]:
        # A custom block has parts of other names.
        for name in names:
            path = tuple(str(name).split("/"))
            if (
                len(path) == 3
                and table1.stage_and_block(path[0])
                and path[-1] in TORCH_WEIGHTS
            ):
                meanings[name] = path
    return meanings


def unwrap(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a state dict that may be wrapped.

    Checkpoints often have the state dict as one entry of several. PyTorch's
    wrappers for several devices put `module.` before all names.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        inner = source.get(key)
        if hasattr(inner, "items"):
            source = inner
            break
    source = dict(source.items())
    if source and all(str(name).startswith("module.") for name in source):
        source = {n.removeprefix("module."): v for n, v in source.items()}
    # transformers omits `resnet.` in a network without classifier.
    if any(str(name).startswith("embedder.embedder.") for name in source):
        source = {f"resnet.{n}": v for n, v in source.items()}
    return source


def to_ours(naming: Naming, path: WeightPath, value: np.ndarray) -> np.ndarray:
    """Return a source's array with its axes in Keras's order."""
    if naming.convolutional_head and path == HEAD:
        value = value.reshape(value.shape[:2])
    return _transposed(naming, path, value, (2, 3, 1, 0))


def to_source(
    naming: Naming, path: WeightPath, value: np.ndarray
) -> np.ndarray:
    """Return this package's array with its axes in the source's order."""
    value = _transposed(naming, path, value, (3, 2, 0, 1))
    if naming.convolutional_head and path == HEAD:
        value = value[:, :, None, None]
    return value


def _transposed(naming, path, value, axes):
    """Transpose a convolution's kernel by `axes`, and a classifier's kernel."""
    if not naming.torch or path[-1] != "kernel":
        return value
    return value.transpose(axes) if value.ndim == 4 else value.T


def channel_order(channels: Sequence[int]) -> list[np.ndarray]:
    """Return the number of each of our channels in akamaster's networks.

    In a wider stage, their option A puts half of the zero channels before the
    old channels and half after them. Ours puts all of them after. Both
    networks compute the same if the channels between blocks are reordered.
    `channels` are the numbers of channels after the stem and each stage.
    """
    orders = [np.arange(channels[0])]
    for before, after in itertools.pairwise(channels):
        first = (after - before) // 2
        old = orders[-1] + first
        new = np.setdiff1d(np.arange(after), old)
        orders.append(np.concatenate([old, new]))
    return orders
