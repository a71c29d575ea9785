"""What looks risky in a model before anything is done with it: one small check each, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.graph import initializer_bytes, operator_name
from tightship.core.model import Model, TorchModule
from tightship.formats.onnx_tensors import constant_tensors

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Risk", "graph_risks", "module_risks"]

MAX_FLOAT16 = 65504.0
_CHUNK_ELEMENTS = 2**22
_FIRST_PER_CHANNEL_OPSET = 13
_HUGE_EMBEDDING_SHARE = 0.3
_HUGE_EMBEDDING_BYTES = 2**20
_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_RANDOM = ("Bernoulli", "Multinomial", "Random")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "NBits", "Quantized", "DynamicQuantize")


@dataclass(frozen=True)
class Risk:
    """One thing to know: its kind (a short fixed word), what was found, and what to do, in a sentence each."""

    kind: str
    finding: str
    advice: str


def graph_risks(model: Model) -> tuple[Risk, ...]:
    """Return what looks risky in a model of the graph form; every float weight is looked at once."""
    return tuple(risk for check in _GRAPH_CHECKS for risk in check(model))


def module_risks(content: TorchModule) -> tuple[Risk, ...]:
    """Return what looks risky in a PyTorch module."""
    return tuple(risk for check in _MODULE_CHECKS for risk in check(content))


def _dynamic_axes(model: Model) -> Iterator[Risk]:
    found = [f"{spec.name} ({dim})" for spec in model.inputs for dim in spec.shape[1:] if not isinstance(dim, int)]
    if found:
        yield Risk(
            "dynamic-shape",
            f"axes besides the batch have no fixed length: {_few(found)}",
            "Give data of the lengths you will serve, since latency and quality are measured on it alone.",
        )


def _fixed_batch(model: Model) -> Iterator[Risk]:
    fixed = {spec.batch for spec in model.inputs if spec.shape}
    if len(fixed) == 1 and None not in fixed:
        yield Risk(
            "fixed-batch",
            f"the batch is fixed to {fixed.pop()}",
            "Export with a dynamic batch axis if requests are to be served in batches.",
        )


def _wide_floats(model: Model) -> Iterator[Risk]:
    wide = [value.name or "" for value, tensor in constant_tensors(model.graph) if tensor.dtype.name == "DOUBLE"]
    wide += [spec.name for spec in (*model.inputs, *model.outputs) if spec.dtype == "float64"]
    wide += [operator_name(node) for node in _nodes(model) if node.op_type == "Cast" and _integer(node, "to") == 11]
    if wide:
        yield Risk(
            "float64",
            f"{len(wide)} weights, values or casts are float64: {_few(wide)}",
            "Export in float32; float64 is twice the size, slow, and what engines and quantizers support least.",
        )


def _old_opset(model: Model) -> Iterator[Risk]:
    opset = model.graph.opset_imports.get("", _FIRST_PER_CHANNEL_OPSET)
    if opset < _FIRST_PER_CHANNEL_OPSET:
        yield Risk(
            "old-opset",
            f"opset {opset} is older than {_FIRST_PER_CHANNEL_OPSET}, the first with per-channel quantization",
            "Export again at opset 17 or later; tightship upgrades the graph where a pass needs it.",
        )


def _control_flow(model: Model) -> Iterator[Risk]:
    found = _named(model, lambda node: node.op_type in _CONTROL_FLOW)
    if found:
        yield Risk(
            "control-flow",
            f"branches or loops: {_few(found)}",
            "Multiply-accumulates count each body once, and operators inside are not quantized; unroll it if you can.",
        )


def _foreign_domains(model: Model) -> Iterator[Risk]:
    domains = sorted({node.domain for node in _nodes(model)} - _STANDARD_DOMAINS)
    if domains:
        yield Risk(
            "custom-domain",
            f"operators of other domains than ONNX's own: {_few(domains)}",
            "Check that every engine you deploy to has them; export without runtime-specific fusions otherwise.",
        )


def _training_mode(model: Model) -> Iterator[Risk]:
    found = _named(model, _trains)
    if found:
        yield Risk(
            "training-mode",
            f"operators in training mode: {_few(found)}",
            "Export again after model.eval(): dropout is random, and batch statistics depend on the other items.",
        )


def _randomness(model: Model) -> Iterator[Risk]:
    found = _named(model, lambda node: node.op_type.startswith(_RANDOM))
    if found:
        yield Risk(
            "random",
            f"operators that draw random numbers: {_few(found)}",
            "Two runs differ, so no comparison of outputs can pass; make the random numbers an input.",
        )


def _quantized_already(model: Model) -> Iterator[Risk]:
    found = _named(model, lambda node: any(part in node.op_type for part in _QUANTIZED))
    if found:
        yield Risk(
            "quantized",
            f"{len(found)} operators are quantized already: {_few(found)}",
            "Start from the float model: quantizing twice adds the errors of both.",
        )


def _huge_embeddings(model: Model) -> Iterator[Risk]:
    total = initializer_bytes(model.graph)
    for value, tensor in constant_tensors(model.graph):
        looked_up = any(node.op_type == "Gather" and position == 0 for node, position in value.uses())
        if looked_up and tensor.nbytes > max(_HUGE_EMBEDDING_BYTES, _HUGE_EMBEDDING_SHARE * total):
            yield Risk(
                "huge-embedding",
                f"table {value.name!r} is {tensor.nbytes / total:.0%} of the weights ({tensor.nbytes / 1e6:.1f} MB)",
                "Quantizing matrix products leaves it as it is: prune its rows, or store it in 8 bits.",
            )


def _unusual_weights(model: Model) -> Iterator[Risk]:
    nan, infinite, large = [], [], []
    for value, tensor in constant_tensors(model.graph):
        if not tensor.dtype.is_floating_point():
            continue
        largest, has_nan, has_inf = _extent(tensor)
        name = value.name or ""
        nan += [name] * has_nan
        infinite += [name] * has_inf
        large += [name] * (largest > MAX_FLOAT16)
    if nan:
        yield Risk("nan", f"NaN in weights: {_few(nan)}", "The model cannot work; train or export it again.")
    if infinite:
        yield Risk("infinite", f"infinity in constants: {_few(infinite)}", "Right for masks; check that they are such.")
    if large:
        yield Risk(
            "float16-overflow",
            f"values beyond {MAX_FLOAT16:.0f}, the largest float16: {_few(large)}",
            "Keep these operators in float32 when converting to float16.",
        )


def _unnamed_operators(model: Model) -> Iterator[Risk]:
    n_unnamed = sum(not node.name for node in _nodes(model))
    if n_unnamed:
        yield Risk(
            "unnamed",
            f"{n_unnamed} operators have no name",
            "Nothing is needed: reports and recipes call them by their first output.",
        )


def _constant_outputs(model: Model) -> Iterator[Risk]:
    graph = model.graph.graph
    inputs = {value for value in graph.inputs if value.name not in graph.initializers}
    for output in graph.outputs:
        if not inputs & _ancestors(output):
            yield Risk(
                "constant-output",
                f"output {output.name!r} depends on no input",
                "It is always the same: leave it out, or check the export.",
            )


def _unused_initializers(model: Model) -> Iterator[Risk]:
    outputs = set(model.graph.graph.outputs)
    unused = [
        value
        for graph in model.graph.graphs()
        for value in graph.initializers.values()
        if not value.uses() and value not in outputs
    ]
    if unused:
        n_bytes = sum(value.const_value.nbytes for value in unused if value.const_value is not None)
        yield Risk(
            "unused-weights",
            f"{len(unused)} weights ({n_bytes:,} bytes) are never read: {_few([value.name or '' for value in unused])}",
            "The simplify pass drops them.",
        )


_GRAPH_CHECKS: tuple[Callable[[Model], Iterator[Risk]], ...] = (
    _unusual_weights,
    _training_mode,
    _randomness,
    _constant_outputs,
    _quantized_already,
    _dynamic_axes,
    _fixed_batch,
    _wide_floats,
    _control_flow,
    _foreign_domains,
    _huge_embeddings,
    _unused_initializers,
    _old_opset,
    _unnamed_operators,
)


def _module_unusual_weights(content: TorchModule) -> Iterator[Risk]:
    import torch

    tensors = dict((*content.module.named_parameters(), *content.module.named_buffers()))
    floats = {name: tensor.detach() for name, tensor in tensors.items() if tensor.is_floating_point()}
    bad = [name for name, tensor in floats.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        yield Risk("nan", f"NaN or infinity in weights: {_few(bad)}", "Train again, or load other weights.")
    large = [name for name, tensor in floats.items() if tensor.numel() and float(tensor.abs().max()) > MAX_FLOAT16]
    if large:
        yield Risk(
            "float16-overflow",
            f"values beyond {MAX_FLOAT16:.0f}, the largest float16: {_few(large)}",
            "Keep these operators in float32 when converting to float16.",
        )
    wide = [name for name, tensor in floats.items() if tensor.dtype == torch.float64]
    if wide:
        yield Risk("float64", f"{len(wide)} weights are float64: {_few(wide)}", "Convert the module with .float().")


def _module_training_mode(content: TorchModule) -> Iterator[Risk]:
    found = [name or "the module itself" for name, child in content.module.named_modules() if child.training]
    if found:
        yield Risk("training-mode", f"modules in training mode: {_few(found)}", "Call .eval() on the module.")


_MODULE_CHECKS: tuple[Callable[[TorchModule], Iterator[Risk]], ...] = (_module_unusual_weights, _module_training_mode)


def _nodes(model: Model) -> Iterator[onnx_ir.Node]:
    yield from model.graph.graph.all_nodes()


def _named(model: Model, wanted: Callable[[onnx_ir.Node], bool]) -> list[str]:
    return [operator_name(node) for node in _nodes(model) if wanted(node)]


def _trains(node: onnx_ir.Node) -> bool:
    if node.op_type == "BatchNormalization":  # its further outputs are those of training; newer opsets say it too
        return bool(_integer(node, "training_mode")) or any(output.name for output in node.outputs[1:])
    if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
        constant: Any = node.inputs[2].const_value
        return constant is not None and bool(constant.numpy().any())
    return False


def _integer(node: onnx_ir.Node, name: str) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else 0


def _extent(tensor: onnx_ir.TensorProtocol) -> tuple[float, bool, bool]:
    """The largest finite magnitude, whether there is NaN, and whether there is infinity."""
    flat = tensor.numpy().reshape(-1)
    largest, has_nan, has_inf = 0.0, False, False
    for start in range(0, flat.size, _CHUNK_ELEMENTS):
        chunk = flat[start : start + _CHUNK_ELEMENTS].astype(np.float64)
        has_nan, has_inf = has_nan or bool(np.isnan(chunk).any()), has_inf or bool(np.isinf(chunk).any())
        largest = max(largest, float(np.max(np.abs(chunk), where=np.isfinite(chunk), initial=0.0)))
    return largest, has_nan, has_inf


def _ancestors(value: onnx_ir.Value) -> set[onnx_ir.Value]:
    found, waiting = set(), [value]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        if node is not None:
            waiting += [given for given in node.inputs if given is not None]
            waiting += [given for inner in _inner_nodes(node) for given in inner.inputs if given is not None]
    return found


def _inner_nodes(node: onnx_ir.Node) -> Iterator[onnx_ir.Node]:
    for attribute in node.attributes.values():
        if attribute.type.name == "GRAPH":
            yield from attribute.as_graph().all_nodes()
        elif attribute.type.name == "GRAPHS":
            for graph in attribute.as_graphs():
                yield from graph.all_nodes()


def _few(names: list[str]) -> str:
    shown = 5
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
