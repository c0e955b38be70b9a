"""The paper's initializer, with the same values on every backend."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_resnet.types import Config


@keras.saving.register_keras_serializable(package="keras_resnet")
class HeGaussian(keras.initializers.Initializer):
    """Gaussian with variance `2 / fan_in`, drawn by NumPy.

    One seed gives the same weights on every backend, and JAX need not compile
    a function for each shape. `keras.initializers.HeNormal` has the same
    variance, but truncates the tails.

    Args:
        seed: Integer, `keras.random.SeedGenerator`, or `None` (default): drawn
            from the seed that `keras.utils.set_random_seed` sets. An integer
            or `None` gives the same values at each call.

    Reference: He et al. 2015b, "Delving Deep into Rectifiers", section 2.2,
    which section 3.4 of the residual paper refers to.
    """

    def __init__(self, seed: Any = None) -> None:
        # Keras's own initializer checks, stores and serializes the seed.
        self._usual = keras.initializers.VarianceScaling(seed=seed)

    def __call__(self, shape: Sequence[int], dtype: str | None = None) -> Any:
        seed = self._usual.seed
        if isinstance(seed, keras.random.SeedGenerator):
            state = keras.ops.convert_to_numpy(seed.next())
            seed = [int(part) % 2**32 for part in state]
        values = np.random.default_rng(seed).standard_normal(
            shape, dtype="float32"
        )
        fan_in = max(1, math.prod(shape[:-1]))
        return keras.ops.convert_to_tensor(
            values * np.float32(math.sqrt(2 / fan_in)),
            dtype=dtype or keras.config.floatx(),
        )

    def get_config(self) -> Config:
        return {"seed": self._usual.get_config()["seed"]}
