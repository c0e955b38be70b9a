"""Learning rates, as Keras schedules: functions of the step alone."""

from keras import ops
from keras.optimizers import schedules

from keras_resnet.blocks import register


def step_decay(learning_rate, steps, warmup_steps=0, warmup_rate=None):
    """The paper's: divided by 10 after 1/2 and after 3/4 of all steps.

    With 64k steps that is at 32k and 48k.

    Args:
        learning_rate: Float, where to begin.
        steps: Integer, steps in all.
        warmup_steps: Integer, steps at `warmup_rate` before that, fewer than
            half of `steps`. Defaults to `0`.
        warmup_rate: Float. Defaults to a tenth of `learning_rate`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Reference: He et al. 2015, section 4.2.
    """
    # Keras counts from 0 and changes after the boundary.
    boundaries = [steps // 2 - 1, steps * 3 // 4 - 1]
    rates = [learning_rate, learning_rate / 10, learning_rate / 100]
    if warmup_steps:
        # Keras would add up the rates of boundaries that are not in order.
        if warmup_steps >= steps // 2:
            raise ValueError(
                "`warmup_steps` must be fewer than half of `steps`. Received: "
                f"warmup_steps={warmup_steps}, steps={steps}"
            )
        boundaries.insert(0, warmup_steps - 1)
        rates.insert(
            0, learning_rate / 10 if warmup_rate is None else warmup_rate
        )
    return schedules.PiecewiseConstantDecay(boundaries, rates)


def one_cycle(learning_rate, steps, warmup=0.25):
    """Linear from 0 up to the peak, then along a half cosine down to 0.

    Args:
        learning_rate: Float, the peak.
        steps: Integer, steps in all.
        warmup: Float, share of the steps that go up. Defaults to `0.25`.

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.

    Reference: Smith and Topin 2017, "Super-Convergence" (there the way down
    is linear too).
    """
    up = round(warmup * steps)
    return schedules.CosineDecay(
        0.0,
        decay_steps=max(1, steps - up),
        warmup_target=learning_rate,
        warmup_steps=up,
    )


@register
class WarmUp(schedules.LearningRateSchedule):
    """Another schedule, with a linear way up to where it begins.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`. The way
            up leads to its rate at step 0, the peak. It is not delayed: its
            steps are those of the whole training.
        steps: Integer, steps of the way up, at least 1.
        first: Float, the learning rate at step 0. Defaults to `0`.

    Reference: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section
    2.2. Likewise timm, whose cosine goes on after a warm-up to the peak.
    """

    def __init__(self, schedule, steps, first=0.0):
        super().__init__()
        self.schedule = schedule
        self.steps = steps
        self.first = first

    def __call__(self, step):
        step = ops.cast(step, "float32")
        # Not the rate at the end of the way up, which may be 0 already.
        last = self.schedule(0)
        way = self.first + (last - self.first) * step / self.steps
        return ops.where(step < self.steps, way, self.schedule(step))

    def get_config(self):
        return {
            "schedule": schedules.serialize(self.schedule),
            "steps": self.steps,
            "first": self.first,
        }

    @classmethod
    def from_config(cls, config):
        schedule = schedules.deserialize(config["schedule"])
        return cls(**{**config, "schedule": schedule})
