"""The paper's networks by name, ResNet18 to ResNet1202."""

import inspect
from collections.abc import Callable, Sequence

import keras

from keras_resnet import blocks, table1
from keras_resnet.resnet import ResidualNetwork, ResNet
from keras_resnet.types import Initializer, PathLike, Regularizer, Tensor

# The entry of a family's docstring that does not apply to its members.
_DEPTH = "    depth: Integer, the number of weighted layers.\n"


def _documented_by(family):
    """Return a decorator that appends the family's documentation.

    The decorated function keeps its own first line.
    """

    def document(member):
        # With `python -OO` there are no docstrings.
        if member.__doc__:
            _, _, rest = inspect.getdoc(family).partition("\n\n")
            member.__doc__ += "\n\n" + rest.replace(_DEPTH, "")
        return member

    return document


def ResNetImageNet(
    depth: int,
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
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
    """ImageNet network of depth 18, 34, 50, 101 or 152.

    Args:
        depth: Integer, the number of weighted layers.
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
            first convolution is adapted.
        input_tensor: Keras tensor to build the network on, for example the
            output of a preprocessing layer. Defaults to a new input.
        input_shape: Shape of one image, in the image data format; rows and
            columns may be `None`. Defaults to the shape of `input_tensor`,
            else to 224x224x3 with top, any size x 3 without.
        pooling: Output of a network without top: `None` (default), the 4-D
            output of the last block; `"avg"` or `"max"`, global pooling of it.
        classes: Integer, number of classes. Defaults to `1000`.
        classifier_activation: Activation of the classifier; `None` gives
            logits. Defaults to `"softmax"`.
        name: String, name of the model. Defaults to `"resnet"` and the depth.
        shortcut: `"A"`, zero padding; `"B"` (default), a projection where the
            shape changes; or `"C"`, a projection in every block.
        residual: Boolean. `False` builds the plain network, without shortcuts.
            Defaults to `True`.
        bottleneck_stride: `"3x3"` or `"1x1"` (the paper's), the convolution
            with the stride in the bottlenecks of depths 50 and more. Both have
            the same weight shapes and different outputs. Defaults to `"1x1"`
            if `weights` is `"keras"`, to `"3x3"` otherwise.
        output_stride: Integer, total stride from the image to the last block's
            output: 4, 8, 16 or 32. Once it is reached, the 3x3 convolutions
            of later stages use dilation instead of stride, with the same
            weights. Defaults to `None`, the paper's 32.
        zero_init_residual: Boolean, whether each residual branch is zero at
            the start of training. Defaults to `False`.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variances. Defaults to `1e-5`.
        kernel_initializer: Initializer of convolutions and classifier.
            Defaults to the paper's, Gaussian with variance `2 / fan_in`.
        kernel_regularizer: Regularizer of convolutions and classifier, for
            example `keras.regularizers.L2(5e-5)`. Defaults to `None`.
        block: `ResidualBlock` (default), a subclass, or a callable that takes
            its keyword arguments and returns a layer.

    Returns:
        A `ResidualNetwork`, a `keras.Model`.

    Raises:
        ValueError: For inconsistent arguments. The message names them.

    Reference: He et al. 2015, section 3.3, table 1.
    """
    bottleneck, depths = table1.imagenet_spec(depth)
    return ResNet(
        depths,
        bottleneck=bottleneck,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=f"resnet{depth}" if name is None else name,
        shortcut=shortcut,
        residual=residual,
        bottleneck_stride=bottleneck_stride,
        output_stride=output_stride,
        zero_init_residual=zero_init_residual,
        momentum=momentum,
        epsilon=epsilon,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
        block=block,
    )


def ResNetCIFAR(
    depth: int,
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """CIFAR network of any depth 6n+2.

    It has a 3x3 convolution, three stages of n basic blocks with 16, 32 and 64
    filters on maps of 32, 16 and 8 rows, global average pooling, a classifier.

    Args:
        depth: Integer, the number of weighted layers.
        include_top: Boolean, whether to end in global average pooling and a
            dense classifier. Defaults to `True`.
        weights: `None` (default) for random weights; a repository of
            the Hugging Face hub, `"owner/name"` or `"owner/name@revision"`;
            or the path of a `.keras`, `.weights.h5`, `.safetensors`, `.pth`,
            `.pt`, `.th`, `.bin` or `.h5` file, or of a folder that
            `save_pretrained` wrote. If `classes` is not the default and
            differs from the file, the head keeps its random weights. If the
            number of input channels does, the first convolution is adapted.
        input_tensor: Keras tensor to build the network on, for example the
            output of a preprocessing layer. Defaults to a new input.
        input_shape: Shape of one image, in the image data format; rows and
            columns may be `None`. Defaults to the shape of `input_tensor`,
            else to 32x32x3.
        pooling: Output of a network without top: `None` (default), the 4-D
            output of the last block; `"avg"` or `"max"`, global pooling of it.
        classes: Integer, number of classes. Defaults to `10`.
        classifier_activation: Activation of the classifier; `None` gives
            logits. Defaults to `"softmax"`.
        name: String, name of the model. Defaults to `"resnet"` and the depth.
        shortcut: `"A"` (default, the paper's), zero padding; `"B"`, a
            projection where the shape changes; or `"C"`, a projection in
            every block.
        residual: Boolean. `False` builds the plain network, without shortcuts.
            Defaults to `True`.
        output_stride: Integer, total stride from the image to the last block's
            output: 1, 2 or 4. Once it is reached, the 3x3 convolutions
            of later stages use dilation instead of stride, with the same
            weights. Defaults to `None`, the paper's 4.
        zero_init_residual: Boolean, whether each residual branch is zero at
            the start of training. Defaults to `False`.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variances. Defaults to `1e-5`.
        kernel_initializer: Initializer of convolutions and classifier.
            Defaults to the paper's, Gaussian with variance `2 / fan_in`.
        kernel_regularizer: Regularizer of convolutions and classifier, for
            example `keras.regularizers.L2(5e-5)`. Defaults to `None`.
        block: `ResidualBlock` (default), a subclass, or a callable that takes
            its keyword arguments and returns a layer.

    Returns:
        A `ResidualNetwork`, a `keras.Model`.

    Raises:
        ValueError: For inconsistent arguments. The message names them.

    Reference: He et al. 2015, section 4.2.
    """
    return ResNet(
        table1.cifar_depths(depth),
        table1.CIFAR_WIDTHS,
        stem="cifar",
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        name=f"resnet{depth}" if name is None else name,
        shortcut=shortcut,
        residual=residual,
        output_stride=output_stride,
        zero_init_residual=zero_init_residual,
        momentum=momentum,
        epsilon=epsilon,
        kernel_initializer=kernel_initializer,
        kernel_regularizer=kernel_regularizer,
        block=block,
    )


@_documented_by(ResNetImageNet)
def ResNet18(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet18",
    *,
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
    """ResNet-18 for ImageNet."""
    return ResNetImageNet(18, **locals())


@_documented_by(ResNetImageNet)
def ResNet34(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet34",
    *,
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
    """ResNet-34 for ImageNet."""
    return ResNetImageNet(34, **locals())


@_documented_by(ResNetImageNet)
def ResNet50(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet50",
    *,
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
    """ResNet-50 for ImageNet."""
    return ResNetImageNet(50, **locals())


@_documented_by(ResNetImageNet)
def ResNet101(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet101",
    *,
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
    """ResNet-101 for ImageNet."""
    return ResNetImageNet(101, **locals())


@_documented_by(ResNetImageNet)
def ResNet152(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet152",
    *,
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
    """ResNet-152 for ImageNet."""
    return ResNetImageNet(152, **locals())


@_documented_by(ResNetCIFAR)
def ResNet20(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet20",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-20 for CIFAR-10."""
    return ResNetCIFAR(20, **locals())


@_documented_by(ResNetCIFAR)
def ResNet32(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet32",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-32 for CIFAR-10."""
    return ResNetCIFAR(32, **locals())


@_documented_by(ResNetCIFAR)
def ResNet44(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet44",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-44 for CIFAR-10."""
    return ResNetCIFAR(44, **locals())


@_documented_by(ResNetCIFAR)
def ResNet56(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet56",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-56 for CIFAR-10."""
    return ResNetCIFAR(56, **locals())


@_documented_by(ResNetCIFAR)
def ResNet110(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet110",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-110 for CIFAR-10."""
    return ResNetCIFAR(110, **locals())


@_documented_by(ResNetCIFAR)
def ResNet1202(
    include_top: bool = True,
    weights: PathLike | None = None,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 10,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "resnet1202",
    *,
    shortcut: str = "A",
    residual: bool = True,
    output_stride: int | None = None,
    zero_init_residual: bool = False,
    momentum: float = blocks.MOMENTUM,
    epsilon: float = blocks.EPSILON,
    kernel_initializer: Initializer = blocks.KERNEL_INITIALIZER,
    kernel_regularizer: Regularizer = None,
    block: Callable[..., keras.Layer] = blocks.ResidualBlock,
) -> ResidualNetwork:
    """ResNet-1202 for CIFAR-10."""
    return ResNetCIFAR(1202, **locals())
