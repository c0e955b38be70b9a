"""What full ImageNet trainings of ResNet-50 cost, computed, not run.

python benchmarks/cost.py > docs/results/benchmarks/cost.md
python benchmarks/cost.py --rate 938 --gpus 1 8

From the images that a preset of recipes/imagenet.py trains on, the images per
second that a GPU trains (by default NVIDIA's measurement), the images per
second that a core decodes (by `compare.py --work decode`), and the size of
what GPUs tell each other. Prints a page.
"""

import dataclasses
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "recipes")]

import cli  # noqa: E402
import imagenet  # noqa: E402

IMAGES = 1_281_167
# ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, bytes.
TARS = 147_897_477_120 + 6_744_924_160
# An A100 with 80 GB, mixed precision: alone, and as one of 8 in a machine.
ALONE, TOGETHER = 2470, 16_621 / 8
SOURCE = (
    "[NVIDIA's measurement](https://github.com/NVIDIA/DeepLearningExamples/"
    "blob/master/PyTorch/Classification/ConvNets/resnet50v1.5/README.md) of "
    "A100s with 80 GB in mixed precision"
)
GPUS = 1, 8, 64
# Goyal et al. take so many images per GPU.
PER_GPU = 32
MOST = 8192
# Cases of the benchmark that decoding in `--sampling` is.
CASES = {
    "inception": "From JPEG to 224x224, 8 to 100 % of the area",
    "paper": "From JPEG to 224x224, shorter side 256 to 480",
}


def make_parser():
    """Returns the parser of this command's flags."""
    parser = cli.Parser(description=__doc__)
    add = parser.add_argument
    add(
        "--rate",
        type=cli.positive_float,
        metavar="R",
        help="images of 224 x 224 per second that each GPU trains (default: "
        f"NVIDIA's for A100s: {ALONE} alone, {TOGETHER:.0f} as one of several)",
    )
    add(
        "--gpus",
        type=cli.positive_int,
        nargs="+",
        default=GPUS,
        metavar="N",
        help=f"numbers of GPUs (default: {' '.join(map(str, GPUS))})",
    )
    add(
        "--decode",
        metavar="FILE",
        default=str(
            ROOT / "docs/results/benchmarks/decode-tensorflow-1threads.json"
        ),
        help="what compare.py --work decode left (default: the one in docs)",
    )
    return parser


@dataclasses.dataclass(frozen=True)
class Network:
    """What GPUs tell each other: gradients, and sums for normalization."""

    parameters: int
    normalizations: int
    channels: int


def network():
    """Returns the `Network` of ResNet-50."""
    import keras

    import keras_resnet

    model = keras_resnet.ResNet50(weights=None)
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return Network(
        sum(int(keras.ops.size(v)) for v in model.trainable_variables),
        len(layers),
        sum(layer.gamma.shape[0] for layer in layers),
    )


def decoded(path):
    """Returns images per second that a core decodes, by way of sampling."""
    try:
        line = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise cli.Failure(
            f"{path}: {error.strerror}: measure it by python "
            "benchmarks/compare.py --work decode --threads 1 --images DIR"
        ) from error
    ours = {
        case["name"]: statistics.median(case["values"]["ours"])
        for case in line["cases"]
    }
    if not ours.keys() >= set(CASES.values()):
        raise cli.Failure(
            f"{path} is a measurement of the work {line['work']}: --decode "
            "needs that of the work decode"
        )
    return {sampling: ours[name] for sampling, name in CASES.items()}, line


def hours_and_minutes(hours):
    """Returns hours as text, "1:05"."""
    return "{}:{:02}".format(*divmod(round(60 * hours), 60))


