"""Compute what full ImageNet trainings of ResNet-50 cost. Nothing is run.

    python benchmarks/cost.py

Prints the table of docs/scale.md, which explains the columns. The constants
below are those of A100s and of one processor; change them for others.
"""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

from keras_resnet_recipes import imagenet
from keras_resnet_recipes.experiment.report import table

ROOT = Path(__file__).resolve().parent.parent
GPUS = 1, 8, 64
# Presets that train on ImageNet.
PRESETS = [
    name for name in ("paper", *imagenet.Settings.PRESETS) if name != "finetune"
]
IMAGES = 1_281_167
# Images of 224 x 224 per second that NVIDIA measured on an A100 with 80 GB in
# mixed precision: alone, and as one of 8 in a machine.
ALONE, TOGETHER = 2470, 16_621 / 8
# ResNet-50's trainable parameters, normalizations, and their channels.
PARAMETERS, NORMALIZATIONS, CHANNELS = 25_557_032, 53, 26_560
# Images per second and core from JPEG files, measured by compare.py.
DECODING = ROOT / "docs/results/benchmarks/decode-tensorflow-1threads.json"
# The comparison in that file that decodes as each `--sampling` does.
DECODED = {
    "inception": "From JPEG to 224x224, 8 to 100 % of the area",
    "paper": "From JPEG to 224x224, shorter side 256 to 480",
}


def decoding():
    """Return images per second that a core decodes, by `--sampling`."""
    comparisons = json.loads(DECODING.read_text("utf-8"))["comparisons"]
    values = {c["name"]: c["values"]["ours"] for c in comparisons}
    return {s: statistics.median(values[name]) for s, name in DECODED.items()}


def cost(settings, gpus, decoded):
    """Return the costs of a training.

    All rates are per second. `decoded` is that of images decoded by a core.
    """
    batch = settings.batch_size
    steps, epochs = settings.steps, settings.epochs
    images = steps * batch if steps else epochs * IMAGES
    if settings.preset == "goyal":
        # Only this procedure says how the batch grows: by 32 for each GPU.
        batch = min(8192, max(256, 32 * gpus))
    # The work is in proportion to pixels.
    sizes = imagenet.sizes(settings, epochs or 1)
    work = statistics.fmean((size / 224) ** 2 for size in sizes)
    rate = (ALONE if gpus == 1 else TOGETHER) * gpus / work
    steps_per_second = rate / batch
    # Gradients, and mean and variance of each channel in both passes. In a ring
    # of n GPUs each sends 2 (n - 1) / n times as much.
    sent = 4 * (PARAMETERS + 4 * CHANNELS) * 2 * (gpus - 1) / gpus
    return SimpleNamespace(
        batch=batch,
        hours=images / rate / 3600,
        images_per_second=rate,
        decode_cores=rate / decoded,
        gigabits_per_gpu=8 * sent * steps_per_second / 1e9,
        messages=2 * NORMALIZATIONS * steps_per_second if gpus > 1 else 0,
    )


def costs():
    """Return the table of every preset on every number of GPUs."""
    head = ["preset", "GPUs", "batch", "per GPU", "GPU hours", "h:min"]
    head += ["images/s", "decode cores", "Gbit/s per GPU", "messages/s"]
    decoded, rows = decoding(), []
    for preset in PRESETS:
        settings = imagenet.Settings.settle({"preset": preset})
        for gpus in GPUS:
            c = cost(settings, gpus, decoded[settings.sampling])
            hours, minutes = divmod(round(60 * c.hours), 60)
            row = [f"`{preset}`", gpus, f"{c.batch:,}", f"{c.batch / gpus:g}"]
            row += [f"{c.hours * gpus:.0f}", f"{hours}:{minutes:02}"]
            row += [f"{c.images_per_second:,.0f}", f"{c.decode_cores:,.0f}"]
            alone = gpus == 1
            row.append("" if alone else f"{c.gigabits_per_gpu:,.1f}")
            row.append("" if alone else f"{c.messages:,.0f}")
            rows.append(row)
    return table(head, rows)


if __name__ == "__main__":
    print(costs())
