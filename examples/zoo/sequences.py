"""Networks for series: a recurrent one in both directions, and convolutions over a genome."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.networks import N_NOISE, settle

__all__ = ["bigru", "genomics"]


def bigru() -> tuple[nn.Module, Tensor]:
    """A classifier of series with two GRU layers in both directions: 0.1 million parameters."""
    torch.manual_seed(0)
    return settle(GruClassifier(), torch.randn(N_NOISE, 40, 32)), torch.randn(1, 40, 32)


def genomics() -> tuple[nn.Module, Tensor]:
    """A network as DeepSEA (doi:10.1038/nmeth.3547), at a fifth of its width: 300 bases, one row for each of four."""
    torch.manual_seed(0)
    return settle(GenomicsNet(), torch.randn(N_NOISE, 4, 300)), torch.randn(1, 4, 300)


class GruClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.GRU(32, 64, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[0].mean(1))


class GenomicsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(4, 64, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Dropout(0.2),
            nn.Conv1d(64, 96, 8), nn.ReLU(), nn.MaxPool1d(4), nn.Dropout(0.2),
            nn.Conv1d(96, 192, 8, dilation=1), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(192 * 9, 128), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(128, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
