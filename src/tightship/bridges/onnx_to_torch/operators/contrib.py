"""Operators of ONNX Runtime (`com.microsoft`) that tightship writes: weights of few bits, and the dynamic LSTM."""

from __future__ import annotations

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.operators.recurrent import lstm
from tightship.bridges.onnx_to_torch.table import OPERATORS


def unpacked(codes: Tensor, bits: int) -> Tensor:
    """Bytes `[..., n]` as the codes in them `[..., n * 8 / bits]`, least significant bits first."""
    if bits == 8:
        return codes
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    return torch.bitwise_right_shift(codes.unsqueeze(-1), shifts).bitwise_and(2**bits - 1).flatten(-2)


@OPERATORS.op("MatMulNBits", 1, domain="com.microsoft")
def matmul_nbits(
    a: Tensor,
    codes: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    g_idx: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    K: int,
    N: int,
    accuracy_level: int = 0,
    bits: int = 4,
    block_size: int,
) -> Tensor:
    """Product with weights of few bits `[N, blocks, bytes]`, each block with a scale and a zero point."""
    blocks = -(-K // block_size)
    values = unpacked(codes.reshape(N, blocks, -1), bits).to(a.dtype)
    if zero_points is None:
        zeros = torch.full((N, blocks, 1), 2.0 ** (bits - 1), dtype=a.dtype)
    elif zero_points.is_floating_point():
        zeros = zero_points.reshape(N, blocks, 1)
    else:
        zeros = unpacked(zero_points.reshape(N, -1), bits)[:, :blocks].reshape(N, blocks, 1).to(a.dtype)
    weight = ((values - zeros) * scales.reshape(N, blocks, 1)).reshape(N, -1)[:, :K]
    return torch.nn.functional.linear(a, weight, bias)


@OPERATORS.op("GatherBlockQuantized", 1, domain="com.microsoft")
def gather_block_quantized(
    codes: Tensor,
    indices: Tensor,
    scales: Tensor,
    zero_points: Tensor | None = None,
    *,
    bits: int = 4,
    block_size: int = 128,
    gather_axis: int = 0,
    quantize_axis: int = 1,
) -> Tensor:
    """Rows of a table of few bits, blocks of which share a scale and a zero point."""
    index = torch.where(indices < 0, indices + codes.shape[0], indices).long()
    is_packed = codes.dtype == torch.uint8
    values = unpacked(codes[index], bits) if is_packed else codes[index]
    scale = scales[index]
    values = values.unflatten(-1, (scale.shape[-1], -1)).to(scale.dtype)
    if zero_points is None:
        zeros = torch.full_like(scale, 2.0 ** (bits - 1) if is_packed else 0.0)
    else:
        zeros = unpacked(zero_points[index], bits)[..., : scale.shape[-1]] if is_packed else zero_points[index]
    return ((values - zeros.to(scale.dtype).unsqueeze(-1)) * scale.unsqueeze(-1)).flatten(-2)


@OPERATORS.op("DynamicQuantizeLSTM", 1, domain="com.microsoft")
def dynamic_quantize_lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Tensor | None,
    initial_h: Tensor | None,
    initial_c: Tensor | None,
    p: Tensor | None,
    w_scale: Tensor,
    w_zero_point: Tensor,
    r_scale: Tensor,
    r_zero_point: Tensor,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """An LSTM with weights `[directions, inputs, 4 * hidden]` of 8 bits; activations are not rounded here."""
    weights = [
        ((codes.to(torch.float32) - zero.to(torch.float32).unsqueeze(1)) * scale.unsqueeze(1)).transpose(1, 2)
        for codes, scale, zero in ((w, w_scale, w_zero_point), (r, r_scale, r_zero_point))
    ]
    return lstm(
        x, weights[0], weights[1], b, lengths, initial_h, initial_c, p, activation_alpha=activation_alpha,
        activation_beta=activation_beta, activations=activations, clip=clip, direction=direction,
        input_forget=input_forget,
    )  # fmt: skip
