"""Lesions: blocks deleted or swapped at test time, and lengths of paths.

Reference: Veit et al. 2016, "Residual Networks Behave Like Ensembles of
Relatively Shallow Networks".
"""

import math
import operator
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.analysis import network
from keras_resnet.types import Numbers, Progress


class DeletedBlocks(NamedTuple):
    """The error after deleting each block, and that of the whole network."""

    names: tuple[str, ...]
    error: np.ndarray
    baseline: float
    reshaping: np.ndarray


class LesionStudy(NamedTuple):
    """The errors after deleting or swapping several random blocks."""

    counts: np.ndarray
    error: np.ndarray
    correlation: np.ndarray | None
    reshaping: np.ndarray | None


class PathGradients(NamedTuple):
    """The gradient that random paths of each length bring to the input."""

    lengths: np.ndarray
    norms: np.ndarray


class LesionedNetwork:
    """A trained network, evaluated with blocks missing or in another order.

    A deleted residual block leaves its shortcut, including a projection. A
    deleted plain block leaves nothing, so that a plain block that changes the
    shape cannot be deleted. Only blocks of the same shapes can be swapped.
    The model itself does not change, and is compiled once for all lesions.

    Args:
        model: A classifier of this package, residual or plain.
        images: `(n, rows, columns, channels)` array of what the model takes.
        labels: `(n,)` array of classes.
        batch_size: Integer, images at a time. Defaults to `256`.

    Attributes:
        names: Tuple of strings, the blocks in order.
        deletable: Integer array, positions of the blocks that can be deleted.
        reshaping: Boolean array, whether a block changes the shape.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray,
        labels: np.ndarray,
        batch_size: int = network.BATCH_SIZE,
    ) -> None:
        self._model = model
        self._blocks = network.blocks(model)
        self.names: tuple[str, ...] = tuple(
            block.name for block in self._blocks
        )
        self.reshaping: np.ndarray = network.changes_shape(model)
        residual = np.array([block.residual for block in self._blocks])
        self.deletable: np.ndarray = np.flatnonzero(residual | ~self.reshaping)
        self._shapes = [
            None if change else [v.shape for v in block.variables]
            for block, change in zip(self._blocks, self.reshaping, strict=True)
        ]
        self._batches = list(
            network.batches(images, labels, batch_size=batch_size)
        )

        def errors(images, labels, kept):
            def join(i, branch, shortcut, x):
                if shortcut is not None:
                    branch = ops.cast(kept[i], x.dtype) * branch
                y = self._blocks[i].join(branch, shortcut)
                if shortcut is not None or self.reshaping[i]:
                    return y
                return ops.where(kept[i] > 0, y, x)

            outputs = network.forward(model, images, block=join)
            return network.wrong(outputs, labels)

        self._run = network.compiled(model, errors)

    def error(
        self, deleted: Numbers = (), order: Numbers | None = None
    ) -> float:
        """Return the error with some blocks deleted or reordered.

        Args:
            deleted: Integers or names, the blocks to delete. Defaults to
                none.
            order: Integers: block `i` gets the weights of block `order[i]`.
                Defaults to the order of the model.

        Returns:
            Float, the share of images that are classified wrongly.

        Raises:
            ValueError: If a block cannot be deleted, or does not fit into its
                place in `order`.
        """
        kept = np.ones(len(self.names), "float32")
        for block in deleted:
            kept[self._position(block)] = 0
        values = self._values(order)
        wrong = sum(
            self._run(*batch, kept, values=values).sum()
            for batch in self._batches
        )
        return float(wrong) / sum(len(b[1]) for b in self._batches)

    def _position(self, block):
        names = {name: i for i, name in enumerate(self.names)}
        i = names.get(block, -1) if isinstance(block, str) else block
        if not 0 <= i < len(names):
            raise ValueError(
                f"There is no block {block!r}. The blocks are numbered from "
                f"0 to {len(names) - 1}: {', '.join(names)}"
            )
        if i not in self.deletable:
            raise ValueError(
                f"Block {self.names[i]!r} of a plain network changes the "
                "shape, so it cannot be deleted: the blocks beside it do not "
                "fit together."
            )
        return i

    def _values(self, order):
        values = network.values_of(self._model)
        if order is None:
            return values
        if sorted(order) != list(range(len(self.names))):
            raise ValueError(
                "`order` must name each block once. Received: "
                f"order={list(order)}"
            )
        positions = {id(v): i for i, v in enumerate(self._model.variables)}
        reordered = list(values)
        for place, source in enumerate(order):
            if place == source:
                continue
            if (
                self._shapes[place] is None
                or self._shapes[place] != self._shapes[source]
            ):
                raise ValueError(
                    f"Block {self.names[source]!r} cannot be in the place of "
                    f"{self.names[place]!r}: their shapes differ."
                )
            for old, new in zip(
                self._blocks[place].variables,
                self._blocks[source].variables,
                strict=True,
            ):
                reordered[positions[id(old)]] = values[positions[id(new)]]
        return reordered

    def swappable(self) -> list[tuple[int, int]]:
        """Return all pairs of blocks that can be swapped."""
        return [
            (i, j)
            for i, shape in enumerate(self._shapes)
            for j in range(i)
            if shape is not None and shape == self._shapes[j]
        ]


def delete_each_block(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    progress: Progress = iter,
    **kwargs: int,
) -> DeletedBlocks:
    """Return the error after deleting each block, one at a time.

    Args:
        model: `keras.Model`, see `LesionedNetwork`.
        images: Array of images, see `LesionedNetwork`.
        labels: Integers, the class of each image.
        progress: Function that wraps the list of what is evaluated, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.
        **kwargs: See `LesionedNetwork`.

    Returns:
        `DeletedBlocks` of `names`, a tuple of the blocks that can be deleted;
        `error`, an array of the error without each block; `baseline`, the
        error with all blocks; and `reshaping`, a Boolean array: whether a
        block changes the shape.

    Reference: Veit et al. 2016, section 4.1, figure 3.
    """
    net = LesionedNetwork(model, images, labels, **kwargs)
    error = [net.error([i]) for i in progress(net.deletable)]
    names = tuple(net.names[i] for i in net.deletable)
    return DeletedBlocks(
        names, np.array(error), net.error(), net.reshaping[net.deletable]
    )


def delete_blocks(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    counts: Numbers,
    trials: int = 5,
    seed: int = 0,
    progress: Progress = iter,
    **kwargs: int,
) -> LesionStudy:
    """Return the error after deleting several random blocks.

    Args:
        model: `keras.Model`, see `LesionedNetwork`.
        images: Array of images, see `LesionedNetwork`.
        labels: Integers, the class of each image.
        counts: Sequence of integers, numbers of blocks to delete.
        trials: Integer, random choices for each number. Defaults to `5`.
        seed: Integer, seed of the choices. Defaults to `0`.
        progress: Function that wraps the list of what is evaluated, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.
        **kwargs: See `LesionedNetwork`.

    Returns:
        `LesionStudy` of `counts`, an array; `error`, an array `(counts,
        trials)`; and `reshaping`, a Boolean array of that shape: whether a
        block that changes the shape was among the deleted ones. Its
        `correlation` is `None`.

    Raises:
        ValueError: If fewer blocks can be deleted than `counts` asks for.

    Reference: Veit et al. 2016, section 4.2, figure 5 a.
    """
    net = LesionedNetwork(model, images, labels, **kwargs)
    if max(counts) > len(net.deletable):
        raise ValueError(
            f"{max(counts)} blocks cannot be deleted: {model.name!r} has "
            f"only {len(net.deletable)} deletable blocks."
        )
    rng = np.random.default_rng(seed)
    error = np.zeros((len(counts), trials))
    reshaping = np.zeros(error.shape, bool)
    for place in progress([*np.ndindex(error.shape)]):
        deleted = rng.choice(net.deletable, counts[place[0]], replace=False)
        error[place] = net.error(deleted)
        reshaping[place] = net.reshaping[deleted].any()
    return LesionStudy(np.array(counts), error, None, reshaping)


def swap_blocks(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    counts: Numbers,
    trials: int = 5,
    seed: int = 0,
    progress: Progress = iter,
    **kwargs: int,
) -> LesionStudy:
    """Return the error after swapping random pairs of blocks of one shape.

    Args:
        model: `keras.Model`, see `LesionedNetwork`.
        images: Array of images, see `LesionedNetwork`.
        labels: Integers, the class of each image.
        counts: Sequence of integers, numbers of swaps.
        trials: Integer, random choices for each number. Defaults to `5`.
        seed: Integer, seed of the choices. Defaults to `0`.
        progress: Function that wraps the list of what is evaluated, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.
        **kwargs: See `LesionedNetwork`.

    Returns:
        `LesionStudy` of `counts`, an array; `error`, an array `(counts,
        trials)`; and `correlation`, an array of that shape: Kendall's rank
        correlation of the new order with the old, 1 if nothing has moved.

    Raises:
        ValueError: If no two blocks have the same shapes.

    Reference: Veit et al. 2016, section 4.3, figure 5 b.
    """
    net = LesionedNetwork(model, images, labels, **kwargs)
    pairs = net.swappable()
    if not pairs:
        raise ValueError(
            f"{model.name!r} has no two blocks of the same shapes to swap."
        )
    rng = np.random.default_rng(seed)
    error = np.zeros((len(counts), trials))
    correlation = np.zeros((len(counts), trials))
    for place in progress([*np.ndindex(error.shape)]):
        order = np.arange(len(net.names))
        for i, j in rng.choice(pairs, counts[place[0]]):
            order[[i, j]] = order[[j, i]]
        error[place] = net.error(order=order)
        correlation[place] = kendall_correlation(order)
    return LesionStudy(np.array(counts), error, correlation, None)


def kendall_correlation(order: Numbers) -> float:
    """Return Kendall's rank correlation of an order with 0, 1, 2, ...

    Args:
        order: Sequence of at least two different numbers.

    Returns:
        Float from -1, the reverse order, to 1, the same order.
    """
    order = np.asarray(order)
    signs = np.sign(order[None, :] - order[:, None])
    return float(signs[np.triu_indices(len(order), 1)].mean())


def path_lengths(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distribution of path lengths through `n` residual blocks.

    A path goes through the branch or the shortcut of each block, so there are
    `2 ** n` paths. The length of a path is its number of branches, which is
    binomial. A plain network has a single path, of length `n`.

    Args:
        n: Integer, number of blocks.

    Returns:
        Tuple of `lengths`, the integers from 0 to `n`, and `share`, an array:
        the share of all paths with that length.

    Reference: Veit et al. 2016, section 3.
    """
    # A NumPy integer would overflow from 63 blocks on.
    n = operator.index(n)
    lengths = np.arange(n + 1)
    # As a quotient of integers: 2 ** n may be larger than any float.
    return lengths, np.array([math.comb(n, k) / 2**n for k in lengths.tolist()])


