"""The figures and tables of why residual networks learn.

python recipes/figures.py degradation                  # minutes on two cores
python recipes/figures.py degradation --preset fast --seeds 3
python recipes/figures.py lesions --preset paper       # the paper's size
python recipes/figures.py lesions --weights resnet56.th --depths 56 \\
    --preprocessing cifar

degradation  plain and residual nets of growing depth (figures 1 and 6)
shortcuts    options A, B and C (table 3)
depths       error of residual nets by depth (table 6)
responses    deviations of layer responses (figure 7)
gradients    gradient norms by layer, at initialization and in training
growth       a trained net made deeper by identities, and trained on
lesions      blocks deleted and swapped, and paths (Veit et al. 2016)
landscape    loss around trained weights (Li et al. 2018)
explanations where a net looks: Grad-CAM (Selvaraju et al. 2017) and others

Each figure measures a claim of its paper, and says whether it holds. Its nets
are runs of recipes/cifar10.py in the folder --runs, where that recipe trains
the missing ones, or trained nets in the files of --weights. README.md in the
folder of pictures shows all figures there, with the commands, versions and
machines that made them.
"""

import dataclasses
import functools
import itertools
from pathlib import Path
from statistics import mean

from keras_resnet_recipes import cifar10, evaluate
from keras_resnet_recipes.experiment import (
    IMAGE_DATASETS,
    REQUIRED,
    ImageSettings,
    UsageError,
    block_setting,
    cifar_depth,
    dataset_setting,
    execute,
    option,
    report,
    setting,
)
from keras_resnet_recipes.nets import Nets

# Depths by figure: for the presets short and fast, and for the preset paper.
DEPTHS = {
    "degradation": ((20, 56), (20, 32, 44, 56)),
    "shortcuts": ((20,), (56,)),
    "depths": ((20, 32, 44), (20, 32, 44, 56, 110)),
    "responses": ((20, 56), (20, 56, 110)),
    "gradients": ((20, 56), (20, 56, 110)),
    "growth": ((20,), (20,)),
    "lesions": ((20,), (110,)),
    "landscape": ((56,), (56,)),
    "explanations": ((56,), (56,)),
}
SHORT_STEPS = 200
# In 125 steps ResNet-56 (seed 0) did not begin to learn at a rate of 0.2, but
# did at this rate.
SHORT_RATE = 0.05
# Evaluations of the error in a short run.
EVALUATIONS = 8
FIGURES = {}


