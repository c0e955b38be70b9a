"""Plain PyTorch: a module of `torch.nn`, eager or by `torch.compile`."""

import torch
import torch.nn.functional as F

from comparison.implementation import Implementation, Unavailable
from comparison.network import DECAY, LEARNING_RATE, MOMENTUM

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# PyTorch's names for weights.
KINDS = {
    "kernel": "weight",
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
                padding=conv.padding,
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

    def max_pool(self, x):
        return F.max_pool2d(x, 3, stride=2, padding=1)

    def zero_padding(self, x, stride, channels):
        x = x[:, :, ::stride, ::stride]
        return F.pad(x, (0, 0, 0, 0, 0, channels))

    def head(self, x):
        return self.layers["head"](x.mean(dim=(2, 3)))


class Native(Implementation):
    """Eager PyTorch in channels-last memory."""

    def __init__(self, network, weights):
        self.network = network
        module = Module(network)
        self.names = {name: torch_name(name) for name in weights}
        state = {
            torchs: to_torch(weights[ours])
            for ours, torchs in self.names.items()
        }
        module.load_state_dict(module.state_dict() | state)
        self.module = module.to(DEVICE, memory_format=torch.channels_last)
        self.forward = self.compiled(self.module)
        self.optimizer = torch.optim.SGD(
            module.parameters(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=DECAY,
        )

    def compiled(self, module):
        """Return the function that computes the module."""
        return module

    def train_step(self, images, labels):
        self.module.train()
        self.optimizer.zero_grad()
        labels = torch.as_tensor(labels, dtype=torch.long, device=DEVICE)
        with self.precision():
            loss = F.cross_entropy(self.forward(to_device(images)), labels)
        loss.backward()
        self.optimizer.step()

    @torch.inference_mode()
    def infer(self, images):
        self.module.eval()
        with self.precision():
            return self.forward(to_device(images))

    def precision(self):
        """Return the context of the network's precision."""
        return torch.autocast(
            DEVICE,
            torch.bfloat16,
            enabled=self.network.precision == "bfloat16",
        )

    @staticmethod
    def to_numpy(array):
        return array.float().cpu().numpy()

    def wait(self):
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    def weights(self):
        state = self.module.state_dict()
        return {
            ours: from_torch(state[torchs])
            for ours, torchs in self.names.items()
        }


class Compiled(Native):
    """PyTorch by `torch.compile`.

    Raises:
        Unavailable: If nothing can be compiled here.
    """

    MODE = "default"

    def compiled(self, module):
        try:
            torch.compile(lambda x: torch.relu(x) + 1)(torch.zeros(8))
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise Unavailable(
                f"torch.compile failed: {type(error).__name__}: {reason}"
            ) from error
        return torch.compile(module, mode=self.MODE)


class CompiledAsGraphs(Compiled):
    """PyTorch by `torch.compile`, which records CUDA graphs on a GPU."""

    MODE = "reduce-overhead"


def to_device(images):
    """Return images with channels first, without a copy on a CPU."""
    return torch.as_tensor(images, device=DEVICE).permute(0, 3, 1, 2)


def torch_name(name):
    """Return PyTorch's name of a weight."""
    layer, _, kind = name.rpartition("/")
    return f"layers.{layer}.{KINDS.get(kind, kind)}"


def to_torch(value):
    """Return a weight with output channels first."""
    value = torch.from_numpy(value)
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.t()


def from_torch(value):
    """Return a weight with output channels last, as a NumPy array."""
    value = value.cpu()
    value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.t()
    return value.numpy()
