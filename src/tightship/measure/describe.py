"""What is in a model, told without running it: the answer of `tightship inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tightship.core.artifact import Artifact
from tightship.core.graph import operator_name
from tightship.core.model import Form, Model, TorchModule
from tightship.core.specs import TensorSpec
from tightship.formats.onnx_tensors import constant_tensors
from tightship.measure import multiply_accumulates
from tightship.measure.quantization import Quantized, quantized_operators
from tightship.measure.risks import Risk, graph_risks, module_risks
from tightship.measure.shapes import infer_shapes

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Cost", "Description", "Weight", "describe"]

N_LISTED = 10
_NO_PARAMETERS = frozenset({"INT64", "BOOL", "STRING"})


@dataclass(frozen=True)
class Weight:
    """One weight tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one operator in one run."""

    name: str
    op_type: str
    macs: int


@dataclass(frozen=True)
class Description:
    """What a model is made of. All values are plain, so that it goes to JSON.

    `n_parameters` counts elements of weights (not those of int64, bool and text constants, which are shapes and
    indices); `weight_bytes` is by element type; `operators` counts operators by type, or a module's leaf modules;
    `macs` are the multiply-accumulates of one run with every unknown axis at 1, None where nothing can be counted,
    and `not_counted` names operators left out of it because their shapes are unknown. `opsets`, `ir_version` and
    `producer` are empty where the format has none; `quantized` says how the model is quantized already. The largest
    weights and costliest operators come first.
    """

    source: str
    format: str
    form: Form
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file_bytes: int
    n_parameters: int
    weight_bytes: dict[str, int]
    operators: dict[str, int]
    macs: int | None
    not_counted: tuple[str, ...] = ()
    largest_weights: tuple[Weight, ...] = ()
    costliest: tuple[Cost, ...] = ()
    risks: tuple[Risk, ...] = ()
    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int | None = None
    producer: str = ""
    quantized: tuple[Quantized, ...] = ()


def describe(model: Model, artifact: Artifact) -> Description:
    """Describe a model of the graph or the module form. Weights are looked at one by one, nothing is run."""
    return _describe_module(model, artifact) if model.form == "module" else _describe_graph(model, artifact)


def _describe_graph(model: Model, artifact: Artifact) -> Description:
    graph = model.graph
    costs, not_counted = _costs(model)
    return Description(
        **_common(model, artifact, tuple(_graph_weights(graph))),
        n_parameters=_n_parameters(graph),
        operators=_by_count(node.op_type for node in graph.graph.all_nodes()),
        macs=sum(cost.macs for cost in costs),
        not_counted=not_counted,
        costliest=tuple(sorted(costs, key=lambda cost: -cost.macs)[:N_LISTED]),
        risks=graph_risks(model),
        opsets={domain or "ai.onnx": version for domain, version in graph.opset_imports.items()},
        ir_version=graph.ir_version,
        producer=" ".join(part for part in (graph.producer_name, graph.producer_version) if part),
        quantized=quantized_operators(graph),
    )


def _describe_module(model: Model, artifact: Artifact) -> Description:
    content: TorchModule = model.content
    weights = tuple(_module_weights(content))
    leaves = (type(child).__name__ for child in content.module.modules() if not any(child.children()))
    return Description(
        **_common(model, artifact, weights),
        n_parameters=sum(parameter.numel() for parameter in content.module.parameters()),
        operators=_by_count(leaves),
        macs=None,
        risks=module_risks(content),
    )


def _common(model: Model, artifact: Artifact, weights: tuple[Weight, ...]) -> dict[str, Any]:
    by_dtype: Counter[str] = Counter()
    for weight in weights:
        by_dtype[weight.dtype] += weight.size_bytes
    return {
        "source": artifact.entry or str(artifact.path),
        "format": artifact.format,
        "form": model.form,
        "inputs": model.inputs,
        "outputs": model.outputs,
        "file_bytes": artifact.size_bytes,
        "weight_bytes": dict(by_dtype.most_common()),
        "largest_weights": tuple(sorted(weights, key=lambda weight: -weight.size_bytes)[:N_LISTED]),
    }


def _costs(model: Model) -> tuple[list[Cost], tuple[str, ...]]:
    """Operators that multiply, with how often, and the names of those that cannot be counted."""
    shapes = infer_shapes(model)
    costs, not_counted = [], []
    for node in model.graph.graph.all_nodes():
        macs = multiply_accumulates.count(node, shapes)
        if macs is None:
            not_counted.append(operator_name(node))
        elif macs:
            costs.append(Cost(operator_name(node), node.op_type, macs))
    return costs, tuple(not_counted)


def _graph_weights(graph: onnx_ir.Model) -> Iterator[Weight]:
    for value, tensor in constant_tensors(graph):
        if tensor.dtype.name != "STRING":
            shape = tuple(int(dim) for dim in tensor.shape.numpy())
            yield Weight(value.name or "", str(tensor.dtype.numpy()), shape, int(tensor.nbytes))


def _n_parameters(graph: onnx_ir.Model) -> int:
    """Elements of weights; those of MatMulNBits are packed several to a byte, so its attributes are asked."""
    packed = {
        node.inputs[1]: node.attributes["K"].as_int() * node.attributes["N"].as_int()
        for node in graph.graph.all_nodes()
        if node.op_type == "MatMulNBits"
    }
    return sum(
        packed.get(value, int(tensor.size))
        for value, tensor in constant_tensors(graph)
        if tensor.dtype.name not in _NO_PARAMETERS
    )


def _module_weights(content: TorchModule) -> Iterator[Weight]:
    for name, tensor in (*content.module.named_parameters(), *content.module.named_buffers()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        yield Weight(name, dtype, tuple(tensor.shape), tensor.numel() * tensor.element_size())


def _by_count(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
