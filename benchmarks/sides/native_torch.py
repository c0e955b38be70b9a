"""Plain PyTorch: a module of `torch.nn`, eager or by `torch.compile`."""

import torch
import torch.nn.functional as F

from sides import NativeSide, Unavailable
from sides.network import DECAY, LEARNING_RATE, MOMENTUM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# PyTorch's names for the weights of a normalization.
NORM = {
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


class Module(torch.nn.Module):
    """The network of `torch.nn.Conv2d`, `BatchNorm2d` and `Linear`."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.layers = torch.nn.ModuleDict()
        for conv in network.convs:
            self.layers[conv.name] = torch.nn.Conv2d(
                conv.in_channels,
                conv.channels,
                conv.kernel,
                stride=conv.stride,
                padding=conv.margin,
                bias=False,
            )
            self.layers[conv.norm] = torch.nn.BatchNorm2d(
                conv.channels, eps=network.epsilon, momentum=1 - MOMENTUM
            )
        self.layers["head"] = torch.nn.Linear(network.features, network.classes)

    def forward(self, images):
        return self.network.forward(self, images)

    def conv_norm(self, x, conv):
        return self.layers[conv.norm](self.layers[conv.name](x))

    def relu(self, x):
        return F.relu(x, inplace=True)

    def add_relu(self, y, x):
        return F.relu(y.add_(x), inplace=True)

    def max_pool(self, x):
        return F.max_pool2d(x, 3, stride=2, padding=1)

    def zero_padding(self, x, block):
        missing = block.channels - x.shape[1]
        x = x[:, :, :: block.stride, :: block.stride]
        return F.pad(x, (0, 0, 0, 0, 0, missing))

    def head(self, x):
        return self.layers["head"](x.mean(dim=(2, 3)))


class Native(NativeSide):
    """Eager PyTorch in channels-last memory."""

    def __init__(self, network, weights):
        module = Module(network)
        module.load_state_dict(state_dict(module, weights))
        self.module = module.to(DEVICE, memory_format=torch.channels_last)
        self.forward = self.compiled(self.module)
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
        )

    def compiled(self, module):
        """Returns what computes the module."""
        return module

    def train_step(self, images, labels):
        self.module.train()
        self.optimizer.zero_grad()
        labels = torch.from_numpy(labels).to(DEVICE, torch.long)
        loss = F.cross_entropy(self.forward(to_device(images)), labels)
        loss.backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self, images):
        self.module.eval()
        return self.forward(to_device(images))

    def to_numpy(self, array):
        return array.cpu().numpy()

    def wait(self):
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def weights(self):
        found = {}
        for name, value in self.module.state_dict().items():
            layer, _, kind = name.removeprefix("layers.").rpartition(".")
            if kind != "num_batches_tracked":
                kind, value = from_torch(layer, kind, value.cpu())
                found[f"{layer}/{kind}"] = value.numpy()
        return found


class Compiled(Native):
    """PyTorch by `torch.compile`.

    Raises:
        Unavailable: If nothing can be compiled here.
    """

    def compiled(self, module):
        try:
            torch.compile(lambda x: torch.relu(x) + 1)(torch.zeros(8))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise Unavailable(
                f"torch.compile failed: {type(error).__name__}: {reason}"
            ) from error
        return torch.compile(module)


def to_device(images):
    """Returns NumPy images as PyTorch has them, without a copy on a CPU."""
    return torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2)


def state_dict(module, weights):
    """Returns weights by name as a state of the module."""
    state = module.state_dict()
    for name, value in weights.items():
        layer, _, kind = name.rpartition("/")
        value = torch.from_numpy(value)
        if kind == "kernel":
            kind = "weight"
            value = value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T
        state[f"layers.{layer}.{NORM.get(kind, kind)}"] = value
    return state


def from_torch(layer, kind, value):
    """Returns Keras's name and order of axes for a weight of PyTorch's."""
    if value.ndim == 4:
        return "kernel", value.permute(2, 3, 1, 0)
    if value.ndim == 2:
        return "kernel", value.T
    if layer == "head":
        return kind, value
    return {torchs: ours for ours, torchs in NORM.items()}[kind], value
