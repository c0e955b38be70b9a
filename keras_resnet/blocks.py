"""Convolution, normalization, and the residual block made of them."""

import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_resnet import backend, shortcuts, steps
from keras_resnet.initializers import HeGaussian
from keras_resnet.types import (
    Config,
    Initializer,
    Regularizer,
    Shape,
    Size,
    Tensor,
)

KERNEL_INITIALIZER = HeGaussian
MOMENTUM = 0.9
EPSILON = 1e-5
EXPANSION = 4

# What people set on a layer after it was made.
SETTINGS = ["trainable", "dtype_policy", "momentum", "epsilon"]
SETTINGS += ["lora_rank", "lora_alpha"]
SUFFIXES = ("_regularizer", "_constraint")


@keras.saving.register_keras_serializable(package="keras_resnet")
class Convolution(keras.layers.Conv2D):
    """2-D convolution without bias, padded alike on all sides.

    At stride 1 this is `keras.layers.Conv2D(padding="same")`. At a larger
    stride Keras pads one row more after the image than before it. The paper's
    code and all published ResNet weights pad `kernel_size // 2` zeros on every
    side, and so does this layer: the output shape is the same, the outputs
    differ.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Odd integer, or a pair of them.
        strides: Integer or pair of integers. Defaults to `1`.
        use_bias: Boolean. Defaults to `False`, because the normalization that
            follows adds an offset of its own.
        kernel_initializer: Defaults to the paper's, Gaussian with variance
            `2 / fan_in`.
        **kwargs: Other arguments of `keras.layers.Conv2D`, except `padding`.

    Reference: He et al. 2015, section 3.4.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Size,
        strides: Size = 1,
        use_bias: bool = False,
        kernel_initializer: Initializer = KERNEL_INITIALIZER,
        **kwargs: Any,
    ) -> None:
        padding = kwargs.pop("padding", "same")
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )
        _check_window("Convolution", "kernel_size", self.kernel_size, padding)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if backend.lay_out_kernel and self.data_format == "channels_last":
            backend.lay_out_kernel(self._kernel)

    def call(self, inputs: Tensor) -> Tensor:
        windows = zip(self.kernel_size, self.dilation_rate, strict=True)
        x = backend.convolution(
            inputs,
            self.kernel,
            self.bias if self.use_bias else None,
            strides=self.strides,
            margins=[size // 2 * dilation for size, dilation in windows],
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return x if self.activation is None else self.activation(x)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the defaults of residual networks.

    It has the weights of `keras.layers.BatchNormalization` and computes the
    same numbers, by fused operations where the backend has faster ones than
    Keras. The moving variance is the biased one.

    Args:
        axis: Integer, the axis of the channels. Defaults to that of Keras's
            image data format.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variance. Defaults to `1e-5`.
        synchronized: Boolean, whether devices that train together share their
            statistics, on every backend. Defaults to `False`, which leaves it
            to `keras_resnet.devices.use`.
        **kwargs: Other arguments of `keras.layers.BatchNormalization`.

    Reference: He et al. 2015, section 3.4.
    """

    def __init__(
        self,
        axis: int | None = None,
        momentum: float = MOMENTUM,
        epsilon: float = EPSILON,
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        # Keras takes any numbers, and the outputs are then NaN. At a momentum
        # of 1 the statistics stay as they are, which is what some want.
        if not isinstance(momentum, numbers.Real) or not 0 <= momentum <= 1:
            raise ValueError(
                "`momentum` must be a number from 0 to 1. "
                f"Received: momentum={momentum!r}"
            )
        if not isinstance(epsilon, numbers.Real) or not 0 <= epsilon < math.inf:
            raise ValueError(
                "`epsilon` must be a finite number of at least 0. "
                f"Received: epsilon={epsilon!r}"
            )
        if axis is None:
            axis = channel_axis(keras.config.image_data_format())
        super().__init__(
            axis=axis, momentum=momentum, epsilon=epsilon, **kwargs
        )
        # Not given to Keras, which refuses it on other backends than
        # TensorFlow.
        self.synchronized = synchronized

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        if kwargs.get("name") in ("moving_mean", "moving_variance"):
            # Without it the statistics of several devices drift apart on
            # TensorFlow, and those of the first device are saved.
            kwargs.setdefault("aggregation", "mean")
        return super().add_weight(*args, **kwargs)

    def call(
        self,
        inputs: Tensor,
        training: bool | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        usual = (
            mask is None
            and self.scale
            and self.center
            and not self.renorm
            and len(inputs.shape) == 4
            and self.axis in (-1, 1, 3)
        )
        if not usual:
            everywhere = backend.parallel.synchronized
            if training and everywhere and not self.synchronized:
                raise ValueError(
                    f"{self.name} cannot be synchronized between devices: "
                    "only 4-D images without a mask are, with `scale` and "
                    "`center` and without `renorm`."
                )
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, self.compute_dtype)
        # Half precision would round the statistics.
        wide = "float64" if self.gamma.dtype == "float64" else "float32"
        gamma, beta = ops.cast(self.gamma, wide), ops.cast(self.beta, wide)
        mean = ops.cast(self.moving_mean, wide)
        variance = ops.cast(self.moving_variance, wide)
        if not (training and self.trainable):
            return backend.normalization(
                x, mean, variance, gamma, beta, self.epsilon, self.axis
            )
        normalize = backend.batch_normalization
        if self.synchronized or backend.parallel.synchronized:
            normalize = backend.synchronized_batch_normalization
        outputs, batch_mean, batch_variance = normalize(
            x, gamma, beta, self.epsilon, self.axis
        )
        m = self.momentum
        self.moving_mean.assign(backend.moving_average(mean, batch_mean, m))
        self.moving_variance.assign(
            backend.moving_average(variance, batch_variance, m)
        )
        return outputs


@keras.saving.register_keras_serializable(package="keras_resnet")
class MaxPooling(keras.layers.MaxPooling2D):
    """2-D max pooling, padded alike on all sides.

    At stride 1 this is `keras.layers.MaxPooling2D(padding="same")`. At a
    larger stride it pads as `Convolution` does. Padding never wins a maximum.

    Args:
        pool_size: Odd integer, or a pair of them.
        strides: Integer or pair of integers.
        **kwargs: Other arguments of `keras.layers.MaxPooling2D`, except
            `padding`.

    Reference: He et al. 2015, table 1.
    """

    def __init__(
        self, pool_size: Size, strides: Size = 1, **kwargs: Any
    ) -> None:
        padding = kwargs.pop("padding", "same")
        super().__init__(pool_size, strides=strides, padding=padding, **kwargs)
        _check_window("MaxPooling", "pool_size", self.pool_size, padding)

    def call(self, inputs: Tensor) -> Tensor:
        return backend.max_pooling(
            inputs, self.pool_size, self.strides, self.data_format
        )


@keras.saving.register_keras_serializable(package="keras_resnet")
class ReLU(keras.layers.Layer):
    """Rectified linear unit that gives NaN for NaN on every backend.

    `keras.layers.ReLU` may give 0 where TensorFlow or XLA compiles it for a
    CPU, so that a training that has diverged looks as if it went on.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Reference: He et al. 2015, section 3.4.
    """

    def call(self, inputs: Tensor) -> Tensor:
        return backend.relu(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def _check_window(layer, argument, size, padding):
    """Raise `ValueError` if a window cannot be padded alike on both sides."""
    if padding != "same" or any(k % 2 == 0 for k in size):
        raise ValueError(
            f"{layer} pads {argument} // 2 on each side, so `padding` must be "
            f"'same' and `{argument}` odd. Received: padding={padding!r}, "
            f"{argument}={size!r}"
        )


def channel_axis(data_format: str) -> int:
    """Return the axis of the channels: -1, or 1 for channels first."""
    return -1 if data_format == "channels_last" else 1


def own_initializer(identifier: Initializer) -> Callable:
    """Return an initializer for one layer alone.

    A Keras initializer object gives the same values each time it is used.
    """
    initializer = keras.initializers.get(identifier)
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer.clone()
    return initializer


@keras.saving.register_keras_serializable(package="keras_resnet")
class ResidualBlock(keras.layers.Layer):
    """Residual block, basic or bottleneck, or its plain twin.

    Computes `relu(F(x) + shortcut(x))`. The residual branch `F` is

    - basic: 3x3, 3x3;
    - bottleneck: 1x1, 3x3, 1x1, the last with four times the channels;

    each a convolution without bias followed by batch normalization, with a
    ReLU between them. The plain twin computes `relu(F(x))`.

    The sublayers are `conv1`, `bn1`, `conv2`, `bn2` (and `conv3`, `bn3`), and
    `shortcut_conv`, `shortcut_bn` where the shortcut is a projection. Files
    and copies keep what is set on a single sublayer: its `trainable`,
    regularizers, constraints, `momentum`, `epsilon`, `dtype_policy` and LoRA.

    A subclass overrides these methods to compute something else:

    - `make_convolution` and `make_normalization` return each sublayer;
    - `activation` is the ReLU;
    - `residual_branch` and `projection` return the steps of the branch and of
      a projecting shortcut, `preactivation` those before both;
    - `join` adds branch and shortcut, and applies the last ReLU.

    Steps run in order. A step is a layer with a `compute_output_shape`, a
    function of a tensor that keeps its shape, a pair of a convolution and its
    normalization, or `None`, which does nothing. A subclass that overrides
    `call` or `paths` is neither analysed nor folded, because both read the
    steps. `docs/blocks.md` has examples.

    Args:
        filters: Integer, the width: channels of the 3x3 convolutions. A basic
            block outputs `filters` channels, a bottleneck `4 * filters`.
        stride: Integer, step of the block in rows and columns. Defaults to
            `1`.
        shortcut: `"A"`: identity, with parameter-free striding and zero
            channels where the shape changes. `"B"` (default): identity, with
            a projection (1x1 convolution and normalization) where the shape
            changes. `"C"`: always a projection. A plain block ignores it.
        bottleneck: Boolean, defaults to `False`.
        residual: Boolean. `False` makes the plain twin: the same layers
            without the shortcut. Defaults to `True`.
        bottleneck_stride: Which convolution of a bottleneck strides: `"3x3"`
            (default), as all weights published for PyTorch do, or `"1x1"`,
            the first one, as in the paper and `keras.applications`. A basic
            block always strides in its first convolution.
        dilation: Integer, or a pair of them: the distance between the taps of
            a 3x3 kernel, of the convolutions up to the one that strides and of
            those after it. A block whose stride of 2 is taken out has
            `stride=1` and, for example, `dilation=(1, 2)`. Defaults to `1`.
        zero_init_residual: Boolean. `True` initializes the scale of the
            branch's last normalization to zero, so that the block begins as
            its shortcut alone. Defaults to `False`.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variance. Defaults to `1e-5`.
        kernel_initializer: Initializer of the convolutions. Defaults to the
            paper's, Gaussian with variance `2 / fan_in`.
        kernel_regularizer: Regularizer of the convolutions. Defaults to
            `None`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            Keras's global setting.
        folded: Boolean. `True` makes the block that `fold_batch_norm` puts in
            place of another: convolutions with bias, no normalizations.
            Defaults to `False`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: 4-D tensor, `(batch, height, width, channels)` or, channels
            first, `(batch, channels, height, width)`.
        training: Boolean. `True` normalizes with the batch's statistics and
            updates the moving ones, `False` uses the moving ones.

    Output shape: `ceil(height / stride)` rows, `ceil(width / stride)`
    columns, `filters` or `4 * filters` channels.

    Attributes:
        preactivated: Boolean, whether the block normalizes and activates its
            input. `ResNet` then does so after the last block, not in the stem.
        place: Pair of integers, the block's number in its network, from 1,
            and the number of all blocks. `ResNet` sets it.

    Raises:
        ValueError: For an unknown shortcut or stride placement, and where
            option A would have to drop channels.

    Reference: He et al. 2015, sections 3.2, 3.3 and 4.1, figures 2 and 5.
    """

    preactivated = False
    place: tuple[int, int] = (1, 1)

    def __init__(
        self,
        filters: int,
        *,
        stride: int = 1,
        shortcut: str = "B",
        bottleneck: bool = False,
        residual: bool = True,
        bottleneck_stride: str = "3x3",
        dilation: Size = 1,
        zero_init_residual: bool = False,
        momentum: float = MOMENTUM,
        epsilon: float = EPSILON,
        kernel_initializer: Initializer = KERNEL_INITIALIZER,
        kernel_regularizer: Regularizer = None,
        data_format: str | None = None,
        folded: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for argument, value in (("filters", filters), ("stride", stride)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"`{argument}` must be a positive integer. "
                    f"Received: {argument}={value!r}"
                )
        if bottleneck_stride not in ("1x1", "3x3"):
            raise ValueError(
                "`bottleneck_stride` must be '1x1' (the paper's) or '3x3'. "
                f"Received: bottleneck_stride={bottleneck_stride!r}"
            )
        if data_format is None:
            data_format = keras.config.image_data_format()
        if data_format not in ("channels_last", "channels_first"):
            raise ValueError(
                "`data_format` must be 'channels_last' or 'channels_first'. "
                f"Received: data_format={data_format!r}"
            )
        self.filters = filters
        self.stride = stride
        self.shortcut: str = shortcuts.check(shortcut)
        self.bottleneck = bottleneck
        self.residual = residual
        self.bottleneck_stride = bottleneck_stride
        self.dilation: tuple[int, int] = _pair(dilation)
        if min(self.dilation) < 1 or (stride > 1 and self.dilation[0] > 1):
            raise ValueError(
                "`dilation` must be positive, and up to the convolution that "
                "strides 1. "
                f"Received: dilation={dilation!r}, stride={stride}"
            )
        self.zero_init_residual = zero_init_residual
        self.momentum = momentum
        self.epsilon = epsilon
        self.kernel_initializer: Callable = keras.initializers.get(
            kernel_initializer
        )
        self.kernel_regularizer: keras.regularizers.Regularizer | None = (
            keras.regularizers.get(kernel_regularizer)
        )
        self.data_format = data_format
        self.folded = folded
        self.out_channels: int = filters * (EXPANSION if bottleneck else 1)

        # The settings of sublayers by name: when they were made, and those
        # that a configuration has for sublayers that are not made yet.
        self._made = {}
        self._configured = {}
        plan = [(filters, 3, stride), (filters, 3, 1)]
        if bottleneck:
            strides = (stride, 1) if bottleneck_stride == "1x1" else (1, stride)
            plan = [(filters, 1, strides[0]), (filters, 3, strides[1])]
            plan += [(self.out_channels, 1, 1)]
        striding = 2 if bottleneck and bottleneck_stride == "3x3" else 1
        for i, geometry in enumerate(plan, start=1):
            zero = zero_init_residual and i == len(plan)
            self._add_pair(geometry, f"conv{i}", f"bn{i}", zero)
            spacing = self.dilation[i > striding]
            if geometry[1] > 1 and spacing > 1:
                getattr(self, f"conv{i}").dilation_rate = spacing, spacing
        self.shortcut_conv: keras.Layer | None = None
        self.shortcut_bn: keras.Layer | None = None
        self._configure_sublayers()

    def _add_pair(self, geometry, conv_name, bn_name, zero=False):
        conv = self.make_convolution(*geometry, conv_name)
        bn = self.make_normalization(bn_name, "zeros" if zero else "ones")
        if bn is not None and self.folded:
            conv.use_bias, bn = True, None
        setattr(self, conv_name, conv)
        setattr(self, bn_name, bn)

    def make_convolution(
        self, filters: int, kernel_size: int, stride: int, name: str
    ) -> keras.Layer:
        """Return a convolution of this block, `"conv1"` for example."""
        return Convolution(
            filters,
            kernel_size,
            strides=stride,
            kernel_initializer=own_initializer(self.kernel_initializer),
            kernel_regularizer=self.kernel_regularizer,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            # A frozen normalization keeps its statistics, so a block made
            # frozen, as one read from a file, must tell its sublayers.
            trainable=self.trainable,
            name=name,
        )

    def make_normalization(
        self, name: str, gamma_initializer: str = "ones"
    ) -> keras.Layer | None:
        """Return a normalization of this block, `None` for none."""
        return BatchNormalization(
            axis=channel_axis(self.data_format),
            momentum=self.momentum,
            epsilon=self.epsilon,
            gamma_initializer=gamma_initializer,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name=name,
        )

    def activation(self, x: Tensor) -> Tensor:
        """Return the nonlinearity of a tensor, of the same shape."""
        return backend.relu(x)

    # Methods and not attributes, because Keras names a layer in a weight file
    # after the first attribute that holds it.

    def preactivation(self) -> list[steps.Step]:
        """Return the steps before both the branch and a projection: none."""
        return []

    def residual_branch(self) -> list[steps.Step]:
        """Return the steps of the residual branch."""
        first, second = (self.conv1, self.bn1), (self.conv2, self.bn2)
        if not self.bottleneck:
            return [first, self.activation, second]
        third = self.conv3, self.bn3
        return [first, self.activation, second, self.activation, third]

    def projection(self) -> list[steps.Step]:
        """Return the steps of the shortcut where it is a projection."""
        return [(self.shortcut_conv, self.shortcut_bn)]

    def build(self, input_shape: Shape) -> None:
        in_channels = input_shape[channel_axis(self.data_format)]
        projects = self.residual and shortcuts.projects(
            self.shortcut,
            in_channels,
            self.out_channels,
            # Also where a stride was taken out, so that the weights are the
            # same.
            self.stride * self.dilation[1] // self.dilation[0],
        )
        if projects:
            geometry = self.out_channels, 1, self.stride
            self._add_pair(geometry, "shortcut_conv", "shortcut_bn")
        elif self.residual and in_channels > self.out_channels:
            raise ValueError(
                "Shortcut 'A' can only add channels, and this block would "
                f"drop some: it gets {in_channels} and outputs "
                f"{self.out_channels}. Use shortcut 'B' or 'C', or more "
                "filters."
            )
        self._configure_sublayers()
        self._configured = {}
        shape = steps.output_shape(
            self.preactivation(), input_shape, build=True
        )
        if projects:
            steps.output_shape(self.projection(), shape, build=True)
        steps.output_shape(self.residual_branch(), shape, build=True)
        for layer in self._sublayers():
            if not layer.trainable:
                # Also the layers that it made when it was built.
                layer.trainable = False

    def _configure_sublayers(self):
        """Set what the configuration says of sublayers, before they are built.

        Keras configures only layers of a model, not layers of layers.
        """
        for layer in self._sublayers():
            self._made.setdefault(layer.name, _settings(layer))
            for name, value in self._configured.pop(layer.name, {}).items():
                value = keras.saving.deserialize_keras_object(value)
                setattr(layer, name, value)

    def _sublayers(self):
        return self._flatten_layers(include_self=False, recursive=False)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        return self.join(*self.paths(inputs, training), training)

    def paths(
        self,
        inputs: Tensor,
        training: bool | None = None,
        observe: steps.Observer | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the residual branch and the shortcut, `None` in a plain block.

        `observe(convolution, response)` is shown what each convolution of the
        branch gives, after its normalization.
        """
        x = steps.run(self.preactivation(), inputs, training)
        branch = steps.run(self.residual_branch(), x, training, observe)
        if not self.residual:
            return branch, None
        if self.shortcut_conv is not None:
            return branch, steps.run(self.projection(), x, training)
        return branch, shortcuts.zero_padding_shortcut(
            inputs, self.out_channels, self.stride, self.data_format
        )

    def join(
        self,
        branch: Tensor,
        shortcut: Tensor | None,
        training: bool | None = None,
    ) -> Tensor:
        """Return the block's output, given its paths."""
        x = branch if shortcut is None else ops.add(branch, shortcut)
        return self.activation(x)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        shape = steps.output_shape(self.preactivation(), input_shape)
        return steps.output_shape(self.residual_branch(), shape)

    def get_config(self) -> Config:
        sublayers = dict(self._configured)
        for layer in self._sublayers():
            made = self._made.get(layer.name, {})
            made = {**made, "trainable": self.trainable}
            changed = {
                name: keras.saving.serialize_keras_object(value)
                for name, value in _settings(layer).items()
                if value != made.get(name)
            }
            if changed:
                sublayers[layer.name] = changed
        return {
            **super().get_config(),
            **({"sublayers": sublayers} if sublayers else {}),
            "filters": self.filters,
            "stride": self.stride,
            "shortcut": self.shortcut,
            "bottleneck": self.bottleneck,
            "residual": self.residual,
            "bottleneck_stride": self.bottleneck_stride,
            "dilation": self.dilation,
            "zero_init_residual": self.zero_init_residual,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "kernel_initializer": keras.initializers.serialize(
                self.kernel_initializer
            ),
            "kernel_regularizer": keras.regularizers.serialize(
                self.kernel_regularizer
            ),
            "data_format": self.data_format,
            "folded": self.folded,
        }

    @classmethod
    def from_config(cls, config: Config) -> "ResidualBlock":
        config = dict(config)
        sublayers = config.pop("sublayers", {})
        block = super().from_config(config)
        block._configured = dict(sublayers)
        block._configure_sublayers()
        return block


def _pair(size: Size) -> tuple[int, int]:
    first, second = (size, size) if isinstance(size, int) else size
    return first, second


def _settings(layer):
    """Return what people set on a layer, by the names of its attributes."""
    names = [name for name in vars(layer) if name.endswith(SUFFIXES)]
    # Not from its configuration, because Keras imports TensorFlow to make one.
    return {
        name: getattr(layer, name)
        for name in (*SETTINGS, *names)
        if hasattr(layer, name)
    }


def residual_blocks(model: keras.Model) -> list[ResidualBlock]:
    """Return the `ResidualBlock`s among a model's layers, in order."""
    return [x for x in model.layers if isinstance(x, ResidualBlock)]


def follows_steps(block: ResidualBlock) -> bool:
    """Return whether a block computes what its steps and `join` say."""
    return all(
        getattr(type(block), name) is getattr(ResidualBlock, name)
        for name in ("call", "paths")
    )


def adaptation(model: keras.Model) -> str | None:
    """Say which layer is quantized or adapted by LoRA, `None` if none is."""
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            what = f"is quantized ({mode})"
        elif getattr(layer, "lora_enabled", False):
            what = "is adapted by LoRA"
        else:
            continue
        return f"Layer {layer.name!r} of model {model.name!r} {what}"
    return None
