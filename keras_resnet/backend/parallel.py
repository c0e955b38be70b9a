"""State of a process that trains beside others, read by layers and models.

Set by `keras_resnet.devices`, within its `scope`.
"""

import contextlib

# Whether normalization takes its statistics over the batches of all devices.
synchronized = False
# How many processes exchange gradients that no engine of Keras exchanges.
processes = 1


@contextlib.contextmanager
def setting(**values):
    """Context in which the names above have these values."""
    before = {name: globals()[name] for name in values}
    globals().update(values)
    try:
        yield
    finally:
        globals().update(before)
