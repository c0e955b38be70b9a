"""The networks: stem, stages of blocks and head as a functional graph."""

import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from keras_resnet import backend, blocks, preprocessing, shortcuts, table1
from keras_resnet.preprocessing import Preprocessing
from keras_resnet.types import (
    Config,
    Initializer,
    PathLike,
    Regularizer,
    Tensor,
)
from keras_resnet.weights import published


@keras.saving.register_keras_serializable(package="keras_resnet")
class StemConvolution(blocks.Convolution):
    """First convolution of a network, which stores its preprocessing.

    Attributes:
        preprocessing: A `Preprocessing`, or `None` (default) if it is unknown.
            It is stored in a layer, because Keras copies a model layer by
            layer.
    """

    preprocessing: Preprocessing | None = None

    def get_config(self) -> Config:
        config = super().get_config()
        if self.preprocessing is not None:
            config["preprocessing"] = self.preprocessing.get_config()
        return config

    @classmethod
    def from_config(cls, config: Config) -> "StemConvolution":
        config = dict(config)
        images = config.pop("preprocessing", None)
        layer = super().from_config(config)
        if images is not None:
            layer.preprocessing = preprocessing.resolve(images)
        return layer


@keras.saving.register_keras_serializable(package="keras_resnet")
class ResidualNetwork(backend.Model):
    """`keras.Model` of this package's networks, a functional graph.

    The interface is that of `keras.Model`. `fit`, `evaluate` and `predict` use
    a faster way to run the graph if the backend has one.
    """

    @classmethod
    def from_config(
        cls, config: Config, custom_objects: Config | None = None
    ) -> "ResidualNetwork":
        try:
            # A copy, because Keras removes the layers from it.
            return super().from_config(
                dict(config), custom_objects=custom_objects
            )
        except TypeError:
            message = _unknown_layer(config)
            if message is None:
                raise
        # Not a `TypeError`: Keras would append the whole configuration.
        raise ValueError(message)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing of images for the weights: see `preprocess_input`.

        It is `None` if it is unknown. Published weights set it, and you may
        set it, for example to `"imagenet"`. Files and copies of the model keep
        it.
        """
        return getattr(self._stem, "preprocessing", None)

    @preprocessing.setter
    def preprocessing(
        self, value: str | Config | Preprocessing | keras.Model | None
    ) -> None:
        if value is not None:
            value = preprocessing.resolve(value)
        if self._stem is None:
            raise ValueError(
                f"Model {self.name!r} has no `StemConvolution`, which keeps "
                "`preprocessing`."
            )
        self._stem.preprocessing = value

    @property
    def _stem(self):
        stems = (x for x in self.layers if isinstance(x, StemConvolution))
        return next(stems, None)


# A `.h5` file stores the class name without the package name.
keras.saving.get_custom_objects()["ResidualNetwork"] = ResidualNetwork


def _unknown_layer(config):
    """Return a message about the first layer of an unknown class, or `None`."""
    for layer in config.get("layers", ()):
        kind, module = layer["class_name"], layer.get("module") or ""
        registered = layer.get("registered_name")
        if (
            not registered
            or module.partition(".")[0] == "keras"
            or keras.saving.get_registered_object(registered) is not None
        ):
            continue
        start = f"Layer {layer['config'].get('name')!r} of model "
        start += f"{config.get('name')!r} is of class {kind!r}, which "
        if ">" in registered:
            return (
                f"{start}is not registered in this process: import the module "
                f"that defines it, {module!r}, before you load the model."
            )
        return (
            f"{start}was not registered when the model was saved: load it with "
            f"`custom_objects={{{kind!r}: {kind}}}`, and write "
            f"`@keras.saving.register_keras_serializable({module!r})` above "
            "the class, so that its next file needs none."
        )
    return None


def ResNet(
    depths: Sequence[int],
    widths: Sequence[int] = table1.IMAGENET_WIDTHS,
    *,
    bottleneck: bool = False,
    stem: str = "imagenet",
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet",
    shortcut: str = "B",
    residual: bool = True,
    bottleneck_stride: str | None = None,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """Build a residual network of any depths and widths.

    The model is a Keras functional graph: a stem (`stem_conv`, ...), stages
    of blocks (`stage1_block1`, ...; the paper's conv2_x is stage 1) and a
    head (`avg_pool`, `head`). To get features, use a layer's name:
    `model.get_layer("stage3_block6").output`. The first block of every stage
    except stage 1 has stride 2. A network of pre-activated blocks has no
    `stem_bn`; it has `end_bn` after the last block.

    The dtype policy and the image data format are Keras's global settings.
    The head always computes in float32.

    Args:
        depths: Sequence of integers, blocks per stage.
        widths: Sequence of integers, one per stage: `filters` of the stage's
            blocks. The stem has `widths[0]` filters. Defaults to
            `(64, 128, 256, 512)`.
        bottleneck: Boolean, bottleneck blocks instead of basic ones. Defaults
            to `False`.
        stem: `"imagenet"` (default): a 7x7 convolution and a 3x3 max pooling,
            each with stride 2. `"cifar"`: a 3x3 convolution with stride 1.
        include_top: Boolean, whether to end in global average pooling and a
            dense classifier. Defaults to `True`.
        weights: `None` (default) for random weights; `"imagenet"`
            (torchvision's first), `"keras"` (those of `keras.applications`);
            a repository of the Hugging Face hub, such as
            `"timm/resnet50.a1_in1k"` or `"owner/name@revision"`; or the path
            of a `.keras`, `.weights.h5`, `.safetensors`, `.pth`, `.pt`, `.th`,
            `.bin` or `.h5` file, or of a folder that `save_pretrained` wrote.
            If `classes` is not the default and differs from the file, the head
            keeps its random weights. If the number of input channels does, the
            first convolution is adapted: see `load_torch_weights`.
        input_tensor: Keras tensor to build the network on, for example the
            output of a preprocessing layer. Defaults to a new input.
        input_shape: Shape of one image, without the batch, in the image data
            format; rows and columns may be `None`. Defaults to the shape of
            `input_tensor`. Without one, `stem="imagenet"` has 224x224x3 with
            top and any size x 3 without, and `stem="cifar"` has 32x32x3.
        pooling: Output of a network without top: `None` (default), the 4-D
            output of the last block; `"avg"` or `"max"`, global pooling of it.
        classes: Integer, number of classes. Defaults to `1000`.
        classifier_activation: Activation of the classifier; `None` gives
            logits. Defaults to `"softmax"`.
        name: String, name of the model. Defaults to `"resnet"`.
        shortcut: `"A"`, `"B"` (default) or `"C"`: see `ResidualBlock`.
        residual: Boolean. `False` builds the plain twin: the same layers
            without shortcuts. Defaults to `True`.
        bottleneck_stride: `"3x3"` or `"1x1"` (the paper's): see
            `ResidualBlock`. Defaults to `"1x1"` if `weights` is `"keras"`,
            to `"3x3"` otherwise.
        output_stride: Integer, total stride from the image to the last block's
            output. Once it is reached, the 3x3 convolutions of later stages
            use dilation instead of stride: the weights are the same, and the
            features at shared positions too. Defaults to `None`, the paper's:
            32 with ImageNet's stem and four stages, 4 with CIFAR's and three.
        zero_init_residual: Boolean, whether every block initially computes its
            shortcut only. Defaults to `False`.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variances. Defaults to `1e-5`.
        kernel_initializer: Initializer of convolutions and classifier.
            Defaults to the paper's, Gaussian with variance `2 / fan_in`.
        kernel_regularizer: Regularizer of convolutions and classifier, for
            example `keras.regularizers.L2(5e-5)`. Defaults to `None`.
        block: `ResidualBlock` (default), `PreactivationBlock`,
            `StochasticDepthBlock`, a class of your own, or any callable with
            the same keyword arguments that returns a layer.

    Returns:
        A `ResidualNetwork`, a `keras.Model`. Its input is `(batch,
        *input_shape)`. Its output is `(batch, classes)`, `(batch, channels)`
        or the 4-D output of the last block.

    Raises:
        ValueError: For inconsistent arguments. The message names them.

    Reference: He et al. 2015, sections 3.3 and 4.2, table 1.
    """
    depths, widths = _check_stages(depths, widths)
    shortcuts.check(shortcut)
    if stem not in ("imagenet", "cifar"):
        raise ValueError(
            f"`stem` must be 'imagenet' or 'cifar'. Received: stem={stem!r}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(
            "`pooling` must be None, 'avg' or 'max'. "
            f"Received: pooling={pooling!r}"
        )
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            "`classes` must be a positive integer. "
            f"Received: classes={classes!r}"
        )
    if not callable(block):
        raise ValueError(
            "`block` must be a class of layers or a function that returns a "
            f"layer. Received: block={block!r}"
        )
    published.check(weights)
    if bottleneck_stride is None:
        bottleneck_stride = "1x1" if weights == "keras" else "3x3"

    data_format = keras.config.image_data_format()
    kernel_regularizer = keras.regularizers.get(kernel_regularizer)
    common: dict[str, Any] = {"momentum": momentum, "epsilon": epsilon}
    x = _input(input_tensor, input_shape, stem, include_top, data_format)
    inputs = keras.utils.get_source_inputs(x)
    if len(inputs) == 1:
        (inputs,) = inputs

    def normalized_relu(x, name):
        x = blocks.BatchNormalization(name=f"{name}_bn", **common)(x)
        return blocks.ReLU(name=f"{name}_relu")(x)

    x = StemConvolution(
        widths[0],
        7 if stem == "imagenet" else 3,
        strides=2 if stem == "imagenet" else 1,
        kernel_initializer=blocks.own_initializer(kernel_initializer),
        kernel_regularizer=kernel_regularizer,
        name="stem_conv",
    )(x)
    places = [
        (stage, i)
        for stage, depth in enumerate(depths, start=1)
        for i in range(1, depth + 1)
    ]
    steps = _strides(stem, len(depths), output_stride)
    for number, (stage, i) in enumerate(places, start=1):
        stride, before, after = steps[stage - 1]
        # Passed only if needed: a custom block may lack this argument.
        dilated = {"dilation": (before if i == 1 else after, after)}
        layer = block(
            widths[stage - 1],
            stride=stride if i == 1 else 1,
            **dilated if after > 1 else {},
            shortcut=shortcut,
            bottleneck=bottleneck,
            residual=residual,
            bottleneck_stride=bottleneck_stride,
            zero_init_residual=zero_init_residual,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            name=table1.block_name(stage, i),
            **common,
        )
        preactivated = getattr(layer, "preactivated", False)
        if isinstance(layer, blocks.ResidualBlock):
            layer.place = number, len(places)
        if number == 1:
            if not preactivated:
                x = normalized_relu(x, "stem")
            if stem == "imagenet":
                x = blocks.MaxPooling(3, strides=2, name="stem_pool")(x)
        x = layer(x)
    if preactivated:
        x = normalized_relu(x, "end")

    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = layers.Dense(
            classes,
            activation=classifier_activation,
            kernel_initializer=blocks.own_initializer(kernel_initializer),
            kernel_regularizer=kernel_regularizer,
            dtype="float32",
            name="head",
        )(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    model = ResidualNetwork(inputs, x, name=name)
    if weights is not None:
        # Weights may differ in what the caller has set to another value.
        channels = model.get_layer("stem_conv").kernel.shape[2]
        published.load(
            model,
            weights,
            may_change_head=classes != 1000
            and (stem, classes) != ("cifar", 10),
            adapt_input=channels != 3,
        )
    return model


def _check_stages(depths, widths):
    depths, widths = tuple(depths), tuple(widths)
    if not depths or len(depths) != len(widths):
        raise ValueError(
            "`depths` and `widths` must have one entry per stage. Received: "
            f"depths={depths}, widths={widths}"
        )
    for name, values, what in (
        ("depths", depths, "blocks"),
        ("widths", widths, "filters"),
    ):
        if any(not isinstance(n, int) or n < 1 for n in values):
            raise ValueError(
                f"`{name}` must be positive integers, the {what} of each "
                f"stage. Received: {name}={values}"
            )
    return depths, widths


def _strides(stem, stages, output_stride):
    """Return each stage's stride, and its dilation before and after it.

    A dilation stands for the strides that were replaced.
    """
    now = 4 if stem == "imagenet" else 1
    possible = [now * 2**stage for stage in range(stages)]
    if output_stride not in (None, *possible):
        raise ValueError(
            f"`output_stride` must be one of {', '.join(map(str, possible))}, "
            f"or None. Received: output_stride={output_stride!r}"
        )
    strides, dilation = [(1, 1, 1)], 1
    for _ in range(1, stages):
        if output_stride is None or now < output_stride:
            now *= 2
            strides.append((2, 1, 1))
        else:
            strides.append((1, dilation, 2 * dilation))
            dilation *= 2
    return strides


def _input(input_tensor, input_shape, stem, include_top, data_format):
    """Return the input tensor of the stem, as `keras.applications` does."""
    if input_shape is not None and len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must have three entries, those of one image. "
            f"Received: input_shape={input_shape!r}"
        )
    if input_tensor is not None:
        if not keras.utils.is_keras_tensor(input_tensor):
            raise ValueError(
                "`input_tensor` must be a Keras tensor, such as "
                "`keras.Input(...)` or a layer's output. Received: "
                f"{type(input_tensor).__name__}"
            )
        actual = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != actual:
            raise ValueError(
                f"`input_shape` {tuple(input_shape)} is not that of "
                f"`input_tensor`, {actual}."
            )
        return input_tensor
    if input_shape is not None:
        _check_shape(input_shape, data_format)
    else:
        size = 32 if stem == "cifar" else 224 if include_top else None
        last = data_format == "channels_last"
        input_shape = (size, size, 3) if last else (3, size, size)
    return layers.Input(input_shape, name="image")


def _check_shape(input_shape, data_format):
    """Raise `ValueError` for a shape that is invalid or in the other format."""
    if any(
        n is not None and (not isinstance(n, numbers.Integral) or n < 1)
        for n in input_shape
    ):
        raise ValueError(
            "`input_shape` must have positive integers, or None for rows and "
            f"columns. Received: input_shape={tuple(input_shape)}"
        )
    side, _, channels = input_shape
    other = "channels_first"
    if data_format == other:
        channels, side, other = side, channels, "channels_last"
    if side in (1, 3) and channels is not None and channels >= 16:
        raise ValueError(
            f"`input_shape` {tuple(input_shape)} is an image of {channels} "
            f"channels in the image data format {data_format!r}. Call "
            f"`keras.config.set_image_data_format({other!r})`, or give the "
            "shape in the other order; if the image is meant to be so, give "
            "`input_tensor=keras.Input(...)`."
        )
