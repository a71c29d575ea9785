"""Why two operators that should compute the same do not, as far as their graphs and results can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.graph import operator_name
from tightship.measure.risks import MAX_FLOAT16
from tightship.measure.tally import is_float, rounding_unit

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["likely_cause"]

_MOST_PERMUTED_AXES = 5
_CLOSE = 1e-4
"""Two tensors that differ by less than this part of their largest value count as the same one, rearranged."""


def likely_cause(ours: onnx_ir.Node, theirs: onnx_ir.Node, reference: np.ndarray, candidate: np.ndarray) -> str:
    """Compare an operator of the first model with its counterpart and their results; say what explains the difference.

    Looked for, in this order: another type of operator, overflow, training mode, other attributes, another meaning in
    another opset, other weights, other layout, other preprocessing, another type of number. An empty string where none
    of them is found.
    """
    checks: tuple[Callable[[], str], ...] = (
        lambda: _other_type(ours, theirs),
        lambda: _overflow(reference, candidate),
        lambda: _training_mode(ours, theirs),
        lambda: _other_attributes(ours, theirs),
        lambda: _other_meaning(ours, theirs),
        lambda: _other_weights(ours, theirs),
        lambda: _other_layout(reference, candidate),
        lambda: _other_preprocessing(reference, candidate),
        lambda: _other_numbers(reference, candidate),
    )
    return next((found for check in checks if (found := check())), "")


def _other_type(ours: onnx_ir.Node, theirs: onnx_ir.Node) -> str:
    if (ours.op_type, ours.domain) == (theirs.op_type, theirs.domain):
        return ""
    return f"it is a {theirs.op_type}, expected {ours.op_type} ({operator_name(ours)})"


def _training_mode(ours: onnx_ir.Node, theirs: onnx_ir.Node) -> str:
    if _trains(ours) == _trains(theirs):
        return ""
    return f"it is in {'training' if _trains(theirs) else 'inference'} mode, where {_TRAINING_EFFECT}"


_TRAINING_EFFECT = "BatchNormalization takes the statistics of the batch and Dropout drops"


def _trains(node: onnx_ir.Node) -> bool:
    if node.op_type == "BatchNormalization":
        return bool(_attributes(node).get("training_mode", 0))
    if node.op_type == "Dropout" and len(node.inputs) > 2:
        return any(bool(array.any()) for _, array in _weights(node) if array.dtype == bool)
    return False


def _other_meaning(ours: onnx_ir.Node, theirs: onnx_ir.Node) -> str:
    """Where each stands in an opset that defines the operator anew, as Softmax's axis before and after 13."""
    expected, found = _since(ours), _since(theirs)
    if expected == found or not expected or not found:
        return ""
    return (
        f"it is {theirs.op_type} as opset {_opset(theirs)} defines it (version {found}), expected that of opset "
        f"{_opset(ours)} (version {expected})"
    )


def _since(node: onnx_ir.Node) -> int:
    import onnx

    try:
        return int(onnx.defs.get_schema(node.op_type, _opset(node), node.domain).since_version)
    except onnx.defs.SchemaError:
        return 0


def _opset(node: onnx_ir.Node) -> int:
    import onnx

    stated = node.version or (node.graph.opset_imports.get(node.domain) if node.graph is not None else None)
    return stated or int(onnx.defs.onnx_opset_version())


def _other_attributes(ours: onnx_ir.Node, theirs: onnx_ir.Node) -> str:
    expected, found = _attributes(ours), _attributes(theirs)
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if not different:
        return ""
    expected, found = _defaults(ours) | expected, _defaults(theirs) | found
    parts = [f"{name} is {_told(found.get(name))}, expected {_told(expected.get(name))}" for name in different]
    return f"attribute {'; '.join(parts)}"


def _told(value: Any) -> str:
    return "not set" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _attributes(node: onnx_ir.Node) -> dict[str, Any]:
    """Attributes that are plain values and not the default, which an operator of another opset may not even have."""
    defaults = _defaults(node)
    plain = {name: _plain(entry.value) for name, entry in node.attributes.items() if entry.type.name not in _STRUCTURED}
    return {name: value for name, value in plain.items() if name not in defaults or defaults[name] != value}


def _defaults(node: onnx_ir.Node) -> dict[str, Any]:
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, _opset(node), node.domain)
    except onnx.defs.SchemaError:
        return {}
    values = {name: entry.default_value for name, entry in schema.attributes.items()}
    return {name: _plain(onnx.helper.get_attribute_value(value)) for name, value in values.items() if value.name}


_STRUCTURED = frozenset({"TENSOR", "TENSORS", "GRAPH", "GRAPHS", "SPARSE_TENSOR", "SPARSE_TENSORS"})


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float):
        return float(np.float32(value))
    return tuple(value) if isinstance(value, list | tuple) else value


