"""The paper's shortcut options A, B and C (section 3.3 and table 3).

Only this file distinguishes the options: `projects` decides whether a shortcut
is a projection, and `zero_padding_shortcut` computes all other shortcuts.
"""

from keras import ops

from keras_resnet import backend
from keras_resnet.types import Tensor

OPTIONS = ("A", "B", "C")


def check(option: str) -> str:
    """Return `option` if it is "A", "B" or "C", else raise `ValueError`."""
    if option not in OPTIONS:
        raise ValueError(
            f"`shortcut` must be one of {', '.join(map(repr, OPTIONS))}. "
            f"Received: shortcut={option!r}"
        )
    return option


def projects(
    option: str, in_channels: int, out_channels: int, stride: int
) -> bool:
    """Return whether a shortcut is a projection (1x1 convolution and norm).

    Option C projects in every block, option B in blocks that change the shape
    of their input, option A in none.
    """
    changes_shape = stride != 1 or in_channels != out_channels
    return option == "C" or (option == "B" and changes_shape)


def zero_padding_shortcut(
    x: Tensor, out_channels: int, stride: int, data_format: str
) -> Tensor:
    """Return `x`, subsampled and padded with zero channels if necessary.

    This keeps every `stride`-th row and column, beginning with the first, and
    appends zero channels after the existing ones. There are no parameters.

    Args:
        x: 4-D tensor, channels last or first as `data_format` says.
        out_channels: Number of channels of the result, at least that of `x`.
        stride: Integer, the step in rows and columns.
        data_format: `"channels_last"` or `"channels_first"`.
    """
    axis = backend.channel_axis(data_format)
    if stride != 1:
        x = backend.subsample(x, (stride, stride), data_format)
    missing = out_channels - x.shape[axis]
    if missing:
        padding = [[0, 0]] * 4
        padding[axis] = [0, missing]
        x = ops.pad(x, padding)
    return x
