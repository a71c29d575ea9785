"""Convolutions, pooling, normalization, recurrent layers and images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from coremltools.converters.mil import Builder as mb

from tests.formats.mil_running import add, by_torch, numbers

W = numbers(6, 3, 3, 3)
B = numbers(6)
X = numbers(2, 3, 9, 8)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def same(x: torch.Tensor, kernel: int, stride: int, lower: bool = False, value: float = 0.0) -> torch.Tensor:
    """Pad as TensorFlow does, the odd element behind (or in front)."""
    pads: list[int] = []
    for length in reversed(x.shape[2:]):
        total = max(0, (-(-length // stride) - 1) * stride + kernel - length)
        pads += [total - total // 2, total // 2] if lower else [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


CONV: dict[str, Any] = {"x": X, "rtol": 1e-4, "atol": 1e-5}
add("conv", lambda x: mb.conv(x=x, weight=W, bias=B), by_torch(lambda x: F.conv2d(x, tensor(W), tensor(B))), **CONV)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=W, strides=[2, 2], pad_type="same"),
    by_torch(lambda x: F.conv2d(same(x, 3, 2), tensor(W), stride=2)),
    **CONV,
    name="same",
)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=W, strides=[2, 2], pad_type="same_lower"),
    by_torch(lambda x: F.conv2d(same(x, 3, 2, lower=True), tensor(W), stride=2)),
    **CONV,
    name="same lower",
    opset=16,
)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=W, pad_type="custom", pad=[0, 1, 2, 3], dilations=[1, 2]),
    by_torch(lambda x: F.conv2d(F.pad(x, [2, 3, 0, 1]), tensor(W), dilation=(1, 2))),
    **CONV,
    name="custom",
)
DEPTHWISE = numbers(6, 1, 3, 3)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=DEPTHWISE, groups=3),
    by_torch(lambda x: F.conv2d(x, tensor(DEPTHWISE), groups=3)),
    **CONV,
    name="groups",
)
W1, W3 = numbers(4, 3, 5), numbers(4, 2, 2, 2, 2)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=W1),
    by_torch(lambda x: F.conv1d(x, tensor(W1))),
    x=numbers(2, 3, 9),
    name="1d",
    atol=1e-5,
)
add(
    "conv",
    lambda x: mb.conv(x=x, weight=W3),
    by_torch(lambda x: F.conv3d(x, tensor(W3))),
    x=numbers(1, 2, 4, 4, 4),
    name="3d",
    atol=1e-5,
)
add(
    "conv",
    lambda x, w: mb.conv(x=x, weight=w),
    by_torch(F.conv2d),
    x=X,
    w=W,
    name="computed weight",
    rtol=1e-4,
    atol=1e-5,
)
BYTES = np.random.default_rng(1).integers(0, 256, (6, 3, 3, 3)).astype(np.uint8)
add(
    "conv_quantized",
    lambda x: mb.conv_quantized(
        x=x,
        weight=BYTES,
        quantization_type="linear",
        quant_scale=np.full((6, 1, 1, 1), 0.01, np.float32),
        quant_bias=np.full((6, 1, 1, 1), -1.0, np.float32),
    ),
    by_torch(lambda x: F.conv2d(x, tensor(BYTES).float() * 0.01 - 1)),
    **CONV,
)
T = numbers(3, 4, 4, 4)
add(
    "conv_transpose",
    lambda x: mb.conv_transpose(x=x, weight=T),
    by_torch(lambda x: F.conv_transpose2d(x, tensor(T))),
    **CONV,
)
add(
    "conv_transpose",
    lambda x: mb.conv_transpose(
        x=x, weight=T, bias=T[0, :, 0, 0], pad_type="custom", pad=[1, 1, 0, 2], strides=[2, 2], dilations=[1, 2]
    ),
    by_torch(
        lambda x: F.conv_transpose2d(x, tensor(T), tensor(T[0, :, 0, 0]), stride=2, dilation=(1, 2))[:, :, 1:-1, :-2]
    ),
    **CONV,
    name="custom",
)
add(
    "conv_transpose",
    lambda x: mb.conv_transpose(x=x, weight=T, pad_type="same", strides=[2, 2]),
    by_torch(lambda x: F.conv_transpose2d(x, tensor(T), stride=2)[:, :, 1:-1, 1:-1]),
    **CONV,
    name="same",
)
add(
    "conv_transpose",
    lambda x: mb.conv_transpose(
        x=x, weight=T, pad_type="custom", pad=[1, 1, 1, 1], strides=[3, 3], output_shape=[2, 4, 27, 24]
    ),
    by_torch(lambda x: F.conv_transpose2d(x, tensor(T), stride=3, padding=1, output_padding=1)),
    **CONV,
    name="output shape",
)
GROUPED = numbers(4, 3, 2, 2)
add(
    "conv_transpose",
    lambda x: mb.conv_transpose(x=x, weight=GROUPED, groups=2, strides=[2, 1]),
    by_torch(lambda x: F.conv_transpose2d(x, tensor(GROUPED), groups=2, stride=(2, 1))),
    x=numbers(1, 4, 3, 3),
    name="groups",
    atol=1e-5,
)

POOL = {"kernel_sizes": [3, 3], "strides": [2, 2]}
add("max_pool", lambda x: mb.max_pool(x=x, **POOL, pad_type="valid"), by_torch(lambda x: F.max_pool2d(x, 3, 2)), x=X)
add(
    "max_pool",
    lambda x: mb.max_pool(x=x, **POOL, pad_type="same"),
    by_torch(lambda x: F.max_pool2d(same(x, 3, 2, value=-1e9), 3, 2)),
    x=X,
    name="same",
)
for pads, name in (([0, 0, 0, 0], "ceil"), ([1, 1, 1, 1], "padded ceil")):
    pad_type, width = ("custom" if any(pads) else "valid"), pads[0]
    add(
        "max_pool",
        lambda x, pads=pads, pad_type=pad_type: mb.max_pool(x=x, **POOL, pad_type=pad_type, pad=pads, ceil_mode=True),
        by_torch(lambda x, width=width: F.max_pool2d(x, 3, 2, padding=width, ceil_mode=True)),
        x=X,
        name=name,
    )
    for exclude in (False, True):
        add(
            "avg_pool",
            lambda x, pads=pads, pad_type=pad_type, exclude=exclude: mb.avg_pool(
                x=x, **POOL, pad_type=pad_type, pad=pads, ceil_mode=True, exclude_padding_from_average=exclude
            ),
            by_torch(
                lambda x, width=width, exclude=exclude: F.avg_pool2d(
                    x, 3, 2, padding=width, ceil_mode=True, count_include_pad=not exclude
                )
            ),
            x=X,
            name=f"{name} {exclude}",
        )
for exclude in (False, True):
    add(
        "avg_pool",
        lambda x, exclude=exclude: mb.avg_pool(
            x=x, **POOL, pad_type="custom", pad=[1, 1, 1, 1], exclude_padding_from_average=exclude
        ),
        by_torch(lambda x, exclude=exclude: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=not exclude)),
        x=X,
        name=f"custom {exclude}",
    )
add(
    "avg_pool",
    lambda x: mb.avg_pool(x=x, kernel_sizes=[2], strides=[2], pad_type="valid"),
    by_torch(lambda x: F.avg_pool1d(x, 2)),
    x=numbers(2, 3, 8),
    name="1d",
)
add(
    "max_pool",
    lambda x: mb.max_pool(x=x, kernel_sizes=[2, 2, 2], strides=[2, 2, 2], pad_type="valid"),
    by_torch(lambda x: F.max_pool3d(x, 2)),
    x=numbers(1, 2, 4, 4, 6),
    name="3d",
)
add(
    "l2_pool",
    lambda x: mb.l2_pool(x=x, **POOL, pad_type="custom", pad=[1, 1, 1, 1]),
    by_torch(lambda x: F.lp_pool2d(F.pad(x, [1, 1, 1, 1]), 2, 3, 2)),
    x=X,
)

C = numbers(3, low=0.2, high=2)
add(
    "batch_norm",
    lambda x: mb.batch_norm(x=x, mean=C, variance=C, gamma=C, beta=C, epsilon=1e-3),
    by_torch(lambda x: F.batch_norm(x, tensor(C), tensor(C), tensor(C), tensor(C), eps=1e-3)),
    x=X,
    atol=1e-5,
)
add(
    "batch_norm",
    lambda x: mb.batch_norm(x=x, mean=C, variance=C),
    by_torch(lambda x: F.batch_norm(x, tensor(C), tensor(C))),
    x=numbers(2, 3, 7),
    name="plain",
    atol=1e-5,
)
for shape in ((2, 3, 5, 4), (2, 3, 7)):
    add(
        "instance_norm",
        lambda x: mb.instance_norm(x=x, gamma=C, beta=C),
        by_torch(lambda x: F.instance_norm(x, weight=tensor(C), bias=tensor(C))),
        x=numbers(*shape),
        name=str(len(shape)),
        atol=1e-5,
    )
add("l2_norm", lambda x: mb.l2_norm(x=x), x=X)
G = numbers(9, 8)
add("layer_norm", lambda x: mb.layer_norm(x=x, axes=[2, 3], gamma=G, beta=G), x=X, atol=1e-5)
add("layer_norm", lambda x: mb.layer_norm(x=x, axes=[-1]), x=X, name="plain", atol=1e-5)
add(
    "layer_norm", lambda x: mb.layer_norm(x=x, axes=[1], gamma=C, beta=C, epsilon=1e-2), x=X, name="channels", atol=1e-5
)
for shape, size in (((2, 7, 5, 4), 3), ((2, 7, 5), 3), ((2, 7, 5, 4), 2)):
    add(
        "local_response_norm",
        lambda x, n=size: mb.local_response_norm(x=x, size=n, alpha=0.3, beta=0.6, k=1.5),
        by_torch(lambda x, n=size: F.local_response_norm(x, n, 0.3, 0.6, 1.5)),
        x=numbers(*shape),
        name=f"{len(shape)} {size}",
    )

S, N, FEATURES, H = 5, 2, 3, 4
STEPS = {"x": numbers(S, N, FEATURES), "h": numbers(N, H)}


def cells(kind: str, x: np.ndarray, h: np.ndarray, direction: str, c: np.ndarray | None = None) -> list[np.ndarray]:
    """One direction by the formulas of the operator, in the order in which it works."""
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    out = []
    for step in x[::-1] if direction == "reverse" else x:
        if kind == "rnn":
            h = np.tanh(step @ RNN_I.T + h @ RNN_H.T + RNN_B)
        elif kind == "gru":
            (ir, io, iz), (hr, ho, hz), (br, bo, bz) = (np.split(entry, 3) for entry in (GRU_I, GRU_H, GRU_B))
            z = sigmoid(step @ iz.T + h @ hz.T + bz)
            r = sigmoid(step @ ir.T + h @ hr.T + br)
            o = np.tanh(step @ io.T + (r * h) @ ho.T + bo)
            h = (1 - z) * o + z * h
        else:
            assert c is not None
            pi, pf, po = np.split(PEEPHOLE, 3)
            i, f, o, g = np.split(step @ LSTM_I.T + h @ LSTM_H.T + LSTM_B, 4, axis=1)
            i, f = sigmoid(i + pi * c), sigmoid(f + pf * c)
            c = f * c + i * np.tanh(g)
            o = sigmoid(o + po * c)
            h = o * np.tanh(c)
        out.append(h)
    return [np.stack(out), h] if c is None else [np.stack(out), h, c]


RNN_I, RNN_H, RNN_B = numbers(H, FEATURES), numbers(H, H), numbers(H)
GRU_I, GRU_H, GRU_B = numbers(3 * H, FEATURES), numbers(3 * H, H), numbers(3 * H)
LSTM_I, LSTM_H, LSTM_B, PEEPHOLE = numbers(4 * H, FEATURES), numbers(4 * H, H), numbers(4 * H), numbers(3 * H)
for direction in ("forward", "reverse"):
    common: dict[str, Any] = {"direction": direction, "output_sequence": True}
    add(
        "rnn",
        lambda x, h, common=common: mb.rnn(x=x, initial_h=h, weight_ih=RNN_I, weight_hh=RNN_H, bias=RNN_B, **common),
        lambda x, h, direction=direction: cells("rnn", x, h, direction),
        **STEPS,
        name=direction,
        atol=1e-5,
    )
    add(
        "gru",
        lambda x, h, common=common: mb.gru(x=x, initial_h=h, weight_ih=GRU_I, weight_hh=GRU_H, bias=GRU_B, **common),
        lambda x, h, direction=direction: cells("gru", x, h, direction),
        **STEPS,
        name=direction,
        atol=1e-5,
    )
    add(
        "lstm",
        lambda x, h, c, common=common: mb.lstm(
            x=x,
            initial_h=h,
            initial_c=c,
            weight_ih=LSTM_I,
            weight_hh=LSTM_H,
            bias=LSTM_B,
            peephole=PEEPHOLE,
            **common,
        ),
        lambda x, h, c, direction=direction: cells("lstm", x, h, direction, c),
        **STEPS,
        c=numbers(N, H),
        name=direction,
        atol=1e-5,
    )


def torch_gru(x: torch.Tensor, h: torch.Tensor) -> list[torch.Tensor]:
    """PyTorch orders the gates reset, update, new."""
    layer = torch.nn.GRU(FEATURES, H)
    with torch.no_grad():
        for name, array in (("weight_ih_l0", GRU_I), ("weight_hh_l0", GRU_H), ("bias_ih_l0", GRU_B)):
            r, o, z = np.split(array, 3)
            getattr(layer, name).copy_(tensor(np.concatenate([r, z, o])))
        layer.bias_hh_l0.copy_(layer.bias_ih_l0.flip(0))
        steps, last = layer(x, h[None])
    return [steps, last[0]]


def recurrent_bias() -> np.ndarray:
    """What `torch_gru` has, in the order of MIL."""
    r, o, z = np.split(GRU_B, 3)
    r, z, o = np.split(np.concatenate([r, z, o])[::-1], 3)
    return np.concatenate([r, o, z])


add(
    "gru",
    lambda x, h: mb.gru(
        x=x,
        initial_h=h,
        weight_ih=GRU_I,
        weight_hh=GRU_H,
        input_bias=GRU_B,
        bias=recurrent_bias(),
        reset_after=True,
        output_sequence=True,
    ),
    by_torch(torch_gru),
    **STEPS,
    name="reset after",
    opset=18,
    atol=1e-5,
)


def torch_lstm(x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> list[torch.Tensor]:
    """PyTorch orders the gates input, forget, cell, output."""
    layer = torch.nn.LSTM(FEATURES, H, bidirectional=True)
    with torch.no_grad():
        for suffix, sign in (("", 1), ("_reverse", -1)):
            for name, array in (("weight_ih", LSTM_I), ("weight_hh", LSTM_H), ("bias_ih", LSTM_B)):
                i, f, o, g = np.split(sign * array, 4)
                getattr(layer, f"{name}_l0{suffix}").copy_(tensor(np.concatenate([i, f, g, o])))
            getattr(layer, f"bias_hh_l0{suffix}").zero_()
        states = (tensor(np.stack(np.split(value.numpy(), 2, axis=1))) for value in (h, c))
        steps, (last, cell) = layer(x, tuple(states))
    return [steps, torch.cat([*last], 1), torch.cat([*cell], 1)]


def both_ways(x: Any, h: Any, c: Any, whole_sequence: bool) -> Any:
    return mb.lstm(
        x=x,
        initial_h=h,
        initial_c=c,
        weight_ih=LSTM_I,
        weight_hh=LSTM_H,
        bias=LSTM_B,
        weight_ih_back=-LSTM_I,
        weight_hh_back=-LSTM_H,
        bias_back=-LSTM_B,
        direction="bidirectional",
        output_sequence=whole_sequence,
    )


BOTH = {"x": STEPS["x"], "h": numbers(N, 2 * H), "c": numbers(N, 2 * H)}
add("lstm", lambda x, h, c: both_ways(x, h, c, True), by_torch(torch_lstm), **BOTH, name="bidirectional", atol=1e-5)
add(
    "lstm",
    lambda x, h, c: both_ways(x, h, c, False)[1:],
    by_torch(lambda x, h, c: torch_lstm(x, h, c)[1:]),
    **BOTH,
    name="last states",
    atol=1e-5,
)
