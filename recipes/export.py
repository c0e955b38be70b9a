"""Files of a trained network that run without Keras, also in int8.

python recipes/export.py runs/NAME/final.keras --format onnx --output net.onnx
python recipes/export.py imagenet --depth 50 --format openvino --folded \\
    --raw-pixels --batch 1 --output net.xml
python recipes/export.py resnet20.th --depth 20 --preprocessing cifar \\
    --format onnx --folded --int8 --calibrate cifar10 --output net.onnx

The file takes images in the network's own data format. Its runtime then runs
it, and the largest difference from Keras's outputs is printed. Converters and
runtimes are in the extra: pip install 'keras3-resnet[export]'.
"""

import argparse
import dataclasses
import importlib.util
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from keras_resnet_recipes import evaluate
from keras_resnet_recipes.experiment import (
    IMAGE_DATASETS,
    REQUIRED,
    Failure,
    UsageError,
    command,
    data_dir_option,
    execute,
    option,
    positive_int,
    setting,
)
from keras_resnet_recipes.experiment.report import show
from keras_resnet_recipes.experiment.values import path as parse_path

CALIBRATION_IMAGES = 256


def _saved_model(path):
    import tensorflow as tf

    artifact = tf.saved_model.load(path)
    return lambda x: artifact.serve(x).numpy()


def _onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    (image,) = interpreter.get_input_details()
    (output,) = interpreter.get_output_details()

    def run(x):
        interpreter.resize_tensor_input(image["index"], x.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], x)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    return run


def _openvino(path):
    import openvino

    # Or else some processors compute in bfloat16.
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(path, "CPU", hints)
    return lambda x: compiled(x)[0]