def batch(settings, gpus):
    """Returns the images of a batch on some GPUs."""
    if settings.preset == "goyal":
        # The one procedure that says how batches grow.
        return min(MOST, max(256, PER_GPU * gpus))
    return settings.batch_size


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a training costs on some GPUs.

    Attributes:
        gpus: Integer.
        batch: Integer, images per step.
        images: Integer, images of the whole training.
        gpu_hours: Float.
        hours: Float.
        images_per_second: Float, on all GPUs.
        cores: Float, processor cores that decode as fast.
        gigabits: Float, per second, that each GPU sends and receives.
        messages: Float, per second, for normalization.
    """

    gpus: int
    batch: int
    images: int
    gpu_hours: float
    hours: float
    images_per_second: float
    cores: float
    gigabits: float
    messages: float


def cost(settings, gpus, rate, decoding, net):
    """Returns the `Cost` of a training.

    Args:
        settings: `imagenet.Settings`.
        gpus: Integer.
        rate: Float, images of 224 x 224 per second and GPU.
        decoding: Float, images per second and core.
        net: `Network`.
    """
    images = (
        settings.steps * settings.batch_size
        if settings.steps
        else settings.epochs * IMAGES
    )
    sizes = imagenet.sizes(settings, settings.epochs or 1)
    # Work is in proportion to pixels.
    work = sum((size / 224) ** 2 for size in sizes) / len(sizes)
    seconds = images * work / rate / gpus
    size = batch(settings, gpus)
    steps_per_second = images / size / seconds
    # A ring sends each number twice, but for one part of it.
    share = 2 * (gpus - 1) / gpus
    sent = 4 * (net.parameters + 4 * net.channels) * share
    return Cost(
        gpus=gpus,
        batch=size,
        images=images,
        gpu_hours=seconds * gpus / 3600,
        hours=seconds / 3600,
        images_per_second=images / seconds,
        cores=images / seconds / decoding,
        gigabits=8 * sent * steps_per_second / 1e9,
        messages=2 * net.normalizations * steps_per_second * (gpus > 1),
    )


def table(costs):
    """Returns costs by preset as a Markdown table."""
    head = ["preset", "GPUs", "batch", "per GPU", "GPU hours", "h:min"]
    head += ["images/s", "decode cores", "Gbit/s per GPU", "messages/s"]
    rows = [head, ["---"] * len(head)]
    for preset, found in costs.items():
        for c in found:
            rows.append(
                [
                    f"`{preset}`",
                    f"{c.gpus}",
                    f"{c.batch:,}",
                    f"{c.batch / c.gpus:g}",
                    f"{c.gpu_hours:.0f}",
                    hours_and_minutes(c.hours),
                    f"{c.images_per_second:,.0f}",
                    f"{c.cores:,.0f}",
                    f"{c.gigabits:,.1f}" if c.gpus > 1 else "",
                    f"{c.messages:,.0f}" if c.gpus > 1 else "",
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


PAGE = """\
# What a full training costs

Computed by `{command}`, not run: ResNet-50 on ImageNet by the presets of
`recipes/imagenet.py`.

{table}

- **GPU hours** and **h:min**: {images:,} training images, each preset's epochs
  and sizes, in proportion to pixels, at {rate}
  images of 224 x 224 per second and GPU ({source}).
  Nothing here was run on GPUs. It takes longer with few images per GPU, or with
  a network or decoding slower than the table asks for.
- **Decode cores**: for so many images per second, at {inception:,.0f} images
  per second and core for random areas and {paper:,.0f} for the paper's crops,
  measured here (`{decode_command}`; {device}, {versions}).
  RandAugment is not in it. `--cache` makes decoding cheaper.
- **Disk**: {disk:.0f} GB for the images as they are, in the two tar files or
  as TensorFlow Datasets' `imagenet2012`, and twice that while it is prepared.
  A run leaves less than 1 GB.
- **Gbit/s per GPU**: what each GPU sends, and receives, for gradients of
  {parameters:,} parameters in float32 and for synchronized normalization, by a
  ring. It may overlap with computation.
- **messages/s**: exchanges of synchronized normalization, two for each of
  {normalizations} normalizations and step; none with `--normalization
  per-device`.
"""


def rate_of(given, gpus):
    """Returns the images per second that each of some GPUs trains."""
    return given or (ALONE if gpus == 1 else TOGETHER)


def page(rate, costs, net, rates, line, command):
    """Returns the page of all costs."""
    versions = ", ".join(f"{k} {v}" for k, v in line["versions"].items())
    return PAGE.format(
        command=command,
        table=table(costs),
        images=IMAGES,
        rate=(
            f"{rate:,.0f}"
            if rate
            else f"{ALONE:,} (one GPU) or {TOGETHER:,.0f} (several)"
        ),
        source="given" if rate else SOURCE,
        inception=rates["inception"],
        paper=rates["paper"],
        decode_command=line["command"],
        device=line["device"],
        versions=versions,
        disk=TARS / 1e9,
        parameters=net.parameters,
        normalizations=net.normalizations,
    )


def main(arguments):
    """Prints the page."""
    from keras_resnet.training import runs

    rates, line = decoded(arguments.decode)
    rate = getattr(arguments, "rate", None)
    net = network()
    costs = {}
    for preset in imagenet.PRESETS:
        settings = imagenet.settled({"preset": preset})
        costs[preset] = [
            cost(settings, n, rate_of(rate, n), rates[settings.sampling], net)
            for n in arguments.gpus
        ]
    print(page(rate, costs, net, rates, line, runs.command()), end="")


if __name__ == "__main__":
    cli.run(make_parser(), main)
