"""The loss around trained weights, along filter-normalized directions.

Reference: Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets".
"""

import hashlib
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.analysis import network
from keras_resnet.atomic import replacing
from keras_resnet.types import Numbers, PathLike, Progress

STATISTICS = ("moving", "batch")


class Landscape(NamedTuple):
    """Loss and error at the points of a grid, NaN where not evaluated."""

    axes: tuple[np.ndarray, ...]
    loss: np.ndarray
    error: np.ndarray


def random_direction(model: keras.Model, seed: int = 0) -> list[np.ndarray]:
    """Return a random direction in weight space, normalized by filter.

    Each filter of the direction is Gaussian and has the norm of the model's
    filter, and so has each class of the head. The direction of biases and of
    the scales and offsets of normalization is zero.

    Args:
        model: A built `keras.Model`.
        seed: Integer. The same seed gives the same direction on every
            backend. Defaults to `0`.

    Returns:
        List of float32 arrays, one for each of `model.trainable_variables`.

    Reference: Li et al. 2018, section 4; the zeros are as in the authors'
    published code.
    """
    rng = np.random.default_rng(seed)
    direction = []
    for variable in model.trainable_variables:
        weights = ops.convert_to_numpy(ops.convert_to_tensor(variable))
        weights = weights.astype("float64")
        step = rng.normal(size=weights.shape)
        if weights.ndim < 2:
            step = np.zeros_like(step)
        else:
            # The last axis of a kernel counts its filters.
            others = tuple(range(weights.ndim - 1))
            step *= np.sqrt(
                (weights**2).sum(axis=others) / (step**2).sum(axis=others)
            )
        direction.append(step.astype("float32"))
    return direction


def loss_landscape(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    directions: Sequence[Sequence[np.ndarray]],
    axes: Sequence[Numbers],
    statistics: str = "moving",
    batch_size: int = 500,
    points_at_a_time: int | None = None,
    path: PathLike | None = None,
    progress: Progress = iter,
) -> Landscape:
    """Evaluate the loss on a grid around a model's weights.

    The point `(a, b)` has the weights `w + a * directions[0] + b *
    directions[1]`. With one direction the grid is a line.

    Args:
        model: A classifier of this package, residual or plain. It is not
            changed.
        images: `(n, rows, columns, channels)` array, inputs of the model.
        labels: `(n,)` array of classes.
        directions: One or two directions, such as those of
            `random_direction`.
        axes: For each direction a sequence of numbers, the points along it.
            0 is the model itself.
        statistics: `"moving"` (default) normalizes by the moving statistics
            of the trained model at every point, as the authors' published
            code does. `"batch"` normalizes by the statistics of each batch at
            the point itself, as in training.
        batch_size: Integer, images at a time. Defaults to `500`.
        points_at_a_time: Integer, grid points that are evaluated in one
            vectorized call, on JAX and PyTorch. Defaults to 16 on an
            accelerator and to 1 elsewhere. TensorFlow allows only 1.
        path: Path of an `.npz` file for the points evaluated so far. If it
            exists, only missing points are evaluated. Defaults to `None`.
        progress: Function that wraps the list of evaluations, such as
            `tqdm.tqdm`. Defaults to one that shows nothing.

    Returns:
        `Landscape` of `axes`, a tuple of arrays; `loss`, the mean
        cross-entropy at each point, an array with a dimension for each axis;
        and `error`, an array of the shares of wrongly classified images.

    Raises:
        ValueError: For arguments that do not fit together, and if `path`
            holds another landscape.
    """
    axes = tuple(np.asarray(axis, "float64") for axis in axes)
    _check(model, directions, axes, statistics)
    network.at_least_one("batch_size", batch_size)
    if points_at_a_time is None:
        vectorize = backend.vectorized and backend.accelerators()
        points_at_a_time = 16 if vectorize else 1
    network.at_least_one("points_at_a_time", points_at_a_time)
    if points_at_a_time > 1 and not backend.vectorized:
        raise ValueError(
            "On TensorFlow `points_at_a_time` must be 1: its convolutions "
            "take one kernel at a time. Received: "
            f"points_at_a_time={points_at_a_time}"
        )
    shape = tuple(map(len, axes))
    values = np.full((2, *shape), np.nan)
    key = _key(model, images, labels, directions, axes, statistics, batch_size)
    if path is not None and os.path.exists(path):
        values = _read(path, key)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    evaluate = _evaluation(
        model,
        images,
        labels,
        directions,
        statistics,
        batch_size,
        points_at_a_time,
    )
    missing = np.argwhere(np.isnan(values[0]))
    for i in progress(range(0, len(missing), points_at_a_time)):
        at = tuple(missing[i : i + points_at_a_time].T)
        values[(slice(None), *at)] = evaluate(points[at])
        if path is not None:
            _write(path, key, axes, values)
    return Landscape(axes, *values)


