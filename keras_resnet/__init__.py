"""ResNet for Keras 3: the paper's networks, equal on every backend."""

# This import registers the optimizer. Without it, Keras cannot load the models
# that the recipes save.
from keras_resnet import training
from keras_resnet.blocks import (
    BatchNormalization,
    Convolution,
    MaxPooling,
    ResidualBlock,
)
from keras_resnet.complexity import Complexity, LayerComplexity, complexity
from keras_resnet.factories import (
    ResNet18,
    ResNet20,
    ResNet32,
    ResNet34,
    ResNet44,
    ResNet50,
    ResNet56,
    ResNet101,
    ResNet110,
    ResNet152,
    ResNet1202,
    ResNetCIFAR,
    ResNetImageNet,
)
from keras_resnet.finetuning import FeatureExtractor, features, freeze
from keras_resnet.folding import fold_batch_norm
from keras_resnet.initializers import HeGaussian
from keras_resnet.preactivation import PreactivationBlock
from keras_resnet.preprocessing import (
    Preprocessing,
    decode_predictions,
    preprocess_input,
)
from keras_resnet.resnet import ResidualNetwork, ResNet
from keras_resnet.stochastic_depth import StochasticDepthBlock
from keras_resnet.version import __version__
from keras_resnet.weights import (
    DownloadError,
    PublishedWeights,
    WeightsError,
    list_weights,
    load_pretrained,
    load_torch_weights,
    save_pretrained,
    to_torch_state_dict,
)

__all__ = [
    "BatchNormalization",
    "Complexity",
    "Convolution",
    "DownloadError",
    "FeatureExtractor",
    "HeGaussian",
    "LayerComplexity",
    "MaxPooling",
    "PreactivationBlock",
    "Preprocessing",
    "PublishedWeights",
    "ResNet",
    "ResNet18",
    "ResNet20",
    "ResNet32",
    "ResNet34",
    "ResNet44",
    "ResNet50",
    "ResNet56",
    "ResNet101",
    "ResNet110",
    "ResNet152",
    "ResNet1202",
    "ResNetCIFAR",
    "ResNetImageNet",
    "ResidualBlock",
    "ResidualNetwork",
    "StochasticDepthBlock",
    "WeightsError",
    "__version__",
    "complexity",
    "decode_predictions",
    "features",
    "fold_batch_norm",
    "freeze",
    "list_weights",
    "load_pretrained",
    "load_torch_weights",
    "preprocess_input",
    "save_pretrained",
    "to_torch_state_dict",
    "training",
]