def _pt2(path):
    import torch

    program = torch.export.load(path).module()

    def run(x):
        with torch.no_grad():
            return program(torch.from_numpy(x)).numpy()

    return run


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format: its writers and its runtime.

    Args:
        suffix: String, the ending of the file's name.
        keras: String, Keras's name of the format.
        load: Callable from a path to a function of arrays, without Keras.
        runtime: String, the package that `load` needs.
        writers: Dictionary from backends that can write it to the packages
            that they need.
    """

    suffix: str
    keras: str
    load: Callable
    runtime: str
    writers: dict


FORMATS = {
    "savedmodel": Format(
        "",
        "tf_saved_model",
        _saved_model,
        "tensorflow",
        {"tensorflow": (), "jax": ("tensorflow",)},
    ),
    "onnx": Format(
        ".onnx",
        "onnx",
        _onnx,
        "onnxruntime",
        {
            "tensorflow": ("tf2onnx",),
            "jax": ("jax2onnx", "flax"),
            "torch": ("onnx", "onnxscript"),
        },
    ),
    "litert": Format(
        ".tflite",
        "litert",
        _litert,
        "ai_edge_litert",
        {"tensorflow": (), "torch": ("litert_torch",)},
    ),
    "openvino": Format(
        ".xml",
        "openvino",
        _openvino,
        "openvino",
        {"tensorflow": ("openvino",), "torch": ("openvino",)},
    ),
    "pt2": Format(".pt2", "torch", _pt2, "torch", {"torch": ()}),
}


def parse_batch(text):
    """Parse a number of images, or "any", which is `None`."""
    return None if text == "any" else positive_int(text)


def parse_calibration(text):
    """Parse the name of a dataset or of a folder that exists."""
    if text not in IMAGE_DATASETS and not parse_path(text).is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(IMAGE_DATASETS)} and no folder"
        )
    return text if text in IMAGE_DATASETS else str(parse_path(text))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(evaluate.NetworkSettings):
    """Settings of an export."""

    weights: str = setting(
        REQUIRED,
        "as --weights of evaluate.py",
        type=os.path.expanduser,
        metavar="W",
        positional=True,
    )
    format: str = setting(REQUIRED, "kind of the file", choices=[*FORMATS])
    output: Path = option(REQUIRED, "new file or folder", metavar="FILE")
    folded: bool = setting(
        False, "with batch normalization folded into the convolutions"
    )
    batch: int | None = setting(
        None,
        "images at once, or any number (default: any)",
        type=parse_batch,
        metavar="N|any",
    )
    raw_pixels: bool = setting(
        False, "prepare images in the file, which takes RGB of 0 to 255"
    )
    int8: bool = setting(
        False,
        "quantize weights and activations",
        needs=("--format onnx", lambda s: s.format == "onnx"),
    )
    calibrate: str | None = setting(
        None,
        f"for int8, measure activations on {CALIBRATION_IMAGES} training "
        f"images: {', '.join(IMAGE_DATASETS)}, or a folder of image files",
        type=parse_calibration,
        metavar="NAME|DIR",
        needs=("--int8", lambda s: s.int8),
    )
    data_dir: Path | None = data_dir_option(
        "--calibrate with a dataset, not digits",
        lambda s: s.calibrate in {*IMAGE_DATASETS} - {"digits"},
    )

    def resolve(self, given):
        kind = FORMATS[self.format]
        backend = command.backend()
        if self.output.suffix != kind.suffix and kind.suffix:
            raise UsageError(
                f"--output {self.output}: the name must end with {kind.suffix}"
            )
        if self.int8 and self.calibrate is None:
            raise UsageError("--int8 needs --calibrate")
        if self.int8 and self.batch and self.batch > CALIBRATION_IMAGES:
            raise UsageError(
                f"--batch {self.batch} is too large for --int8, which measures "
                f"activations on {CALIBRATION_IMAGES} images: take at most "
                f"{CALIBRATION_IMAGES}"
            )
        writers = [*kind.writers]
        if self.int8:
            # JAX's graph has comparisons for ReLUs, which int8 lacks.
            writers.remove("jax")
        if backend not in writers:
            raise UsageError(
                f"--format {self.format}{' --int8' if self.int8 else ''} "
                f"cannot be written by {backend}: run the same command with "
                f"KERAS_BACKEND={' or '.join(writers)}"
                + (
                    ", or take --format onnx, which OpenVINO reads"
                    if self.format == "openvino"
                    else ""
                )
            )
        if (backend, self.format, self.batch) == ("torch", "litert", None):
            raise UsageError(
                "--format litert by torch has a fixed batch: add --batch N, or "
                "run the same command with KERAS_BACKEND=tensorflow"
            )
        packages = kind.writers[backend]
        packages += ("onnxruntime", "onnx") if self.int8 else ()
        lacking = [p for p in packages if importlib.util.find_spec(p) is None]
        if lacking:
            raise Failure(
                f"--format {self.format} by {backend} needs "
                f"{', '.join(lacking)}: pip install 'keras3-resnet[export]'"
            )
        if self.format == "openvino":
            evaluate.check_new(self.output.with_suffix(".bin"))
        return super().resolve(given)


def write(model, kind, path, batch):
    """Write a model for a batch size; `None` allows any.

    Args:
        model: `keras.Model` of images, whose size may be undefined.
        kind: `Format`.
        path: String.
        batch: Integer or `None`.
    """
    import keras

    options = {}
    if kind.keras == "torch" and batch is None:
        import torch

        options["dynamic_shapes"] = {0: torch.export.Dim("batch", min=1)}
    shape = batch, *model.inputs[0].shape[1:]
    with warnings.catch_warnings():
        # Converters warn about changes in their next versions.
        warnings.simplefilter("ignore")
        model.export(
            path,
            format=kind.keras,
            verbose=False,
            input_signature=[keras.InputSpec("float32", shape, name="image")],
            **options,
        )


def of_fixed_size(model, how, raw_pixels=False):
    """Return a model for images of one size, which may be raw pixels."""
    import keras

    import keras_resnet
    from keras_resnet.backend import Model
    from keras_resnet.training import evaluation

    first = evaluation.channels_first(model)
    sides, channels = (how.size, how.size), (len(how.mean),)
    image = keras.Input(
        channels + sides if first else sides + channels, name="image"
    )
    x = image
    if raw_pixels:
        layout = "channels_first" if first else "channels_last"
        x = keras_resnet.preprocess_input(x, how, data_format=layout)
    return Model(image, model(x))


def inputs_of(images, model, how, raw_pixels):
    """Convert images of 0 to 255, channels last, to inputs of the file."""
    import numpy as np

    from keras_resnet.training import evaluation

    if not raw_pixels:
        return evaluation.prepared(images, model, how)
    x = np.asarray(images, "float32")
    if evaluation.channels_first(model):
        x = x.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x)


def calibration_images(settings, how):
    """Return the training images that int8 is calibrated on."""
    import numpy as np

    from keras_resnet import data
    from keras_resnet.data.folders import files_in
    from keras_resnet.training import evaluation

    channels = len(how.mean)
    if settings.calibrate in IMAGE_DATASETS:
        images = data.load(settings.calibrate, settings.data_dir).train.images
        images = images[:CALIBRATION_IMAGES]
        if images.shape[1] != how.size:
            raise Failure(
                f"{settings.calibrate} has images of {images.shape[1]} pixels, "
                f"and the network takes {how.size}"
            )
        return evaluate.with_channels(images, channels, settings.calibrate)
    files = sorted(files_in(settings.calibrate))
    some = np.linspace(0, len(files) - 1, min(len(files), CALIBRATION_IMAGES))
    images = []
    for i in some.astype(int):
        try:
            image = data.read_image(files[i], channels)
        except data.UnreadableImageError as error:
            print(f"not used: {error}", file=sys.stderr)
        else:
            images.append(evaluation.centre(image, how))
    least = settings.batch or 1
    if len(images) < least:
        raise Failure(
            f"--calibrate: {settings.calibrate} has {len(images)} readable "
            f"images, and at least {least} are needed"
        )
    return np.stack(images)


def quantize(path, images, batch):
    """Replace an ONNX file of float32 by one of int8.

    Activations are unsigned, because x86 multiplies unsigned integers fast.
    Their range is from the smallest to the largest value for these images.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization import shape_inference

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            size = batch or min(32, len(images))
            whole = len(images) // size * size
            self.batches = iter(
                {"image": images[i : i + size]} for i in range(0, whole, size)
            )

        def get_next(self):
            return next(self.batches, None)

    optimized = f"{path}.optimized"
    shape_inference.quant_pre_process(path, optimized, skip_symbolic_shape=True)
    quantization.quantize_static(
        optimized,
        path,
        Reader(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    os.unlink(optimized)


def main(settings):
    """Write the file, and run it."""
    import numpy as np

    import keras_resnet
    from keras_resnet import devices
    from keras_resnet.atomic import PARTIAL
    from keras_resnet_recipes.experiment.terminal import Progress

    devices.use()  # before anything is computed
    kind, output = FORMATS[settings.format], settings.output
    with (
        Progress(desc="loading", total=3, unit="step") as bar,
        # An interrupted export must not leave a partial file.
        tempfile.TemporaryDirectory(dir=output.parent, prefix=PARTIAL) as part,
    ):
        net, how = evaluate.load_network(settings)
        model = keras_resnet.fold_batch_norm(net) if settings.folded else net
        model = of_fixed_size(model, how, settings.raw_pixels)
        if settings.int8:
            # Read now, because the file takes long to write.
            images = calibration_images(settings, how)
            images = inputs_of(images, net, how, settings.raw_pixels)
        bar.set_description_str(f"writing {output}")
        bar.update()
        path = str(Path(part, output.name))
        write(model, kind, path, settings.batch)
        if settings.int8:
            bar.set_description_str("calibrating")
            quantize(path, images, settings.batch)
        bar.set_description_str("running")
        bar.update()
        line = f"not run, because {kind.runtime} is not installed"
        if importlib.util.find_spec(kind.runtime):
            shape = settings.batch or 3, how.size, how.size, len(how.mean)
            images = np.random.default_rng(0).integers(0, 256, shape)
            x = inputs_of(images, net, how, settings.raw_pixels)
            difference = kind.load(path)(x) - model.predict_on_batch(x)
            line = (
                f"run by {kind.runtime}: outputs of {len(x)} random images "
                f"differ from Keras's by at most {abs(difference).max():.1e}"
            )
        files = [p for p in Path(part).rglob("*") if p.is_file()]
        size = sum(p.stat().st_size for p in files)
        # Of OpenVINO's two files, net.xml is last: it describes net.bin.
        for made in sorted(Path(part).iterdir()):
            evaluate.check_new(output.with_name(made.name))
            os.rename(made, output.with_name(made.name))
    show(f"{output}: {size:,} bytes, {line}")


if __name__ == "__main__":
    # An accelerator gains nothing here, and its kernels may not be portable.
    # Set before the flags are parsed, because --block imports the backend.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("KERAS_TORCH_DEVICE", "cpu")
    execute(Settings, main)
