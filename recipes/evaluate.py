"""Accuracy of any weights, and predictions for single images.

python recipes/evaluate.py --weights imagenet --depth 50 --folder val
python recipes/evaluate.py --weights imagenet --depth 50 --folder val --crops 10
python recipes/evaluate.py --weights runs/NAME/final.keras --dataset cifar10
python recipes/evaluate.py --weights resnet56.th --depth 56 \\
    --preprocessing cifar --dataset cifar10
python recipes/evaluate.py cat.jpg dog.jpg --weights imagenet --depth 50

A folder has one folder of images for each class. Files that cannot be read
are named and counted apart; every other image is counted once.
"""

import functools
import json
import re
import sys
import time
from pathlib import Path

import cli

CROPS = ("1", "10", "multi-scale")
# Not imported from the package: `--help` loads no Keras.
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
DATASETS = ("cifar10", "digits", "mnist")
# Of large images, which are decoded one by one.
TFDS = ("imagenet2012", "imagenette")
PREPROCESSINGS = ("imagenet", "keras", "cifar", "none")


def scales(text):
    """Parse whole numbers with commas between them."""
    return tuple(cli.positive_int(part) for part in text.split(","))


scales.__name__ = "list of positive whole numbers"


def make_parser():
    """Return the parser of this recipe's flags."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add(
        "images",
        nargs="*",
        default=[],
        metavar="IMAGE",
        help="image files to name the classes of",
    )
    add(
        "--folder",
        metavar="DIR",
        help="evaluate on the images in this folder's folders of classes",
    )
    add(
        "--dataset",
        choices=(*DATASETS, *TFDS),
        help="evaluate on the test images of a dataset; of imagenet2012 and "
        "imagenette, on the validation images",
    )
    cli.add_data_dir(parser)
    add(
        "--weights",
        required=True,
        metavar="W",
        help="imagenet (torchvision's), keras (keras.applications'), a "
        "repository of the Hugging Face hub such as timm/resnet50.a1_in1k, "
        "or a file; without --depth, a .keras file with a whole model",
    )
    add(
        "--depth",
        type=cli.positive_int,
        metavar="N",
        help="the network that the weights are for: "
        f"{', '.join(map(str, IMAGENET_DEPTHS))} for ImageNet, other 6n+2 "
        "for CIFAR-10",
    )
    add(
        "--shortcut",
        choices=("A", "B", "C"),
        help="of that network (default: B for ImageNet, A for CIFAR-10)",
    )
    add(
        "--bottleneck-stride",
        choices=("1x1", "3x3"),
        help="of that network (default: 1x1 with --weights keras, else 3x3)",
    )
    add(
        "--classes",
        type=cli.positive_int,
        metavar="N",
        help="of that network (default: 1000 for ImageNet, 10 for CIFAR-10)",
    )
    add(
        "--preprocessing",
        choices=PREPROCESSINGS,
        help="how images are prepared (default: as the weights say; files of "
        "PyTorch do not); cifar: akamaster's networks; none: raw pixels",
    )
    add(
        "--crops",
        choices=CROPS,
        default="1",
        help="1: the centre; 10: corners, centre, and their flips, averaged; "
        "multi-scale: the whole image at several sizes, averaged (default: 1)",
    )
    add(
        "--scales",
        type=scales,
        metavar="N,N,...",
        help="shorter sides for multi-scale (default: 224,256,384,480,640)",
    )
    add(
        "--class-names",
        metavar="FILE",
        help="a line for each class, in order: its name, or WordNet id and "
        "name (default: ImageNet's, if there are 1000 classes)",
    )
    add(
        "--top",
        type=cli.positive_int,
        metavar="N",
        help="classes to name for each image file (default: 5)",
    )
    add(
        "--batch-size",
        type=cli.positive_int,
        default=32,
        metavar="N",
        help="crops that are computed at once (default: 32)",
    )
    add(
        "--output",
        metavar="FILE",
        help="new file for the result as one line of JSON",
    )
    return parser


def check(arguments):
    """Raise `cli.UsageError` for flags that do not fit together."""
    given = vars(arguments)
    sources = [k for k in ("images", "folder", "dataset") if given.get(k)]
    if len(sources) != 1:
        raise cli.UsageError(
            "give image files, --folder or --dataset, one of them"
        )
    (source,) = sources
    if "depth" not in given:
        if not arguments.weights.endswith(".keras"):
            raise cli.UsageError(
                f"--weights {arguments.weights} needs --depth: only a .keras "
                "file holds a whole model"
            )
        for name in ("shortcut", "bottleneck_stride", "classes"):
            if name in given:
                raise cli.UsageError(
                    f"--{name.replace('_', '-')} needs --depth: a .keras file "
                    "without it is taken as it is"
                )
    elif arguments.depth not in IMAGENET_DEPTHS and (
        arguments.depth < 8 or (arguments.depth - 2) % 6
    ):
        raise cli.UsageError(
            f"argument --depth: {arguments.depth} is none of "
            f"{', '.join(map(str, IMAGENET_DEPTHS))} and not 6n+2"
        )
    for name, needed, fits in (
        (
            "bottleneck_stride",
            "--depth 50, 101 or 152",
            given.get("depth") in (50, 101, 152),
        ),
        ("scales", "--crops multi-scale", arguments.crops == "multi-scale"),
        ("top", "image files", source == "images"),
        ("class_names", "image files or --folder", source != "dataset"),
        (
            "data_dir",
            "--dataset, not digits",
            given.get("dataset") not in (None, "digits"),
        ),
    ):
        if name in given and not fits:
            raise cli.UsageError(f"--{name.replace('_', '-')} needs {needed}")
    if "output" in given:
        path = Path(arguments.output)
        if path.exists():
            from keras_resnet import training

            raise training.RunError(
                f"{path} exists already, and is not overwritten: choose "
                "another --output"
            )
        if not path.parent.is_dir():
            raise cli.UsageError(f"--output: there is no folder {path.parent}")


def load_network(arguments):
    """Return the network with its weights, and its `Preprocessing`."""
    import keras

    import keras_resnet
    from keras_resnet.weights import files, published

    if not hasattr(arguments, "depth"):
        model = files.read_model(arguments.weights)
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
            raise keras_resnet.WeightsError(
                f"{arguments.weights} holds no network from images to classes."
            )
        return model, preprocessing_of(model, arguments)
    published.check(arguments.weights)
    options = {
        name: getattr(arguments, name)
        for name in ("shortcut", "bottleneck_stride", "classes")
        if hasattr(arguments, name)
    }
    build = keras_resnet.ResNetCIFAR
    if arguments.depth in IMAGENET_DEPTHS:
        build = keras_resnet.ResNetImageNet
        if arguments.weights == "keras":
            options.setdefault("bottleneck_stride", "1x1")
    first = keras.config.image_data_format() == "channels_first"
    shape = (3, None, None) if first else (None, None, 3)
    model = build(arguments.depth, input_shape=shape, **options)
    # Unlike in a network that is built for training, a head that does not fit
    # must not stay random.
    published.load(
        model, arguments.weights, may_change_head=False, adapt_input=False
    )
    return model, preprocessing_of(model, arguments)


def preprocessing_of(model, arguments):
    """Return what images go through before `model`."""
    import keras

    from keras_resnet import preprocessing, training

    channels = model.inputs[0].shape[_channel_axis()]
    kinds = keras.layers.Normalization, keras.layers.Rescaling
    own = any(isinstance(layer, kinds) for layer in model.layers)
    asked = getattr(arguments, "preprocessing", None)
    if own and asked not in (None, "none"):
        raise cli.UsageError(
            f"--preprocessing {asked}: {arguments.weights} prepares images by "
            "itself and takes raw pixels; leave the flag out"
        )
    if asked is None:
        found = getattr(model, "preprocessing", None)
        if found is not None:
            return found
        if not own:
            raise cli.UsageError(
                f"{arguments.weights} does not say how its images were "
                f"prepared: add --preprocessing {'|'.join(PREPROCESSINGS)}"
            )
    if asked not in (None, "none"):
        return preprocessing.PREPROCESSINGS[asked].for_channels(channels)
    shape = model.inputs[0].shape
    rows, columns = shape[2:] if _channel_axis() == 1 else shape[1:3]
    if rows is None and hasattr(arguments, "depth"):
        rows = columns = 224 if arguments.depth in IMAGENET_DEPTHS else 32
    if rows is None or rows != columns:
        raise training.EvaluationError(
            f"{arguments.weights} takes images of {rows} x {columns} pixels; "
            "only those of one square size can be evaluated."
        )
    return preprocessing.Preprocessing(
        (0.0,) * channels,
        (1.0,) * channels,
        scale=1.0,
        size=rows,
        resize=rows,
    )


def _channel_axis():
    import keras

    first = keras.config.image_data_format() == "channels_first"
    return 1 if first else -1


def scorer(model, how, arguments):
    """Return the function from images to probabilities that was asked for."""
    from keras_resnet import training

    options = {"batch_size": arguments.batch_size}
    if arguments.crops == "multi-scale":
        if hasattr(arguments, "scales"):
            options["scales"] = arguments.scales
        return training.multi_scale(model, how, **options)
    crops = training.one_crop if arguments.crops == "1" else training.ten_crop
    return crops(model, how, **options)


def read_class_names(path, count):
    """Read (identifier, name) of the classes, in order."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise cli.UsageError(f"--class-names {path}: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) != count:
        raise cli.UsageError(
            f"--class-names {path} names {len(lines)} classes, and the "
            f"network has {count}"
        )
    names = []
    for i, line in enumerate(lines):
        found = re.fullmatch(r"(n\d{8})\s*(.*)", line)
        names.append((found[1], found[2] or found[1]) if found else (i, line))
    return names


