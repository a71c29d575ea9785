"""Inputs made up where the user gives no data: random, but such that the model can run on them and varies.

Items are drawn in blocks as they are asked for, so that memory does not grow with their number.
"""

from __future__ import annotations

import ast
import hashlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.dataset import Batch, Dataset
from tightship.core.feeds import batch_size
from tightship.core.model import Model, TorchModule
from tightship.core.specs import TensorSpec
from tightship.errors import UnsupportedError
from tightship.measure.input_values import Values, values_of_example, values_of_input
from tightship.measure.shapes import Shape, infer_shapes

if TYPE_CHECKING:
    import torch

__all__ = ["generate"]

_BLOCK_ITEMS = 16
_KEPT_BYTES = 2**26
"""Datasets up to this size are drawn once and kept; larger ones are drawn anew each time they are gone through."""

_LARGEST_ITEM_BYTES = 2**32

_DEFAULT_LENGTH = 16
_DEFAULT_IMAGE_LENGTH = 64
_MOST_CHANNELS = 4


@dataclass(frozen=True)
class _Input:
    """One input: its name, type, the shape of one item, and its values."""

    name: str
    dtype: str
    item_shape: Shape
    values: Values

    def draw(self, n_items: int, seeds: Sequence[int]) -> np.ndarray:
        random = np.random.default_rng(seeds)
        return self.values.draw(random, (n_items, *self.item_shape), _numpy_dtype(self.dtype))


def generate(model: Model, n_items: int, seed: int) -> Dataset:
    """Draw `n_items` items (rounded up to whole batches where the model fixes one) for every input of `model`.

    Floats are standard normal, or scaled to what the graph first does with them; indices stay within the tables that
    they look up; masks are ones up to a random length. Axes of unknown length besides the batch get 16, those of
    images 64, and axes of one name one length. A module's inputs are drawn like its example inputs. The same model,
    number and seed give the same items.
    Raises `UnsupportedError` for types that cannot be drawn, `DatasetMismatch` where inputs fix different batches.
    """
    size = batch_size(model.inputs, preferred=1)
    n_whole = -(-n_items // size) * size
    inputs = tuple(_module_inputs(model) if model.form == "module" else _graph_inputs(model, size))
    for entry in inputs:
        if _n_bytes(entry) > _LARGEST_ITEM_BYTES:
            size_gb = _n_bytes(entry) / 1e9
            raise UnsupportedError(
                f"one item of input {entry.name!r} would take {size_gb:,.0f} GB to make up; give data"
            )
    name = f"{n_whole} generated items (seed {seed})"
    digest = hashlib.sha256(repr((inputs, n_whole, seed)).encode()).hexdigest()

    def drawn() -> Iterator[Batch]:
        for start in range(0, n_whole, _BLOCK_ITEMS):
            count = min(_BLOCK_ITEMS, n_whole - start)
            yield Batch({entry.name: entry.draw(count, (seed % 2**64, start, i)) for i, entry in enumerate(inputs)})

    if sum(_n_bytes(entry) for entry in inputs) * n_whole > _KEPT_BYTES:
        return Dataset(name, digest, drawn, generated=True)
    blocks = list(drawn())
    arrays = {entry.name: np.concatenate([block.inputs[entry.name] for block in blocks]) for entry in inputs}
    return Dataset.from_arrays(name, digest, arrays, generated=True)


def _graph_inputs(model: Model, size: int) -> Iterator[_Input]:
    lengths = _axis_lengths(model.inputs, size)
    shapes = infer_shapes(model, lengths)
    values = {value.name: value for value in model.graph.graph.inputs}
    for spec in model.inputs:
        _refuse_undrawable(spec)
        item = _resolve(spec, lengths)[1:]
        yield _Input(spec.name, spec.dtype, item, values_of_input(values[spec.name], spec, shapes))


def _module_inputs(model: Model) -> Iterator[_Input]:
    content: TorchModule = model.content
    n_rows = _smallest_embedding(content.module)
    for spec, example in zip(model.inputs, content.example_inputs, strict=True):
        _refuse_undrawable(spec)
        array = example.detach().cpu()
        values = values_of_example(array.float().numpy() if array.is_floating_point() else array.numpy(), spec, n_rows)
        yield _Input(spec.name, spec.dtype, tuple(example.shape[1:]), values)


def _smallest_embedding(module: torch.nn.Module) -> int | None:
    import torch

    tables = [child.num_embeddings for child in module.modules() if isinstance(child, torch.nn.Embedding)]
    return min(tables, default=None)


def _axis_lengths(specs: Sequence[TensorSpec], size: int) -> dict[str, int]:
    """Choose a length for every name of an unknown axis; what is computed from other names comes out of them."""
    lengths = {spec.shape[0]: size for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    named = [(spec, axis, dim) for spec in specs for axis, dim in enumerate(spec.shape) if isinstance(dim, str)]
    for spec, axis, dim in named:
        if dim.isidentifier():
            lengths.setdefault(dim, _default_length(spec, axis))
    for _, _, dim in named:
        computed = _evaluate(dim, lengths)
        if computed is not None:
            lengths.setdefault(dim, computed)
    return {str(name): length for name, length in lengths.items() if name != "?"}


def _resolve(spec: TensorSpec, lengths: Mapping[str, int]) -> Shape:
    return tuple(
        dim if isinstance(dim, int) else lengths.get(dim, _default_length(spec, axis))
        for axis, dim in enumerate(spec.shape)
    )


def _default_length(spec: TensorSpec, axis: int) -> int:
    channels = [dim for dim in (spec.shape[1:2] + spec.shape[-1:]) if isinstance(dim, int) and dim <= _MOST_CHANNELS]
    is_image = len(spec.shape) == 4 and bool(channels)
    return _DEFAULT_IMAGE_LENGTH if is_image and axis else _DEFAULT_LENGTH


_ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv}


def _evaluate(expression: str, lengths: Mapping[str, int]) -> int | None:
    """Value of an axis such as `past_length + 1`: names, whole numbers, + - * //; None for anything else."""

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            return int(_ARITHMETIC[type(node.op)](value(node.left), value(node.right)))
        if isinstance(node, ast.Name):
            return lengths[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        raise ValueError(expression)

    try:
        return max(1, value(ast.parse(expression, mode="eval").body))
    except (SyntaxError, ValueError, KeyError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _refuse_undrawable(spec: TensorSpec) -> None:
    if spec.dtype not in ("str", "bfloat16", "bool") and not spec.dtype.startswith(("float", "int", "uint")):
        raise UnsupportedError(f"input {spec}: no values can be made up for this type; give data")


def _n_bytes(entry: _Input) -> int:
    return math.prod(entry.item_shape) * _numpy_dtype(entry.dtype).itemsize


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "str":
        return np.dtype(object)
    if name in np.sctypeDict:
        return np.dtype(name)
    import ml_dtypes

    kind: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return kind
