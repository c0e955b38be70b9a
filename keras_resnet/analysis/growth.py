"""The identity property: deeper networks with the same outputs."""

import numbers
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_resnet import steps, table1
from keras_resnet.analysis import network
from keras_resnet.blocks import ResidualBlock
from keras_resnet.folding import copy_weights
from keras_resnet.resnet import ResidualNetwork
from keras_resnet.types import Numbers


class IdentityProperty(NamedTuple):
    """Change of the outputs of a network by growing it."""

    added: np.ndarray
    zero: np.ndarray
    random: np.ndarray


def grow(
    model: keras.Model,
    added: Numbers,
    zero: bool = True,
    seed: int = 0,
) -> keras.Model:
    """Return a deeper copy of a network with the same outputs.

    Each stage gets new blocks at its end. Those of a residual network begin
    as their shortcut alone (`zero_init_residual`). This is the identity, so
    that the outputs stay the same, in training mode too. (If a backend
    compiles the deeper graph differently, they are equal up to rounding.) With
    a subclass of `ResidualBlock` it is the identity only if the block's last
    activation leaves its own outputs unchanged, as a ReLU does.

    A plain network has no shortcuts. Its new convolutions are identities, by
    which the paper argues that a deeper plain net need not be worse. The
    outputs stay the same in inference, up to rounding. In training mode they
    change, because normalization by the batch undoes the identity.

    Args:
        model: A network of this package, residual or plain, not folded.
        added: Integers, the number of blocks to add to each stage. A single
            integer adds that many to each.
        zero: Boolean, whether new blocks are identities. `False` leaves them
            with random weights, as in an untrained network, for a control.
            Defaults to `True`.
        seed: Integer, seed of the random weights. Defaults to `0`.

    Returns:
        A `keras.Model`, not compiled, that shares nothing with `model` but
        its `preprocessing`. Its name is that of `model` with `_grown`. Its
        layers have the names of a network built with that depth.

    Raises:
        ValueError: If the model is not of this package or is folded; if
            `added` does not fit its stages; and for identities in a plain
            network of bottlenecks, whose first convolutions drop channels, or
            of a subclass of `ResidualBlock`.

    Reference: He et al. 2015, sections 1 and 3.1; Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", section 5.1.
    """
    layers = network.chain(model)
    counts = table1.depths_of(x.name for x in layers)
    if isinstance(added, numbers.Integral):
        added = [added] * len(counts)
    added = tuple(added)
    if len(added) != len(counts) or min(added) < 0:
        raise ValueError(
            "`added` must have a number of new blocks for each of the "
            f"{len(counts)} stages. Received: added={added}"
        )
    if any(block.folded for block in network.blocks(model)):
        raise ValueError(
            f"Model {model.name!r} is folded, for inference: it cannot be "
            "trained on. Grow the network that it was folded from."
        )
    plain = [b for b in network.blocks(model) if not b.residual]
    if zero and any(
        b.bottleneck or type(b) is not ResidualBlock for b in plain
    ):
        raise ValueError(
            f"{model.name!r} is a plain network of bottlenecks, which drop "
            "channels, or of a subclass of `ResidualBlock`, whose output is "
            "unknown. Such blocks cannot be made the identity."
        )
    pairs, new = [], []
    source = model.inputs[0]
    image = keras.Input(
        batch_shape=source.shape, dtype=source.dtype, name=source.name
    )
    x = image
    for layer in layers:
        twin = type(layer).from_config(layer.get_config())
        x = twin(x)
        pairs.append((layer, twin))
        if not isinstance(layer, ResidualBlock):
            continue
        stage, number = table1.stage_and_block(layer.name)
        if number == counts[stage - 1]:
            for i in range(added[stage - 1]):
                block = _new_block(layer, stage, number + i + 1, zero, seed)
                x = block(x)
                new.append(block)
    grown = ResidualNetwork(image, x, name=f"{model.name}_grown")
    for layer, twin in pairs:
        copy_weights(layer, twin)
    if zero:
        for block in new:
            if not block.residual:
                _make_identity(block)
    return grown


def _new_block(layer, stage, number, zero, seed):
    initializer = layer.kernel_initializer
    config = initializer.get_config()
    if "seed" in config:
        # With its old seed the initializer would draw the same weights again.
        config["seed"] = 1_000_003 * seed + 1_009 * stage + number
    return type(layer).from_config(
        layer.get_config()
        | {
            "name": table1.block_name(stage, number),
            "stride": 1,
            # Another first dilation stands for a stride.
            "dilation": layer.dilation[1],
            # A projection would not be the identity.
            "shortcut": "B" if layer.shortcut == "C" else layer.shortcut,
            "zero_init_residual": zero,
            "kernel_initializer": keras.initializers.serialize(
                type(initializer).from_config(config)
            ),
        }
    )


def _make_identity(block):
    """Make a plain block of equal shapes the identity, in inference."""
    for conv, bn in steps.pairs(block.residual_branch()):
        rows, columns, in_channels, out_channels = conv.kernel.shape
        kernel = np.zeros(conv.kernel.shape, "float32")
        kernel[rows // 2, columns // 2] = np.eye(in_channels, out_channels)
        conv.kernel.assign(kernel)
        # The moving variance is one, and epsilon is added to it.
        bn.gamma.assign(np.full(out_channels, (1 + bn.epsilon) ** 0.5))


def identity_property(
    model: keras.Model,
    images: np.ndarray,
    added: Sequence[int] = (1, 2, 4, 8),
    seed: int = 0,
) -> IdentityProperty:
    """Compare the outputs of grown networks with those of the original.

    Args:
        model: A network of this package, residual or plain, not folded.
        images: `(n, rows, columns, channels)` array of what the model takes.
        added: Sequence of integers: blocks added to each stage. Defaults to
            `(1, 2, 4, 8)`.
        seed: Integer, seed of the control's random weights. Defaults to `0`.

    Returns:
        `IdentityProperty` of arrays, a value for each entry of `added`:
        `added`, the blocks added in all; `zero`, the largest absolute
        difference of any output after growing by identities; and `random`,
        the same after growing by blocks with random weights.
    """

    def outputs(net):
        run = network.compiled(net, lambda x: network.forward(net, x))
        return np.concatenate([run(*b) for b in network.batches(images)])

    expected = outputs(model)
    differences = [
        [
            np.abs(outputs(grow(model, n, zero, seed)) - expected).max()
            for n in added
        ]
        for zero in (True, False)
    ]
    stages = len(table1.depths_of(x.name for x in model.layers))
    return IdentityProperty(
        np.array(added) * stages, *map(np.array, differences)
    )
