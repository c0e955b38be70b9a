"""A network of this package in plain NumPy, in double precision.

The reference of the analyses, written from the paper. It takes only the weights
from Keras.
"""

import numpy as np


def arrays(layer):
    """Return the weights of a layer by name, as float64."""
    return {
        v.path.rpartition("/")[2]: np.asarray(w, "float64")
        for v, w in zip(layer.weights, layer.get_weights(), strict=True)
    }


def convolution(x, kernel, stride):
    padding = kernel.shape[0] // 2
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[:2], axis=(1, 2)
    )[:, ::stride, ::stride]
    return np.einsum("nrcikl,klio->nrco", windows, kernel)


def normalization(x, weights, epsilon, training):
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    if training:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    x = (x - mean) / np.sqrt(variance + epsilon)
    return x * weights["gamma"] + weights["beta"]


class NumpyNetwork:
    """The weights of a model, and its forward pass.

    Attributes:
        kernels: Dictionary of kernels by the names that analyses use.
    """

    def __init__(self, model):
        self.blocks = [x for x in model.layers if "_block" in x.name]
        self.weights, self.kernels = {}, {}
        for name in ("stem_conv", "stem_bn", "head"):
            self._add(name, model.get_layer(name))
        self.epsilon = model.get_layer("stem_bn").epsilon
        for block in self.blocks:
            for i in (1, 2, 3):
                if hasattr(block, f"conv{i}"):
                    self._add(f"{block.name}/conv{i}", block, f"conv{i}")
                    self._add(f"{block.name}/bn{i}", block, f"bn{i}")
            if block.shortcut_conv is not None:
                self._add(f"{block.name}/shortcut_conv", block, "shortcut_conv")
                self._add(f"{block.name}/shortcut_bn", block, "shortcut_bn")

    def _add(self, name, layer, sublayer=None):
        layer = layer if sublayer is None else getattr(layer, sublayer)
        self.weights[name] = arrays(layer)
        if "kernel" in self.weights[name] and "shortcut" not in name:
            self.kernels[name] = self.weights[name]["kernel"]

    def _layer(self, x, conv, bn, stride, training):
        x = convolution(x, self.weights[conv]["kernel"], stride)
        return normalization(x, self.weights[bn], self.epsilon, training)

    def __call__(self, x, training=False, deleted=(), order=None):
        """Return logits, and all responses by name."""
        x = np.asarray(x, "float64")
        responses = {}
        x = self._layer(x, "stem_conv", "stem_bn", 1, training)
        responses["stem_conv"] = x
        x = np.maximum(x, 0)
        names = [block.name for block in self.blocks]
        for i, block in enumerate(self.blocks):
            source = names[i if order is None else order[i]]
            y = x
            n = 3 if block.bottleneck else 2
            for k in range(1, n + 1):
                stride = block.stride if k == n - 1 else 1
                if not block.bottleneck:
                    stride = block.stride if k == 1 else 1
                y = np.maximum(y, 0) if k > 1 else y
                y = self._layer(
                    y, f"{source}/conv{k}", f"{source}/bn{k}", stride, training
                )
                responses[f"{block.name}/conv{k}"] = y
            if block.name in deleted:
                y = 0 * y if block.residual else x
            if block.residual:
                y = y + self._shortcut(x, block, source, training)
            x = np.maximum(y, 0)
        head = self.weights["head"]
        return x.mean((1, 2)) @ head["kernel"] + head["bias"], responses

    def _shortcut(self, x, block, source, training):
        if block.shortcut_conv is not None:
            return self._layer(
                x,
                f"{source}/shortcut_conv",
                f"{source}/shortcut_bn",
                block.stride,
                training,
            )
        x = x[:, :: block.stride, :: block.stride]
        missing = block.out_channels - x.shape[-1]
        return np.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing)))

    def loss(self, x, labels, **kwargs):
        """Return the mean cross-entropy."""
        logits, _ = self(x, **kwargs)
        logits = logits - logits.max(1, keepdims=True)
        picked = logits[np.arange(len(labels)), labels]
        return (np.log(np.exp(logits).sum(1)) - picked).mean()

    def error(self, x, labels, **kwargs):
        """Return the share of wrongly classified images."""
        logits, _ = self(x, **kwargs)
        return (logits.argmax(1) != labels).mean()