def _check(model, directions, axes, statistics):
    network.check_weights(model)
    if statistics not in STATISTICS:
        raise ValueError(
            "`statistics` must be 'moving' or 'batch'. "
            f"Received: statistics={statistics!r}"
        )
    if len(directions) not in (1, 2) or len(axes) != len(directions):
        raise ValueError(
            "There must be one or two directions, and an axis for each. "
            f"Received: {len(directions)} directions, {len(axes)} axes"
        )
    shapes = [tuple(v.shape) for v in model.trainable_variables]
    for direction in directions:
        if [np.shape(d) for d in direction] != shapes:
            raise ValueError(
                "A direction must have an array for each of "
                f"{model.name!r}'s trainable variables, of its shape."
            )


def _evaluation(
    model, images, labels, directions, statistics, batch_size, size
):
    """Return a function from up to `size` points to losses and errors."""
    from_logits = network.gives_logits(model)
    training = statistics == "batch"
    trainable = {id(v): i for i, v in enumerate(model.trainable_variables)}
    at = [trainable.get(id(v)) for v in model.variables]

    def sums(images, labels):
        outputs = network.forward(model, images, training=training)
        losses = network.cross_entropies(outputs, labels, from_logits)
        return ops.stack(
            [ops.sum(losses), ops.sum(network.wrong(outputs, labels))]
        )

    stateless = network.pure(model, sums)

    def at_point(values, directions, images, labels, point):
        moved = []
        for value, i in zip(values, at, strict=True):
            if i is not None:
                for j, direction in enumerate(directions):
                    value = value + point[j] * direction[i]
            moved.append(value)
        return stateless(moved, images, labels)

    run = at_point if size == 1 else backend.vectorized(at_point, 5)
    run = backend.compiled(run)
    values = network.values_of(model)
    directions = [
        [ops.convert_to_tensor(np.asarray(d, "float32")) for d in direction]
        for direction in directions
    ]
    batches = [
        tuple(map(ops.convert_to_tensor, batch))
        for batch in network.batches(images, labels, batch_size=batch_size)
    ]

    def evaluate(points):
        n = len(points)
        # Padded, because each other size would be compiled anew.
        points = np.concatenate([points, np.repeat(points[:1], size - n, 0)])
        if size == 1:
            (points,) = points
        points = ops.convert_to_tensor(points.astype("float32"))
        total = 0
        for batch in batches:
            sums = run(values, directions, *batch, points)
            total = total + ops.convert_to_numpy(sums).astype("float64")
        return np.atleast_2d(total)[:n].T / len(labels)

    return evaluate


def _key(model, *others):
    """Return a checksum of everything that determines a landscape."""
    digest = hashlib.sha256()
    # Different networks may have the same weights.
    layers = map(keras.saving.serialize_keras_object, network.chain(model))
    layers = [
        (layer["class_name"], layer["config"] | {"name": None})
        for layer in layers
    ]
    digest.update(json.dumps(layers, sort_keys=True).encode())
    values = [ops.convert_to_numpy(v) for v in network.values_of(model)]
    for part in keras.tree.flatten([values, *others]):
        part = np.ascontiguousarray(part)
        digest.update(f"{part.dtype} {part.shape} ".encode() + part.tobytes())
    return digest.hexdigest()


def _read(path, key):
    with np.load(path) as file:
        if str(file["key"]) != key:
            raise ValueError(
                f"{path} holds the landscape of another model, other images, "
                "directions or axes: remove it or name another file."
            )
        return np.stack([file["loss"], file["error"]])


def _write(path, key, axes, values):
    # To a file object, because `savez` would add a suffix to a path.
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(
            file,
            key=key,
            loss=values[0],
            error=values[1],
            **{f"axis{i}": axis for i, axis in enumerate(axes)},
        )


def read_landscape(path: PathLike) -> Landscape:
    """Return the `Landscape` in a file of `loss_landscape`.

    Points that are not evaluated yet are NaN.
    """
    with np.load(path) as file:
        axes = [file[name] for name in sorted(file) if name.startswith("axis")]
        return Landscape(tuple(axes), file["loss"], file["error"])
