"""Optimizers with the weight decay of their papers."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_resnet import backend
from keras_resnet.types import Config, Schedule, Tensor


class _Optimizer(keras.optimizers.Optimizer):
    """Optimizer that corrects clipping and weight averages, and starts faster.

    On several TensorFlow devices Keras clips the gradient of each shard before
    it sums them, but the norm of a shard is not that of the batch. If gradients
    of several batches are accumulated, Keras averages the weights after each
    batch, although they change only after the last one. On JAX Keras compiles
    a program for the zeros of each shape; here NumPy makes them.
    """

    def add_variable_from_reference(
        self,
        reference_variable: keras.Variable,
        name: str | None = None,
        initializer: Any = "zeros",
    ) -> keras.Variable:
        if initializer == "zeros":
            initializer = _zeros
        return super().add_variable_from_reference(
            reference_variable, name, initializer
        )

    def _clip_gradients(self, grads: list[Tensor]) -> list[Tensor]:
        if keras.backend.backend() == "tensorflow":
            pairs = [(gradient, None) for gradient in grads]
            pairs = super()._all_reduce_sum_gradients(pairs)
            grads = [gradient for gradient, _ in pairs]
        return super()._clip_gradients(grads)

    def _all_reduce_sum_gradients(self, grads_and_vars: list) -> list:
        # Keras calls it after `_clip_gradients`, which has summed them.
        return grads_and_vars

    def _update_model_variables_moving_average(
        self, trainable_variables: list[keras.Variable]
    ) -> None:
        batches = self.gradient_accumulation_steps
        if not batches:
            super()._update_model_variables_moving_average(trainable_variables)
            return
        stepped = ops.equal((self._iterations + 1) % batches, 0)
        # A momentum of 1 leaves the average as it is, on every backend. Until
        # the first step a momentum of 0 copies the weights, as Keras does.
        momentum = ops.where(stepped, self.ema_momentum, 1.0)
        momentum = ops.where(ops.equal(self.iterations, 0), 0.0, momentum)
        for variable, average in zip(
            trainable_variables,
            self._model_variables_moving_average,
            strict=True,
        ):
            if average is not None:
                share = ops.cast(momentum, variable.dtype)
                average.assign(share * average + (1 - share) * variable)


def _check_decay(value):
    """Return a decay, or raise `ValueError` if it is negative."""
    if value < 0:
        raise ValueError(
            "`coupled_decay` must not be negative. "
            f"Received: coupled_decay={value}"
        )
    return value


def _zeros(shape, dtype):
    return ops.convert_to_tensor(np.zeros(shape, "float32"), dtype)


@keras.saving.register_keras_serializable(package="keras_resnet")
class CoupledSGD(_Optimizer, keras.optimizers.SGD):
    """SGD with momentum and weight decay that is part of the gradient.

    With decay `d` each weight `w` moves by `v`:

        v = momentum * v - learning_rate * (gradient + d * w)
        w = w + v

    as in Caffe, which the paper used. With `momentum_correction` each weight
    moves by `-learning_rate * u`:

        u = momentum * u + gradient + d * w

    as in `torch.optim.SGD(weight_decay=d)`. Both rules are equal while the
    learning rate is constant. With the second, a new rate also applies to
    earlier gradients at once, because the momentum sums gradients, not moves.

    Either way the gradient is that of `loss + d / 2 * sum(w ** 2)` for every
    trainable weight, normalization and biases included, except those that
    `exclude_from_weight_decay` names. Keras's own `SGD(weight_decay=)` differs:
    it shrinks the weights separately from the gradient and the momentum.

    Args:
        learning_rate: Float or schedule. Defaults to `0.1`.
        momentum: Float in [0, 1]. Defaults to `0.9`.
        nesterov: Boolean, whether to use Nesterov's rule. Defaults to `False`.
        coupled_decay: Float, the paper's weight decay. Defaults to `1e-4`.
        decay_norm_and_bias: Boolean, whether weights of one dimension, those
            of normalizations and biases, decay too. Defaults to `True`.
        momentum_correction: Boolean, whether a change of the learning rate
            applies to earlier gradients too, as in PyTorch. Defaults to
            `False`, as in Caffe.
        **kwargs: Other arguments of `keras.optimizers.SGD`.

    References: He et al. 2015, sections 3.4 and 4.2. Goyal et al. 2017,
    "Accurate, Large Minibatch SGD", remark 2, for the correction.
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.1,
        momentum: float = 0.9,
        nesterov: bool = False,
        coupled_decay: float = 1e-4,
        decay_norm_and_bias: bool = True,
        momentum_correction: bool = False,
        name: str = "coupled_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            name=name,
            **kwargs,
        )
        self.coupled_decay: float = _check_decay(coupled_decay)
        self.decay_norm_and_bias = decay_norm_and_bias
        self.momentum_correction = momentum_correction

    def _decay_of(self, variable: keras.Variable) -> float:
        decays = self.decay_norm_and_bias or len(variable.shape) > 1
        decays = decays and self._use_weight_decay(variable)
        return self.coupled_decay if decays else 0

    def build(self, variables: list[keras.Variable]) -> None:
        super().build(variables)
        if backend.lay_out_like and self.momentum:
            for variable, velocity in zip(
                variables, self.momentums, strict=True
            ):
                backend.lay_out_like(velocity, variable)

    def _backend_update_step(
        self,
        grads: list[Tensor],
        trainable_variables: list[keras.Variable],
        learning_rate: Tensor,
    ) -> None:
        if not backend.sgd_step:
            super()._backend_update_step(
                grads, trainable_variables, learning_rate
            )
            return
        groups = {}
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            group = groups.setdefault(self._decay_of(variable), ([], []))
            group[0].append(gradient)
            group[1].append(variable)
        for decay, (gradients, variables) in groups.items():
            velocities = None
            if self.momentum:
                velocities = [
                    self.momentums[self._get_variable_index(v)]._value
                    for v in variables
                ]
            backend.sgd_step(
                [v._value for v in variables],
                gradients,
                velocities,
                ops.convert_to_tensor(learning_rate),
                momentum=self.momentum,
                nesterov=self.nesterov,
                decay=decay,
                correction=self.momentum_correction,
            )

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        decay = self._decay_of(variable)
        if decay:
            gradient = ops.cast(gradient, variable.dtype)
            gradient = gradient + decay * variable
        if not (self.momentum and self.momentum_correction):
            super().update_step(gradient, variable, learning_rate)
            return
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.momentums[self._get_variable_index(variable)]
        self.assign(velocity, self.momentum * velocity - gradient)
        step = velocity
        if self.nesterov:
            step = self.momentum * velocity - gradient
        rate = ops.cast(learning_rate, variable.dtype)
        self.assign_add(variable, rate * step)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "coupled_decay": self.coupled_decay,
            "decay_norm_and_bias": self.decay_norm_and_bias,
            "momentum_correction": self.momentum_correction,
        }


