"""Global state of parallel training, for layers and models.

The `scope` of `keras_resnet.devices` sets it.
"""

import contextlib
from collections.abc import Iterator

# Whether normalization uses the statistics of the batches of all devices.
synchronized = False
# Number of processes that exchange gradients without an engine of Keras.
processes = 1


@contextlib.contextmanager
def setting(**values: bool | int) -> Iterator[None]:
    """Return a context in which the names above have these values."""
    before = {name: globals()[name] for name in values}
    globals().update(values)
    try:
        yield
    finally:
        globals().update(before)
