"""Networks beside those of the PyTorch bridge's tests: series, recommender, decoder, encoder, vision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tightship.bridges import route
from tightship.core.model import Model
from tightship.core.torch_module import from_torch

__all__ = ["SLOW", "exported"]


class Series(nn.Sequential):
    """Convolutions over time: strided, dilated, grouped, with overlapping pools."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv1d(4, 16, 8, padding=3), nn.ReLU(), nn.MaxPool1d(4)),
            *(nn.Conv1d(16, 32, 5, stride=2), nn.BatchNorm1d(32), nn.GELU(), nn.AvgPool1d(3, 2, 1)),
            *(nn.Conv1d(32, 32, 3, dilation=2, groups=4), nn.Flatten(), nn.Linear(32 * 4, 5)),
        )


class Recommender(nn.Module):
    """DLRM (arXiv:1906.00091): embeddings and dense features, and the products of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(50, 8) for _ in range(3)])
        self.bottom = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8))
        self.top = nn.Linear(8 + 6, 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        first = self.bottom(dense)
        vectors = torch.stack([first, *(table(ids[:, place]) for place, table in enumerate(self.tables))], 1)
        row, column = torch.tril_indices(4, 4, -1)
        products = (vectors @ vectors.transpose(1, 2))[:, row, column]
        return torch.sigmoid(self.top(torch.cat([first, products], 1)))


class Block(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.before, self.after = nn.RMSNorm(width), nn.RMSNorm(width)
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 64), nn.Linear(width, 64), nn.Linear(64, width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.inputs(self.before(x)).view(batch, length, 3, self.n_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind()
        query, key = (part * cosines + rotated(part) * sines for part in (query, key))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        hidden = self.after(x)
        return x + self.down(nn.functional.silu(self.gate(hidden)) * self.up(hidden))


def rotated(x: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat([-right, left], -1)


class Decoder(nn.Module):
    """Llama's architecture (arXiv:2302.13971), small."""

    def __init__(self, width: int = 32, n_heads: int = 4, n_tokens: int = 100) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width)
        self.blocks = nn.ModuleList([Block(width, n_heads) for _ in range(2)])
        self.head = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, n_tokens, bias=False))
        angles = torch.outer(torch.arange(24), 10000 ** (-torch.arange(0, 8, 2) / 8))
        self.register_buffer("cosines", torch.cat([angles, angles], 1).cos())
        self.register_buffer("sines", torch.cat([angles, angles], 1).sin())

    def forward(self, tokens: Tensor) -> Tensor:
        x, length = self.embedding(tokens), tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cosines[:length], self.sines[:length])
        return self.head(x)


def encoder() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    module = BertModel(BertConfig(vocab_size=200, max_position_embeddings=64, **sizes))
    return module, (torch.randint(0, 200, (1, 16)), torch.ones(1, 16, dtype=torch.long))


def vision() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from examples.networks import VisionTransformer

    return VisionTransformer(64, 2, 4), (torch.randn(1, 3, 224, 224),)


def mobile() -> tuple[nn.Module, tuple[Tensor, ...]]:
    from examples.networks import mobilenet_v3_large

    module, example = mobilenet_v3_large()
    return module, (example,)


SLOW: dict[str, Callable[[], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "series": lambda: (Series(), (torch.randn(1, 4, 134),)),
    "recommender": lambda: (Recommender(), (torch.randn(1, 6), torch.randint(0, 50, (1, 3)))),
    "decoder": lambda: (Decoder(), (torch.randint(0, 100, (1, 12)),)),
    "encoder": encoder,
    "vision": vision,
    "mobile": mobile,
}


def exported(name: str) -> Model:
    """Return a network as a graph of opset 20."""
    torch.manual_seed(0)
    module, examples = SLOW[name]()
    return route(from_torch(module.eval(), examples), "graph")
