"""Transformers as three families have them, small and with random weights: BERT, Llama and T5."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["bert", "llama", "t5"]

N_WORDS = 1000
WIDTH = 128
N_HEADS = 4
N_LAYERS = 3
N_TOKENS = 32


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    """An encoder as in BERT (arXiv:1810.04805): learned positions, normalization after each branch, a pooler."""
    torch.manual_seed(0)
    tokens = torch.randint(0, N_WORDS, (1, N_TOKENS))
    return Bert().eval(), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    """A decoder as in Llama 2 (arXiv:2307.09288): RMSNorm, rotary positions, grouped heads, SwiGLU, causal mask."""
    torch.manual_seed(0)
    return Llama().eval(), {"input_ids": torch.randint(0, N_WORDS, (1, N_TOKENS))}


def t5() -> tuple[nn.Module, dict[str, Tensor]]:
    """An encoder and decoder as in T5 (arXiv:1910.10683): relative positions in buckets, attention without a scale."""
    torch.manual_seed(0)
    tokens = torch.randint(0, N_WORDS, (1, N_TOKENS))
    return T5().eval(), {"input_ids": tokens, "decoder_input_ids": torch.randint(0, N_WORDS, (1, N_TOKENS // 2))}


def heads(x: Tensor, n_heads: int) -> Tensor:
    """[batch, tokens, width] to [batch, heads, tokens, width of a head]."""
    return x.unflatten(2, (n_heads, -1)).transpose(1, 2)


class Bert(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(N_WORDS, WIDTH)
        self.positions = nn.Embedding(N_TOKENS, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.ModuleList(BertLayer() for _ in range(N_LAYERS))
        self.pooler = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.words(input_ids) + self.positions.weight[: input_ids.shape[1]])
        bias = (1 - attention_mask[:, None, None, :].to(x.dtype)) * -10000
        for layer in self.layers:
            x = layer(x, bias)
        return {"last_hidden_state": x, "pooled": torch.tanh(self.pooler(x[:, 0]))}


class BertLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.attention_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = (heads(layer(x), N_HEADS) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(2, 3) / math.sqrt(WIDTH // N_HEADS) + bias, -1)
        x = self.attention_norm(x + self.output((weights @ value).transpose(1, 2).flatten(2)))
        return self.norm(x + self.mlp(x))


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467)"""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Llama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(N_WORDS, WIDTH)
        self.layers = nn.ModuleList(LlamaLayer() for _ in range(N_LAYERS))
        self.norm = RmsNorm()
        self.head = nn.Linear(WIDTH, N_WORDS, bias=False)
        width = WIDTH // N_HEADS
        angles = torch.outer(torch.arange(512), 10000.0 ** (-torch.arange(0, width, 2) / width)).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.words(input_ids)
        cos, sin = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.head(self.norm(x))


class LlamaLayer(nn.Module):
    N_KEY_HEADS = 2

    def __init__(self) -> None:
        super().__init__()
        n_key = WIDTH // N_HEADS * self.N_KEY_HEADS
        self.attention_norm, self.norm = RmsNorm(), RmsNorm()
        self.query, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(WIDTH, n_key, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(2))
        self.down = nn.Linear(3 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        inside = self.attention_norm(x)
        query = rotated(heads(self.query(inside), N_HEADS), cos, sin)
        key = rotated(heads(self.key(inside), self.N_KEY_HEADS), cos, sin)
        value = heads(self.value(inside), self.N_KEY_HEADS)
        key, value = (part.repeat_interleave(N_HEADS // self.N_KEY_HEADS, 1) for part in (key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))
        inside = self.norm(x)
        return x + self.down(functional.silu(self.gate(inside)) * self.up(inside))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (arXiv:2104.09864), halves of a head paired."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class T5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(N_WORDS, WIDTH)
        self.encoder = T5Stack(is_decoder=False)
        self.decoder = T5Stack(is_decoder=True)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        encoded = self.encoder(self.words(input_ids), None)
        decoded = self.decoder(self.words(decoder_input_ids), encoded)
        return decoded * WIDTH**-0.5 @ self.words.weight.T


class T5Stack(nn.Module):
    N_BUCKETS = 16
    FARTHEST = 64

    def __init__(self, is_decoder: bool) -> None:
        super().__init__()
        self.is_decoder = is_decoder
        self.position_bias = nn.Embedding(self.N_BUCKETS, N_HEADS)
        self.layers = nn.ModuleList(T5Layer(is_decoder) for _ in range(N_LAYERS))
        self.norm = RmsNorm()

    def forward(self, x: Tensor, encoded: Tensor | None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        distance = positions[None, :] - positions[:, None]
        bias = self.position_bias(self.buckets(distance)).permute(2, 0, 1)[None]
        if self.is_decoder:
            bias = bias.masked_fill(distance > 0, torch.finfo(torch.float32).min)
        for layer in self.layers:
            x = layer(x, bias, encoded)
        return self.norm(x)

    def buckets(self, distance: Tensor) -> Tensor:
        """Number the distances: each near one for itself, the far ones in steps that grow; encoders tell the sides."""
        n_buckets = self.N_BUCKETS
        if self.is_decoder:
            offset, distance = torch.zeros_like(distance), (-distance).clamp(min=0)
        else:
            n_buckets //= 2
            offset, distance = (distance > 0).long() * n_buckets, distance.abs()
        n_near = n_buckets // 2
        steps = torch.log(distance.clamp(min=1).float() / n_near) / math.log(self.FARTHEST / n_near)
        far = (n_near + (steps * (n_buckets - n_near)).long()).clamp(max=n_buckets - 1)
        return offset + torch.where(distance < n_near, distance, far)


class T5Layer(nn.Module):
    def __init__(self, is_decoder: bool) -> None:
        super().__init__()
        self.own_norm, self.norm = RmsNorm(), RmsNorm()
        self.own = T5Attention()
        self.cross_norm = RmsNorm() if is_decoder else None
        self.cross = T5Attention() if is_decoder else None
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH, bias=False)
        )

    def forward(self, x: Tensor, bias: Tensor, encoded: Tensor | None) -> Tensor:
        inside = self.own_norm(x)
        x = x + self.own(inside, inside, bias)
        if self.cross is not None and self.cross_norm is not None and encoded is not None:
            x = x + self.cross(self.cross_norm(x), encoded, None)
        return x + self.mlp(self.norm(x))


class T5Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (
            heads(self.query(x), N_HEADS),
            heads(self.key(source), N_HEADS),
            heads(self.value(source), N_HEADS),
        )
        scores = query @ key.transpose(2, 3)
        weights = torch.softmax(scores if bias is None else scores + bias, -1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))
