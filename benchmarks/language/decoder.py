"""A small decoder of the Llama type: RMSNorm, rotary positions, causal attention, SwiGLU, no biases.

Names of parameters and their meaning are those of Llama in the transformers library, so that peers can read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; every width that weights are summed over is a multiple of 128."""

    n_tokens: int = 1024
    length: int = 128
    width: int = 256
    hidden: int = 640
    n_heads: int = 4
    n_blocks: int = 4


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_heads = shape.n_heads
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.o_proj(heads.transpose(1, 2).flatten(2))
        return y


class Mlp(nn.Module):
    """SwiGLU (arXiv:2002.05202)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    """Attention and SwiGLU, each added to what it read normalized."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, EPSILON)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, EPSILON)
        self.mlp = Mlp(shape)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class Body(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.n_tokens, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.n_blocks))
        self.norm = nn.RMSNorm(shape.width, EPSILON)
        half = shape.width // shape.n_heads // 2
        angles = torch.outer(torch.arange(shape.length), ROTARY_BASE ** -(torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        n_positions = input_ids.shape[1]
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x, self.cosine[:n_positions], self.sine[:n_positions])
        y: Tensor = self.norm(x)
        return y


class Decoder(nn.Module):
    """Tokens `[batch, length]` to logits `[batch, length, n_tokens]`."""

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.model = Body(shape)
        self.lm_head = nn.Linear(shape.width, shape.n_tokens, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.n_blocks) ** 0.5 if branch else 0.02)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.model(input_ids))
        return logits


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each pair (i, i + half) of the last axis by its position's angle (arXiv:2104.09864)."""
    first, second = x.chunk(2, -1)
    turned: Tensor = x * cosine + torch.cat([-second, first], -1) * sine
    return turned
