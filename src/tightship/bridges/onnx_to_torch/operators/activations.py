"""Activation functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tightship.bridges.onnx_to_torch.table import OPERATORS

OPERATORS.rows(
    ("Relu", 6, torch.relu),
    ("Sigmoid", 6, torch.sigmoid),
    ("Softplus", 1, functional.softplus),
    ("Softsign", 1, functional.softsign),
    ("Tanh", 6, torch.tanh),
)


@OPERATORS.op("LeakyRelu", 6)
def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return functional.leaky_relu(x, alpha)


@OPERATORS.op("Elu", 6)
def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.elu(x, alpha)


@OPERATORS.op("Selu", 6)
def selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * functional.elu(x, alpha)


@OPERATORS.op("Celu", 12)
def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.celu(x, alpha)


@OPERATORS.op("Gelu", 20)
def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


@OPERATORS.op("HardSigmoid", 6)
def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


@OPERATORS.op("HardSwish", 14)
def hard_swish(x: Tensor) -> Tensor:
    return functional.hardswish(x)


@OPERATORS.op("Mish", 18)
def mish(x: Tensor) -> Tensor:
    return functional.mish(x)


@OPERATORS.op("ThresholdedRelu", 10)
def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.threshold(x, alpha, 0.0)


@OPERATORS.op("Shrink", 9)
def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))).to(x.dtype)


@OPERATORS.op("PRelu", 7)
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


@OPERATORS.op("Swish", 24)
def swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return functional.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


@OPERATORS.op("SwiGLU", 28)
def swiglu(a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    return swish(a, alpha=alpha) * b


@OPERATORS.op("Softmax", 13)
def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@OPERATORS.op("Softmax", 1)
def softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    """Before opset 13 all axes from `axis` on are one."""
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape) if x.ndim > axis + 1 else torch.softmax(x, axis)


@OPERATORS.op("LogSoftmax", 13)
def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


@OPERATORS.op("LogSoftmax", 1)
def log_softmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return torch.log_softmax(x.flatten(axis), -1).reshape(x.shape)


@OPERATORS.op("Hardmax", 13)
def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    first = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1)


@OPERATORS.op("Hardmax", 1)
def hardmax_1(x: Tensor, *, axis: int = 1) -> Tensor:
    return hardmax(x.flatten(axis)).reshape(x.shape)
