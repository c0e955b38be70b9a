"""Figures from plain arrays.

Each analysis of `keras_resnet.analysis` has its figure here. All functions that
draw take a `caption`, for seeds and settings, and return a
`matplotlib.figure.Figure`. `draw` saves a figure with the numbers that it
shows, and `redraw` draws it again from these numbers.
"""

from keras_resnet.plots.analysis import (
    deleted_blocks,
    deletion_curves,
    explanation,
    gradient_flow,
    gradient_norms,
    identity_property,
    layer_responses,
    lesion_study,
    path_lengths,
)
from keras_resnet.plots.curves import (
    degradation,
    error_by_depth,
    learning_curves,
    predictions,
    step_curves,
    validation_curves,
)
from keras_resnet.plots.landscape import (
    landscape_contours,
    landscape_lines,
    landscape_surface,
)
from keras_resnet.plots.pictures import draw, redraw
from keras_resnet.plots.search import (
    learning_rate_errors,
    parallel_coordinates,
)
from keras_resnet.plots.style import OTHERS, PLAIN, RESIDUAL, save, shade

__all__ = [
    "OTHERS",
    "PLAIN",
    "RESIDUAL",
    "degradation",
    "deleted_blocks",
    "deletion_curves",
    "draw",
    "error_by_depth",
    "explanation",
    "gradient_flow",
    "gradient_norms",
    "identity_property",
    "landscape_contours",
    "landscape_lines",
    "landscape_surface",
    "layer_responses",
    "learning_curves",
    "learning_rate_errors",
    "lesion_study",
    "parallel_coordinates",
    "path_lengths",
    "predictions",
    "redraw",
    "save",
    "shade",
    "step_curves",
    "validation_curves",
]
