"""Layer responses: standard deviations of the outputs of 3x3 layers."""

from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_resnet.analysis import network
from keras_resnet.types import Progress


class LayerResponses(NamedTuple):
    """The standard deviation of each 3x3 layer's response, by depth."""

    names: tuple[str, ...]
    std: np.ndarray


def layer_responses(
    model: keras.Model,
    images: np.ndarray,
    batch_size: int = network.BATCH_SIZE,
    progress: Progress = iter,
) -> LayerResponses:
    """Return the standard deviation of each 3x3 layer's response.

    A response is what a layer outputs after normalization and before the
    nonlinearity, or before the addition at a block's end. The deviation is
    taken over all images, places and channels, in inference mode.

    Args:
        model: A network of this package, residual or plain.
        images: `(n, rows, columns, channels)` array, inputs of the model.
        batch_size: Integer, images at a time. Defaults to `256`.
        progress: Function that wraps the list of batches, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.

    Returns:
        `LayerResponses` of `names`, a tuple of strings such as
        `"stage1_block1/conv1"`, in order, and `std`, an array of their
        deviations. `np.sort(std)[::-1]` gives the paper's second panel.

    Raises:
        ValueError: If the model is not of this package.

    Reference: He et al. 2015, section 4.2, figure 7.
    """
    names = []

    def measure(x):
        moments = []
        names.clear()

        def observe(name, conv, response):
            if conv.kernel_size != (3, 3):
                return
            response = ops.cast(response, "float32")
            mean = ops.mean(response)
            # The mean is subtracted first, because in a difference of two large
            # sums a small deviation would be lost to rounding.
            moments.append(
                ops.stack([mean, ops.mean(ops.square(response - mean))])
            )
            names.append(name)

        network.forward(model, x, observe=observe)
        return ops.stack(moments)

    run = network.compiled(model, measure)
    moments, counts = [], []
    batches = list(network.batches(images, batch_size=batch_size))
    for (batch,) in progress(batches):
        moments.append(run(batch))
        counts.append(len(batch))
    # The variance between batches adds to the variance within them.
    mean, variance = np.moveaxis(np.array(moments, "float64"), -1, 0)
    share = np.array(counts)[:, None] / sum(counts)
    total = (share * mean).sum(axis=0)
    variance = (share * (variance + (mean - total) ** 2)).sum(axis=0)
    return LayerResponses(tuple(names), np.sqrt(variance))
