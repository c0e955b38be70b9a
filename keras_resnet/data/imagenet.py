"""ImageNet and its like: large images, decoded when a step needs them.

Everything runs inside tf.data's graph, on all cores, without Python's lock;
each batch is a function of its step.
"""

import functools
import sys

import numpy as np
import tensorflow as tf

from keras_resnet import preprocessing
from keras_resnet.data import records, sampling
from keras_resnet.data.folders import UnreadableImageError
from keras_resnet.data.order import Draws, lay_out, shard_slice
from keras_resnet.data.pipeline import cores, untuned

# Share of the images that may be unreadable.
MAX_UNREADABLE = 0.01
# Seeds of an image: box, flip, RandAugment, colours.
CHANGES = 4
# Images that are decoded one after another, by one thread, within one `try`.
GROUP = 16
# Images whose average stands for that of all.
MEAN_IMAGES = 10_000


class TooManyUnreadableError(UnreadableImageError):
    """More images than may be cannot be decoded."""


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

    def __init__(self, source, share=MAX_UNREADABLE):
        self.share = share
        self.reasons = {}
        self.error = None
        self._total = len(source)

    def __len__(self):
        return len(self.reasons)

    def __iter__(self):
        return iter(self.reasons)

    def note(self, source, i):
        """Notes and names an image; raises if there are too many.

        Args:
            source: What it was read from: the images themselves, some of
                them or smaller copies.
            i: Integer, its number there.
        """
        name = source.name(i)
        if name in self.reasons:
            return
        try:
            records.read_image_of(source, i)
            reason = "its size and its contents do not fit"
        except UnreadableImageError as error:
            reason = str(error).removeprefix(f"{name}: ")
        self.reasons[name] = reason
        print(f"skipped: {name}: {reason}", file=sys.stderr)
        found = len(self.reasons)
        if found > self.share * self._total:
            self.error = TooManyUnreadableError(
                f"{found} of {self._total:,} images cannot be decoded, the "
                f"last {name} ({reason}): more than the share of "
                f"{self.share:g} that is allowed"
            )
            raise self.error


def decode(contents, choose):
    """Decodes part of an image, and of a JPEG file no more than that part.

    Grey and CMYK images become RGB. What a file is, is told by its contents.

    Args:
        contents: String tensor.
        choose: Function from the size, `(2,)` int32, to the part of it,
            `(4,)` int32: first row, first column, rows, columns.

    Returns:
        `(rows, columns, 3)` uint8 tensor.
    """

    def jpeg():
        box = choose(tf.io.extract_jpeg_shape(contents)[:2])
        return tf.io.decode_and_crop_jpeg(contents, box, channels=3)

    def other():
        image = tf.io.decode_image(contents, 3, expand_animations=False)
        box = choose(tf.shape(image)[:2])
        return tf.image.crop_to_bounding_box(image, *tf.unstack(box))

    return tf.cond(tf.io.is_jpeg(contents), jpeg, other)


