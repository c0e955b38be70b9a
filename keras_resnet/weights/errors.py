"""Errors of weights."""


class WeightsError(ValueError):
    """Weights that cannot be loaded; the model is unchanged."""


class DownloadError(WeightsError):
    """A file that could not be downloaded, or is not what it should be."""
