"""Quantized operators gone through from the front: the error of each is taken out of its bias and of its rounding.

Two streams of activations go through side by side, those of the float graph and those of the quantized one as far as
it is corrected. A bias takes up the mean error of its channel (Nagel and others, arXiv 1906.04721, section 4.2);
weights are rounded for the output that the float graph has there (`rounding.gptq`, `rounding.adaround`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir, operator_name
from tightship.core.progress import SILENT, Progress
from tightship.passes.editing import known_constant
from tightship.passes.patches import Reading, reading
from tightship.passes.placement import Placement
from tightship.passes.qdq import bias_key, codes_key
from tightship.passes.walk import Walk
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.encoding import Encoding
from tightship.rounding.gptq import gptq
from tightship.rounding.second_moment import Moments

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["ROUNDINGS", "Corrections", "Rounding"]

Rounding = Literal["nearest", "gptq", "adaround"]

ROUNDINGS: tuple[str, ...] = get_args(Rounding)

_N_ITEMS = 64
_N_ITEMS_TO_ROUND = 128
_BATCH = 16
_MOST_BYTES = 2**28
"""So much of one tensor is kept on disk at most."""

_BLOCK = 256
_ADAROUND_BATCHES = 8


@dataclass(frozen=True)
class Corrections:
    """What is to be found out: codes of weights at `weight_bits`, mean errors of channels, or both."""

    rounding: Rounding
    biases: bool
    weight_bits: int

    def observe(
        self,
        graph: onnx_ir.Model,
        coded: onnx_ir.Model,
        placement: Placement,
        data: Dataset,
        progress: Progress = SILENT,
    ) -> dict[str, np.ndarray]:
        """Return codes (int8, as weights are stored) and mean errors (float32, per channel) by their keys.

        `coded` is `graph` with QuantizeLinear and DequantizeLinear, written as `placement` of it says; it is changed.
        """
        floats = {operator_name(node): node for node in graph.graph}
        nodes = [node for node in coded.graph if _role(placement, node, "weight")]
        found: dict[str, np.ndarray] = {}
        with TemporaryDirectory(prefix="tightship-") as name, progress.step("correct", len(nodes)) as advance:
            batches = self._batches(graph, data)
            exact = Walk(graph, batches, Path(name) / "float")
            rounded = Walk(coded, batches, Path(name) / "coded")
            for node in nodes:
                operator = _Operator.of(floats[operator_name(node)], node, _role(placement, node, "bias"))
                if operator is not None:
                    found |= self._correct(operator, exact, rounded)
                advance(1)
        return found

    def _batches(self, graph: onnx_ir.Model, data: Dataset) -> list[dict[str, np.ndarray]]:
        n_items = _N_ITEMS if self.rounding == "nearest" else _N_ITEMS_TO_ROUND
        n_items = max(_BATCH, min(n_items, _MOST_BYTES // max(1, _largest_item_bytes(graph))))
        chosen = data.split(n_items, seed=0)[0] if data.n_items > n_items else data
        return [dict(feed.arrays) for feed in feeds(chosen, from_ir(graph).inputs, _BATCH)]

    def _correct(self, operator: _Operator, exact: Walk, rounded: Walk) -> dict[str, np.ndarray]:
        pairs = _Pairs(operator, exact, rounded)
        moments = _Gathered.of(pairs, self.rounding != "nearest")
        found: dict[str, np.ndarray] = {}
        weight = operator.weight()
        corrects = self.biases and operator.has_bias
        enough = 2 * moments.n_rows >= weight.shape[-1]  # on fewer rows, error feedback would learn them by heart
        if self.rounding != "nearest" and operator.owns_weight and enough:
            found[codes_key(operator.node.inputs[1])] = self._round(operator, pairs, moments, corrects)
        if corrects:
            error = np.einsum("gnk,gk->gn", operator.coded_weight(), moments.mean)
            error -= np.einsum("gnk,gk->gn", weight, moments.float_mean)
            operator.shift_bias(-error.reshape(-1))
            found[bias_key(operator.node)] = error.reshape(-1).astype(np.float32)
        return found

    def _round(self, operator: _Operator, pairs: _Pairs, gathered: _Gathered, centered: bool) -> np.ndarray:
        """Put codes in the coded graph that are no row's worse choice than the nearest; return them as stored."""
        weight, scales, nearest = operator.weight(), operator.scales(), operator.codes()
        moments = [gathered.moments(group, centered) for group in range(len(weight))]
        if self.rounding == "adaround":
            codes = _by_adaround(weight, scales, pairs, self.weight_bits)
        else:
            groups = zip(weight, scales, nearest, moments, strict=True)
            codes = np.stack([_by_gptq(*group, self.weight_bits) for group in groups])
        largest = np.abs(nearest).max(initial=1)
        codes = np.clip(codes, -largest, largest)
        steps = scales[..., None]
        for group, moment in enumerate(moments):
            found, known = (
                _output_error(weight[group], entry[group] * steps[group], moment) for entry in (codes, nearest)
            )
            codes[group][found > known] = nearest[group][found > known]
        return operator.set_codes(codes)


