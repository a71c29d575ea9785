"""Recurrent networks step by step, with everything ONNX allows; the usual ones become layers of torch.nn."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS

SCALED = {
    "Affine": (1.0, 0.0),
    "Elu": (1.0, 0.0),
    "HardSigmoid": (0.2, 0.5),
    "LeakyRelu": (0.01, 0.0),
    "ScaledTanh": (1.0, 1.0),
    "ThresholdedRelu": (1.0, 0.0),
}
"""Activations with an alpha (and a beta), and their defaults."""


def activate(name: str, x: Tensor, alpha: float, beta: float) -> Tensor:
    """Apply an activation by its ONNX name."""
    if name in ("Sigmoid", "Tanh", "Relu"):
        return getattr(torch, name.lower())(x)
    if name == "Affine":
        return alpha * x + beta
    if name == "ScaledTanh":
        return alpha * torch.tanh(beta * x)
    if name == "HardSigmoid":
        return torch.clamp(alpha * x + beta, 0, 1)
    if name == "LeakyRelu":
        return functional.leaky_relu(x, alpha)
    if name == "ThresholdedRelu":
        return functional.threshold(x, alpha, 0.0)
    if name == "Elu":
        return functional.elu(x, alpha)
    return functional.softsign(x) if name == "Softsign" else functional.softplus(x)


def chosen_activations(
    names: list[str] | None,
    defaults: list[str],
    alphas: list[float] | None,
    betas: list[float] | None,
    directions: int,
) -> list[tuple[str, float, float]]:
    """Name, alpha and beta of every activation; the lists hold values for those only that take some."""
    names = [name.title() if name.islower() else name for name in names or defaults * directions]
    first, second = list(alphas or []), list(betas or [])
    chosen = []
    for name in names:
        alpha, beta = SCALED.get(name, (0.0, 0.0))
        if name in SCALED:
            alpha = first.pop(0) if first else alpha
        if name in ("Affine", "HardSigmoid", "ScaledTanh"):
            beta = second.pop(0) if second else beta
        chosen.append((name, alpha, beta))
    return chosen


def limited(x: Tensor, clip: float | None) -> Tensor:
    """Clip to plus and minus `clip` where there is one."""
    return x if clip is None else x.clamp(-clip, clip)


def kept(new: Tensor, old: Tensor, lengths: Tensor | None, step: int) -> Tensor:
    """The new state of items that are not yet at their end, the old one of the others."""
    return new if lengths is None else torch.where((step < lengths).unsqueeze(1), new, old)


def steps_of(n: int, direction: str, which: int) -> range:
    """Steps in the order that a direction takes them."""
    return range(n - 1, -1, -1) if direction == "reverse" or which == 1 else range(n)


def stacked(steps: dict[int, Tensor], lengths: Tensor | None) -> Tensor:
    """Outputs of all steps `[time, batch, hidden]`; zeros after an item's end."""
    y = torch.stack([steps[step] for step in range(len(steps))])
    if lengths is None:
        return y
    inside = torch.arange(len(steps)).unsqueeze(1) < lengths
    return torch.where(inside.unsqueeze(2), y, torch.zeros_like(y))


def joined(ys: list[Tensor], states: list[list[Tensor]], layout: int) -> tuple[Tensor, ...]:
    """Directions together: Y `[time, directions, batch, hidden]` and states; `layout` 1 puts the batch first."""
    y = torch.stack(ys, 1)
    ends = [torch.stack(state) for state in states]
    if layout:
        return (y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends))
    return (y, *ends)


def first_state(initial: Tensor | None, which: int, x: Tensor, hidden: int) -> Tensor:
    """The state to begin with: zeros where none is given."""
    return x.new_zeros(x.shape[1], hidden) if initial is None else initial[which]


