"""SignRound: roundings and ranges of one block of a network, trained together to keep the block's output.

Cheng and others, "Optimize Weight Rounding via Signed Gradient Descent", arXiv 2309.05516 (AutoRound).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tightship.core import extras
from tightship.core.progress import SILENT, Progress
from tightship.errors import UsageError
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.descent import Move, Samples, Schedule, descend, objective, split
from tightship.rounding.encoding import Encoding
from tightship.rounding.trainable import (
    WeightPlace,
    block_codes,
    round_through,
    start_codes,
    weight_blocks,
    within_codes,
)

if TYPE_CHECKING:
    import torch

__all__ = ["SignRoundSettings", "signround"]

_FARTHEST = 0.5
"""How far, in codes, an offset may move a weight before it is rounded."""

_ENDS = 0.5, 1.25
"""Bounds of the factors on both ends of a block's range."""


@dataclass(frozen=True)
class SignRoundSettings:
    """How long and how hard to train.

    Each of `steps` steps moves every number by its learning rate along the sign of its gradient over `batch` samples;
    the rates fall to zero along a line. `learning_rate` is that of the offsets, in codes, `range_learning_rate` that of
    the factors on the ends of each range; None: 1 / steps from a clip search, and an eighth of that from codes given,
    in which errors make up for each other. `judging` samples at most decide which codes were best.
    """

    steps: int = 120
    batch: int = 2
    learning_rate: float | None = None
    range_learning_rate: float | None = None
    judging: int = 16
    evaluations: int = 6
    seed: int = 0


def signround(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    targets: Sequence[tuple[torch.Tensor, ...]],
    *,
    start: Mapping[str, BlockCodes] | None = None,
    settings: SignRoundSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, BlockCodes]:
    """Return codes for the weights at `places` of `module`, one block of a network in evaluation mode.

    `inputs` are samples of the block's inputs in the rounded network, `targets` its outputs in the float one; each
    sample is passed through the module as it is, alone. `start` gives codes to start from (those of error feedback,
    say); a clip search gives the others. Over the judging samples the result is never worse than the start. The module
    stays as it is. Raises `UsageError` and `DatasetError` where the arguments do not fit.
    """
    extras.require("torch", "signround")
    settings = settings or SignRoundSettings()
    schedule = Schedule(settings.steps, settings.batch, settings.evaluations, settings.seed)
    samples = Samples(inputs, targets)
    order, _ = split(len(inputs), 0, settings.seed)
    judges = order[: max(1, settings.judging)]
    found = start_codes(module, places, start)
    trainees = {
        place.name: _Offsets(weight_blocks(module, place), found[place.name], place.encoding) for place in places
    }
    move = _signed(list(trainees.values()), settings, refining=bool(start))
    loss = objective("mse", targets, judges)
    return descend(module, places, trainees, found, samples, loss, move, schedule, (order, judges), progress)


class _Offsets:
    """A weight `[N, blocks, block]`, an offset for each of its numbers, and factors on the ends of each range."""

    def __init__(self, weight: torch.Tensor, start: BlockCodes, encoding: Encoding) -> None:
        import torch

        self._weight, self._encoding = weight, encoding
        self._scales = torch.from_numpy(start.scales)
        self._zero_points = torch.from_numpy(start.zero_points).float()
        self._middle = within_codes(weight, start, encoding) - weight / self._scales[..., None]
        self.offsets = torch.zeros_like(weight, requires_grad=True)
        self.high = torch.ones_like(self._scales, requires_grad=True)
        self.low = torch.ones_like(self._scales, requires_grad=not encoding.symmetric)

    def parameters(self) -> Sequence[torch.Tensor]:
        return (self.offsets, self.high) if self._encoding.symmetric else (self.offsets, self.high, self.low)

    def blocks(self) -> torch.Tensor:
        codes, scales, zero_points = self._rounded()
        return (codes - zero_points[..., None]) * scales[..., None]

    def confine(self) -> None:
        import torch

        with torch.no_grad():
            self.offsets.clamp_(-_FARTHEST, _FARTHEST)
            self.high.clamp_(*_ENDS)
            self.low.clamp_(*_ENDS)

    def codes(self) -> BlockCodes:
        import torch

        with torch.no_grad():
            return block_codes(*self._rounded())

    def _rounded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scales, zero_points = self._range()
        codes = round_through(self._weight / scales[..., None] + self._middle + self.offsets) + zero_points[..., None]
        return codes.clamp(0, self._encoding.top), scales, zero_points

    def _range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points `[N, blocks]` of the range from `low * (0 - z) * s` to `high * (top - z) * s`."""
        if self._encoding.symmetric:
            return self._scales * self.high, self._zero_points
        top = self._encoding.top
        below = self.low * self._zero_points
        width = (self.high * (top - self._zero_points) + below) / top
        return self._scales * width, round_through(below / width)


def _signed(trainees: Sequence[_Offsets], settings: SignRoundSettings, refining: bool) -> Move:
    import torch

    usual = (1 / 8 if refining else 1) / settings.steps
    rates = [usual if rate is None else rate for rate in (settings.learning_rate, settings.range_learning_rate)]
    for rate in rates:
        if not rate >= 0:
            raise UsageError(f"signround: learning rates must be 0 or more, found {rate}")

    def move(done: float) -> None:
        with torch.no_grad():
            for trainee in trainees:
                for parameter in trainee.parameters():
                    rate = rates[0] if parameter is trainee.offsets else rates[1]
                    parameter -= (1 - done) * rate * parameter.grad.sign()

    return move
