"""Stochastic depth: random dropping of residual branches."""

from typing import Any

import keras

from keras_resnet import blocks
from keras_resnet.types import Config, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_resnet")
class StochasticDepthBlock(blocks.ResidualBlock):
    """Residual block whose branch is dropped for some images in training.

    In training, the branch of each image is dropped with probability `rate`;
    the shortcut stays. Other branches are divided by `1 - rate`, so that their
    expectation is the same as in inference, where no branch is dropped. Rates
    rise linearly with depth: block `l` of `L` has `drop_rate * l / L`. At rate
    0 a block equals a `ResidualBlock`. A plain block always has rate 0.

    The paper drops a branch for a whole batch, skips its computation, and
    scales in inference. Here the branch is computed for all images: a step
    takes as long as without dropping, and normalization uses all images. On
    several devices, the same positions are dropped in each device's shard of a
    batch.

    Args:
        *args: See `ResidualBlock`.
        **kwargs: See `ResidualBlock`.
        drop_rate: Float from 0 to below 1, the rate of the network's last
            block. Defaults to `0.5`, the paper's. To set another rate, pass
            `block=functools.partial(StochasticDepthBlock, drop_rate=0.2)` to
            a network.
        place: Pair of integers, set by networks: the block's number, from 1,
            and the number of blocks. Defaults to `(1, 1)`.
        seed: Integer, seed of the random numbers. Defaults to `None`: drawn
            from the seed that `keras.utils.set_random_seed` sets. The model's
            files store the state of the generator.

    Raises:
        ValueError: For a `drop_rate` below 0 or at least 1.

    Reference: Huang et al. 2016, "Deep Networks with Stochastic Depth",
    section 3. It reduces the overfitting of He et al. 2015, section 4.2.
    """

    def __init__(
        self,
        *args: Any,
        drop_rate: float = 0.5,
        place: tuple[int, int] = (1, 1),
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= drop_rate < 1:
            raise ValueError(
                "`drop_rate` must be at least 0 and below 1. "
                f"Received: drop_rate={drop_rate!r}"
            )
        self.drop_rate = drop_rate
        number, count = place
        self.place: tuple[int, int] = number, count
        self.seed = seed
        self.seed_generator: keras.random.SeedGenerator | None = None

    @property
    def rate(self) -> float:
        """The probability that the branch of an image is dropped."""
        number, count = self.place
        return self.drop_rate * number / count if self.residual else 0.0

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        if self.rate:
            seed = self.seed
            if seed is not None:
                # Blocks of one seed must not drop the same images.
                seed = (seed + 1_000_003 * self.place[0]) % 2**31
            self.seed_generator = keras.random.SeedGenerator(seed)

    def join(
        self,
        branch: Tensor,
        shortcut: Tensor | None,
        training: bool | None = None,
    ) -> Tensor:
        if training and self.rate:
            branch = keras.random.dropout(
                branch,
                self.rate,
                noise_shape=(None, 1, 1, 1),
                seed=self.seed_generator,
            )
        return super().join(branch, shortcut, training)

    # Keras does not save the state of the generator. Without it, a resumed
    # training would repeat the random numbers of its beginning.

    def save_own_variables(self, store: Config) -> None:
        super().save_own_variables(store)
        if self.seed_generator is not None:
            store["seed"] = self.seed_generator.state

    def load_own_variables(self, store: Config) -> None:
        # The store of a file lacks some methods of a dictionary.
        own = {key: store[key] for key in store.keys()}  # noqa: SIM118
        state = own.pop("seed", None)
        super().load_own_variables(own)
        if state is not None and self.seed_generator is not None:
            self.seed_generator.state.assign(state)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "drop_rate": self.drop_rate,
            "place": self.place,
            "seed": self.seed,
        }
