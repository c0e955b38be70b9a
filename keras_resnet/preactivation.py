"""Block with full pre-activation, from "Identity Mappings"."""

from typing import Any

import keras
from keras import ops

from keras_resnet import blocks, steps
from keras_resnet.types import Tensor


@keras.saving.register_keras_serializable(package="keras_resnet")
class PreactivationBlock(blocks.ResidualBlock):
    """Residual block with normalization and ReLU before each convolution.

    Computes `F(relu(preact_bn(x))) + shortcut`, with no ReLU after the
    addition. The shortcut is `x` itself, or a projection of the activated `x`:
    a convolution without normalization. The branch `F` is

    - basic: 3x3, 3x3;
    - bottleneck: 1x1, 3x3, 1x1, the last with four times the channels.

    Normalization and ReLU are between the convolutions. The sublayers are
    `preact_bn`, `conv1`, `bn1`, `conv2` (and `bn2`, `conv3`), and
    `shortcut_conv` if the shortcut is a projection.

    `ResNet(block=PreactivationBlock)` leaves normalization and ReLU out of the
    stem and adds them after the last block. `zero_init_residual` zeroes the
    kernel of the branch's last convolution, because a zero scale before a ReLU
    would never be trained. `fold_batch_norm` folds the normalizations between
    convolutions; it keeps `preact_bn`, because that follows an addition.

    The networks equal those of timm (`resnetv2_50`) and of KerasHub
    (`use_pre_activation=True`). They differ in two ways from the paper's
    appendix, where the stem is activated before the first block: here the
    first shortcut takes the stem without activation, and ImageNet's stem pools
    before `preact_bn`, not after it. `ResNet50V2` of `keras.applications` is
    another network: the last block of a stage has the stride.

    Args:
        *args: See `ResidualBlock`.
        **kwargs: See `ResidualBlock`.

    Reference: He et al. 2016, "Identity Mappings in Deep Residual Networks",
    section 4.1, figure 4 (e), and appendix.
    """

    preactivated = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preact_bn: keras.Layer | None = self.make_normalization(
            "preact_bn"
        )
        self._configure_sublayers()

    def _is_last(self, name):
        return name.endswith("3" if self.bottleneck else "2")

    def make_convolution(
        self, filters: int, kernel_size: int, stride: int, name: str
    ) -> keras.Layer:
        conv = super().make_convolution(filters, kernel_size, stride, name)
        if self.zero_init_residual and self._is_last(name):
            conv.kernel_initializer = keras.initializers.Zeros()
        return conv

    def make_normalization(
        self, name: str, gamma_initializer: str = "ones"
    ) -> keras.Layer | None:
        if name == "shortcut_bn" or self._is_last(name):
            return None
        return super().make_normalization(name)

    def preactivation(self) -> list[steps.Step]:
        return [self.preact_bn, self.activation]

    def join(
        self,
        branch: Tensor,
        shortcut: Tensor | None,
        training: bool | None = None,
    ) -> Tensor:
        return branch if shortcut is None else ops.add(branch, shortcut)
