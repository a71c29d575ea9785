"""The small networks of Captum's tutorials (github.com/pytorch/captum), laid out as their weights are.

tightship convert examples.zoo.tutorials:titanic --weights titanic_model.pt -o titanic.onnx
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["california", "cifar", "titanic"]


def california() -> tuple[nn.Module, Tensor]:
    """The price of a house from eight numbers."""
    return California().eval(), torch.randn(1, 8, generator=torch.Generator().manual_seed(0))


def titanic() -> tuple[nn.Module, Tensor]:
    """Who survived, from twelve numbers."""
    return Titanic().eval(), torch.randn(1, 12, generator=torch.Generator().manual_seed(0))


def cifar() -> tuple[nn.Module, Tensor]:
    """Ten kinds of images of 32 x 32."""
    return Cifar().eval(), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class California(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.lin2, self.lin3, self.lin4 = (
            nn.Linear(n_in, n_out) for n_in, n_out in ((8, 100), (100, 50), (50, 10), (10, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.lin4(torch.relu(self.lin3(torch.relu(self.lin2(torch.relu(self.lin1(x)))))))


class Titanic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1, self.linear2, self.linear3 = nn.Linear(12, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear3(torch.sigmoid(self.linear2(torch.sigmoid(self.linear1(x))))), 1)


class Cifar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(torch.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))
