"""Errors of published weights."""


class WeightsError(ValueError):
    """Weights that cannot be loaded. The model is unchanged."""


class DownloadError(WeightsError):
    """A file that cannot be downloaded, or has a wrong checksum."""
