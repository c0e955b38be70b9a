"""Published weights: find, verify, convert and load them.

`catalog` lists weights, `hub` downloads them, `files` reads them, `sources`
has the names of tensors, `loading` checks and assigns them, `published`
implements `weights=`, and `pretrained` writes a folder to share.
"""

from keras_resnet.weights.catalog import PublishedWeights, list_weights
from keras_resnet.weights.errors import DownloadError, WeightsError
from keras_resnet.weights.loading import (
    load_torch_weights,
    to_torch_state_dict,
)
from keras_resnet.weights.pretrained import save_pretrained
from keras_resnet.weights.published import load_pretrained

__all__ = [
    "DownloadError",
    "PublishedWeights",
    "WeightsError",
    "list_weights",
    "load_pretrained",
    "load_torch_weights",
    "save_pretrained",
    "to_torch_state_dict",
]
