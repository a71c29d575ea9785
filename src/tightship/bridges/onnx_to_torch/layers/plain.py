"""Operators that are one call of PyTorch where their settings are constants."""

from __future__ import annotations

import operator
from typing import Any

import torch

from tightship.bridges.onnx_to_torch.layers.dense import embedding_of
from tightship.bridges.onnx_to_torch.layers.layer import Call, Layer, Plain, layer

_WIDE = ("FLOAT", "DOUBLE")
"""Types that a number of Python is computed with as a tensor of that type is."""

_CASTS = ("FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "INT32", "INT64", "BOOL")
_ARITHMETIC: dict[str, Any] = {"Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": torch.div, "Pow": torch.pow}
_REDUCTIONS: dict[str, Any] = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax}
_FAR = 2**31 - 1


@layer("Add", "Sub", "Mul", "Div", "Pow")
def arithmetic(call: Call) -> Plain | None:
    """x + 0.5"""
    function = _ARITHMETIC[call.node.op_type]
    for number, x in ((1, 0), (0, 1)) if call.node.op_type in ("Add", "Mul") else ((1, 0),):
        tensor = call.constant(number)
        one = tensor is not None and tensor.numel() == 1 and tensor.ndim <= _rank(call, x)
        if tensor is not None and one and call.constant(x) is None and _type(call, x) in _WIDE:
            return Plain(function, (tensor.item(),), (x,)) if _type(call, number) == _type(call, x) else None
    return None


@layer("Reshape")
def reshape(call: Call) -> Plain | None:
    shape = call.constant(1)
    if shape is None or (not call.attributes["allowzero"] and bool((shape == 0).any())):
        return None
    return Plain(torch.reshape, (shape.tolist(),))


@layer("Transpose")
def transpose(call: Call) -> Plain | None:
    perm = call.attributes["perm"]
    return Plain(torch.permute, (list(perm),)) if perm else None


@layer("Squeeze", "Unsqueeze")
def squeeze(call: Call) -> Plain | None:
    axes = _axes(call)
    if not axes:
        return None
    if call.node.op_type == "Squeeze":
        return Plain(torch.squeeze, (axes[0] if len(axes) == 1 else tuple(axes),))
    return Plain(torch.unsqueeze, (axes[0],)) if len(axes) == 1 else None


@layer("Flatten")
def flatten(call: Call) -> Plain | None:
    return Plain(torch.flatten, (1,)) if call.attributes["axis"] == 1 and _rank(call) > 1 else None


@layer("Concat")
def concatenate(call: Call) -> Plain | None:
    if not all(call.given):
        return None
    return Plain(torch.cat, (call.attributes["axis"],), tuple(range(len(call.given))), as_list=True)


@layer("Softmax", "LogSoftmax")
def softmax(call: Call) -> Plain | None:
    function = torch.softmax if call.node.op_type == "Softmax" else torch.log_softmax
    rank = _rank(call)
    last = rank > 0 and call.attributes["axis"] in (-1, rank - 1)
    return Plain(function, (call.attributes["axis"],)) if call.opset >= 13 or last else None


@layer("Gather")
def gather(call: Call) -> Layer | Plain | None:
    """One item along an axis, or rows of a table."""
    index = call.constant(1)
    if index is not None and index.ndim == 0 and call.constant(0) is None:
        return Plain(torch.select, (call.attributes["axis"], int(index)))
    return embedding_of(call)


@layer("ReduceMean", "ReduceSum", "ReduceMax")
def reduction(call: Call) -> Plain | None:
    axes, x = _axes(call), call.node.inputs[0]
    if not axes or x is None or x.shape is None or _type(call, 0) not in _WIDE:
        return None
    if call.node.op_type == "ReduceMax" and any(
        not isinstance(x.shape[axis], int) or not x.shape[axis] for axis in axes
    ):
        return None
    return Plain(_REDUCTIONS[call.node.op_type], (axes, bool(call.attributes["keepdims"])))


@layer("Clip")
def clip(call: Call) -> Plain | None:
    if "min" in call.attributes:
        return None
    low, high = call.constant(1), call.constant(2)
    if (call.has(1) and low is None) or (call.has(2) and high is None) or (low is None and high is None):
        return None
    if _type(call, 0) not in _WIDE:
        return None
    return Plain(torch.clamp, (None if low is None else low.item(), None if high is None else high.item()))


@layer("Cast")
def cast(call: Call) -> Plain | None:
    to = call.node.outputs[0].dtype
    if to is None or to.name not in _CASTS or _type(call, 0) not in _CASTS:
        return None
    return Plain(
        "to", ({"FLOAT": torch.float32, "DOUBLE": torch.float64}.get(to.name) or getattr(torch, to.name.lower()),)
    )


@layer("Slice")
def slice_one_axis(call: Call) -> Plain | None:
    """x[:, 2:5]"""
    settings = [call.constant(index) for index in (1, 2, 3, 4)]
    rank = _rank(call)
    if call.opset < 10 or not rank or any(settings[k] is None and call.has(k + 1) for k in range(4)):
        return None
    starts, ends, axes, steps = (None if item is None else item.tolist() for item in settings)
    if not starts or not ends or len(starts) != 1 or (steps and steps[0] != 1):
        return None
    axis = axes[0] % rank if axes else 0
    start, end = starts[0], ends[0]
    start = None if start == 0 or start < -_FAR else start
    return Plain(operator.getitem, ((*[slice(None)] * axis, slice(start, None if end >= _FAR else end)),))


def _axes(call: Call) -> list[int] | None:
    """The axes that a node names, as an attribute or as a constant input."""
    if call.attributes.get("axes") is not None:
        return list(call.attributes["axes"])
    tensor = call.constant(1)
    return None if tensor is None else tensor.reshape(-1).tolist()


def _rank(call: Call, index: int = 0) -> int:
    """Rank of an input, 0 where it is not known."""
    x = call.node.inputs[index]
    return 0 if x is None or x.shape is None else len(x.shape)


def _type(call: Call, index: int) -> str:
    value = call.node.inputs[index]
    return "" if value is None or value.dtype is None else str(value.dtype.name)