def class_names(arguments, count):
    """Return (identifier, name) of the classes, in order."""
    from keras_resnet import preprocessing, training

    if hasattr(arguments, "class_names"):
        return read_class_names(arguments.class_names, count)
    if count != 1000:
        return [(i, f"class {i}") for i in range(count)]
    try:
        return preprocessing.imagenet_classes()
    except ValueError as error:
        message = str(error).replace("`class_names`", "--class-names FILE")
        raise training.EvaluationError(message) from None


def class_indices(folders, arguments, count):
    """Return the index of the class of each folder, by name."""
    known = hasattr(arguments, "class_names")
    if not known and len(folders) == count:
        return {name: i for i, name in enumerate(sorted(folders))}
    if not known and count != 1000:
        raise cli.UsageError(
            f"{arguments.folder} has {len(folders)} folders, and the network "
            f"{count} classes: say which is which by --class-names"
        )
    indices = {}
    for i, (identifier, name) in enumerate(class_names(arguments, count)):
        # Without WordNet ids identifiers are mere numbers, which may be the
        # names of other classes.
        for key in {name, identifier} - {i}:
            indices.setdefault(key, []).append(i)
    unknown = sorted({*folders} - {*indices})
    if unknown:
        raise cli.UsageError(
            f"{len(unknown)} folders of {arguments.folder} are no classes of "
            f"the network: {', '.join(unknown[:5])}"
        )
    for name in sorted(folders):
        if len(indices[name]) > 1:
            raise cli.UsageError(
                f"the folder {name} of {arguments.folder} may be the classes "
                f"{' and '.join(map(str, indices[name]))}, both called so: "
                "name the folders by WordNet ids, or the classes apart"
            )
    return {name: indices[name][0] for name in folders}


