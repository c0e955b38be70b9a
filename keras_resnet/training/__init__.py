"""Training as the paper does it: optimizer, schedules, callbacks, runs."""

from keras_resnet.training.callbacks import (
    Checkpoint,
    DivergenceError,
    FailOnDivergence,
    Interruptible,
    Pace,
    StopAt,
)
from keras_resnet.training.optimizers import CoupledSGD
from keras_resnet.training.runs import Run, RunError, environment
from keras_resnet.training.schedules import one_cycle, step_decay

__all__ = [
    "Checkpoint",
    "CoupledSGD",
    "DivergenceError",
    "FailOnDivergence",
    "Interruptible",
    "Pace",
    "Run",
    "RunError",
    "StopAt",
    "environment",
    "one_cycle",
    "step_decay",
]
