"""Where two models part when their operators cannot be paired: by what their operators compute.

Each form is run by its own framework, and every result inside leaves a summary of its values that does not depend on
their order, so that a layout that was changed on purpose does not count. The first result of the one model that the
other has no counterpart of, and none of whose consequences has one, is where they part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import operator_name
from tightship.core.model import Form, Model
from tightship.core.target import Target
from tightship.core.torch_module import to_numpy, to_torch
from tightship.engines import open_session
from tightship.measure.locate import exposing
from tightship.measure.matching import is_constant
from tightship.measure.parity import pair

if TYPE_CHECKING:
    import torch

__all__ = ["Result", "first_lost", "traced"]

T = TypeVar("T")

_RTOL = 1e-3
_CHUNK_TENSORS = 64
_TINY = 1e-6
"""Values below this count as zero."""


@dataclass(frozen=True)
class Result:
    """What an operator made of one item: its mean, deviation, smallest and largest value (float64[4]).

    `reads` holds the operators whose results it was made from.
    """

    operator: str
    op_type: str
    reads: tuple[str, ...]
    shape: tuple[int, ...]
    summary: np.ndarray

    def __str__(self) -> str:
        dims = ",".join(map(str, self.shape))
        return f"{self.op_type} {self.operator!r} ([{dims}], values {self.summary[2]:.4g} to {self.summary[3]:.4g})"

    def equals(self, other: Result) -> bool:
        """Whether both summarise the same values, up to a thousandth of how much they vary."""
        if np.prod(self.shape) != np.prod(other.shape):
            return False
        allowed = _RTOL * max(self.summary[1], _TINY) + _TINY * np.abs(self.summary).max()
        return bool((np.abs(self.summary - other.summary) <= allowed).all())


def first_lost(first: Model, second: Model, dataset: Dataset) -> Result | None:
    """Return the first result inside `first`, on one item, that `second` does not compute; None where all are there.

    Results that do not vary (masks, constants) are passed over: they would match by chance.
    """
    feed = next(feeds(dataset, first.inputs, 1)).arrays
    names = pair([spec.name for spec in second.inputs], [spec.name for spec in first.inputs])
    ours = [result for result in traced(first, feed) if result.summary[1] > _TINY]
    theirs = list(traced(second, {name: feed[other] for name, other in names.items()}))
    found = {result.operator for result in ours if any(result.equals(other) for other in theirs)}
    leads_on = _leading_to(ours, found)
    return next((result for result in ours if result.operator not in leads_on), None)


def _leading_to(results: Sequence[Result], found: set[str]) -> set[str]:
    """The operators that have a counterpart themselves, or lead to one that has: what was merged into the next."""
    leads_on = set(found)
    for result in reversed(results):
        if result.operator in leads_on:
            leads_on.update(result.reads)
    return leads_on


def traced(model: Model, feed: Mapping[str, np.ndarray]) -> Iterator[Result]:
    """Run a model on one batch and yield what its operators make, in the order in which they run."""
    return _TRACERS[model.form](model, feed)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + _CHUNK_TENSORS] for start in range(0, len(items), _CHUNK_TENSORS))


def _result(operator: str, op_type: str, reads: Sequence[str], array: np.ndarray) -> Iterator[Result]:
    values = array.astype(np.float64) if array.dtype.kind in "fiub" or array.dtype.name == "bfloat16" else None
    if values is not None and values.size and np.isfinite(values).all():
        summary = np.array([values.mean(), values.std(), values.min(), values.max()])
        yield Result(operator, op_type, tuple(reads), array.shape, summary)


def _graph(model: Model, feed: Mapping[str, np.ndarray]) -> Iterator[Result]:
    nodes = [node for node in model.graph.graph if node.outputs[0].name and not is_constant(node)]
    for chunk in _chunks(nodes):
        with open_session(exposing(model, [node.outputs[0] for node in chunk]), Target()) as session:
            arrays = session.run({spec.name: feed[spec.name] for spec in session.inputs})
        for node in chunk:
            makers = [value.producer() for value in node.inputs if value is not None]
            reads = [operator_name(maker) for maker in makers if maker is not None]
            yield from _result(operator_name(node), node.op_type, reads, arrays[node.outputs[0].name or ""])


def _module(model: Model, feed: Mapping[str, np.ndarray]) -> Iterator[Result]:
    import torch

    module, results = model.content.module, list[Result]()
    tensors = [to_torch(feed[spec.name]) for spec in model.inputs]
    with torch.inference_mode():
        if isinstance(module, torch.fx.GraphModule):
            _recording(module, results).run(*tensors)
        else:
            _with_hooks(module, tensors, results)
    yield from results


def _recording(module: torch.fx.GraphModule, results: list[Result]) -> torch.fx.Interpreter:
    import torch

    class Recording(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and n.op.startswith("call_"):
                reads = [node.name for node in n.all_input_nodes]
                results.extend(_result(n.name, _kind(n), reads, to_numpy(value)))
            return value

    return Recording(module)


def _kind(node: torch.fx.Node) -> str:
    """What a node calls: `conv2d`, `Linear`."""
    if node.op == "call_module":
        return type(node.graph.owning_module.get_submodule(str(node.target))).__name__
    return getattr(node.target, "__name__", str(node.target)).removesuffix(".default")


def _with_hooks(module: torch.nn.Module, tensors: Sequence[torch.Tensor], results: list[Result]) -> None:
    """Record what the innermost modules make; what one reads is taken to be what the one before it made."""
    import torch

    def hook(name: str) -> Callable[..., None]:
        def record(layer: torch.nn.Module, _: object, value: object) -> None:
            if isinstance(value, torch.Tensor):
                reads = [results[-1].operator] if results else []
                results.extend(_result(name, type(layer).__name__, reads, to_numpy(value)))

        return record

    leaves = [(name, layer) for name, layer in module.named_modules() if name and not any(layer.children())]
    handles = [layer.register_forward_hook(hook(name)) for name, layer in leaves]
    try:
        module(*tensors)
    finally:
        for handle in handles:
            handle.remove()


def _keras(model: Model, feed: Mapping[str, np.ndarray]) -> Iterator[Result]:
    import keras

    network: keras.Model = model.content
    made = {id(tensor): operation.name for operation in network.operations for tensor in _outputs(operation)}
    computing = [operation for operation in network.operations if not isinstance(operation, keras.layers.InputLayer)]
    operations = [operation for operation in computing if len(_outputs(operation)) == 1]
    arrays = [feed[spec.name] for spec in model.inputs]
    for chunk in _chunks(operations):
        inside = keras.Model(network.inputs, [_outputs(operation)[0] for operation in chunk])
        for operation, value in zip(chunk, _listed(inside(arrays)), strict=True):
            reads = [made[id(tensor)] for tensor in keras.tree.flatten(operation.input) if id(tensor) in made]
            yield from _result(operation.name, type(operation).__name__, reads, np.asarray(value))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _outputs(operation: Any) -> list[Any]:
    """The tensors that a layer makes; none where it is called more than once, since Keras then tells of none."""
    import keras

    try:
        return list(keras.tree.flatten(operation.output))
    except (AttributeError, ValueError):
        return []


_TRACERS: Mapping[Form, Callable[[Model, Mapping[str, np.ndarray]], Iterator[Result]]] = {
    "graph": _graph,
    "module": _module,
    "keras": _keras,
}
