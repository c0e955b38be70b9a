"""Fine-tuning of trained networks: frozen parts and feature maps."""

from collections.abc import Sequence

import keras

from keras_resnet import blocks, table1
from keras_resnet.resnet import ResidualNetwork


def freeze(
    model: keras.Model, stage: int | None = None, *, normalization: bool = False
) -> keras.Model:
    """Freeze a network up to a stage, and unfreeze the layers after it.

    A frozen layer keeps its weights. A frozen batch normalization also keeps
    its statistics and normalizes with them, in training as in inference. Each
    call sets `trainable` of all layers, and the model's file stores it.

    Compile a compiled model again afterwards, as after every change of
    `trainable` in Keras.

    Args:
        model: A network of this package. Layers before the network
            (`input_tensor`) are frozen too.
        stage: Integer, the last stage that is frozen, from 1; `0` freezes only
            the stem, `None` (default) all stages. Layers after the last stage,
            such as the head or layers of your own, are never frozen.
        normalization: Boolean, whether to freeze all other batch
            normalizations too, as is usual for small batches. Defaults to
            `False`.

    Returns:
        `model`.

    Raises:
        ValueError: If the model has no such stage.
    """
    last = _stages(model)
    final = max(last)
    if stage is None:
        stage = final
    if isinstance(stage, bool) or stage not in range(final + 1):
        raise ValueError(
            f"`stage` must be None or a stage of model {model.name!r}, "
            f"0 to {final}. Received: stage={stage!r}"
        )
    model.trainable = True
    frozen = True
    for layer in model.layers:
        place = table1.stage_and_block(layer.name)
        if place:
            frozen = place[0] <= stage
        # Sublayers are set one by one: on TensorFlow a layer that is already
        # trainable does not pass `True` on to its sublayers.
        for part in layer._flatten_layers():
            part.trainable = not frozen
        if layer is last[final]:
            frozen = False
    if normalization:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    return model


def features(
    model: keras.Model, stages: Sequence[int] = (1, 2, 3, 4)
) -> "FeatureExtractor":
    """Return a network whose outputs are the feature maps of stages.

    The returned model has the maps' `strides` and `channels`, which detection
    and segmentation need: for ResNet-50 4, 8, 16, 32 and 256, 512, 1024, 2048.
    It shares its layers with `model`, so that both train together. For images
    of any size, build `model` with `input_shape=(None, None, 3)`.

    Args:
        model: A network of this package.
        stages: Sequence of integers, from 1, in ascending order. Defaults to
            the four of ImageNet's networks.

    Returns:
        A `FeatureExtractor`, a `keras.Model` from images to a dictionary of
        feature maps, `"stage1"` and so on.

    Raises:
        ValueError: If the model has no such stage.

    Reference: He et al. 2015, table 1 and appendix A.
    """
    last = _stages(model)
    stages = tuple(stages)
    if not stages or list(stages) != sorted({*stages} & {*last}):
        raise ValueError(
            f"`stages` must be ascending stages of model {model.name!r}, which "
            f"has {', '.join(map(str, last))}. Received: stages={stages!r}"
        )
    return FeatureExtractor(
        model.inputs if len(model.inputs) > 1 else model.inputs[0],
        {f"stage{s}": last[s].output for s in stages},
        name=f"{model.name}_features",
    )


def _stages(model):
    """Return the last block of each stage, by stage."""
    last = {}
    for layer in getattr(model, "layers", ()):
        place = table1.stage_and_block(layer.name)
        if place:
            last[place[0]] = layer
    if not last:
        name = getattr(model, "name", model)
        raise ValueError(
            f"Model {name!r} has no layers 'stage1_block1' and so on: it is "
            "not a network of this package, or it has one nested as a layer."
        )
    return last


@keras.saving.register_keras_serializable(package="keras_resnet")
class FeatureExtractor(ResidualNetwork):
    """Network whose outputs are the feature maps of stages.

    `features` builds it. The keys of `strides` and `channels` are the outputs'
    names, such as `"stage3"`.
    """

    @property
    def strides(self) -> dict[str, int]:
        """Total stride of each feature map, by its name."""
        strides = {}
        stride = 1
        for layer in self.layers:
            if isinstance(layer, blocks.ResidualBlock):
                stride *= layer.stride
                strides[layer.name.partition("_")[0]] = stride
            elif layer.name in ("stem_conv", "stem_pool"):
                stride *= layer.strides[0]
        return {name: strides[name] for name in self.output}

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each feature map, by its name."""
        channels = {
            block.name.partition("_")[0]: block.out_channels
            for block in blocks.residual_blocks(self)
        }
        return {name: channels[name] for name in self.output}


# Registered for `.h5` files, like `ResidualNetwork`.
keras.saving.get_custom_objects()["FeatureExtractor"] = FeatureExtractor