def training_batches(
    source,
    batch_size,
    *,
    image_size=224,
    steps_per_size=None,
    box="inception",
    interpolation="bilinear",
    magnitude=None,
    color=False,
    mixup=0.0,
    cutmix=0.0,
    seed=0,
    start=0,
    shard=(0, 1),
    unreadable=None,
):
    """Endless shuffled, augmented batches, each a function of its step.

    Each epoch shuffles all images anew. A batch may begin in one epoch and
    end in the next. Order and augmentation are functions of `seed`, the epoch
    and the place in it: a run that starts again at step `start` gets
    what it would have got without the stop. Half of the images are flipped.

    In the place of an image that cannot be decoded comes that of the next
    place.

    Args:
        source: `Folder` or `Records`.
        batch_size: Integer.
        image_size: Integer, rows and columns, or a sequence of them. Defaults
            to `224`.
        steps_per_size: Integer, steps at each `image_size` of several; the
            last one stays. Defaults to `None`, for one size.
        box: `"inception"` (default) or `"paper"`: see `inception_box` and
            `paper_box`.
        interpolation: `"bilinear"` (default) or `"bicubic"`, with
            antialiasing.
        magnitude: Number from 0 to 10, of `rand_augment`. Defaults to `None`,
            none of it.
        color: Boolean, whether to shift colours as the paper does: see
            `color_shift`. Defaults to `False`.
        mixup: Float, see `sampling.mixer`. Defaults to `0`.
        cutmix: Float, see `sampling.mixer`. Defaults to `0`.
        seed: Integer, zero or above. Defaults to `0`.
        start: Integer, the first step. Defaults to `0`.
        shard: Pair of integers `(i, k)`: only the `i`-th of `k` equal shards
            of each batch, from 0, for one of `k` processes. Mixup and cutmix
            then mix the images of a shard. Defaults to `(0, 1)`, whole
            batches.
        unreadable: `Unreadable`. Defaults to one of its own.

    Returns:
        `tf.data.Dataset` of float32 images, `(batch, rows, columns, 3)` of
        about 0 to 255, and float32 labels, `(batch, classes)`.

    Reference: He et al. 2015, section 3.4.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    sizes = np.atleast_1d(np.asarray(image_size, "int32"))
    if (len(sizes) > 1) != (steps_per_size is not None):
        raise ValueError(
            "`steps_per_size` is for several sizes. Received: "
            f"image_size={image_size}, steps_per_size={steps_per_size}"
        )
    draws = Draws(len(source), padding=0, horizontal_flip=False, seed=seed)
    fixed = int(sizes[0]) if len(sizes) == 1 else None
    spec = tf.TensorSpec((fixed, fixed, 3))
    seed = tf.constant(seed, tf.int64)
    prepare = _preparing(seed, box, interpolation, magnitude, color)
    mixer = sampling.mixer(mixup, cutmix)
    mine = shard_slice(batch_size, shard)
    images = mine.stop - mine.start

    def mix(step, batch):
        # Not the seed of any image: their places are not negative.
        drawn = tf.stack([seed, -1 - step * shard[1] - shard[0]])
        return _mixed(mixer, batch, sizes, drawn)

    group = max(n for n in range(1, GROUP + 1) if images % n == 0)
    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max)
    batches = (
        steps.map(_elements(draws, batch_size, mine, sizes, steps_per_size))
        .unbatch()
        .batch(group, drop_remainder=True)
        .map(
            _group(source, prepare, spec, draws, unreadable),
            num_parallel_calls=cores(),
        )
        .batch(images // group, drop_remainder=True)
        .map(functools.partial(_joined, images))
    )
    if mixup or cutmix:
        batches = tf.data.Dataset.zip(steps, batches).map(
            mix, num_parallel_calls=cores()
        )
    return batches.prefetch(2).with_options(untuned())


def _preparing(seed, box, interpolation, magnitude, color):
    """Returns a function from contents, place and size to an image."""

    # A function of TensorFlow: it has its place in the graph more than once.
    @tf.function(autograph=False)
    def prepare(contents, place, size):
        # An own seed for each image and each of its changes. To split one
        # would take much of the time that the image takes.
        seeds = [(seed, place * CHANGES + i) for i in range(CHANGES)]
        for_box, *further = map(tf.stack, seeds)
        image = decode(contents, lambda x: sampling.BOXES[box](x, for_box))
        image = _resized(image, (size, size), interpolation)
        return sampling.augmented(
            image, *further, magnitude=magnitude, color=color
        )

    return prepare


def _elements(draws, batch_size, mine, sizes, steps_per_size):
    """Returns a function from a step to its images, places and sizes."""
    shard_size = mine.stop - mine.start

    def order(step):
        first = step * batch_size
        return draws[first + mine.start : first + mine.stop][:, 0]

    def elements(step):
        images = tf.numpy_function(order, [step], tf.int32, stateful=False)
        images = tf.ensure_shape(images, (shard_size,))
        places = step * batch_size + tf.range(
            mine.start, mine.stop, dtype=tf.int64
        )
        which = step // (steps_per_size or 1)
        size = tf.gather(sizes, tf.minimum(which, len(sizes) - 1))
        return images, places, tf.fill((shard_size,), size)

    return elements


def _group(source, prepare, spec, draws, unreadable):
    """Returns a function that prepares some images, one after another.

    All within one `try`, whose cost they share.
    """
    classes = len(source.class_names)
    one = _one(source, prepare, spec, draws, unreadable)

    def each(i, place, size):
        contents, label = source.read(i)
        return prepare(contents, place, size), tf.one_hot(label, classes)

    def group(*elements):
        size = elements[2][0]
        nothing = tf.zeros((0, size, size, 3)), tf.zeros((0, classes))
        images, labels = (
            tf.data.Dataset.from_tensor_slices(elements)
            .map(each)
            .ignore_errors()
            .batch(elements[0].shape[0])
            .concatenate(tf.data.Dataset.from_tensors(nothing))
            .take(1)
            .with_options(untuned())
            .get_single_element()
        )
        return tf.cond(
            tf.shape(labels)[0] == elements[0].shape[0],
            lambda: (images, labels),
            # One by one, to know whose place has to be filled.
            lambda: tf.map_fn(
                lambda element: one(*element),
                elements,
                fn_output_signature=(spec, tf.TensorSpec((classes,))),
            ),
        )

    return group


def _one(source, prepare, spec, draws, unreadable):
    """Returns a function that prepares an image, or the next readable one."""

    def following(i, place, tried):
        unreadable.note(source, i)
        return draws[place + tried : place + tried + 1][0, 0]

    def one(i, place, size):
        def attempt(i, tried, *_):
            i = tf.cond(
                tried == 0,
                lambda: i,
                lambda: tf.ensure_shape(
                    tf.numpy_function(following, [i, place, tried], tf.int32),
                    (),
                ),
            )
            found = _attempt(source, prepare, spec, i, place, size)
            return (i, tried + 1, *found)

        scalar = tf.TensorShape(())
        _, _, image, label, _ = tf.while_loop(
            lambda i, tried, image, label, ok: ~ok,
            attempt,
            (i, tf.zeros((), tf.int64), *_failed(spec)),
            shape_invariants=(scalar, scalar, spec.shape, scalar, scalar),
        )
        return image, tf.one_hot(label, len(source.class_names))

    return one


def _joined(batch_size, images, labels):
    """Returns groups of images as one batch."""
    shape = images.shape[2:]
    images = tf.reshape(images, tf.concat([[-1], tf.shape(images)[2:]], 0))
    labels = tf.reshape(labels, (batch_size, labels.shape[-1]))
    return tf.ensure_shape(images, (batch_size, *shape)), labels


def _mixed(mixer, batch, sizes, seed):
    """Mixes a batch of one of some sizes."""
    images, labels = batch

    # Keras's CutMix wants to know the size before it runs.
    def of(size):
        known = tf.ensure_shape(images, (None, size, size, 3))
        return mixer(known, labels, seed)

    different = np.unique(sizes).tolist()
    mixed, shares = tf.switch_case(
        tf.searchsorted(different, tf.shape(images)[1:2])[0],
        [functools.partial(of, size) for size in different],
    )
    return (
        tf.ensure_shape(mixed, images.shape),
        tf.ensure_shape(shares, labels.shape),
    )


def evaluation_batches(
    source,
    batch_size=128,
    *,
    image_size=224,
    resize=256,
    interpolation="bilinear",
    shard=(0, 1),
    pad_to_multiple_of=None,
    unreadable=None,
):
    """The centre of all images once, in order; the last batch may be smaller.

    Each image is resized to a shorter side, with antialiasing, and its centre
    is cut out, as `training.one_crop` does it. Images that cannot be decoded
    are left out.

    Args:
        source: `Folder` or `Records`.
        batch_size: Integer, at most so many. Defaults to `128`.
        image_size: Integer, rows and columns. Defaults to `224`.
        resize: Integer, the shorter side before the crop. Defaults to `256`.
        interpolation: `"bilinear"` (default) or `"bicubic"`.
        shard: Pair of integers `(i, k)`: only the `i`-th of `k` equal shards
            of each batch, from 0, for one of `k` processes. Defaults to
            `(0, 1)`, whole batches.
        pad_to_multiple_of: Integer, the number of devices: all batches are
            then of one size, a multiple of it, and there are sample weights,
            0 for images that cannot be decoded and for empty places. The loss
            counts such images as 0. Defaults to `None`: the number of shards;
            whole batches stay as they are.
        unreadable: `Unreadable`. Defaults to one of its own.

    Returns:
        `tf.data.Dataset` of float32 images, `(batch, rows, columns, 3)` of 0
        to 255, and float32 labels, `(batch, classes)`; for several devices
        float32 sample weights, too.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    classes = len(source.class_names)

    def centre(contents):
        image = tf.io.decode_image(contents, 3, expand_animations=False)
        image = preprocessing.resize_shorter_side(image, resize, interpolation)
        return preprocessing.center_crop(image, image_size)

    spec = tf.TensorSpec((image_size, image_size, 3))
    note = _noting(source, unreadable)

    def element(i):
        image, label, ok = _attempt(source, centre, spec, i)
        return image, tf.one_hot(label, classes), ok | note(i, ok)

    if pad_to_multiple_of is not None or shard != (0, 1):
        places, weights, entries = lay_out(
            len(source), batch_size, shard, pad_to_multiple_of
        )

        def weighted(i, weight):
            image, label, ok = element(i)
            return image, label, weight * tf.cast(ok, tf.float32)

        return (
            tf.data.Dataset.from_tensor_slices((places, weights))
            .map(weighted, num_parallel_calls=cores())
            .batch(entries, drop_remainder=True)
            .prefetch(2)
            .with_options(untuned())
        )
    n = len(source)
    return (
        tf.data.Dataset.range(n)
        .map(element, num_parallel_calls=cores())
        .batch(_without_small_last(n, batch_size))
        .map(functools.partial(_readable_ones, spec))
        .prefetch(2)
        .with_options(untuned())
    )