def gradient_by_path_length(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    lengths: Numbers | None = None,
    samples: int = 10,
    seed: int = 0,
    progress: Progress = iter,
) -> PathGradients:
    """Return the gradient that paths of each length bring to the input.

    The forward pass uses the whole network. In the backward pass the gradient
    takes only the branches in `k` random blocks, and only the shortcuts in all
    others. Normalization is as in inference.

    Args:
        model: A residual classifier of this package.
        images: `(n, rows, columns, channels)` array of what the model takes,
            one batch.
        labels: `(n,)` array of classes.
        lengths: Sequence of integers, path lengths. Defaults to all from 0 to
            the number of blocks.
        samples: Integer, random paths of each length. Defaults to `10`.
        seed: Integer, seed of the paths. Defaults to `0`.
        progress: Function that wraps the list of what is evaluated, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.

    Returns:
        `PathGradients` of `lengths`, an array, and `norms`, an array
        `(lengths, samples)`: the Euclidean norm of the gradient of the mean
        cross-entropy by the images. All paths of one length together
        contribute its mean over samples times the number of these paths (see
        `path_lengths`).

    Raises:
        ValueError: If the network is plain: it has one path only.

    Reference: Veit et al. 2016, section 5, figure 6.
    """
    blocks = network.blocks(model)
    n = len(blocks)
    if not all(block.residual for block in blocks):
        raise ValueError(
            f"{model.name!r} is a plain network: it has one path, through all "
            f"of its {n} blocks."
        )
    lengths = np.arange(n + 1) if lengths is None else np.array(lengths)
    if lengths.min() < 0 or lengths.max() > n:
        raise ValueError(
            f"A path through {n} blocks has a length from 0 to {n}. "
            f"Received: lengths={lengths.tolist()}"
        )
    gradient = _path_gradient(model, images, labels)
    rng = np.random.default_rng(seed)
    norms = np.zeros((len(lengths), samples))
    for place in progress([*np.ndindex(norms.shape)]):
        through = np.zeros(n, "float32")
        through[rng.choice(n, lengths[place[0]], replace=False)] = 1
        norms[place] = np.linalg.norm(gradient(through).ravel())
    return PathGradients(lengths, norms)


