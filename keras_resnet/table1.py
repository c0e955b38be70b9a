"""The paper's table 1, the CIFAR rule 6n+2, and the names of blocks."""

import re
from collections.abc import Iterable

# Depth -> (bottleneck, blocks per stage).
IMAGENET_SPECS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
IMAGENET_WIDTHS = (64, 128, 256, 512)
CIFAR_WIDTHS = (16, 32, 64)

# Eight times the paper's deepest network.
MAX_CIFAR_DEPTH = 9998


def imagenet_spec(depth: int) -> tuple[bool, tuple[int, ...]]:
    """Return whether blocks are bottlenecks, and the blocks per stage.

    Raises:
        ValueError: If the table has no network of this depth.
    """
    if depth not in IMAGENET_SPECS:
        raise ValueError(
            "An ImageNet network has "
            f"{', '.join(map(str, IMAGENET_SPECS))} layers. "
            f"Received: depth={depth!r}. Use `ResNet` for other depths."
        )
    return IMAGENET_SPECS[depth]


def is_cifar_depth(depth: int) -> bool:
    """Return whether `depth` is an integer 6n+2 that can be built."""
    return (
        isinstance(depth, int)
        and 8 <= depth <= MAX_CIFAR_DEPTH
        and depth % 6 == 2
    )


def cifar_depths(depth: int) -> tuple[int, ...]:
    """Return the blocks per stage of the CIFAR network with `depth` layers.

    Raises:
        ValueError: If `depth` is not 6n+2, or above `MAX_CIFAR_DEPTH`, where
            building the network would take too long.
    """
    if not is_cifar_depth(depth):
        raise ValueError(
            "A CIFAR network has 6n+2 layers: 8, 14, 20, 26, 32, 38, 44, 50, "
            f"56, ..., 110, ..., 1202, ..., {MAX_CIFAR_DEPTH}. "
            f"Received: depth={depth!r}"
        )
    return (depth // 6,) * 3


def block_name(stage: int, block: int) -> str:
    """Return the name of a block's layer. Stage and block count from 1."""
    return f"stage{stage}_block{block}"


def stage_and_block(name: str) -> tuple[int, int] | None:
    """Return the stage and block in a layer's name, `None` for other names."""
    match = re.fullmatch(r"stage(\d+)_block(\d+)", name)
    return (int(match[1]), int(match[2])) if match else None


def depths_of(names: Iterable[str]) -> tuple[int, ...]:
    """Return the number of blocks in each stage, from the names of layers."""
    stages = [place[0] for place in map(stage_and_block, names) if place]
    return tuple(stages.count(stage) for stage in sorted({*stages}))