def _without_small_last(n, batch_size):
    """Returns a size of batches of which the last one is at least half full.

    None may be empty when unreadable images are left out: its loss would be
    no number.
    """
    return next(
        b for b in range(batch_size, 0, -1) if n % b == 0 or n % b >= b / 2
    )


def _readable_ones(spec, images, labels, ok):
    """Leaves out images within a batch: Keras warns of unknown numbers."""
    images, labels = tf.cond(
        tf.reduce_all(ok),
        lambda: (images, labels),
        lambda: (
            tf.boolean_mask(images, ok),
            tf.boolean_mask(labels, ok),
        ),
    )
    return tf.ensure_shape(images, (None, *spec.shape)), labels


def _noting(source, unreadable):
    """Returns a function that notes an image, unless it is all right."""

    def note(i):
        unreadable.note(source, i)
        return False

    def check(i, ok):
        noted = tf.cond(
            ok, lambda: False, lambda: tf.numpy_function(note, [i], tf.bool)
        )
        return tf.ensure_shape(noted, ())

    return check


def readable(source, prepare, spec, unreadable):
    """All images that can be decoded, in order, each with label and number.

    Args:
        source: `Folder` or `Records`.
        prepare: Function from contents to what becomes of them.
        spec: `tf.TensorSpec` of that.
        unreadable: `Unreadable`, told of the others.

    Returns:
        `tf.data.Dataset` of triples.
    """

    note = _noting(source, unreadable)

    def element(i):
        prepared, label, ok = _attempt(source, prepare, spec, i)
        return prepared, label, i, ok | note(i, ok)

    return (
        tf.data.Dataset.range(len(source))
        .map(element, num_parallel_calls=cores())
        .filter(lambda prepared, label, i, ok: ok)
        .map(lambda prepared, label, i, ok: (prepared, label, i))
        .with_options(untuned())
    )