class Progress:
    """A progress bar, and the list of files that could not be read."""

    def __init__(self, total):
        import keras

        self.unreadable = []
        self.bar = keras.utils.Progbar(
            total,
            stateful_metrics=["top1", "top5"],
            unit_name="image",
            verbose=1 if sys.stdout.isatty() else 0,
        )

    def unread(self, error):
        """Note a file that cannot be read."""
        self.unreadable.append(str(error))
        self.bar.add(1)

    def add(self, count, result=None):
        """Move the bar, and show the accuracy so far."""
        shown = [(k, v) for k, v in (result or {}).items() if k != "images"]
        self.bar.add(count, shown)

    def report(self, readable):
        """Name the files that were not read."""
        from keras_resnet import training

        for error in self.unreadable:
            print(f"not counted: {error}", file=sys.stderr)
        if not readable:
            raise training.EvaluationError(
                f"None of {len(self.unreadable)} files is a readable image."
            )


def check_classes(arguments, source, count):
    """Raise `EvaluationError` for a network of other classes."""
    from keras_resnet import training

    if len(source.class_names) != count:
        raise training.EvaluationError(
            f"{arguments.dataset} has {len(source.class_names)} classes, and "
            f"the network {count}."
        )


def dataset_batches(arguments, channels, count):
    """Return batches of a dataset's test images, and their number."""
    import numpy as np

    from keras_resnet import data, training

    source = data.load(arguments.dataset, getattr(arguments, "data_dir", None))
    check_classes(arguments, source, count)
    images, labels = source.test.images, source.test.labels
    if images.shape[-1] != channels:
        if images.shape[-1] != 1:
            raise training.EvaluationError(
                f"{arguments.dataset} has images of {images.shape[-1]} "
                f"channels, and the network takes {channels}."
            )
        images = np.repeat(images, channels, axis=-1)
    step = arguments.batch_size
    batches = (
        (images[i : i + step], labels[i : i + step])
        for i in range(0, len(labels), step)
    )
    return batches, len(labels)


