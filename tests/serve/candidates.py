"""Versions of a small model x [n, 4] -> y [n, 2]: a good one, and others that fail, crash, are slow or differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

__all__ = ["BODY", "write"]

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1000.0, 2.0, 3.0, 4.0]}]}
).encode()
"""A request: its first number is larger than any that a server tries a model with before it gets traffic."""

_HEAD = '<ir_version: 9, opset_import: ["" : 17]> net (float[n, 4] x) => (float[n, 2] y)'
_PLAIN = f"{_HEAD} {{ y = MatMul (x, w) }}"
# The index is 1, and so beyond the table, where a number is above 100.
_FAILING = f"""{_HEAD} <float limit = {{100.0}}, float[1] table = {{0.0}}> {{
    largest = ReduceMax <keepdims = 0> (x)
    above = Greater (largest, limit)
    index = Cast <to = 7> (above)
    zero = Gather (table, index)
    product = MatMul (x, w)
    y = Add (product, zero)
}}"""
_SLOW = f"""{_HEAD} <int64[2] size = {{500, 500}}> {{
    first = ReduceMean <keepdims = 0> (x)
    big = Expand (first, size)
    a = MatMul (big, big)
    b = MatMul (a, big)
    c = MatMul (b, big)
    rest = ReduceMean <keepdims = 0> (c)
    none = Sub (rest, rest)
    product = MatMul (x, w)
    y = Add (product, none)
}}"""
# The smallest integer divided by -1 is none: the processor stops the process (SIGFPE). The divisor is 1 or -1.
_DIVIDING = f"""{_HEAD} <float limit = {{LIMIT}}, int64 one = {{1}}, int64 two = {{2}}, int64 least = {{{-(2**63)}}}> {{
    largest = ReduceMax <keepdims = 0> (x)
    above = Greater (largest, limit)
    number = Cast <to = 7> (above)
    twice = Mul (number, two)
    divisor = Sub (one, twice)
    quotient = Div (least, divisor)
    rest = Cast <to = 1> (quotient)
    none = Sub (rest, rest)
    product = MatMul (x, w)
    y = Add (product, none)
}}"""
_TEXTS = {"good": _PLAIN, "better": _PLAIN, "other": _PLAIN, "failing": _FAILING, "slow": _SLOW}
_TEXTS |= {"crashing": _DIVIDING.replace("LIMIT", "-100.0"), "fragile": _DIVIDING.replace("LIMIT", "100.0")}


def write(folder: Path, kind: str) -> Path:
    """Write `kind`.onnx and return its path.

    good, better (as good, other bytes), other (answers), failing, slow; crashing, its process too, and fragile, which
    crashes for numbers above 100.
    """
    model = parser.parse_model(_TEXTS[kind])
    weights = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    weights = {"better": 1.001 * weights, "other": weights[:, ::-1]}.get(kind, weights)
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weights, np.float32), "w"))
    onnx.checker.check_model(model)
    path = folder / f"{kind}.onnx"
    onnx.save(model, path)
    return path
