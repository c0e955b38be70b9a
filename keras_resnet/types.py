"""Types that Keras has no public name for."""

import os
from collections.abc import Callable
from typing import Any

import keras

PathLike = str | os.PathLike
Numbers = Any  # a sequence or an array
Progress = Callable[[Any], Any]  # from a sequence to an iterable of the same
Tensor = Any  # each backend has its own
Shape = tuple[int | None, ...]
Size = int | tuple[int, int]  # of rows and columns
Initializer = str | dict | type | Callable | keras.initializers.Initializer
Regularizer = str | dict | keras.regularizers.Regularizer | None