@dataclass(frozen=True)
class _Operator:
    """An operator in the float graph and in the coded one."""

    node: onnx_ir.Node
    coded: onnx_ir.Node
    reading: Reading
    has_bias: bool

    @classmethod
    def of(cls, node: onnx_ir.Node, coded: onnx_ir.Node, has_bias: bool) -> _Operator | None:
        found = reading(node)
        return None if found is None else cls(node, coded, found, has_bias)

    @property
    def owns_weight(self) -> bool:
        """Whether no other operator reads the weight, so that it may be rounded for this one."""
        return len(self.node.inputs[1].uses()) == 1

    def weight(self) -> np.ndarray:
        return self.reading.weight(known_constant(self.node.inputs[1]).numpy())

    def codes(self) -> np.ndarray:
        return self.reading.weight(self._constant(1, 0))

    def scales(self) -> np.ndarray:
        """Return the scale of each output channel, `[groups, N]`."""
        groups, n, _ = self.codes().shape
        return np.broadcast_to(self._constant(1, 1).reshape(-1), (groups * n,)).reshape(groups, n)

    def coded_weight(self) -> np.ndarray:
        weight: np.ndarray = self.codes() * self.scales()[..., None]
        return weight

    def set_codes(self, codes: np.ndarray) -> np.ndarray:
        """Put codes in the coded graph; return them as they are stored."""
        old = self._constant(1, 0)
        stored = self.reading.stored(codes.astype(old.dtype), old)
        self._set(1, stored)
        return stored

    def shift_bias(self, by: np.ndarray) -> None:
        codes, scale = self._constant(2, 0), self._constant(2, 1)
        limits = np.iinfo(codes.dtype)
        self._set(2, np.clip(codes + np.rint(by / scale), limits.min, limits.max).astype(codes.dtype))

    def _constant(self, index: int, part: int) -> np.ndarray:
        array: np.ndarray = known_constant(self._dequantizer(index).inputs[part]).numpy()
        return array

    def _set(self, index: int, codes: np.ndarray) -> None:
        import onnx_ir

        value = self._dequantizer(index).inputs[0]
        value.const_value = onnx_ir.tensor(codes, name=value.name)

    def _dequantizer(self, index: int) -> onnx_ir.Node:
        return self.coded.inputs[index].producer()


class _Pairs:
    """What an operator reads in both graphs, batch by batch, as rows `[rows, groups, K]`."""

    def __init__(self, operator: _Operator, exact: Walk, rounded: Walk) -> None:
        self._operator = operator
        self._walks = exact, rounded

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        reads = self._operator.node.inputs[0], self._operator.coded.inputs[0]
        streams = (walk.to(value) for walk, value in zip(self._walks, reads, strict=True))
        for number, batch in enumerate(zip(*streams, strict=True)):
            yield tuple(self._operator.reading.rows(x, np.random.default_rng(number)) for x in batch)  # type: ignore[misc]


