"""Learning rate schedules, which depend on the step alone."""

from collections.abc import Sequence

import keras
from keras import ops
from keras.optimizers import schedules

from keras_resnet.types import Config, Schedule, Tensor


def step_decay(
    learning_rate: float,
    steps: int,
    divisions: Sequence[float] = (1 / 2, 3 / 4),
    warmup_steps: int = 0,
    warmup_rate: float | None = None,
) -> Schedule:
    """Divide the learning rate by 10 after some shares of all steps.

    The defaults are the paper's: after 32k and 48k of 64k steps.

    Args:
        learning_rate: Float, the rate before the first division.
        steps: Integer, steps in all.
        divisions: Increasing shares of `steps`. Defaults to `(1/2, 3/4)`.
        warmup_steps: Integer, number of first steps with `warmup_rate`, fewer
            than the steps before the first division. Defaults to `0`.
        warmup_rate: Float. Defaults to a tenth of `learning_rate`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Raises:
        ValueError: If the warm-up does not end before the first division.

    Reference: He et al. 2015, section 4.2.
    """
    # Keras counts from 0 and changes after the boundary.
    boundaries = [max(0, round(share * steps) - 1) for share in divisions]
    rates = [learning_rate / 10**i for i in range(len(divisions) + 1)]
    if warmup_steps:
        # Keras adds up the rates if the boundaries are not in order.
        if warmup_steps > boundaries[0]:
            raise ValueError(
                f"`warmup_steps` must be fewer than {boundaries[0] + 1}, the "
                f"steps before the first division. Received: "
                f"warmup_steps={warmup_steps}, steps={steps}"
            )
        boundaries.insert(0, warmup_steps - 1)
        rates.insert(
            0, learning_rate / 10 if warmup_rate is None else warmup_rate
        )
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def one_cycle(
    learning_rate: float, steps: int, warmup: float = 0.25
) -> Schedule:
    """Raise the learning rate linearly from 0, then lower it by a cosine to 0.

    Args:
        learning_rate: Float, the peak.
        steps: Integer, steps in all.
        warmup: Float, share of the steps before the peak. Defaults to `0.25`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Reference: Smith and Topin 2017, "Super-Convergence", where the rate also
    falls linearly.
    """
    up = round(warmup * steps)
    return WarmCosineDecay(
        0.0,
        decay_steps=max(1, steps - up),
        warmup_target=learning_rate,
        warmup_steps=up,
    )


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmCosineDecay(schedules.CosineDecay):
    """`keras.optimizers.schedules.CosineDecay` with a warm-up, for GPUs.

    On PyTorch Keras reads at each step whether the warm-up is over, and waits
    for the GPU. This schedule has the same values, but computes both rates.

    Args: those of `keras.optimizers.schedules.CosineDecay`; `warmup_target`
        must be given.
    """

    def __call__(self, step: int | Tensor) -> Tensor:
        first, target, decay, warmup = (
            ops.cast(number, "float32")
            for number in (
                self.initial_learning_rate,
                self.warmup_target,
                self.decay_steps,
                self.warmup_steps,
            )
        )
        step = ops.minimum(ops.cast(step, "float32"), decay + warmup)
        rising = self._warmup_function(step, warmup, target, first)
        falling = self._decay_function(step - warmup, decay, target, "float32")
        return ops.where(step < warmup, rising, falling)


@keras.saving.register_keras_serializable(package="keras_resnet")
class WarmUp(Schedule):
    """Linear warm-up to the rate at which another schedule begins.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`. Its
            rate at step 0 is the peak of the warm-up. It is not delayed: its
            steps include those of the warm-up.
        steps: Integer, steps of the warm-up, at least 1.
        first: Float, the learning rate at step 0. Defaults to `0`.

    Reference: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section
    2.2. timm's cosine schedule also counts the steps of its warm-up.
    """

    def __init__(
        self,
        schedule: Schedule,
        steps: int,
        first: float = 0.0,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.steps = steps
        self.first = first

    def __call__(self, step: int | Tensor) -> Tensor:
        step = ops.cast(step, "float32")
        # Not the schedule's rate at the end of the warm-up, which may be 0.
        peak = self.schedule(0)
        warm_up = self.first + (peak - self.first) * step / self.steps
        return ops.where(step < self.steps, warm_up, self.schedule(step))

    def get_config(self) -> Config:
        return {
            "schedule": schedules.serialize(self.schedule),
            "steps": self.steps,
            "first": self.first,
        }

    @classmethod
    def from_config(cls, config: Config) -> "WarmUp":
        schedule = schedules.deserialize(config["schedule"])
        return cls(**{**config, "schedule": schedule})
