"""Accuracy of any weights, and predictions for single images.

python recipes/evaluate.py --weights imagenet --depth 50 --folder val
python recipes/evaluate.py --weights imagenet --depth 50 --folder val --crops 10
python recipes/evaluate.py --weights runs/NAME/final.keras --dataset cifar10
python recipes/evaluate.py --weights resnet56.th --depth 56 \\
    --preprocessing cifar --dataset cifar10
python recipes/evaluate.py cat.jpg dog.jpg --weights imagenet --depth 50
python recipes/evaluate.py cat.jpg --weights imagenet --depth 50 --explain WHY

A folder has one folder of images for each class. Unreadable files are listed
and left out; every other image counts once. For each image file the folder WHY
gets a picture of the parts that speak for its most probable class.
"""

import dataclasses
import functools
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

from keras_resnet_recipes.experiment import (
    IMAGE_DATASETS,
    REQUIRED,
    CommandSettings,
    Failure,
    UsageError,
    block_setting,
    data_dir_option,
    execute,
    option,
    positive_int,
    setting,
)
from keras_resnet_recipes.experiment.report import percent, show
from keras_resnet_recipes.experiment.values import depth_among

# Not imported from the package, because `--help` must not load Keras.
IMAGENET_DEPTHS = (18, 34, 50, 101, 152)
# Datasets of large images, whose images are decoded one by one.
TFDS = ("imagenet2012", "imagenette")
PREPROCESSINGS = ("imagenet", "keras", "cifar", "none")


def parse_scales(text):
    """Parse whole numbers with commas between them."""
    return tuple(positive_int(part) for part in text.split(","))