def mean_image(source, *, image_size=224, resize=256, unreadable=None):
    """Returns the mean of each pixel over training images.

    Of their centres, as in evaluation, and of 10,000 images, evenly spread,
    where there are more: by the square root of that the standard deviation of
    a pixel is divided, to about 0.6.

    Args:
        source: `Folder` or `Records`.
        image_size: Integer, rows and columns. Defaults to `224`.
        resize: Integer, the shorter side before the crop. Defaults to `256`.
        unreadable: `Unreadable`. Defaults to one of its own.

    Returns:
        `(image_size, image_size, 3)` float32 array.

    Raises:
        TooManyUnreadableError: If too many images cannot be decoded.

    Reference: He et al. 2015, section 3.4.
    """
    if unreadable is None:
        unreadable = Unreadable(source)
    chosen = Subset(
        source, np.linspace(0, len(source) - 1, min(MEAN_IMAGES, len(source)))
    )
    total, count = 0.0, 0
    try:
        for images, _ in evaluation_batches(
            chosen, image_size=image_size, resize=resize, unreadable=unreadable
        ).as_numpy_iterator():
            total = total + images.sum(axis=0, dtype="float64")
            count += len(images)
    except tf.errors.OpError:
        raise unreadable.error or sys.exception() from None
    return (total / count).astype("float32")


class Subset:
    """Some images of a source.

    Args:
        source: `Folder` or `Records`.
        numbers: Sequence of numbers, which images.
    """

    def __init__(self, source, numbers):
        self.class_names = source.class_names
        self.numbers = np.asarray(numbers).astype("int64")
        self._source = source

    def __len__(self):
        return len(self.numbers)

    def name(self, i):
        """Returns the name of an image, for people."""
        return self._source.name(self.numbers[i])

    def contents(self, i):
        """Returns the bytes of an image."""
        return self._source.contents(self.numbers[i])

    def label(self, i):
        """Returns the class of an image, an integer."""
        return self._source.label(self.numbers[i])

    def read(self, i):
        """Returns bytes and class of an image, for tf.data."""
        return self._source.read(tf.gather(self.numbers, i))


def _attempt(source, prepare, spec, i, *args):
    """Returns an image, its label and true; or zeros and false.

    TensorFlow's graphs have no `try`. A dataset of one element can leave out
    its errors.
    """

    def tried(i, *args):
        contents, label = source.read(i)
        prepared = prepare(contents, *args)
        return tf.ensure_shape(prepared, spec.shape), label, True

    return (
        tf.data.Dataset.from_tensors((i, *args))
        .map(tried)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(_failed(spec)))
        .take(1)
        .with_options(untuned())
        .get_single_element()
    )


def _failed(spec):
    if spec.dtype == tf.string:
        prepared = tf.constant("")
    else:
        prepared = tf.zeros([0 if n is None else n for n in spec.shape])
    return prepared, tf.zeros((), tf.int32), tf.constant(False)


def _resized(image, size, interpolation):
    image = tf.image.resize(image, size, interpolation, antialias=True)
    # Bicubic interpolation overshoots what a pixel can be.
    bicubic = interpolation == "bicubic"
    return tf.clip_by_value(image, 0.0, 255.0) if bicubic else image