def _path_gradient(model, images, labels):
    """Return a function from a path to its gradient by the images.

    A path is an array: 1.0 for a block whose branch it takes, else 0.0.
    """
    from_logits = network.gives_logits(model)
    blocks = network.blocks(model)

    def loss(images, labels, through):
        def join(i, branch, shortcut, x):
            share = ops.cast(through[i], branch.dtype)
            return blocks[i].join(
                _in_gradient(branch, share), _in_gradient(shortcut, 1 - share)
            )

        outputs = network.forward(model, images, block=join)
        return ops.mean(network.cross_entropies(outputs, labels, from_logits))

    stateless = network.pure(model, loss)
    run = backend.value_and_gradients(
        lambda images, values, *others: stateless(values, *images, *others)
    )
    (batch,) = network.batches(images, labels, batch_size=len(images))
    images, labels = map(ops.convert_to_tensor, batch)
    values = network.values_of(model)

    def gradient(through):
        through = ops.convert_to_tensor(np.asarray(through, "float32"))
        _, (by_images,) = run([images], values, labels, through)
        return ops.convert_to_numpy(by_images).astype("float64")

    return gradient


def _in_gradient(x, share):
    """Return `x`, but pass only `share` of the gradient back."""
    return share * x + (1 - share) * ops.stop_gradient(x)
