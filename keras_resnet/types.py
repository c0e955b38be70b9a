"""Types without a public name in Keras."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

PathLike = str | os.PathLike[str]
Numbers = Any  # a sequence or an array
Progress = Callable[[Any], Any]  # from a sequence to an iterable of the same
Tensor = Any  # each backend has its own
Shape = tuple[int | None, ...]
Schedule = keras.optimizers.schedules.LearningRateSchedule
Size = int | tuple[int, int]  # of rows and columns
Rows = Sequence[Mapping[str, Any]]  # of a table; the curves of a figure
Config = dict[str, Any]  # of a Keras object, or of a file
Logs = dict[str, Any] | None  # of a Keras callback
Initializer = str | Config | type | Callable | keras.initializers.Initializer
Regularizer = str | Config | keras.regularizers.Regularizer | None
