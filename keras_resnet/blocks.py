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

# Attributes that users may set on a layer after its construction.
SETTINGS = ["trainable", "dtype_policy", "momentum", "epsilon"]
SETTINGS += ["lora_rank", "lora_alpha"]
SUFFIXES = ("_regularizer", "_constraint")


@keras.saving.register_keras_serializable(package="keras_resnet")
class Convolution(keras.layers.Conv2D):
    """2-D convolution without bias, with equal padding on all sides.

    At stride 1 this is `keras.layers.Conv2D(padding="same")`. At a larger
    stride, Keras pads one row more after the image than before it. This layer
    pads `kernel_size // 2` zeros on every side, like the paper's code and all
    published ResNet weights. The output shape is the same as in Keras; the
    outputs differ.

    Args:
        filters: Integer, number of output channels.
        kernel_size: Odd integer, or a pair of them.
        strides: Integer or pair of integers. Defaults to `1`.
        use_bias: Boolean. Defaults to `False`, because the normalization after
            the convolution has an offset of its own.
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
            padding=[size // 2 * dilation for size, dilation in windows],
            dilation_rate=self.dilation_rate,
            data_format=self.data_format,
        )
        return x if self.activation is None else self.activation(x)


@keras.saving.register_keras_serializable(package="keras_resnet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with the defaults of residual networks.

    It has the weights of `keras.layers.BatchNormalization` and computes the
    same numbers. It uses fused operations if the backend has faster ones than
    Keras. The moving variance is the biased variance.

    Args:
        axis: Integer, the axis of the channels. Defaults to the channel axis
            of Keras's image data format.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variance. Defaults to `1e-5`.
        synchronized: Boolean, whether devices that train together share their
            statistics, on every backend. Defaults to `False`: then
            `keras_resnet.devices.use` decides.
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
        # Keras accepts any number, and the outputs may then be NaN. A momentum
        # of 1 is allowed: it freezes the statistics.
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
            axis = backend.channel_axis(keras.config.image_data_format())
        super().__init__(
            axis=axis, momentum=momentum, epsilon=epsilon, **kwargs
        )
        # Keras raises an error for this argument on JAX and PyTorch, so it is
        # set here.
        self.synchronized = synchronized

    def add_weight(self, *args: Any, **kwargs: Any) -> keras.Variable:
        if kwargs.get("name") in ("moving_mean", "moving_variance"):
            # Otherwise, on TensorFlow, each device keeps its own statistics,
            # and only those of the first device are saved.
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
    """2-D max pooling, with equal padding on all sides.

    At stride 1 this is `keras.layers.MaxPooling2D(padding="same")`. At a
    larger stride it pads like `Convolution`. The padding is never the maximum.

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
    """Rectified linear unit that returns NaN for NaN on every backend.

    `keras.layers.ReLU` may return 0 for NaN if TensorFlow or XLA compiles it
    for a CPU. A training that has diverged would then go unnoticed.

    Args:
        **kwargs: `name`, `dtype`, `trainable`.

    Reference: He et al. 2015, section 3.4.
    """

    def call(self, inputs: Tensor) -> Tensor:
        return backend.relu(inputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def _check_window(layer, argument, size, padding):
    """Raise `ValueError` if a window cannot be padded equally on all sides."""
    if padding != "same" or any(k % 2 == 0 for k in size):
        raise ValueError(
            f"{layer} pads {argument} // 2 on each side, so `padding` must be "
            f"'same' and `{argument}` odd. Received: padding={padding!r}, "
            f"{argument}={size!r}"
        )


def own_initializer(identifier: Initializer) -> Callable:
    """Return a copy of an initializer, for one layer.

    A Keras initializer object returns the same values at each call.
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
    - bottleneck: 1x1, 3x3, 1x1, the last with four times the channels.

    Each convolution has no bias and is followed by batch normalization, with a
    ReLU between them. The plain twin computes `relu(F(x))`.

    The sublayers are `conv1`, `bn1`, `conv2`, `bn2` (and `conv3`, `bn3`), and
    `shortcut_conv`, `shortcut_bn` if the shortcut is a projection. You may set
    `trainable`, regularizers, constraints, `momentum`, `epsilon`,
    `dtype_policy` and LoRA on a single sublayer; files and copies keep them.

    A subclass overrides these methods to compute something else:

    - `make_convolution` and `make_normalization` return each sublayer;
    - `activation` is the ReLU;
    - `residual_branch` returns the steps of the branch, `projection` those of
      a projecting shortcut, and `preactivation` those before both;
    - `join` adds branch and shortcut, and applies the last ReLU.

    Steps run in order. A step is a layer with a `compute_output_shape`, a
    function of a tensor that keeps its shape, a pair of a convolution and its
    normalization, or `None`, which does nothing. A subclass that overrides
    `call` or `paths` is neither analysed nor folded, because both read the
    steps. `docs/blocks.md` has examples.

    Args:
        filters: Integer, output channels of the 3x3 convolutions. A basic
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
        bottleneck_stride: The convolution of a bottleneck that has the stride:
            `"3x3"` (default), as in the weights published for PyTorch, or
            `"1x1"`, the first convolution, as in the paper and
            `keras.applications`. In a basic block it is always the first.
        dilation: Integer, or a pair: the dilation rate of the 3x3 convolutions
            up to the strided one, and of those after it. A block whose stride
            of 2 was replaced by dilation has `stride=1` and, for example,
            `dilation=(1, 2)`. Defaults to `1`.
        zero_init_residual: Boolean. `True` initializes the scale of the
            branch's last normalization to zero, so that the block initially
            computes its shortcut only. Defaults to `False`.
        momentum: Float, decay of the moving statistics. Defaults to `0.9`.
        epsilon: Float added to the variance. Defaults to `1e-5`.
        kernel_initializer: Initializer of the convolutions. Defaults to the
            paper's, Gaussian with variance `2 / fan_in`.
        kernel_regularizer: Regularizer of the convolutions. Defaults to
            `None`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to
            Keras's global setting.
        folded: Boolean. `True` makes a block of convolutions with bias and no
            normalizations, as `fold_batch_norm` does. Defaults to `False`.
        **kwargs: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: 4-D tensor, `(batch, height, width, channels)` or, channels
            first, `(batch, channels, height, width)`.
        training: Boolean. `True` normalizes with the batch's statistics and
            updates the moving ones, `False` uses the moving ones.

    Output shape: `ceil(height / stride)` rows, `ceil(width / stride)`
    columns, `filters` or `4 * filters` channels.

    Attributes:
        preactivated: Boolean. `True`: the block normalizes and activates its
            input, and `ResNet` does so after the last block, not in the stem.
        place: Pair of integers, set by `ResNet`: the block's number, from 1,
            and the number of blocks in the network. Files do not store it: a
            subclass that reads it does, as `StochasticDepthBlock` shows.

    Raises:
        ValueError: For an unknown shortcut or stride placement, and if the
            block with option A would have fewer output than input channels.

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
                "`dilation` must be positive. With `stride` above 1 its first "
                "entry must be 1. "
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

        # Settings of sublayers by name: as constructed, and from a
        # configuration, for sublayers that do not exist yet.
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
            # A block that is constructed frozen, for example from a file,
            # freezes its sublayers, so that normalizations keep statistics.
            trainable=self.trainable,
            name=name,
        )

    def make_normalization(
        self, name: str, gamma_initializer: str = "ones"
    ) -> keras.Layer | None:
        """Return a normalization of this block, `None` for none."""
        return BatchNormalization(
            axis=backend.channel_axis(self.data_format),
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

    # These are methods, because Keras names a layer in a weight file after the
    # first attribute that holds it.

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
        """Return the steps of a shortcut that is a projection."""
        return [(self.shortcut_conv, self.shortcut_bn)]

    def build(self, input_shape: Shape) -> None:
        in_channels = input_shape[backend.channel_axis(self.data_format)]
        projects = self.residual and shortcuts.projects(
            self.shortcut,
            in_channels,
            self.out_channels,
            # Dilation that replaces a stride counts as one, so that the
            # weights are the same.
            self.stride * self.dilation[1] // self.dilation[0],
        )
        if projects:
            geometry = self.out_channels, 1, self.stride
            self._add_pair(geometry, "shortcut_conv", "shortcut_bn")
        elif self.residual and in_channels > self.out_channels:
            raise ValueError(
                "Shortcut 'A' cannot reduce channels: the block has "
                f"{in_channels} input and {self.out_channels} output channels. "
                "Use shortcut 'B' or 'C', or more filters."
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
                # This also freezes the layers that `build` has created.
                layer.trainable = False

    def _configure_sublayers(self):
        """Apply the configuration to sublayers that are not built yet.

        Keras configures only the layers of a model, not their sublayers.
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
        """Return the outputs of the residual branch and of the shortcut.

        The shortcut of a plain block is `None`. `observe(convolution,
        response)` is called for each convolution of the branch; the response
        is its output after normalization.
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
        """Return the block's output from the outputs of its two paths."""
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
    """Return the settings of a layer, by the names of its attributes."""
    names = [name for name in vars(layer) if name.endswith(SUFFIXES)]
    # `get_config` would import TensorFlow.
    return {
        name: getattr(layer, name)
        for name in (*SETTINGS, *names)
        if hasattr(layer, name)
    }


def residual_blocks(model: keras.Model) -> list[ResidualBlock]:
    """Return the `ResidualBlock`s among a model's layers, in order."""
    return [x for x in model.layers if isinstance(x, ResidualBlock)]


def follows_steps(block: ResidualBlock) -> bool:
    """Return whether a block computes its steps and `join`, nothing else."""
    return all(
        getattr(type(block), name) is getattr(ResidualBlock, name)
        for name in ("call", "paths")
    )


def adaptation(model: keras.Model, lora: bool = True) -> str | None:
    """Return a text that names a quantized or LoRA layer, or `None`.

    `lora=False` allows LoRA, with which `kernel` is the sum that counts.
    """
    for layer in model._flatten_layers():
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            what = f"is quantized ({mode})"
        elif lora and getattr(layer, "lora_enabled", False):
            what = "is adapted by LoRA"
        else:
            continue
        return f"Layer {layer.name!r} of model {model.name!r} {what}"
    return None