# Condition for settings of the network that the weights belong to.
NEEDS_DEPTH = (
    "--depth: without it a whole model is used unchanged",
    lambda s: s.depth,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkSettings(CommandSettings):
    """Settings of a command that takes a trained network."""

    weights: str = setting(
        REQUIRED,
        "imagenet (torchvision's), keras (keras.applications'), a repository "
        "of the Hugging Face hub such as timm/resnet50.a1_in1k, or a file; "
        "without --depth, a whole model: a .keras file, or a folder of "
        "save_pretrained",
        type=os.path.expanduser,
        metavar="W",
    )
    depth: int | None = setting(
        None,
        "the network that the weights are for: "
        f"{', '.join(map(str, IMAGENET_DEPTHS))} for ImageNet, other 6n+2 for "
        "CIFAR-10",
        type=depth_among(*IMAGENET_DEPTHS),
    )
    shortcut: str | None = setting(
        None,
        "shortcut of that network (default: B for ImageNet, A for CIFAR-10)",
        choices=("A", "B", "C"),
        needs=NEEDS_DEPTH,
    )
    bottleneck_stride: str | None = setting(
        None,
        "convolution with the stride (default: 1x1 with --weights keras, else "
        "3x3)",
        choices=("1x1", "3x3"),
        needs=("--depth 50, 101 or 152", lambda s: s.depth in (50, 101, 152)),
    )
    classes: int | None = setting(
        None,
        "classes of that network (default: 1000 for ImageNet, 10 for CIFAR-10)",
        needs=NEEDS_DEPTH,
    )
    block: str | None = block_setting()
    preprocessing: str | None = setting(
        None,
        "how images are prepared (default: stored with the weights; PyTorch "
        "files store none); cifar: akamaster's networks; none: raw pixels",
        choices=PREPROCESSINGS,
    )

    def resolve(self, given):
        if self.depth is None and not holds_model(self.weights):
            raise UsageError(
                f"--weights {self.weights} needs --depth: only a .keras file, "
                "or a folder of save_pretrained in its own format, holds a "
                "whole model"
            )
        if self.output is not None:
            check_new(self.output)
        return super().resolve(given)


def holds_model(weights):
    """Return whether a file or folder holds a whole model."""
    if not os.path.isdir(weights):
        return weights.endswith(".keras")
    try:
        config = json.loads(Path(weights, "config.json").read_text("utf-8"))
        return config["library"] == "keras_resnet"
    except (OSError, ValueError, LookupError, TypeError):
        return False


def check_new(path):
    """Raise if no new file can be written at the path of `--output`."""
    # A link without a target is in the way, too.
    if os.path.lexists(path):
        raise Failure(
            f"{path} exists already, and is not overwritten: choose another "
            "--output"
        )
    if not path.parent.is_dir():
        raise UsageError(f"--output: there is no folder {path.parent}")
    # Checked now, because the work may take hours.
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise Failure(
            f"--output: no file can be written to {path.parent}: "
            f"{error.strerror}"
        ) from None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(NetworkSettings):
    """Settings of an evaluation."""

    images: tuple[Path, ...] = setting(
        (),
        "image files to name the classes of",
        metavar="IMAGE",
        positional=True,
    )
    folder: Path | None = setting(
        None, "evaluate on the images in this folder's folders of classes"
    )
    dataset: str | None = setting(
        None,
        "evaluate on the test images of a dataset; of imagenet2012 and "
        "imagenette, on the validation images",
        choices=(*IMAGE_DATASETS, *TFDS),
    )
    data_dir: Path | None = data_dir_option(
        "--dataset, not digits", lambda s: s.dataset not in (None, "digits")
    )
    crops: str = setting(
        "1",
        "1: the centre; 10: corners, centre, and their flips, averaged; "
        "multi-scale: the whole image at several sizes, averaged",
        choices=("1", "10", "multi-scale"),
    )
    scales: tuple = setting(
        (),
        "shorter sides for multi-scale (default: 224,256,384,480,640)",
        type=parse_scales,
        metavar="N,N,...",
        needs=("--crops multi-scale", lambda s: s.crops == "multi-scale"),
    )
    class_names: Path | None = setting(
        None,
        "the folder of class folders that the network was trained on; or a "
        "file with a line for each class, in order: its name, or WordNet id "
        "and name (default: ImageNet's, if there are 1000 classes)",
        metavar="DIR|FILE",
        needs=("image files or --folder", lambda s: s.dataset is None),
    )
    top: int = setting(
        5,
        "classes to name for each image file",
        needs=("image files", lambda s: s.images),
    )
    explain: Path | None = option(
        None,
        "folder for a picture of each image file: Grad-CAM and integrated "
        "gradients of its best class",
        metavar="FOLDER",
        needs=(
            "image files and --crops 1",
            lambda s: s.images and s.crops == "1",
        ),
    )
    batch_size: int = setting(32, "crops that are computed at once")
    output: Path | None = option(
        None, "new file for the result as one line of JSON", metavar="FILE"
    )

    def resolve(self, given):
        if sum(map(bool, (self.images, self.folder, self.dataset))) != 1:
            raise UsageError(
                "give image files, --folder or --dataset, one of them"
            )
        for picture in self.pictures().values():
            if picture.exists():
                raise Failure(
                    f"{picture} exists already, and is not overwritten: choose "
                    "another --explain"
                )
        return super().resolve(given)

    def pictures(self):
        """Return the path of the picture of each image file, by index."""
        if self.explain is None:
            return {}
        return {
            i: self.explain / f"{i + 1}-{path.stem}.png"
            for i, path in enumerate(self.images)
        }


def load_network(settings):
    """Return the network with its weights, and its `Preprocessing`."""
    import keras

    import keras_resnet
    from keras_resnet.weights import files, published
    from keras_resnet_recipes.experiment import block

    if settings.depth is None:
        folder = os.path.isdir(settings.weights)
        read = keras_resnet.load_pretrained if folder else files.read_model
        model = read(settings.weights)
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
            raise keras_resnet.WeightsError(
                f"{settings.weights} holds no network from images to classes."
            )
        return model, preprocessing_of(model, settings)
    published.check(settings.weights)
    options = {
        name: getattr(settings, name)
        for name in ("shortcut", "bottleneck_stride", "classes")
        if getattr(settings, name) is not None
    }
    build = keras_resnet.ResNetCIFAR
    if settings.depth in IMAGENET_DEPTHS:
        build = keras_resnet.ResNetImageNet
        if settings.weights == "keras":
            options.setdefault("bottleneck_stride", "1x1")
    options["block"] = block.load(settings.block)
    # Images are decoded channels last, whatever Keras's setting is.
    keras.config.set_image_data_format("channels_last")
    model = build(settings.depth, input_shape=(None, None, 3), **options)
    # A head that does not fit is an error here, because nothing trains it.
    published.load(
        model, settings.weights, may_change_head=False, adapt_input=False
    )
    return model, preprocessing_of(model, settings)


def preprocessing_of(model, settings):
    """Return the `Preprocessing` that images need before `model`."""
    from keras_resnet import preprocessing, training
    from keras_resnet.weights import published

    asked = settings.preprocessing
    prepares = published.preparing_layers(model)
    if prepares and asked not in (None, "none"):
        raise UsageError(
            f"--preprocessing {asked}: {settings.weights} prepares images by "
            "itself and takes raw pixels; leave the flag out"
        )
    stored = getattr(model, "preprocessing", None)
    if asked is None and stored is not None:
        return stored
    if asked is None and not prepares:
        raise UsageError(
            f"{settings.weights} does not say how its images were prepared: "
            f"add --preprocessing {'|'.join(PREPROCESSINGS)}"
        )
    *sides, channels = model.inputs[0].shape[1:]
    if training.evaluation.channels_first(model):
        channels, *sides = model.inputs[0].shape[1:]
    if asked not in (None, "none"):
        return preprocessing.PREPROCESSINGS[asked].for_channels(channels)
    if sides[0] is None and settings.depth:
        sides = [224 if settings.depth in IMAGENET_DEPTHS else 32] * 2
    if None in sides:
        raise Failure(
            f"{settings.weights} takes images of any size, and does not say "
            "which: save it with a fixed one, such as keras.Input((224, 224, "
            "3))."
        )
    if sides[0] != sides[1]:
        raise Failure(
            f"{settings.weights} takes images of {sides[0]} x {sides[1]} "
            "pixels; only those of one square size can be evaluated."
        )
    return preprocessing.Preprocessing(
        (0.0,) * channels,
        (1.0,) * channels,
        scale=1.0,
        size=sides[0],
        resize=sides[0],
    )


def scorer(model, how, settings):
    """Return the function from images to probabilities by `--crops`."""
    from keras_resnet import training
    from keras_resnet_recipes.experiment import images

    images.check_batch(settings.batch_size, (how.size, how.size, 3))
    images.check_scales(settings.scales or ())
    options = {"batch_size": settings.batch_size}
    if settings.crops == "multi-scale":
        if settings.scales:
            options["scales"] = settings.scales
        return training.multi_scale(model, how, **options)
    crops = training.one_crop if settings.crops == "1" else training.ten_crop
    return crops(model, how, **options)


def read_class_names(path, count):
    """Read a folder or file of classes: pairs of identifier and name."""
    try:
        if path.is_dir():
            from keras_resnet import data

            # Their order is not that of `ls`.
            lines = [*data.class_folders(path)]
        else:
            # Windows may begin a file with a mark.
            lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--class-names {path}: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if len(lines) != count:
        raise UsageError(
            f"--class-names {path} names {len(lines)} classes, and the "
            f"network has {count}"
        )
    names = []
    for i, line in enumerate(lines):
        match = re.fullmatch(r"(n\d{8})\s*(.*)", line)
        names.append((match[1], match[2] or match[1]) if match else (i, line))
    return names


def class_names(settings, count):
    """Return pairs of identifier and name of the classes, in order."""
    from keras_resnet import preprocessing, training

    if settings.class_names:
        return read_class_names(settings.class_names, count)
    if count != 1000:
        return [(i, f"class {i}") for i in range(count)]
    try:
        return preprocessing.imagenet_classes()
    except ValueError as error:
        message = str(error).replace("`class_names`", "--class-names")
        raise training.EvaluationError(message) from None


def class_indices(folders, settings, count):
    """Return the index of the class of each folder, by name."""
    known = settings.class_names is not None
    if not known and len(folders) == count:
        return {name: i for i, name in enumerate(folders)}
    if not known and count != 1000:
        raise UsageError(
            f"{settings.folder} has {len(folders)} folders, and the network "
            f"{count} classes: give the classes' names by --class-names"
        )
    indices = {}
    for i, (identifier, name) in enumerate(class_names(settings, count)):
        # Without a WordNet id the identifier is the number of the class, which
        # may be the name of another class.
        for key in {name, identifier} - {i}:
            indices.setdefault(key, []).append(i)
    unknown = sorted({*folders} - {*indices})
    if unknown:
        raise UsageError(
            f"{len(unknown)} folders of {settings.folder} are not classes "
            f"of the network: {', '.join(unknown[:5])}"
        )
    for name in sorted(folders):
        if len(indices[name]) > 1:
            raise UsageError(
                f"the folder {name} of {settings.folder} matches the classes "
                f"{' and '.join(map(str, indices[name]))}, which have the same "
                "name: use WordNet ids as folder names, or give the classes "
                "different names"
            )
    return {name: indices[name][0] for name in folders}


class Reader:
    """Reads images in batches, and shows the progress.

    Args:
        settings: `Settings`.
        how: `Preprocessing` of the images.

    Attributes:
        unreadable: List of the error messages about unreadable files.
    """

    def __init__(self, settings, how):
        self.batch_size, self.how = settings.batch_size, how
        self.unreadable, self.shares = [], {}

    def show(self, count, result):
        """Set the accuracy that the bar shows from the next batch on."""
        self.shares = {k: v for k, v in result.items() if k != "images"}

    def batches(self, names, read=None):
        """Yield batches of readable images, and their indices in `names`."""
        from keras_resnet import data, training
        from keras_resnet_recipes.experiment.terminal import Progress

        count = 0
        with Progress(desc="evaluating", total=len(names), unit="image") as bar:
            for images, places in data.image_batches(
                names,
                self.batch_size,
                channels=len(self.how.mean),
                on_error=lambda error: self.unreadable.append(str(error)),
                read=read,
            ):
                if images:
                    yield images, places
                count += len(images)
                shares = {k: percent(v) for k, v in self.shares.items()}
                bar.set_postfix(shares, refresh=False)
                bar.update(count + len(self.unreadable) - bar.n)
        for error in self.unreadable:
            print(f"not counted: {error}", file=sys.stderr)
        if not count:
            raise training.EvaluationError(
                f"None of {len(self.unreadable)} files is a readable image."
            )


def with_channels(images, channels, name):
    """Return a dataset's images with the channels that a network takes."""
    if images.shape[-1] == 1:
        return images.repeat(channels, axis=-1)
    if images.shape[-1] != channels:
        raise Failure(
            f"{name} has images of {images.shape[-1]} channels, and the "
            f"network takes {channels}."
        )
    return images


def labelled_images(settings, how, count):
    """Return names of images, a function that reads one, and their labels.

    For files the function is `None`. Labels are a function of the index.
    """
    from keras_resnet import data

    if settings.folder:
        return labelled_files(settings, count)
    if settings.dataset in TFDS:
        source = data.from_tfds(
            settings.dataset, "validation", settings.data_dir
        )
        total, label, side = len(source), source.label, None
        read = functools.partial(
            data.read_image_of, source, channels=len(how.mean)
        )
    else:
        source = data.load(settings.dataset, settings.data_dir)
        images, labels = source.test.images, source.test.labels
        images = with_channels(images, len(how.mean), settings.dataset)
        total, label = len(labels), labels.__getitem__
        side, read = images.shape[1], images.__getitem__
    if len(source.class_names) != count:
        raise Failure(
            f"{settings.dataset} has {len(source.class_names)} classes, and "
            f"the network {count}."
        )
    # If images are resized and cropped, a network takes images of any size.
    if side is not None and how.resize == how.size != side:
        raise Failure(
            f"{settings.dataset} has images of {side} x {side} pixels, and the "
            f"network takes {how.size} x {how.size}: it was trained on other "
            "images, or on the same images with other preprocessing."
        )
    return range(total), read, label


def labelled_files(settings, count):
    """Return the `labelled_images` of a folder."""
    from keras_resnet import data

    folders = data.class_folders(settings.folder)
    indices = class_indices(folders, settings, count)
    loose = sum(p.is_file() for p in settings.folder.glob("[!.]*"))
    if loose:
        print(
            f"{loose} files in {settings.folder} itself, in no folder of a "
            "class, are left out"
        )
    labels = {
        path: indices[name] for name, paths in folders.items() for path in paths
    }
    return list(labels), None, list(labels.values()).__getitem__


def evaluate(settings, model, score, reader):
    """Return accuracies and image count of a dataset or a folder."""
    from keras_resnet import training

    count = model.outputs[0].shape[-1]
    names, read, label = labelled_images(settings, reader.how, count)
    batches = (
        (images, [label(i) for i in places])
        for images, places in reader.batches(names, read)
    )
    return training.evaluate(score, batches, on_batch=reader.show)


def predict(settings, model, score, reader):
    """Print and return the best classes of single image files."""
    names = class_names(settings, model.outputs[0].shape[-1])
    pictures = settings.pictures()
    predictions = {}
    for images, places in reader.batches(settings.images):
        for i, row in zip(places, score(images), strict=True):
            best = (-row).argsort(kind="stable")[: settings.top]
            predictions[str(settings.images[i])] = [
                {
                    "class": int(k),
                    "id": names[k][0],
                    "name": names[k][1],
                    "probability": round(float(row[k]), 6),
                }
                for k in best
            ]
        if pictures:
            firsts = [predictions[str(settings.images[i])][0] for i in places]
            paths = [pictures[i] for i in places]
            explain(paths, model, reader.how, images, firsts)
    for path, best in predictions.items():
        print(path)
        for p in best:
            print(f"{100 * p['probability']:8.2f} %  {p['name']} ({p['id']})")
    for picture in pictures.values():
        if picture.exists():
            print(picture)
    return {"predictions": predictions}


def explain(paths, model, how, images, best):
    """Draw the parts of each image that support its most probable class."""
    import numpy as np

    from keras_resnet import analysis, plots
    from keras_resnet.training import evaluation

    # Together, because each call compiles the network.
    centres = np.stack([evaluation.centre(image, how) for image in images])
    x = evaluation.prepared(centres, model, how)
    options = {"classes": [b["class"] for b in best], "batch_size": len(x)}
    places = analysis.grad_cam(model, x, **options)
    values = analysis.integrated_gradients(model, x, **options)
    if evaluation.channels_first(model):
        values = np.moveaxis(values, 1, -1)
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name of a folder may hold bytes that are no UTF-8.
        name = best[i]["name"].encode("utf-8", "replace").decode("utf-8")
        title = f"{name}, {percent(best[i]['probability'])}"
        figure = plots.explanation(centres[i], places[i], values[i], title)
        plots.save(figure, path)


def main(settings):
    """Evaluate, or predict, and write the result."""
    from keras_resnet import devices
    from keras_resnet_recipes.experiment.provenance import origin
    from keras_resnet_recipes.experiment.run import parameters, write_new

    devices.use()  # before anything is computed
    model, how = load_network(settings)
    score, reader = scorer(model, how, settings), Reader(settings, how)
    start = time.perf_counter()
    task = predict if settings.images else evaluate
    result = task(settings, model, score, reader)
    seconds = round(time.perf_counter() - start, 1)
    if not settings.images:
        shares = ", ".join(
            f"top-{k[3:]} {percent(v)} (error {percent(1 - v)})"
            for k, v in reader.shares.items()
        )
        show(f"{shares}, {result['images']:,} images, {seconds:.0f} s")
    if reader.unreadable:
        print(f"{len(reader.unreadable)} files could not be read")
    if settings.output is not None:
        line = {
            **origin(),
            "settings": settings.stored(),
            "preprocessing": how.get_config(),
            "parameters": parameters(model),
            "seconds": seconds,
            **result,
            "unreadable": reader.unreadable,
        }
        write_new(settings.output, json.dumps(line) + "\n")


if __name__ == "__main__":
    execute(Settings, main)
