"""Images that cannot be decoded: named once, counted, replaced or left out."""

import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from keras_resnet.data.folders import UnreadableImageError
from keras_resnet.data.pipeline import untuned
from keras_resnet.data.records import Source, read_image_of

# Share of the images that may be unreadable.
MAX_UNREADABLE = 0.01
# Images to decode together, because catching errors in a graph costs time.
GROUP = 16


class TooManyUnreadableError(UnreadableImageError):
    """More images than allowed cannot be decoded."""


class Unreadable:
    """The images that could not be decoded, by name.

    Args:
        source: `Folder` or `Records`.
        share: Float, the share of its images that may be unreadable. Defaults
            to `0.01`.

    Attributes:
        reasons: Dictionary from names to reasons.
        error: `TooManyUnreadableError` when there were too many, else `None`.
    """

    def __init__(self, source: Source, share: float = MAX_UNREADABLE) -> None:
        self.share = share
        self.reasons: dict[str, str] = {}
        self.error: TooManyUnreadableError | None = None
        self._total = len(source)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.reasons)

    def __iter__(self) -> Iterator[str]:
        return iter(self.reasons)

    def note(self, source: Source, i: int) -> None:
        """Note the i-th image of a source, and name it once on standard error.

        The source may be a cache of smaller copies with the same names.

        Raises:
            TooManyUnreadableError: If there are too many. Every later call
                raises it, too, because Keras drops the iterator of the first.
        """
        name = source.name(i)
        with self._lock:
            if name not in self.reasons:
                self._add(name, source, i)
            if self.error is not None:
                raise self.error

    def _add(self, name, source, i):
        try:
            read_image_of(source, i)
            reason = "its size and its contents do not match"
        except UnreadableImageError as error:
            reason = str(error).removeprefix(f"{name}: ")
        self.reasons[name] = reason
        print(f"skipped: {name}: {reason}", file=sys.stderr)
        if len(self) > self.share * self._total:
            self._fail(f"more than the allowed share of {self.share:g}")
        elif len(self) == self._total:
            self._fail("no image is left")

    def _fail(self, what):
        name, reason = next(reversed(self.reasons.items()))
        self.error = TooManyUnreadableError(
            f"{len(self)} of {self._total:,} images cannot be decoded, the "
            f"last {name} ({reason}): {what}"
        )

    def none_left(self) -> TooManyUnreadableError:
        """Return the error for images none of which can be decoded."""
        self._fail("no other image can replace it")
        return self.error


def reader(
    source: Source,
    prepare: Callable[..., tf.Tensor],
    spec: tf.TensorSpec,
    unreadable: Unreadable,
    others: Callable[..., Iterable[int]] = lambda *_: (),
) -> Callable[..., tuple[tf.Tensor, ...]]:
    """Return a function, for tf.data, that reads and prepares some images.

    A graph decodes them without Python's lock. If one of them fails, Python
    calls the graph for each of them.

    Args:
        source: `Folder` or `Records`.
        prepare: Function from the contents of an image, and further scalars
            if there are any, to a tensor.
        spec: `tf.TensorSpec` of this tensor.
        unreadable: `Unreadable`.
        others: Function from the further scalars of an image that cannot be
            decoded to the indices of images to take instead, in order.
            Defaults to no other images: zeros take its place.

    Returns:
        Function from the indices of images, and as many of each further
        scalar, to prepared images, int32 labels, and booleans, `False` where
        zeros took an image's place.
    """
    outputs = spec, tf.int32, tf.bool

    def prepared(element):
        i, *scalars = element
        contents, label = source.read(i)
        image = tf.ensure_shape(prepare(contents, *scalars), spec.shape)
        return image, label, True

    def read(*elements):
        with tf.init_scope():
            decode = tf.function(
                lambda *e: tf.map_fn(prepared, e, fn_output_signature=outputs),
                [tf.TensorSpec((None,), e.dtype) for e in elements],
                autograph=False,
            ).get_concrete_function()

        def read_one(i, *scalars):
            for j in itertools.chain(i.numpy(), others(*scalars)):
                try:
                    return decode(tf.constant([j], i.dtype), *scalars)
                except tf.errors.OpError:
                    unreadable.note(source, j)
            return tf.zeros((1, *spec.shape), spec.dtype), [0], [False]

        def read_each(*elements):
            one_by_one = [tf.split(e, len(e)) for e in elements]
            results = map(read_one, *one_by_one)
            return [tf.concat(r, 0) for r in zip(*results, strict=True)]

        together = _or_nothing(decode, elements)
        results = tf.cond(
            tf.size(together[1]) > 0,
            lambda: together,
            lambda: tuple(
                tf.py_function(read_each, elements, [o.dtype for o in together])
            ),
        )
        shapes = (None, *spec.shape), (None,), (None,)
        return tuple(map(tf.ensure_shape, results, shapes))

    return read


def _or_nothing(
    function: Any, elements: tuple[tf.Tensor, ...]
) -> tuple[tf.Tensor, ...]:
    """Return a function's tensors, or tensors without rows if it fails.

    A graph has no `try`, but a dataset can leave out an element that fails. If
    Python caught the errors of each call, the process might never end: it would
    wait for the threads of tf.data while they wait for Python.
    """
    nothing = [
        tf.zeros([n or 0 for n in x.shape], x.dtype)
        for x in function.structured_outputs
    ]
    return (
        tf.data.Dataset.from_tensors(elements)
        .map(function)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(tuple(nothing)))
        .take(1)
        .with_options(untuned())
        .get_single_element()
    )
