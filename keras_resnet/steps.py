"""Steps: the list of operations of a residual block.

`ResidualBlock` says what a step is. `analysis` and folding read the list too.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import keras

from keras_resnet.types import Shape, Tensor

Pair: TypeAlias = tuple[keras.Layer, keras.Layer | None]
Step: TypeAlias = keras.Layer | Callable[[Tensor], Tensor] | Pair | None
# It gets a convolution and its response: the output after normalization.
Observer: TypeAlias = Callable[[keras.Layer, Tensor], None]

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def run(
    steps: Iterable[Step],
    x: Tensor,
    training: bool | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Apply steps to a tensor, and return the result."""
    for step in steps:
        for part in parts([step]):
            if isinstance(part, keras.Layer):
                x = part(x, training=training)
            else:
                x = part(x)
        if observe is not None:
            for convolution, _ in pairs([step]):
                observe(convolution, x)
    return x


def output_shape(
    steps: Iterable[Step], shape: Shape, build: bool = False
) -> Shape:
    """Return the output shape of steps. `build` also builds their layers."""
    for part in parts(steps):
        if isinstance(part, keras.Layer):
            if build and not part.built:
                part.build(shape)
            shape = part.compute_output_shape(shape)
    return shape


def pairs(steps: Iterable[Step]) -> list[Pair]:
    """Return the convolutions among steps, each with its normalization.

    A convolution without normalization has `None` instead.
    """
    groups = [
        step if isinstance(step, tuple) else (step, None) for step in steps
    ]
    return [group for group in groups if isinstance(group[0], CONVOLUTIONS)]


def parts(
    steps: Iterable[Step],
) -> Iterator[keras.Layer | Callable[[Tensor], Tensor]]:
    """Yield the layers and functions of steps, in order."""
    for step in steps:
        for part in step if isinstance(step, tuple) else (step,):
            if part is not None:
                yield part
