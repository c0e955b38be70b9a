"""Analyses of trained networks, residual or plain, on every backend.

Each analysis takes a network of this package and returns arrays, which
`keras_resnet.plots` draws.
"""

from keras_resnet.analysis.explanations import (
    deletion_curve,
    grad_cam,
    integrated_gradients,
)
from keras_resnet.analysis.gradients import (
    GradientFlow,
    GradientNorms,
    gradient_norms,
    read_gradient_flow,
)
from keras_resnet.analysis.growth import (
    IdentityProperty,
    grow,
    identity_property,
)
from keras_resnet.analysis.landscape import (
    Landscape,
    loss_landscape,
    random_direction,
    read_landscape,
)
from keras_resnet.analysis.lesions import (
    DeletedBlocks,
    LesionedNetwork,
    LesionStudy,
    PathGradients,
    delete_blocks,
    delete_each_block,
    gradient_by_path_length,
    kendall_correlation,
    path_lengths,
    swap_blocks,
)
from keras_resnet.analysis.responses import LayerResponses, layer_responses

__all__ = [
    "DeletedBlocks",
    "GradientFlow",
    "GradientNorms",
    "IdentityProperty",
    "Landscape",
    "LayerResponses",
    "LesionStudy",
    "LesionedNetwork",
    "PathGradients",
    "delete_blocks",
    "delete_each_block",
    "deletion_curve",
    "grad_cam",
    "gradient_by_path_length",
    "gradient_norms",
    "grow",
    "identity_property",
    "integrated_gradients",
    "kendall_correlation",
    "layer_responses",
    "loss_landscape",
    "path_lengths",
    "random_direction",
    "read_gradient_flow",
    "read_landscape",
    "swap_blocks",
]
