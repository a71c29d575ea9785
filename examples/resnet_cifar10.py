"""Residual networks for 32x32 images (arXiv:1512.03385, section 4.2), laid out as in akamaster/pytorch_resnet_cifar10.

    tightship optimize examples.resnet_cifar10:resnet20 --weights resnet20-12fca82f.th -o out

The shortcut is the paper's option A: every second pixel, and zeros for the channels that are new. Inputs are RGB images
in 0..1, less the mean (0.485, 0.456, 0.406), over the deviation (0.229, 0.224, 0.225).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["resnet20", "resnet56"]


def resnet20() -> tuple[nn.Module, Tensor]:
    """Three blocks per stage: 0.27 million parameters."""
    return ResNet(n_blocks=3), example()


def resnet56() -> tuple[nn.Module, Tensor]:
    """Nine blocks per stage: 0.85 million parameters."""
    return ResNet(n_blocks=9), example()


def example() -> Tensor:
    """One image of noise, the same each time."""
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class ResNet(nn.Module):
    def __init__(self, n_blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), *(Block(16, 16, 1) for _ in range(n_blocks - 1)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(n_blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(n_blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride = stride
        self.n_new = n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.n_new:
            return x
        half = self.n_new // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
