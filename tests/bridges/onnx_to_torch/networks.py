"""Small networks in PyTorch that are exported to ONNX and come back."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from tightship.bridges import route
from tightship.core.model import Model
from tightship.core.torch_module import from_torch

__all__ = ["NETWORKS", "exported", "network"]


class ResNet(nn.Module):
    """Two residual blocks with BatchNorm, a strided shortcut and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1, groups=2), nn.BatchNorm2d(16)
        )
        self.shortcut = nn.Conv2d(8, 16, 1, 2)
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.norm(self.stem(image))), 3, 2, 1)
        x = torch.relu(self.body(x) + self.shortcut(x))
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down, up by a transposed convolution and by interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.slope = nn.PReLU(8)
        self.up = nn.ConvTranspose2d(8, 3, 4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.slope(self.norm(self.down(image)))
        return self.up(x) + functional.interpolate(x[:, :3], scale_factor=2, mode="bilinear")


class Transformer(nn.Module):
    """A causal decoder block between an embedding and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layer(self.embedding(tokens), src_mask=mask))


class Recurrent(nn.Module):
    """Two layers of an LSTM or GRU, and a classifier on the mean."""

    def __init__(self, kind: str, bidirectional: bool) -> None:
        super().__init__()
        layers = {"lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.layers = layers(8, 12, 2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(24 if bidirectional else 12, 3)

    def forward(self, series: Tensor) -> Tensor:
        return self.head(self.layers(series)[0].mean(1))


NETWORKS = ("resnet", "unet", "transformer", "lstm", "bigru")


@functools.cache
def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a seeded network in eval mode and a batch of one."""
    torch.manual_seed(0)
    made: dict[str, tuple[nn.Module, Tensor]] = {
        "resnet": (ResNet(), torch.randn(1, 3, 32, 32)),
        "unet": (UNet(), torch.randn(1, 3, 16, 16)),
        "transformer": (Transformer(), torch.randint(0, 50, (1, 7))),
        "lstm": (Recurrent("lstm", False), torch.randn(1, 6, 8)),
        "bigru": (Recurrent("gru", True), torch.randn(1, 5, 8)),
    }
    module, example = made[name]
    for layer in module.modules():  # the exporter makes one of weights that are equal, as untrained norms are
        if isinstance(layer, nn.LayerNorm | nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
    return module.eval(), example


@functools.cache
def exported(name: str) -> Model:
    """Return the network as a graph of opset 20."""
    module, example = network(name)
    return route(from_torch(module, (example,)), "graph")
