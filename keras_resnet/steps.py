"""Steps: what a residual block runs, as a list that others read, too.

A step is a layer with a `compute_output_shape`, a function of a tensor that
keeps its shape, a pair of a convolution and its normalization, or `None`,
which does nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import keras

from keras_resnet.types import Shape, Tensor

Pair: TypeAlias = tuple[keras.Layer, keras.Layer | None]
Step: TypeAlias = keras.Layer | Callable[[Tensor], Tensor] | Pair | None
# Is shown a convolution and its response: what it gives, normalized.
Observer: TypeAlias = Callable[[keras.Layer, Tensor], None]

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def run(
    steps: Iterable[Step],
    x: Tensor,
    training: bool | None = None,
    observe: Observer | None = None,
) -> Tensor:
    """Return what steps make of a tensor."""
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
    """Return the shape that steps make of one, building layers on request."""
    for part in parts(steps):
        if isinstance(part, keras.Layer):
            if build and not part.built:
                part.build(shape)
            shape = part.compute_output_shape(shape)
    return shape


def pairs(steps: Iterable[Step]) -> list[Pair]:
    """Return the convolutions among steps, each with its normalization.

    The normalization is `None` where there is none.
    """
    groups = [
        step if isinstance(step, tuple) else (step, None) for step in steps
    ]
    return [group for group in groups if isinstance(group[0], CONVOLUTIONS)]


def parts(
    steps: Iterable[Step],
) -> Iterator[keras.Layer | Callable[[Tensor], Tensor]]:
    """Yield the layers and functions that steps consist of, in order."""
    for step in steps:
        for part in step if isinstance(step, tuple) else (step,):
            if part is not None:
                yield part
