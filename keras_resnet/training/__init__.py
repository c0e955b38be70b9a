"""Training as in the paper: optimizer, schedules, callbacks, evaluation."""

from keras_resnet.atomic import write_atomically
from keras_resnet.training.backup import Backup, cut_history, read_state
from keras_resnet.training.callbacks import (
    Interruptible,
    PlateauDivision,
    Profile,
    Throughput,
)
from keras_resnet.training.checkpoints import AverageCheckpoint, Checkpoint
from keras_resnet.training.counting import StopAt, batches_seen, steps_done
from keras_resnet.training.divergence import DivergenceError, FailOnDivergence
from keras_resnet.training.evaluation import (
    EvaluationError,
    evaluate,
    fully_convolutional,
    multi_scale,
    one_crop,
    ten_crop,
    ten_crops,
)
from keras_resnet.training.losses import (
    SmoothedBinaryCrossentropy,
    SmoothedCrossentropy,
    crossentropy,
)
from keras_resnet.training.optimizers import CoupledSGD, Lamb
from keras_resnet.training.schedules import WarmUp, one_cycle, step_decay
from keras_resnet.training.step_evaluation import StepEvaluation

__all__ = [
    "AverageCheckpoint",
    "Backup",
    "Checkpoint",
    "CoupledSGD",
    "DivergenceError",
    "EvaluationError",
    "FailOnDivergence",
    "Interruptible",
    "Lamb",
    "Throughput",
    "PlateauDivision",
    "Profile",
    "SmoothedBinaryCrossentropy",
    "SmoothedCrossentropy",
    "StepEvaluation",
    "StopAt",
    "WarmUp",
    "batches_seen",
    "crossentropy",
    "cut_history",
    "evaluate",
    "fully_convolutional",
    "multi_scale",
    "one_crop",
    "one_cycle",
    "read_state",
    "step_decay",
    "steps_done",
    "ten_crop",
    "ten_crops",
    "write_atomically",
]
