"""Activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from tightship.formats.mil.build import Build
from tightship.formats.mil.operands import Operand, Unsupported
from tightship.formats.mil.table import OPERATORS

op = OPERATORS.op


def per_channel(values: Any, rank: int) -> np.ndarray:
    """One value per channel, the second axis, as a tensor that broadcasts."""
    return np.asarray(values, np.float32).reshape(-1, *[1] * (rank - 2))


@op("relu", since=15)
def relu(x: Operand, *, build: Build) -> Any:
    return build("Relu", x)


@op("relu6", since=15)
def relu6(x: Operand, *, build: Build) -> Any:
    return build("Clip", x, build.like(x, 0), build.like(x, 6))


@op("sigmoid", since=15)
def sigmoid(x: Operand, *, build: Build) -> Any:
    return build("Sigmoid", x)


@op("softplus", since=15)
def softplus(x: Operand, *, build: Build) -> Any:
    return build("Softplus", x)


@op("softsign", since=15)
def softsign(x: Operand, *, build: Build) -> Any:
    return build("Softsign", x)


@op("silu", since=15)
def silu(x: Operand, *, build: Build) -> Any:
    return build("Mul", x, build("Sigmoid", x))


@op("softmax", since=15)
def softmax(x: Operand, *, axis: int = -1, build: Build) -> Any:
    return build("Softmax", x, axis=axis)


@op("elu", since=15)
def elu(x: Operand, *, alpha: float, build: Build) -> Any:
    return build("Elu", x, alpha=float(alpha))


@op("leaky_relu", since=15)
def leaky_relu(x: Operand, *, alpha: float, build: Build) -> Any:
    return build("LeakyRelu", x, alpha=float(alpha))


@op("prelu", since=15)
def prelu(x: Operand, *, alpha: np.ndarray, build: Build) -> Any:
    return build("PRelu", x, per_channel(alpha, x.rank))


@op("gelu", since=15)
def gelu(x: Operand, *, mode: str = "EXACT", build: Build) -> Any:
    if mode == "SIGMOID_APPROXIMATION":
        return build("Mul", x, build("Sigmoid", build("Mul", x, build.like(x, 1.702))))
    if mode not in ("EXACT", "TANH_APPROXIMATION"):
        raise Unsupported(f"mode {mode}")
    return build("Gelu", x, approximate="none" if mode == "EXACT" else "tanh")


@op("linear_activation", since=15)
def linear_activation(x: Operand, *, alpha: float, beta: float, build: Build) -> Any:
    return build("Add", build("Mul", x, build.like(x, alpha)), build.like(x, beta))


@op("scaled_tanh", since=15)
def scaled_tanh(x: Operand, *, alpha: float, beta: float, build: Build) -> Any:
    return build("Mul", build("Tanh", build("Mul", x, build.like(x, beta))), build.like(x, alpha))


@op("sigmoid_hard", since=15)
def sigmoid_hard(x: Operand, *, alpha: float, beta: float, build: Build) -> Any:
    return build("HardSigmoid", x, alpha=float(alpha), beta=float(beta))


@op("clamped_relu", since=15)
def clamped_relu(x: Operand, *, alpha: float, beta: float, build: Build) -> Any:
    """min(beta, x) where x is not negative, else min(beta, alpha * x)."""
    return build("Min", build("LeakyRelu", x, alpha=float(alpha)), build.like(x, beta))


@op("thresholded_relu", since=15)
def thresholded_relu(x: Operand, *, alpha: float, build: Build) -> Any:
    """x from alpha on: ONNX's operator of this name begins behind alpha."""
    return build("Where", build("GreaterOrEqual", x, build.like(x, alpha)), x, build.like(x, 0))


@op("softplus_parametric", since=15)
def softplus_parametric(x: Operand, *, alpha: np.ndarray, beta: np.ndarray, build: Build) -> Any:
    """alpha_i * log(1 + exp(beta_i * x_i)), with one of each per channel."""
    inner = build("Softplus", build("Mul", x, per_channel(beta, x.rank)))
    return build("Mul", inner, per_channel(alpha, x.rank))