def readable(batches, labels, progress):
    """Yield images with their labels, and at the end reports the others."""
    count = 0
    for images, places in batches:
        count += len(images)
        if images:
            yield images, [labels[i] for i in places]
    progress.report(count)


def evaluate(arguments, score, channels, count):
    """Return the counts for a dataset or a folder."""
    from keras_resnet import data, training

    if getattr(arguments, "dataset", None) in TFDS:
        source = data.from_tfds(
            arguments.dataset,
            "validation",
            getattr(arguments, "data_dir", None),
        )
        check_classes(arguments, source, count)
        progress = Progress(len(source))
        found = data.image_batches(
            range(len(source)),
            arguments.batch_size,
            on_error=progress.unread,
            read=functools.partial(data.read_image_of, source),
        )
        labels = [source.label(i) for i in range(len(source))]
        batches = readable(found, labels, progress)
    elif hasattr(arguments, "dataset"):
        batches, total = dataset_batches(arguments, channels, count)
        progress = Progress(total)
    else:
        folders = data.class_folders(arguments.folder)
        indices = class_indices(folders, arguments, count)
        loose = sum(p.is_file() for p in Path(arguments.folder).iterdir())
        if loose:
            print(
                f"{loose} files in {arguments.folder} itself, in no folder of "
                "a class, are left out"
            )
        files = [
            (path, indices[name])
            for name, paths in folders.items()
            for path in paths
        ]
        progress = Progress(len(files))
        found = data.image_batches(
            [path for path, _ in files],
            arguments.batch_size,
            channels=channels,
            on_error=progress.unread,
        )
        batches = readable(found, [label for _, label in files], progress)
    result = training.evaluate(score, batches, on_batch=progress.add)
    return {**result, "unreadable": progress.unreadable}


def predict(arguments, score, channels, count):
    """Print and return the best classes of single image files."""
    from keras_resnet import data

    names = class_names(arguments, count)
    progress = Progress(len(arguments.images))
    predictions = {}
    for images, places in data.image_batches(
        arguments.images,
        arguments.batch_size,
        channels=channels,
        on_error=progress.unread,
    ):
        if not images:
            continue
        scores = score(images)
        for i, row in zip(places, scores, strict=True):
            best = (-row).argsort(kind="stable")[: getattr(arguments, "top", 5)]
            predictions[arguments.images[i]] = [
                {
                    "class": int(k),
                    "id": names[k][0],
                    "name": names[k][1],
                    "probability": round(float(row[k]), 6),
                }
                for k in best
            ]
        progress.add(len(images))
    for path, best in predictions.items():
        print(path)
        for p in best:
            print(f"{100 * p['probability']:8.2f} %  {p['name']} ({p['id']})")
    progress.report(predictions)
    return {"predictions": predictions, "unreadable": progress.unreadable}


def main(arguments):
    """Evaluates, or predicts, and writes the result."""
    check(arguments)
    import keras

    from keras_resnet import devices
    from keras_resnet.training import runs

    devices.use()  # before anything is computed
    model, how = load_network(arguments)
    channels, count = len(how.mean), model.outputs[0].shape[-1]
    score = scorer(model, how, arguments)
    start = time.perf_counter()
    task = predict if arguments.images else evaluate
    result = task(arguments, score, channels, count)
    seconds = round(time.perf_counter() - start, 1)
    if not arguments.images:
        shares = ", ".join(
            f"top-{k[3:]} {100 * v:.2f} % (error {100 * (1 - v):.2f} %)"
            for k, v in result.items()
            if k in ("top1", "top5")
        )
        print(f"{shares}, {result['images']:,} images, {seconds:.0f} s")
    if result["unreadable"]:
        print(f"{len(result['unreadable'])} files could not be read")
    if hasattr(arguments, "output"):
        line = {
            "command": runs.command(),
            "commit": runs.commit(),
            "settings": vars(arguments),
            "preprocessing": how.get_config(),
            **runs.environment(),
            "parameters": sum(
                int(keras.ops.size(v)) for v in model.trainable_variables
            ),
            "seconds": seconds,
            **result,
        }
        runs.write_new(arguments.output, json.dumps(line) + "\n")


if __name__ == "__main__":
    cli.run(make_parser(), main)
