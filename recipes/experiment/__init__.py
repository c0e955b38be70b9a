"""The parts of a recipe: settings, jobs, and the folder of a run.

A recipe is a dataclass of settings, a function that makes a `Job` of them,
and a call of `main`. This module imports only the standard library, so that
`--help` and errors about flags appear at once. `training`, `images` and `run`
import Keras: import them within functions.
"""

from .command import Failure, UsageError, execute
from .job import Job, main
from .settings import (
    IMAGE_DATASETS,
    POLICIES,
    REQUIRED,
    CommandSettings,
    ImageSettings,
    NetSettings,
    RunSettings,
    SeedSettings,
    block_setting,
    data_dir_option,
    dataset_setting,
    execution_option,
    option,
    precision_setting,
    seed_setting,
    setting,
    shortcut_setting,
)
from .values import (
    cifar_depth,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    share,
)

__all__ = [
    "IMAGE_DATASETS",
    "POLICIES",
    "REQUIRED",
    "CommandSettings",
    "Failure",
    "ImageSettings",
    "Job",
    "NetSettings",
    "RunSettings",
    "SeedSettings",
    "UsageError",
    "block_setting",
    "data_dir_option",
    "cifar_depth",
    "dataset_setting",
    "execute",
    "execution_option",
    "main",
    "non_negative_float",
    "non_negative_int",
    "option",
    "positive_float",
    "positive_int",
    "precision_setting",
    "seed_setting",
    "setting",
    "share",
    "shortcut_setting",
]