def _other_weights(ours: onnx_ir.Node, theirs: onnx_ir.Node) -> str:
    for (name, expected), (_, found) in zip(_weights(ours), _weights(theirs), strict=False):
        difference = _describe_weights(expected, found)
        if difference:
            return f"weight {name!r} {difference}"
    return ""


def _weights(node: onnx_ir.Node) -> Iterator[tuple[str, np.ndarray]]:
    for value in node.inputs:
        source = None if value is None else value.producer()
        tensor = None if value is None else value.const_value
        if tensor is None and source is not None and "value" in source.attributes and source.op_type == "Constant":
            tensor = source.attributes["value"].as_tensor()
        if value is not None and tensor is not None:
            yield value.name or "", tensor.numpy()


def _describe_weights(expected: np.ndarray, found: np.ndarray) -> str:
    if expected.shape != found.shape:
        order = _permutation(expected, found)
        hint = f": axes in the order {list(order)}" if order else ""
        return f"has shape {list(found.shape)}, expected {list(expected.shape)}{hint}"
    if is_float(expected) != is_float(found):
        return f"holds {found.dtype}, expected {expected.dtype}"
    if not is_float(expected):
        return "" if np.array_equal(expected, found) else "holds other integers"
    largest = float(np.max(np.abs(_wide(expected)), initial=0.0))
    off = float(np.max(np.abs(_wide(expected) - _wide(found)), initial=0.0))
    if off > max(_CLOSE, rounding_unit(found.dtype)) * largest:
        order = _permutation(expected, found)
        turned = f"is the expected one with axes in the order {list(order or ())}"
        return turned if order else f"is off by {off:.3g}, of {largest:.3g}"
    return f"is rounded to {found.dtype}" if found.dtype != expected.dtype else ""


def _overflow(reference: np.ndarray, candidate: np.ndarray) -> str:
    if not is_float(reference) or not is_float(candidate):
        return ""
    largest = float(np.max(np.abs(_wide(reference)), initial=0.0))
    if np.isfinite(_wide(candidate)).all() or not np.isfinite(largest):
        return ""
    why = f", beyond the {MAX_FLOAT16:.0f} of float16" if largest > MAX_FLOAT16 else ""
    return f"it overflows where the first model reaches {largest:.4g}{why}"


def _other_layout(reference: np.ndarray, candidate: np.ndarray) -> str:
    order = _permutation(reference, candidate)
    return f"the result is the expected one with axes in the order {list(order)}" if order else ""


def _other_preprocessing(reference: np.ndarray, candidate: np.ndarray) -> str:
    """Whether the result is the expected one scaled and shifted, as a missing or doubled normalization makes it."""
    if not is_float(reference) or not is_float(candidate) or reference.shape != candidate.shape or reference.size < 8:
        return ""
    expected, found = _wide(reference).ravel(), _wide(candidate).ravel()
    if np.ptp(expected) == 0 or np.ptp(found) == 0:
        return ""
    scale, shift = np.polyfit(expected, found, 1)
    left = np.abs(found - (scale * expected + shift)).max()
    if left > _CLOSE * np.ptp(found) or (abs(scale - 1) < _CLOSE and abs(shift) < _CLOSE * np.ptp(expected)):
        return ""
    return f"the result is the expected one times {scale:.4g} plus {shift:.4g}: a normalization is missing or doubled"


def _other_numbers(reference: np.ndarray, candidate: np.ndarray) -> str:
    """Whether the difference is what rounding to a shorter type makes."""
    if not is_float(reference) or not is_float(candidate) or reference.shape != candidate.shape:
        return ""
    if reference.dtype != candidate.dtype:
        return f"it computes in {candidate.dtype}, expected {reference.dtype}"
    if reference.dtype == np.float32 and candidate.size:
        for name, bits in (("float16", 13), ("bfloat16", 16)):
            if not (np.ascontiguousarray(candidate).view(np.uint32) & ((1 << bits) - 1)).any() and candidate.any():
                return f"its result is rounded to {name}"
    return ""


def _permutation(expected: np.ndarray, found: np.ndarray) -> tuple[int, ...] | None:
    """The order of axes that turns `expected` into `found`, if there is one besides that which it has."""
    if not 1 < expected.ndim <= _MOST_PERMUTED_AXES or sorted(expected.shape) != sorted(found.shape):
        return None
    limit = _CLOSE * float(np.max(np.abs(_wide(expected)), initial=0.0))
    for order in list(permutations(range(expected.ndim)))[1:]:
        turned = expected.transpose(order)
        if turned.shape == found.shape and np.allclose(_wide(turned), _wide(found), rtol=0, atol=limit):
            return order
    return None


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)
