"""Networks with several inputs or outputs: a recommender, and one trunk with three heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from examples.networks import N_NOISE, conv

__all__ = ["dlrm", "three_heads"]


def dlrm() -> tuple[nn.Module, dict[str, Tensor]]:
    """A recommender as DLRM (arXiv:1906.00091): 13 numbers, 8 categories, and the last 10 items that a user saw."""
    torch.manual_seed(0)
    inputs = {
        "numbers": torch.randn(1, 13),
        "categories": torch.randint(0, min(Dlrm.ROWS), (1, len(Dlrm.ROWS))),
        "seen": torch.randint(0, min(Dlrm.ROWS), (1, 10)),
    }
    return Dlrm().eval(), inputs


def three_heads() -> tuple[nn.Module, Tensor]:
    """A classifier that also gives a box and an embedding of length one; any number of images at once."""
    torch.manual_seed(0)
    module = ThreeHeads()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1  # keep the statistics of the noise as they are
    with torch.no_grad():
        module.train()(torch.randn(N_NOISE, 3, 48, 48))
    return module.eval(), torch.randn(1, 3, 48, 48)


class Dlrm(nn.Module):
    ROWS = (1000, 500, 200, 2000, 300, 100, 700, 400)
    WIDTH = 16

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, self.WIDTH) for rows in self.ROWS)
        self.items = nn.Embedding(1000, self.WIDTH)
        self.bottom = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, self.WIDTH), nn.ReLU())
        n_vectors = len(self.ROWS) + 2
        pairs = torch.tril_indices(n_vectors, n_vectors, -1)
        self.register_buffer("pairs", pairs[0] * n_vectors + pairs[1], persistent=False)
        self.top = nn.Sequential(nn.Linear(self.WIDTH + pairs.shape[1], 64), nn.ReLU(), nn.Linear(64, 1), nn.Sigmoid())

    def forward(self, numbers: Tensor, categories: Tensor, seen: Tensor) -> Tensor:
        dense = self.bottom(numbers)
        vectors = [table(categories[:, column]) for column, table in enumerate(self.tables)]
        vectors = torch.stack([dense, self.items(seen).mean(1), *vectors], 1)
        products = (vectors @ vectors.transpose(1, 2)).flatten(1)[:, self.pairs]
        return self.top(torch.cat([dense, products], 1))


class ThreeHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *conv(3, 16, 3, 2), nn.ReLU(), *conv(16, 32, 3, 2), nn.LeakyReLU(0.1), *conv(32, 64, 3, 2), nn.ELU()
        )
        self.classes = nn.Linear(64, 10)
        self.box = nn.Linear(64, 4)
        self.embedding = nn.Linear(64, 32)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.trunk(image).mean((2, 3))
        return {
            "classes": torch.log_softmax(self.classes(x), 1),
            "box": torch.sigmoid(self.box(x)),
            "embedding": nn.functional.normalize(self.embedding(x), dim=1),
        }