@keras.saving.register_keras_serializable(package="keras_resnet")
class Lamb(_Optimizer, keras.optimizers.Lamb):
    """LAMB with weight decay as in its paper.

    Each step, including the decay, is scaled to the norm of its weights times
    the learning rate. Weights of one dimension, those of normalizations and
    biases, do not decay, and their steps are not scaled, as in the
    implementations of timm and NVIDIA. Keras's own LAMB scales them too, so
    that weights that begin at zero hardly move, and its `weight_decay` is
    separate from the step.

    Args:
        learning_rate: Float or schedule. Defaults to `0.001`.
        coupled_decay: Float, the weight decay. Defaults to `0.01`.
        epsilon: Float. Defaults to `1e-6`.
        **kwargs: Other arguments of `keras.optimizers.Lamb`.

    Reference: You et al. 2019, "Large Batch Optimization for Deep Learning".
    """

    def __init__(
        self,
        learning_rate: float | Schedule = 0.001,
        coupled_decay: float = 0.01,
        epsilon: float = 1e-6,
        name: str = "lamb",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate, epsilon=epsilon, name=name, **kwargs
        )
        self.coupled_decay: float = _check_decay(coupled_decay)

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        i = self._get_variable_index(variable)
        m, v = self._momentums[i], self._velocities[i]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        mean = m / (1 - ops.power(self.beta_1, step))
        deviation = ops.sqrt(v / (1 - ops.power(self.beta_2, step)))
        update = mean / (deviation + self.epsilon)
        if len(variable.shape) > 1:
            if self._use_weight_decay(variable):
                update = update + self.coupled_decay * variable
            weight = ops.sqrt(ops.sum(ops.square(variable)))
            length = ops.sqrt(ops.sum(ops.square(update)))
            usable = ops.logical_and(weight > 0, length > 0)
            ratio = weight / ops.where(usable, length, 1.0)
            update = ops.where(usable, ratio, 1.0) * update
        self.assign_sub(variable, rate * update)

    def get_config(self) -> Config:
        return {**super().get_config(), "coupled_decay": self.coupled_decay}
