"""Weights of a PyTorch module seen as blocks of codes that can be trained, the module itself staying as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tightship.core import extras
from tightship.errors import UsageError, nearest
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.clip import search_ranges
from tightship.rounding.encoding import Encoding

if TYPE_CHECKING:
    import torch

__all__ = [
    "Trainee",
    "WeightPlace",
    "block_codes",
    "outputs",
    "round_through",
    "start_codes",
    "stored",
    "weight_blocks",
    "within_codes",
]


@dataclass(frozen=True)
class WeightPlace:
    """Where a module keeps a matrix, and how it is encoded.

    `name` is that of a parameter or buffer, as `named_parameters` and `named_buffers` give it. The matrix is stored
    `[K, N]` where `transposed` (the right operand of a MatMul), and `[N, K]` otherwise (`torch.nn.Linear`).
    """

    name: str
    transposed: bool
    encoding: Encoding


class Trainee(Protocol):
    """One weight on its way to codes: numbers that are trained, and the weight that they stand for."""

    def parameters(self) -> Sequence[torch.Tensor]:
        """The numbers that are trained, all of which need a gradient."""
        ...

    def blocks(self) -> torch.Tensor:
        """The rounded weight `[N, blocks, block]`, through which gradients reach the parameters."""
        ...

    def confine(self) -> None:
        """Bring the parameters back into their bounds, after each step."""
        ...

    def codes(self) -> BlockCodes:
        """The codes that stand for the rounded weight."""
        ...


def weight_blocks(module: torch.nn.Module, place: WeightPlace) -> torch.Tensor:
    """Return the matrix at `place` as float32 `[N, blocks, block]`, a copy; what fills up the last block is zero.

    Raises `UsageError` where the module has no such matrix, or one with numbers that are not finite.
    """
    torch = extras.require("torch", "training roundings")
    matrix = _matrix(module, place)
    n_rows, n_columns = matrix.shape
    if not bool(torch.isfinite(matrix).all()):
        raise UsageError(f"the weight {place.name!r} holds numbers that are not finite")
    blocks = torch.zeros(n_rows, place.encoding.n_blocks(n_columns) * place.encoding.block)
    blocks[:, :n_columns] = matrix
    return blocks.reshape(n_rows, -1, place.encoding.block)


def stored(module: torch.nn.Module, place: WeightPlace, blocks: torch.Tensor) -> torch.Tensor:
    """Return `blocks` `[N, blocks, block]` in the shape and type in which the module keeps the matrix at `place`."""
    matrix = _matrix(module, place)
    weight = blocks.reshape(len(blocks), -1)[:, : matrix.shape[1]].to(matrix.dtype)
    return weight.T.contiguous() if place.transposed else weight


def outputs(
    module: torch.nn.Module, weights: Mapping[str, torch.Tensor], inputs: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Run `module` as if it had `weights`, by name."""
    from torch.func import functional_call

    found = functional_call(module, dict(weights), inputs)
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def round_through(numbers: torch.Tensor) -> torch.Tensor:
    """Round to the nearest whole numbers; gradients pass as if nothing had been rounded (straight-through)."""
    return numbers + (numbers.round() - numbers).detach()


def block_codes(codes: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor) -> BlockCodes:
    """Return codes `[N, blocks, block]` with scales and zero points `[N, blocks]` (any type) as `BlockCodes`."""
    return BlockCodes(
        codes.detach().round().numpy().astype(np.uint8),
        scales.detach().float().numpy(),
        zero_points.detach().round().numpy().astype(np.uint8),
    )


def within_codes(weight: torch.Tensor, start: BlockCodes, encoding: Encoding, margin: float = 0.05) -> torch.Tensor:
    """Return `weight` `[N, blocks, block]` in units of its scales, moved as little as makes it round to `start`.

    It comes no nearer than `margin` to where it would round otherwise. Weights cut off by the end of their range stay.
    """
    import torch

    steps = torch.from_numpy(start.codes).float() - torch.from_numpy(start.zero_points).float()[..., None]
    ideal = weight / torch.from_numpy(start.scales)[..., None]
    lowest, highest = torch.from_numpy(start.codes == 0), torch.from_numpy(start.codes == encoding.top)
    return ideal.clamp(
        torch.where(lowest, -torch.inf, steps - 0.5 + margin), torch.where(highest, torch.inf, steps + 0.5 - margin)
    )


def start_codes(
    module: torch.nn.Module, places: Sequence[WeightPlace], start: Mapping[str, BlockCodes] | None
) -> dict[str, BlockCodes]:
    """Return the codes to start from, those of a clip search for weights that `start` does not give.

    Raises `UsageError` where there are no places, a name is unknown, or codes are not those of their weight.
    """
    if not places:
        raise UsageError("training roundings: at least one weight is needed, found none")
    found = dict(start or {})
    if unknown := found.keys() - {place.name for place in places}:
        raise UsageError(f"codes are given for {sorted(unknown)[0]!r}, which is not one of the weights to round")
    for place in places:
        matrix = _matrix(module, place)
        shape = len(matrix), place.encoding.n_blocks(matrix.shape[1]), place.encoding.block
        if place.name not in found:
            found[place.name] = search_ranges(matrix.float().numpy(), place.encoding)
        codes = found[place.name]
        if codes.codes.shape != shape or codes.codes.max(initial=0) > place.encoding.top:
            raise UsageError(
                f"codes of {place.name!r} must have the shape {shape} and be at most {place.encoding.top}, found "
                f"{codes.codes.shape} and {codes.codes.max(initial=0)}"
            )
    return {place.name: found[place.name] for place in places}


def _matrix(module: torch.nn.Module, place: WeightPlace) -> torch.Tensor:
    """Return the matrix at `place` `[N, K]`, a view."""
    found = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    if place.name not in found:
        raise UsageError(f"the module has no parameter or buffer {place.name!r}{nearest(place.name, found)}")
    tensor = found[place.name].detach()
    if tensor.ndim != 2:
        raise UsageError(f"the weight {place.name!r} must be a matrix, found the shape {tuple(tensor.shape)}")
    return tensor.T if place.transposed else tensor