def _for(*figures):
    """Return the `needs` of a setting for these figures only."""
    return f"the figure {' or '.join(figures)}", lambda s: s.figure in figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ImageSettings):
    """Settings of a figure."""

    PRESETS = {
        "short": {"steps": SHORT_STEPS},
        "paper": {"seeds": 3, "images": None, "points": 51},
    }

    figure: str = option(
        REQUIRED, "what to draw", choices=tuple(DEPTHS), positional=True
    )
    preset: str = setting(
        "short",
        f"short: {SHORT_STEPS} steps of cifar10.py --preset fast with rate "
        f"{SHORT_RATE}; fast: that preset, hours on a CPU; paper: the paper's "
        "procedure and depths, for an accelerator",
        choices=("short", "fast", "paper"),
    )
    dataset: str = dataset_setting(*IMAGE_DATASETS)
    block: str | None = block_setting()
    depths: tuple[int, ...] = setting(
        (), "weighted layers, 6n+2 (default: by figure)", type=cifar_depth
    )
    weights: tuple[Path, ...] = setting(
        (),
        "trained nets to look at instead of runs: a file with weights for each "
        "of --depths, as evaluate.py takes them",
        metavar="FILE",
        needs=_for("responses", "lesions", "landscape", "explanations"),
    )
    preprocessing: str | None = setting(
        None,
        "how the nets of --weights prepare images (default: stored with the "
        "weights; PyTorch files store none); cifar: akamaster's networks",
        choices=evaluate.PREPROCESSINGS,
        needs=("--weights", lambda s: s.weights),
    )
    seeds: int = setting(
        1,
        "runs of each net, with seeds from 0; all other figures look at seed 0",
        needs=_for("degradation", "shortcuts", "depths"),
    )
    steps: int | None = setting(
        None,
        "steps of each training",
        needs=("runs: no --weights", lambda s: not s.weights),
    )
    images: int | None = setting(
        500,
        "number of images to use; none: all",
        needs=_for(
            "responses", "growth", "lesions", "landscape", "explanations"
        ),
    )
    points: int = setting(
        25, "points along each axis of a landscape", needs=_for("landscape")
    )
    runs: Path = option(Path("runs"), "folder of runs")
    output: Path = option(Path("figures"), "folder for pictures and tables")

    def resolve(self, given):
        s = self
        if s.weights and len(s.depths) != len(s.weights):
            raise UsageError(
                f"--weights needs --depths with a depth for each of its "
                f"{len(s.weights)} files, in order: there are {len(s.depths)}"
            )
        if s.figure != "responses" and len({*s.depths}) < len(s.weights):
            raise UsageError(
                f"the pictures of {s.figure} are named by depth, and a depth "
                "is given twice: give one file of --weights for each depth, "
                "and the others with another --output"
            )
        if s.figure == "explanations" and not s.weights:
            raise UsageError(
                "explanations need larger images than runs have: give "
                "--weights with networks that take images of any size"
            )
        depths = s.depths or DEPTHS[s.figure][s.preset == "paper"]
        if not s.weights:
            depths = sorted(set(depths))
        s = dataclasses.replace(s, depths=tuple(depths))
        if s.points == 1:
            raise UsageError("a landscape needs --points 2 or more, not 1")
        if s.figure == "lesions" and 8 in s.depths:
            raise UsageError(
                "lesions swap blocks of a stage, and ResNet-8 has one in "
                "each: give --depths 14 or more"
            )
        return s

    def net(self, depth, plain=False, shortcut="A", seed=0):
        """Return the `cifar10.Settings` of a net."""
        flags = {"depth": depth, "seed": seed, "dataset": self.dataset}
        if self.preset != "paper":
            flags |= {"preset": "fast"}
        if self.preset == "short":
            every = max(1, self.steps // EVALUATIONS)
            flags |= {"every": every, "learning_rate": SHORT_RATE}
        if self.steps:
            flags |= {"steps": self.steps}
        flags |= {"plain": True} if plain else {"shortcut": shortcut}
        flags |= {"block": self.block}
        return cifar10.Settings.settle(flags)


def caption_of(settings, nets, more):
    """Return a caption: the settings and seeds of nets, then `more`."""
    if settings.weights:
        names = ", ".join(f"{net.label}: {net.name}" for net in nets)
        return f"{settings.dataset}, published weights ({names}). {more}"
    s, first = nets[0].settings, nets[0].result
    backends = sorted({net.result["backend"] for net in nets})
    which = "seed 0"
    if settings.seeds > 1:
        last = settings.seeds - 1
        which = f"seeds 0 to {last} (mean, one standard deviation)"
    return (
        f"{s.dataset}, cifar10.py --preset {s.preset}"
        f"{f' --block {s.block}' if s.block else ''}, "
        f"{first['iterations']:,} steps, batch {s.batch_size}, {s.schedule} "
        f"with rate {s.learning_rate:g}, weight decay {s.weight_decay:g}, "
        f"{which}, {', '.join(backends)}. {more}"
    )


def data_of(settings):
    """Return the `keras_resnet.data.ImageData` of all runs."""
    from keras_resnet import data

    return data.load(settings.dataset, settings.data_dir)


def shaded(nets, color=None):
    """Return label and colour of nets: the deeper, the darker."""
    from keras_resnet import plots

    depths = sorted({net.depth for net in nets})
    styles = [net.style for net in nets]
    for net, style in zip(nets, styles, strict=True):
        share = (depths.index(net.depth) + 1) / len(depths)
        style["color"] = plots.shade(color or style["color"], share)
    return styles


def figure(function):
    """Register a function under its name."""
    FIGURES[function.__name__] = function
    return function


def progress(title, unit="point"):
    """Return a function that makes the progress bar of an analysis."""
    from keras_resnet_recipes.experiment.terminal import Progress

    return functools.partial(Progress, desc=title, unit=unit)


HE = "He et al. 2015"
# A row is a pair: the title of a net, and its runs with different seeds.


def curves_of(runs, *names):
    """Return histories of runs that differ in their seed, stacked."""
    from keras_resnet_recipes.experiment.study import curves_over_seeds

    return curves_over_seeds([run.history() for run in runs], names)


def errors_of(runs, which):
    """Return the training or test errors of some runs."""
    return [run.result[f"{which}_error"] for run in runs]


def errors_by_depth(label, color, rows, which):
    """Return the errors of nets as a series for `plots.error_by_depth`."""
    return {
        "label": label,
        "color": color,
        "depths": [runs[0].depth for _, runs in rows],
        "error": [errors_of(runs, which) for _, runs in rows],
    }


def write_errors(settings, page, name, rows):
    """Write the table of the errors of nets, and return its caption."""
    caption = caption_of(
        settings,
        [run for _, runs in rows for run in runs],
        "Training error is measured on augmented batches during training: "
        "over the last epoch, or the steps since the evaluation before.",
    )
    head = ["net", "parameters", "training error", "test error"]
    body = [
        [title, f"{runs[0].result['parameters']:,}"]
        + [
            report.mean_and_deviation(
                [100 * error for error in errors_of(runs, which)], "%"
            )
            for which in ("training", "test")
        ]
        for title, runs in rows
    ]
    page.write(f"{report.table(head, body)}\n\n{caption}\n", name)
    return caption


def claim_difference(page, source, which, first, second, relation):
    """Claim that the error of one row is below or above that of another."""
    from keras_resnet_recipes.experiment.statistics import paired_difference

    difference = paired_difference(
        *(
            [100 * error for error in errors_of(runs, which)]
            for _, runs in (first, second)
        )
    )
    remark = "one seed"
    if difference.interval:
        low, high = difference.interval
        remark = (
            f"95 % interval {low:.2f} to {high:.2f}, p = {difference.p:.2g}"
        )
    page.claim(
        f"{which} error of {first[0]} minus {second[0]}",
        source,
        difference.mean,
        relation,
        0,
        "points",
        remark,
    )


@figure
def degradation(settings, nets, page):
    """Plain and residual nets of growing depth."""
    from keras_resnet import plots

    plain, residual = (
        [nets.all_seeds(depth, plain=plain) for depth in settings.depths]
        for plain in (True, False)
    )
    caption = write_errors(settings, page, "degradation", plain + residual)
    curves = [
        {"depth": runs[0].depth, "plain": runs[0].plain}
        | curves_of(runs, "error", "val_error")
        for _, runs in plain + residual
    ]
    page.draw("degradation", plots.degradation, curves, caption)
    series = [
        errors_by_depth("plain", plots.PLAIN, plain, "training"),
        errors_by_depth("residual", plots.RESIDUAL, residual, "training"),
    ]
    page.draw(
        "degradation-depths", plots.error_by_depth, series, caption=caption
    )
    claims = [("training", residual[-1], plain[-1], "<")]
    if len(settings.depths) > 1:
        claims += [
            ("training", plain[-1], plain[0], ">"),
            ("test", residual[-1], residual[0], "<"),
        ]
    for claim in claims:
        claim_difference(page, f"{HE}, 4.2, figure 6", *claim)


@figure
def shortcuts(settings, nets, page):
    """Options A, B and C, and the plain twin."""
    from keras_resnet import plots

    for depth in settings.depths:
        rows = [nets.all_seeds(depth, plain=True)]
        rows += [nets.all_seeds(depth, shortcut=option) for option in "ABC"]
        name = f"shortcuts-{depth}"
        caption = write_errors(settings, page, name, rows)
        colors = plots.PLAIN, plots.RESIDUAL, *plots.OTHERS
        curves = [
            {"label": title, "color": color} | curves_of(runs, "val_error")
            for (title, runs), color in zip(rows, colors, strict=False)
        ]
        tests = {title: mean(errors_of(runs, "test")) for title, runs in rows}
        title = "; ".join(f"{k} {100 * v:.1f} %" for k, v in tests.items())
        title = f"test error: {title}"
        page.draw(name, plots.validation_curves, curves, title, caption)
        for row in rows[1:]:
            claim_difference(
                page, f"{HE}, 4.1, table 3", "test", row, rows[0], "<"
            )


@figure
def depths(settings, nets, page):
    """Error of residual nets by depth."""
    from keras_resnet import plots

    rows = [nets.all_seeds(depth) for depth in settings.depths]
    caption = write_errors(settings, page, "depths", rows)
    series = [
        errors_by_depth(f"residual, {which}", color, rows, which)
        for which, color in (
            ("training", plots.shade(plots.RESIDUAL, 0)),
            ("test", plots.RESIDUAL),
        )
    ]
    known = [depth for depth in settings.depths if depth in cifar10.PAPER]
    if settings.preset == "paper" and settings.dataset == "cifar10" and known:
        series.append(
            {
                "label": "test, the paper's table 6",
                "color": plots.OTHERS[-1],
                "depths": known,
                "error": [[cifar10.PAPER[depth] / 100] for depth in known],
            }
        )
    page.draw("depths", plots.error_by_depth, series, "error (%)", caption)
    for shallow, deep in itertools.pairwise(rows):
        claim_difference(page, f"{HE}, table 6", "test", deep, shallow, "<")


@figure
def responses(settings, nets, page):
    """Deviations of layer responses."""
    from keras_resnet import analysis, plots

    by_depth = nets.by_depth()
    every = sum(by_depth, [])
    images = data_of(settings).test.images[: settings.images]
    means, series = {}, []
    for net, style in zip(every, shaded(every), strict=True):
        model, prepare = net.load()
        std = analysis.layer_responses(
            model, prepare(images), progress=progress(net.label, "step")
        ).std
        series.append(style | {"std": std})
        means[net.name] = float(std.mean())
    caption = caption_of(settings, every, f"{len(images):,} test images.")
    page.draw("responses", plots.layer_responses, series, caption)
    residual = sorted((n for n in every if not n.plain), key=lambda n: n.depth)
    pairs = [(deep, shallow) for shallow, deep in itertools.pairwise(residual)]
    pairs += [(first, twin) for first, *twins in by_depth for twin in twins]
    for smaller, larger in pairs:
        page.claim(
            f"mean response of {smaller.label}, divided by that of "
            f"{larger.label}",
            f"{HE}, 4.2, figure 7",
            means[smaller.name] / means[larger.name],
            "<",
            1,
        )


@figure
def gradients(settings, nets, page):
    """Gradient norms by layer, at initialization and in training."""
    from keras_resnet import analysis, plots

    every = sum(nets.by_depth(gradients=True), [])
    flow, first = [], []
    for net, style in zip(every, shaded(every), strict=True):
        steps, _, norms = analysis.read_gradient_flow(
            net.path / cifar10.GRADIENTS
        )
        flow.append(net.style | {"steps": steps, "norms": norms})
        first.append(style | {"norms": norms[0]})
        if net.plain:
            page.claim(
                f"gradient norm of {net.label} at initialization, first layer "
                "by the last before the head",
                f"{HE}, 4.1: no vanishing gradients",
                float(norms[0][0] / norms[0][-2]),
                ">",
                0.1,
            )
    what = "Mean cross-entropy of the first 128 training images as one batch."
    caption = caption_of(settings, every, what)
    page.draw("gradients", plots.gradient_flow, flow, caption)
    caption = f"At initialization. {caption}"
    page.draw("gradients-initial", plots.gradient_norms, first, caption)


@figure
def growth(settings, nets, page):
    """A trained net made deeper by identities, and trained on."""
    from keras_resnet import analysis, plots

    every = sum(nets.by_depth(), [])
    data = data_of(settings)
    images = data.test.images[: settings.images]
    series = []
    for net, style in zip(every, shaded(every), strict=True):
        model, _ = net.load()
        changes = analysis.identity_property(model, images, (1, 2, 4))
        series.append(style | changes._asdict())
        if not net.plain:
            page.claim(
                f"largest change of a logit of {net.label} by zero-initialized "
                "blocks",
                f"{HE}, 1: a deeper net can compute the same",
                float(max(changes.zero)),
                "at most",
                1e-5,
            )
    caption = caption_of(
        settings, every, f"Logits of {len(images):,} test images."
    )
    page.draw("growth-identity", plots.identity_property, series, caption)
    residual = [net for net in every if not net.plain]
    styles = zip(
        shaded(residual), shaded(residual, plots.OTHERS[0]), strict=True
    )
    curves = []
    for net, (style, other) in zip(residual, styles, strict=True):
        other["label"] = f"{net.label}, grown to {net.depth + 6}"
        grown = grown_history(settings, net, data, other["label"])
        curves += [style | net.history(), other | grown]
    what = (
        "Grown by a block in each stage, then trained on with a constant rate "
        f"of {GROWN_RATE:g}, momentum 0.9, batches of seed 1."
    )
    caption = caption_of(settings, residual, what)
    page.draw("growth", plots.learning_curves, curves, caption=caption)


GROWN_RATE = 0.01


def grown_history(settings, source, data, label):
    """Continue the training of a grown net, and return its history."""
    import keras

    from keras_resnet import analysis, training
    from keras_resnet.devices import Devices
    from keras_resnet_recipes.experiment import images
    from keras_resnet_recipes.experiment.run import Run
    from keras_resnet_recipes.experiment.training import finish

    start = source.result["iterations"]
    steps = max(1, start // 2)
    every = max(1, steps // EVALUATIONS)
    folder = source.path.with_name(f"{source.path.name}-grown-steps{steps}")
    asked = {
        "grown_from": source.result["settings"],
        "added": 1,
        "steps": steps,
        "every": every,
        "learning_rate": GROWN_RATE,
    }

    def build():
        model = analysis.grow(source.load()[0], 1)
        model.compile(
            training.CoupledSGD(
                GROWN_RATE, coupled_decay=source.settings.weight_decay
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            weighted_metrics=["accuracy"],
        )
        return model

    seed = source.settings.seed
    with Run(folder, asked, resume=(folder / "settings.json").exists()) as run:
        if not run.finished:
            keras.utils.set_random_seed(seed)
            job = images.job(
                dataclasses.replace(
                    source.settings, input=settings.input, seed=seed + 1
                ),
                data,
                Devices(),
                build,
                steps=steps,
                every=every,
                label=label,
            )
            finish(run, job)
        history = run.history("steps.csv")
    history["iterations"] = [start + i for i in history["iterations"]]
    return history


VEIT = "Veit et al. 2016"
# A deletion that adds fewer points of error is harmless.
HARMLESS = 10


@figure
def lesions(settings, nets, page):
    """Blocks deleted and swapped, and paths."""
    from keras_resnet import analysis, plots

    for of_depth in nets.by_depth():
        depth = of_depth[0].depth
        test = data_of(settings).test[: settings.images]
        each, several = [], []
        for net in of_depth:
            model, prepare = net.load()
            data = model, prepare(test.images), test.labels
            deleted = analysis.delete_each_block(
                *data, progress=progress("blocks deleted")
            )
            each.append(net.style | deleted._asdict())
            most = len(deleted.names)
            counts = sorted({*range(min(most, 9) + 1), *range(0, most + 1, 5)})
            study = {
                "deleted": analysis.delete_blocks(
                    *data, counts, progress=progress("several deleted")
                ),
                "swapped": analysis.swap_blocks(
                    *data, counts, progress=progress("blocks swapped")
                ),
            }
            several.append(net.style | study)
            claim_lesions(page, net, deleted, **study)
        what = f"{len(test):,} test images"
        caption = caption_of(settings, of_depth, f"{what}.")
        page.draw(f"lesions-each-{depth}", plots.deleted_blocks, each, caption)
        what += "; five random choices for each count."
        caption = caption_of(settings, of_depth, what)
        page.draw(f"lesions-{depth}", plots.lesion_study, several, caption)
        net, batch = of_depth[0], test[:128]
        model, prepare = net.load()
        gradients = analysis.gradient_by_path_length(
            model,
            prepare(batch.images),
            batch.labels,
            progress=progress("paths"),
        )
        what = f"{net.label}, {len(batch)} test images; ten paths of each "
        what += "length, their mean and range."
        caption = caption_of(settings, [net], what)
        lengths = analysis.path_lengths(gradients.lengths[-1])
        name = f"paths-{depth}"
        page.draw(name, plots.path_lengths, *lengths, gradients, caption)
        page.claim(
            f"share of the gradient of {net.label} from paths through at most "
            "half of its blocks",
            f"{VEIT}, 5",
            share_of_short_paths(*lengths, gradients.norms),
            "at least",
            0.9,
        )


def share_of_short_paths(lengths, share, norms):
    """Return the share of the gradient from paths through half of the blocks.

    Args:
        lengths: Array of the lengths of paths, from 0 to the number of blocks.
        share: Array, which share of all paths has each length.
        norms: Array of gradient norms, a row for each length.
    """
    contributed = share * norms.mean(axis=1)
    short = lengths <= lengths[-1] / 2
    return float(contributed[short].sum() / contributed.sum())


def claim_lesions(page, net, each, deleted, swapped):
    """Add the claims of Veit et al. on deleted and swapped blocks."""
    from keras_resnet_recipes.experiment.statistics import rank_correlation

    costs = 100 * (each.error - each.baseline)
    if net.plain:
        page.claim(
            f"share of the blocks of {net.label} whose deletion raises the "
            f"error by at least {HARMLESS} points",
            f"{VEIT}, 4.1",
            float((costs >= HARMLESS).mean()),
            "at least",
            0.9,
        )
        return
    others = [not name.endswith("_block1") for name in each.names]
    page.claim(
        f"share of the blocks of {net.label}, but the first of each stage, "
        f"whose deletion raises the error by less than {HARMLESS} points",
        f"{VEIT}, 4.1",
        float((costs[others] < HARMLESS).mean()),
        "at least",
        0.9,
    )
    page.claim(
        f"rank correlation of the mean error of {net.label} with the number "
        "of deleted blocks",
        f"{VEIT}, 4.2",
        rank_correlation(deleted.counts, deleted.error.mean(axis=1)),
        "at least",
        0.95,
    )
    page.claim(
        f"rank correlation of the error of {net.label} with the rank "
        "correlation of its order",
        f"{VEIT}, 4.3",
        rank_correlation(swapped.correlation.ravel(), swapped.error.ravel()),
        "at most",
        -0.8,
    )


LI = "Li et al. 2018"


@figure
def landscape(settings, nets, page):
    """Loss around trained weights."""
    import numpy as np

    from keras_resnet import analysis, plots

    axis = np.linspace(-1, 1, settings.points)
    fine = np.linspace(-1, 1, 4 * settings.points - 3)
    for of_depth in nets.by_depth():
        depth = of_depth[0].depth
        train = data_of(settings).train[: settings.images]
        lines, planes = [], []
        for net in of_depth:
            model, prepare = net.load()
            images = prepare(train.images)
            directions = [analysis.random_direction(model, s) for s in (0, 1)]
            for series, axes in ((lines, (fine,)), (planes, (axis, axis))):
                sizes = "x".join(str(len(a)) for a in axes)
                path = page.file(
                    f"landscape-{net.name}-{len(train)}-{sizes}.npz"
                )
                print(path, flush=True)
                around = analysis.loss_landscape(
                    model,
                    images,
                    train.labels,
                    directions[: len(axes)],
                    axes,
                    path=path,
                    progress=progress("landscape"),
                )
                series.append(net.style | {"landscape": around})
            claim_landscape(
                page, net, lines[-1]["landscape"], planes[-1]["landscape"]
            )
        two = "directions of seeds 0 and 1"
        cross = "contours of the cross-entropy (nats), cross: trained weights."
        for plot, series, where, more in (
            ("lines", lines, "direction of seed 0", "0: trained weights."),
            ("contours", planes, two, cross),
            ("surface", planes, two, "trained weights in the middle."),
        ):
            what = (
                f"{len(train):,} training images; {where}, normalized by "
                "filter; normalization with the moving statistics; "
            )
            caption = caption_of(settings, of_depth, what + more)
            function = getattr(plots, f"landscape_{plot}")
            name = f"landscape-{plot}-{depth}"
            page.draw(name, function, series, caption)


def claim_landscape(page, net, line, plane):
    """Add the claims of Li et al. on landscapes of residual nets."""
    import numpy as np

    if net.plain:
        return
    middle = len(line.loss) // 2
    rises = np.concatenate(
        [np.diff(line.loss[middle:]), np.diff(line.loss[middle::-1])]
    )
    page.claim(
        f"share of the steps away from the weights of {net.label}, on a line, "
        "on which the loss rises",
        f"{LI}, 5: no chaos",
        float((rises > 0).mean()),
        "at least",
        0.95,
    )
    page.claim(
        f"loss at the weights of {net.label} above the lowest in the plane",
        f"{LI}, 5",
        float(line.loss[middle] - plane.loss.min()),
        "at most",
        0.01,
        "nats",
    )


def mosaics_of(split, count):
    """Return mosaics of 2x2 images of different classes, and their classes.

    Returns:
        `(count, 2 * rows, 2 * columns, channels)` array, and `(count, 4)`
        array of the classes: top left, top right, bottom left, bottom right.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    kinds = np.unique(split.labels)
    classes = np.array([rng.permutation(kinds)[:4] for _ in range(count)])
    chosen = [
        [rng.choice(np.flatnonzero(split.labels == k)) for k in four]
        for four in classes
    ]
    a, b, c, d = np.moveaxis(split.images[np.array(chosen)], 1, 0)
    top, bottom = np.concatenate([a, b], 2), np.concatenate([c, d], 2)
    return np.concatenate([top, bottom], 1), classes


@figure
def explanations(settings, nets, page):
    """Where a net looks: a pointing game, and pixels taken away."""
    import numpy as np

    from keras_resnet import analysis, plots

    data = data_of(settings)
    test = data.test[: settings.images]
    for (net,) in nets.by_depth():
        model, prepare = net.load()
        # The map of a quarter's class should peak in that quarter.
        mosaics, classes = mosaics_of(data.test, max(1, len(test) // 4))
        images = prepare(mosaics)
        right = []
        for quarter, asked in enumerate(classes.T):
            maps = analysis.grad_cam(
                model, images, asked, progress=progress("pointing", "step")
            )
            rows, columns = maps.shape[1:]
            peaks = maps.reshape(len(maps), -1).argmax(axis=1)
            row, column = np.divmod(peaks, columns)
            at = 2 * (row >= rows // 2) + (column >= columns // 2)
            right += [*(at == quarter)]
        asked = classes[:1, 0]
        caption = caption_of(
            settings,
            [net],
            f"The first of {len(mosaics)} mosaics of test images.",
        )
        page.draw(
            f"explanations-{net.depth}",
            plots.explanation,
            mosaics[0],
            analysis.grad_cam(model, images[:1], asked)[0],
            analysis.integrated_gradients(model, images[:1], asked)[0],
            f"{data.class_names[asked[0]]}, top left: {net.label}",
            caption,
        )
        page.claim(
            f"share of maps of {net.label} that peak in the right image of a "
            "mosaic of four",
            "Selvaraju et al. 2017, 4",
            float(np.mean(right)),
            "at least",
            0.75,
        )
        claim_deletion(settings, page, net, model, prepare(test.images), test)


def claim_deletion(settings, page, net, model, images, test):
    """Claim that the pixels of an explanation matter more than random ones.

    A Grad-CAM map is smooth, so random regions are the fair comparison:
    removed random pixels act as noise, wherever they are.
    """
    import keras
    import numpy as np

    from keras_resnet import analysis, plots

    rng = np.random.default_rng(0)
    regions = keras.ops.image.resize(
        rng.random((len(images), 8, 8, 1)).astype("float32"),
        images.shape[1:3],
        data_format="channels_last",
    )
    attributions = analysis.integrated_gradients(
        model,
        images,
        test.labels,
        points=8,
        progress=progress("attributions", "step"),
    )
    rankings = {
        "random pixels": rng.random(images.shape[:3]),
        "random regions": keras.ops.convert_to_numpy(regions)[..., 0],
        "Grad-CAM": analysis.grad_cam(model, images, test.labels),
        "integrated gradients": attributions.sum(axis=-1),
    }
    shares = analysis.explanations.SHARES
    colors = plots.PLAIN, plots.OTHERS[2], plots.RESIDUAL, plots.OTHERS[0]
    series = [
        {"label": name, "color": color}
        | {
            "probability": analysis.deletion_curve(
                model,
                images,
                ranking,
                test.labels,
                shares,
                progress=progress(f"deletion, {name}", "step"),
            )
        }
        for (name, ranking), color in zip(rankings.items(), colors, strict=True)
    ]
    for one, random in itertools.product(series[2:], series[:2]):
        page.claim(
            "probability of the class while pixels are removed, mean of "
            f"{net.label}: {one['label']} minus {random['label']}",
            "Petsiuk et al. 2018, 4.3",
            float(
                100 * (one["probability"].mean() - random["probability"].mean())
            ),
            "<",
            0,
            "points",
        )
    caption = caption_of(
        settings,
        [net],
        f"{len(images):,} test images; removed pixels get the mean colour.",
    )
    page.draw(
        f"deletion-{net.depth}", plots.deletion_curves, shares, series, caption
    )


def main(settings):
    """Make one figure."""
    from keras_resnet import devices
    from keras_resnet_recipes.experiment.page import Page

    devices.use()  # before anything is computed
    nets = Nets(settings)
    page = Page(settings.output, settings.figure, settings.stored(), DEPTHS)
    draw = FIGURES[settings.figure]
    draw(settings, nets, page)
    page.finish(draw.__doc__.rstrip("."), nets.used)


if __name__ == "__main__":
    execute(Settings, main)
