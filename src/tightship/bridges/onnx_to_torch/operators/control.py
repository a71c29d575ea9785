"""Control flow. A subgraph comes as its module and the values around it that it reads, which it takes last."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS

Subgraph = tuple[torch.nn.Module, list[Any]]
"""A module and the values around it that it reads."""


def call(subgraph: Subgraph, *inputs: Any) -> tuple[Any, ...]:
    """Run a subgraph; it gives a tuple."""
    module, captured = subgraph
    results: tuple[Any, ...] = module(*inputs, *captured)
    return results


@OPERATORS.op("If", 1)
def if_else(condition: bool, *, then_branch: Subgraph, else_branch: Subgraph) -> tuple[Any, ...]:
    return call(then_branch) if condition else call(else_branch)


@OPERATORS.op("Loop", 1)
def loop(trip_count: int | None, condition: bool | None, *states: Any, body: Subgraph) -> tuple[Any, ...]:
    """Run the body until its condition fails or the count is reached; gives the states and what each run gave."""
    values = list(states)
    collected: list[list[Tensor]] = []
    going = True if condition is None else condition
    step = 0
    while going and (trip_count is None or step < trip_count):
        condition_now, *results = call(body, torch.tensor(step), torch.tensor(going), *values)
        going = bool(condition_now)
        values = results[: len(states)]
        collected.append(results[len(states) :])
        step += 1
    scans = [torch.stack([run[index] for run in collected]) for index in range(len(collected[0]) if collected else 0)]
    return (*values, *scans)


@OPERATORS.op("Scan", 9)
def scan(
    *inputs: Tensor,
    body: Subgraph,
    num_scan_inputs: int,
    scan_input_axes: list[int] | None = None,
    scan_input_directions: list[int] | None = None,
    scan_output_axes: list[int] | None = None,
    scan_output_directions: list[int] | None = None,
) -> tuple[Tensor, ...]:
    """Run the body on every slice of the scanned inputs; gives the last states and the slices of the outputs."""
    n_states = len(inputs) - num_scan_inputs
    states, scanned = list(inputs[:n_states]), list(inputs[n_states:])
    for index, axis in enumerate(scan_input_axes or []):
        scanned[index] = scanned[index].movedim(axis, 0)
    for index, backwards in enumerate(scan_input_directions or []):
        scanned[index] = scanned[index].flip(0) if backwards else scanned[index]
    collected = []
    for step in range(scanned[0].shape[0]):
        results = call(body, *states, *(item[step] for item in scanned))
        states = list(results[:n_states])
        collected.append(results[n_states:])
    outputs = [torch.stack(list(run)) for run in zip(*collected, strict=True)]
    for index, backwards in enumerate(scan_output_directions or []):
        outputs[index] = outputs[index].flip(0) if backwards else outputs[index]
    for index, axis in enumerate(scan_output_axes or []):
        outputs[index] = outputs[index].movedim(0, axis)
    return (*states, *outputs)


@OPERATORS.op("Scan", 8)
def scan_8(
    lengths: Tensor | None, *inputs: Tensor, body: Subgraph, directions: list[int] | None = None, num_scan_inputs: int
) -> tuple[Tensor, ...]:
    """Scan every item of the batch, which is axis 0 of all inputs; outputs beyond an item's length are zeros."""
    n_states = len(inputs) - num_scan_inputs
    items = []
    for item in range(inputs[0].shape[0]):
        whole = inputs[n_states].shape[1]
        length = whole if lengths is None else int(lengths[item])
        scanned = [tensor[item][:length] for tensor in inputs[n_states:]]
        states = [tensor[item] for tensor in inputs[:n_states]]
        results = scan(*states, *scanned, body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions)
        outputs = [
            torch.cat([output, output.new_zeros(whole - length, *output.shape[1:])]) for output in results[n_states:]
        ]
        items.append([*results[:n_states], *outputs])
    return tuple(torch.stack(list(parts)) for parts in zip(*items, strict=True))