@dataclass(frozen=True)
class _Gathered:
    """Means over rows, per group: of both streams `[groups, K]`, and of products `[groups, K, K]` where asked for."""

    float_mean: np.ndarray
    mean: np.ndarray
    hessian: np.ndarray
    cross: np.ndarray
    n_rows: int

    @classmethod
    def of(cls, pairs: _Pairs, products: bool) -> _Gathered:
        n_rows, sums = 0, [np.zeros(())] * 4
        for exact, rounded in pairs:
            n_rows += len(exact)
            drift = exact - rounded
            new = [exact.sum(0, np.float64), rounded.sum(0, np.float64)]
            if products:
                columns = np.ascontiguousarray(rounded.transpose(1, 0, 2))
                new += [other.transpose(1, 2, 0) @ columns for other in (rounded, drift)]
            sums = [old + more for old, more in zip(sums, new, strict=False)] + sums[len(new) :]
        exact_mean, mean, hessian, cross = (entry / max(n_rows, 1) for entry in sums)
        return cls(exact_mean, mean, hessian, cross, n_rows)

    def moments(self, group: int, centered: bool) -> Moments:
        """Return the moments of a group; `centered` around the means, where a bias takes up what these are off by."""
        hessian, cross = self.hessian[group], self.cross[group]
        if centered:
            mean, drift = self.mean[group], self.float_mean[group] - self.mean[group]
            hessian, cross = hessian - np.outer(mean, mean), cross - np.outer(drift, mean)
        return Moments(hessian.astype(np.float32), cross.astype(np.float32), self.n_rows)


def _by_gptq(weight: np.ndarray, scales: np.ndarray, nearest: np.ndarray, moments: Moments, bits: int) -> np.ndarray:
    encoding = Encoding(4 if bits == 4 else 8, _BLOCK, symmetric=True)
    middle = (encoding.top + 1) // 2
    n_rows, n_columns = weight.shape
    n_blocks = encoding.n_blocks(n_columns)
    padded = np.full((n_rows, n_blocks * _BLOCK), middle, np.uint8)
    padded[:, :n_columns] = nearest.astype(np.int16) + middle
    grid = BlockCodes(
        padded.reshape(n_rows, n_blocks, _BLOCK),
        np.repeat(scales[:, None], n_blocks, axis=1),
        np.full((n_rows, n_blocks), middle, np.uint8),
    )
    codes = gptq(np.ascontiguousarray(weight), moments, encoding, ranges=grid).codes
    return codes.reshape(n_rows, -1)[:, :n_columns].astype(np.int16) - middle


def _by_adaround(weight: np.ndarray, scales: np.ndarray, pairs: _Pairs, bits: int) -> np.ndarray:
    import torch

    from tightship.rounding.adaround import adaround

    def layer(x: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
        return torch.einsum("rgk,gnk->rgn", x, flat.reshape(weight.shape))

    batches = [
        (torch.from_numpy(rounded.copy()), layer(torch.from_numpy(exact.copy()), torch.from_numpy(weight.copy())))
        for (exact, rounded), _ in zip(pairs, range(_ADAROUND_BATCHES), strict=False)
    ]
    flat = weight.reshape(-1, weight.shape[-1])
    return adaround(flat, layer, batches, scale=scales.reshape(-1), bits=bits).reshape(weight.shape)


def _output_error(weight: np.ndarray, coded: np.ndarray, moments: Moments) -> np.ndarray:
    """Return, per row and up to a constant of it, E[(w x_float - q x)^2]."""
    error = weight - coded
    pull = 0 if moments.cross is None else 2 * weight @ moments.cross
    found: np.ndarray = np.einsum("nk,nk->n", error @ moments.hessian + pull, error)
    return found


def _largest_item_bytes(graph: onnx_ir.Model) -> int:
    """Return the bytes of the largest tensor of one item, as far as lengths are known."""
    values = [value for node in graph.graph for value in node.outputs if value.shape is not None]
    lengths = ([dim for dim in list(value.shape)[1:] if isinstance(dim, int)] for value in values)
    return max((4 * math.prod(entry) for entry in lengths), default=1)


def _role(placement: Placement, node: onnx_ir.Node, role: str) -> bool:
    return any(slot.role == role for slot in placement.slots.get(node, ()))
