"""The paper's optimizer."""

import keras

from keras_resnet import backend
from keras_resnet.blocks import register


@register
class CoupledSGD(keras.optimizers.SGD):
    """SGD with momentum and weight decay that is part of the gradient.

    With decay `d` each weight `w` moves by `v`:

        v = momentum * v - learning_rate * (gradient + d * w)
        w = w + v

    as in Caffe, which the paper used, and `torch.optim.SGD(weight_decay=d)`.
    It is the gradient of `loss + d / 2 * sum(w ** 2)` for every trainable
    weight, normalization and biases included. Keras's own
    `SGD(weight_decay=)` is another thing: it shrinks the weights apart from
    the gradient and the momentum.

    Args:
        learning_rate: Float or schedule. Defaults to `0.1`.
        momentum: Float in [0, 1]. Defaults to `0.9`.
        nesterov: Boolean, whether to look ahead. Defaults to `False`.
        coupled_decay: Float, the paper's weight decay. Defaults to `1e-4`.
        **kwargs: Other arguments of `keras.optimizers.SGD`.

    Reference: He et al. 2015, sections 3.4 and 4.2.
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.9,
        nesterov=False,
        coupled_decay=1e-4,
        name="coupled_sgd",
        **kwargs,
    ):
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        if coupled_decay < 0:
            raise ValueError(
                "`coupled_decay` must not be negative. "
                f"Received: coupled_decay={coupled_decay}"
            )
        self.coupled_decay = coupled_decay

    def build(self, variables):
        super().build(variables)
        if backend.lay_out_like and self.momentum:
            for variable, velocity in zip(
                variables, self.momentums, strict=True
            ):
                backend.lay_out_like(velocity, variable)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if not backend.sgd_step:
            super()._backend_update_step(
                grads, trainable_variables, learning_rate
            )
            return
        velocities = None
        if self.momentum:
            velocities = [
                self.momentums[self._get_variable_index(v)]._value
                for v in trainable_variables
            ]
        backend.sgd_step(
            [v._value for v in trainable_variables],
            list(grads),
            velocities,
            keras.ops.cast(learning_rate, "float32"),
            momentum=self.momentum,
            nesterov=self.nesterov,
            decay=self.coupled_decay,
        )

    def update_step(self, gradient, variable, learning_rate):
        if self.coupled_decay:
            gradient = keras.ops.cast(gradient, variable.dtype)
            gradient = gradient + self.coupled_decay * variable
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
