"""Sequences are lists of tensors; an optional is its value or None."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.operators.control import Subgraph, call
from tightship.bridges.onnx_to_torch.table import OPERATORS


@OPERATORS.op("SequenceConstruct", 11)
def sequence_construct(*items: Tensor) -> list[Tensor]:
    return list(items)


@OPERATORS.op("SequenceEmpty", 11)
def sequence_empty(*, dtype: torch.dtype | None = None) -> list[Tensor]:
    return []


@OPERATORS.op("SequenceAt", 11)
def sequence_at(sequence: list[Tensor], position: int) -> Tensor:
    return sequence[position]


@OPERATORS.op("SequenceInsert", 11)
def sequence_insert(sequence: list[Tensor], tensor: Tensor, position: int | None = None) -> list[Tensor]:
    at = len(sequence) if position is None else position
    return [*sequence[:at], tensor, *sequence[at:]]


@OPERATORS.op("SequenceErase", 11)
def sequence_erase(sequence: list[Tensor], position: int | None = None) -> list[Tensor]:
    at = (len(sequence) - 1 if position is None else position) % len(sequence)
    return [*sequence[:at], *sequence[at + 1 :]]


@OPERATORS.op("SequenceLength", 11)
def sequence_length(sequence: list[Tensor]) -> Tensor:
    return torch.tensor(len(sequence))


@OPERATORS.op("SequenceMap", 17)
def sequence_map(sequence: list[Tensor], *others: Any, body: Subgraph) -> tuple[list[Tensor], ...]:
    """Run the body on every item; further sequences give theirs, tensors themselves."""
    runs = []
    for index, item in enumerate(sequence):
        further = [other[index] if isinstance(other, list | tuple) else other for other in others]
        runs.append(call(body, item, *further))
    return tuple(list(parts) for parts in zip(*runs, strict=True))


@OPERATORS.op("SplitToSequence", 11)
def split_to_sequence(x: Tensor, sizes: Tensor | None = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """Split into parts of one size (a number) or of many; without sizes into slices of 1."""
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if keepdims else [part.squeeze(axis) for part in parts]
    return list(torch.split(x, sizes.tolist(), axis))


@OPERATORS.op("ConcatFromSequence", 11)
def concatenate_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


@OPERATORS.op("Optional", 15)
def optional(value: Any = None, *, type: Any = None) -> Any:
    return value


@OPERATORS.op("OptionalHasElement", 15)
def optional_has_element(value: Any = None) -> Tensor:
    return torch.tensor(value is not None)


@OPERATORS.op("OptionalGetElement", 15)
def optional_get_element(value: Any) -> Any:
    return value