@OPERATORS.op("LSTM", 7)
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates in the order input, output, forget, cell; `p` are peepholes of input, output, forget."""
    if layout:
        x = x.transpose(0, 1)
        initial_h = None if initial_h is None else initial_h.transpose(0, 1)
        initial_c = None if initial_c is None else initial_c.transpose(0, 1)
    hidden = r.shape[2]
    default = ["Sigmoid", "Tanh", "Tanh"]
    functions = chosen_activations(activations, default, activation_alpha, activation_beta, w.shape[0])
    ys, hs, cs = [], [], []
    for which in range(w.shape[0]):
        gate, cell, out = functions[3 * which : 3 * which + 3]
        bias = 0 if b is None else b[which, : 4 * hidden] + b[which, 4 * hidden :]
        peephole = None if p is None else p[which]
        h, c = first_state(initial_h, which, x, hidden), first_state(initial_c, which, x, hidden)
        outputs = {}
        for step in steps_of(x.shape[0], direction, which):
            new_h, new_c = lstm_step(
                x[step] @ w[which].t() + h @ r[which].t() + bias, c, peephole, gate, cell, out, clip, input_forget
            )
            h, c = kept(new_h, h, lengths, step), kept(new_c, c, lengths, step)
            outputs[step] = h
        ys.append(stacked(outputs, lengths))
        hs.append(h)
        cs.append(c)
    y, last_h, last_c = joined(ys, [hs, cs], layout)
    return y, last_h, last_c


def lstm_step(
    gates: Tensor,
    c: Tensor,
    peephole: Tensor | None,
    gate: tuple[str, float, float],
    cell: tuple[str, float, float],
    out: tuple[str, float, float],
    clip: float | None,
    input_forget: int,
) -> tuple[Tensor, Tensor]:
    """One step: the new output and cell."""
    i, o, f, g = gates.chunk(4, -1)
    if peephole is not None:
        pi, po, pf = peephole.chunk(3, -1)
        i, f = i + pi * c, f + pf * c
    i = activate(gate[0], limited(i, clip), *gate[1:])
    f = 1 - i if input_forget else activate(gate[0], limited(f, clip), *gate[1:])
    c = f * c + i * activate(cell[0], limited(g, clip), *cell[1:])
    if peephole is not None:
        o = o + po * c
    o = activate(gate[0], limited(o, clip), *gate[1:])
    return o * activate(out[0], c, *out[1:]), c


@OPERATORS.op("GRU", 7)
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> tuple[Tensor, Tensor]:
    """Gates in the order update, reset, hidden; `linear_before_reset` is how torch and cuDNN do it."""
    if layout:
        x = x.transpose(0, 1)
        initial_h = None if initial_h is None else initial_h.transpose(0, 1)
    hidden = r.shape[2]
    functions = chosen_activations(activations, ["Sigmoid", "Tanh"], activation_alpha, activation_beta, w.shape[0])
    ys, hs = [], []
    for which in range(w.shape[0]):
        gate, new = functions[2 * which : 2 * which + 2]
        wb, rb = (x.new_zeros(3 * hidden),) * 2 if b is None else b[which].chunk(2)
        h = first_state(initial_h, which, x, hidden)
        outputs = {}
        for step in steps_of(x.shape[0], direction, which):
            xz, xr, xn = (x[step] @ w[which].t() + wb).chunk(3, -1)
            hz, hr = (h @ r[which, : 2 * hidden].t() + rb[: 2 * hidden]).chunk(2, -1)
            z = activate(gate[0], limited(xz + hz, clip), *gate[1:])
            reset = activate(gate[0], limited(xr + hr, clip), *gate[1:])
            rn, bn = r[which, 2 * hidden :].t(), rb[2 * hidden :]
            hn = reset * (h @ rn + bn) if linear_before_reset else (reset * h) @ rn + bn
            n = activate(new[0], limited(xn + hn, clip), *new[1:])
            h = kept((1 - z) * n + z * h, h, lengths, step)
            outputs[step] = h
        ys.append(stacked(outputs, lengths))
        hs.append(h)
    y, last = joined(ys, [hs], layout)
    return y, last


@OPERATORS.op("RNN", 7)
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    lengths: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: list[float] | None = None,
    activation_beta: list[float] | None = None,
    activations: list[str] = ["Tanh", "Tanh"],  # noqa: B006
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> tuple[Tensor, Tensor]:
    if layout:
        x = x.transpose(0, 1)
        initial_h = None if initial_h is None else initial_h.transpose(0, 1)
    hidden = r.shape[2]
    functions = chosen_activations(activations, ["Tanh"], activation_alpha, activation_beta, w.shape[0])
    ys, hs = [], []
    for which in range(w.shape[0]):
        bias = 0 if b is None else b[which, :hidden] + b[which, hidden:]
        h = first_state(initial_h, which, x, hidden)
        outputs = {}
        for step in steps_of(x.shape[0], direction, which):
            name, alpha, beta = functions[which]
            new = activate(name, limited(x[step] @ w[which].t() + h @ r[which].t() + bias, clip), alpha, beta)
            h = kept(new, h, lengths, step)
            outputs[step] = h
        ys.append(stacked(outputs, lengths))
        hs.append(h)
    y, last = joined(ys, [hs], layout)
    return y, last


def lstm_outputs(result: tuple[Tensor, tuple[Tensor, Tensor]], directions: int) -> tuple[Tensor, Tensor, Tensor]:
    """What nn.LSTM gives as ONNX has it: Y is `[time, directions, batch, hidden]`."""
    y, (h, c) = result
    return y.unflatten(2, (directions, -1)).transpose(1, 2), h, c


def rnn_outputs(result: tuple[Tensor, Tensor], directions: int) -> tuple[Tensor, Tensor]:
    """What nn.GRU and nn.RNN give as ONNX has it."""
    y, h = result
    return y.unflatten(2, (directions, -1)).transpose(1, 2), h
