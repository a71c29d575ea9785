"""Attention, and the rotation of positions into it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS

INFINITE = float("-inf")


def heads(x: Tensor, n_heads: int) -> Tensor:
    """`[batch, length, heads * size]` as `[batch, heads, length, size]`."""
    return x.unflatten(2, (n_heads, -1)).transpose(1, 2)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added: a boolean one becomes 0 where it is true and minus infinity elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, INFINITE)


def near(q_length: int, kv_length: int, offset: int | Tensor, is_causal: int, left: int, right: int) -> Tensor:
    """Which keys each query may see `[(batch, 1,) q, kv]`: query i stands at `offset + i`."""
    queries = torch.arange(q_length).unsqueeze(1)
    queries = queries + (offset.reshape(-1, 1, 1, 1) if isinstance(offset, Tensor) else offset)
    ahead = torch.arange(kv_length) - queries
    allowed = ahead <= 0 if is_causal else torch.ones_like(ahead, dtype=torch.bool)
    if left >= 0:
        allowed = allowed & (ahead >= -left)
    return allowed & (ahead <= right) if right >= 0 else allowed


@OPERATORS.op("Attention", 23)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    left_window_size: int = -1,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: torch.dtype | None = None,
    n_outputs: int = 1,
) -> tuple[Tensor, ...]:
    """Scaled dot-product attention with a cache, groups of heads that share keys, masks, windows and a soft cap.

    Gives the output, the keys and values with their past, and the scores at the stage `qk_matmul_output_mode`.
    """
    packed = q.ndim == 3
    if packed:
        assert q_num_heads is not None and kv_num_heads is not None
        q, k, v = heads(q, q_num_heads), heads(k, kv_num_heads), heads(v, kv_num_heads)
    k = k if past_key is None else torch.cat([past_key, k], 2)
    v = v if past_value is None else torch.cat([past_value, v], 2)
    offset = 0 if past_key is None else past_key.shape[2]
    bias = attention_bias(q, k, mask, lengths, offset, is_causal, left_window_size, right_window_size)
    groups = q.shape[1] // k.shape[1]
    keys, values = (k, v) if groups == 1 else (k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1))
    factor = math.sqrt(1 / math.sqrt(q.shape[3]) if scale is None else scale)
    if n_outputs == 1 and not softcap and softmax_precision is None and bias is None and q.dtype == torch.float32:
        y = functional.scaled_dot_product_attention(q, keys, values, scale=factor**2)
        return (y.transpose(1, 2).flatten(2) if packed else y,)
    scores = (q * factor) @ (keys * factor).transpose(2, 3)
    stages = [scores]
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    stages.append(scores)
    scores = scores if bias is None else scores + bias
    stages.append(scores)
    weights = torch.softmax(scores.to(softmax_precision or scores.dtype), -1)
    if bias is not None:  # a query that may see no key gives zeros
        unseen = bias.amax(-1, keepdim=True) == INFINITE
        weights = torch.where(unseen, torch.zeros_like(weights), weights)
    weights = weights.to(q.dtype)
    y = weights @ values
    y = y.transpose(1, 2).flatten(2) if packed else y
    return y, k, v, [*stages, weights][qk_matmul_output_mode]


def attention_bias(
    q: Tensor,
    k: Tensor,
    mask: Tensor | None,
    lengths: Tensor | None,
    offset: int | Tensor,
    is_causal: int,
    left: int,
    right: int,
) -> Tensor | None:
    """The sum of all masks, or None where there is none."""
    bias = None
    if mask is not None:
        bias = additive(mask, q.dtype)
        bias = functional.pad(bias, [0, k.shape[2] - bias.shape[-1]], value=INFINITE)
        bias = bias.unsqueeze(0) if bias.ndim == 1 else bias
    if is_causal or left >= 0 or right >= 0:
        position = offset if lengths is None else lengths - q.shape[2]
        allowed = additive(near(q.shape[2], k.shape[2], position, is_causal, left, right), q.dtype)
        bias = allowed if bias is None else bias + allowed
    if lengths is not None:
        inside = torch.arange(k.shape[2]) < lengths.reshape(-1, 1, 1, 1)
        bias = additive(inside, q.dtype) if bias is None else bias + additive(inside, q.dtype)
    return bias


@OPERATORS.op("RotaryEmbedding", 23)
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int | None = None,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Rotate pairs of features by angles of their position (arXiv:2104.09864), halves or neighbours as pairs."""
    packed = x.ndim == 3
    if packed:
        assert num_heads is not None
        x = heads(x, num_heads)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    size = rotary_embedding_dim or x.shape[3]
    turned, rest = x[..., :size], x[..., size:]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = [cos * a - sin * b, sin * a + cos * b]
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat([turned, rest], -1)
    return y.transpose(1, 2).flatten(2) if packed else y


@OPERATORS.op("LinearAttention", 27)
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_state: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    chunk_size: int = 64,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Tensor, Tensor]:
    """Attention with a state of fixed size `[batch, heads, keys, values]`, step by step; gives the state, too."""
    q, k, v = heads(query, q_num_heads).float(), heads(key, kv_num_heads).float(), heads(value, kv_num_heads).float()
    batch, length, size = q.shape[0], q.shape[2], q.shape[3]
    state = past_state
    if state is None:
        state = query.new_zeros(batch, kv_num_heads, size, v.shape[3])
    dtype, state = state.dtype, state.float()
    gates = None if decay is None else heads(decay, kv_num_heads).float().exp().unsqueeze(-1)
    rates = None if beta is None else heads(beta, beta.shape[2]).float()
    outputs = []
    for step in range(length):
        row, column = k[:, :, step].unsqueeze(-1), v[:, :, step]
        state = state if gates is None else state * gates[:, :, step]
        if rates is not None:  # the delta rule: only what the state does not know yet
            column = (column - (state * row).sum(2)) * rates[:, :, step]
        state = state + row * column.unsqueeze(2)
        shared = state.repeat_interleave(q_num_heads // kv_num_heads, 1)
        outputs.append((q[:, :, step].unsqueeze(-1) * shared).sum(2) * (scale or 1 / math.sqrt(size)))
    y = torch.stack(outputs, 2).transpose(1, 2).flatten(2)
    return y.to(query.dtype), state.to(dtype)
