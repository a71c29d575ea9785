"""Codes and scales of a whole network trained until its logits are those of the float one: for 2 bits.

Quantization-aware training by distillation (Liu and others, "LLM-QAT", arXiv 2305.17888): a latent number behind each
code gets the gradient of the rounded weight, straight through the rounding. The latent numbers are those of the float
weights, moved only as far as makes them round to the codes at the start: from the rounded weights themselves, which lie
in the middle of their codes, such training drifts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tightship.core import extras
from tightship.core.progress import SILENT, Progress
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.descent import Samples, Schedule, adam, descend, objective, split
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

__all__ = ["DistillationSettings", "distill"]

_FACTORS = 0.1, 10.0
"""Bounds of the factors on scales: a scale never reaches zero."""


@dataclass(frozen=True)
class DistillationSettings:
    """How long and how hard to train: `steps` of Adam over `batch` samples each, the rates falling along a cosine.

    `learning_rate` is that of the latent numbers, in codes; `scale_learning_rate` is relative to each scale. The
    fraction `held_out` of the samples judges which codes were best.
    """

    steps: int = 120
    batch: int = 2
    learning_rate: float = 1e-3
    scale_learning_rate: float = 5e-3
    held_out: float = 0.2
    evaluations: int = 6
    seed: int = 0


def distill(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    codes: Mapping[str, BlockCodes],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    logits: Sequence[tuple[torch.Tensor, ...]],
    *,
    settings: DistillationSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, BlockCodes]:
    """Return codes and scales, trained from `codes`; zero points stay.

    `module` is the float network, in evaluation mode, which stays as it is; the first of its outputs are logits
    `[..., classes]`, and `logits` those that it gave for each of the `inputs`. On the held-out samples the result is
    never worse than `codes`. Raises `UsageError` and `DatasetError` where the arguments do not fit.
    """
    extras.require("torch", "distillation")
    settings = settings or DistillationSettings()
    schedule = Schedule(settings.steps, settings.batch, settings.evaluations, settings.seed)
    samples = Samples(inputs, logits)
    chosen = split(len(inputs), settings.held_out, settings.seed)
    start = start_codes(module, places, codes)
    trainees = {
        place.name: _Latent(weight_blocks(module, place), start[place.name], place.encoding) for place in places
    }
    rated = [(trainee.numbers, settings.learning_rate) for trainee in trainees.values()]
    rated += [(trainee.factors, settings.scale_learning_rate) for trainee in trainees.values()]
    loss = objective("kl", logits, chosen[1])
    return descend(module, places, trainees, start, samples, loss, adam(rated), schedule, chosen, progress)


class _Latent:
    """A number behind each code `[N, blocks, block]`, in codes from the zero point, and a factor on each scale."""

    def __init__(self, weight: torch.Tensor, start: BlockCodes, encoding: Encoding) -> None:
        import torch

        self._top = encoding.top
        self._scales = torch.from_numpy(start.scales)
        self._zero_points = torch.from_numpy(start.zero_points).float()
        self.numbers = within_codes(weight, start, encoding).requires_grad_()
        self.factors = torch.ones_like(self._scales, requires_grad=True)

    def parameters(self) -> Sequence[torch.Tensor]:
        return self.numbers, self.factors

    def blocks(self) -> torch.Tensor:
        return (self._codes() - self._zero_points[..., None]) * (self._scales * self.factors)[..., None]

    def confine(self) -> None:
        import torch

        with torch.no_grad():
            self.factors.clamp_(*_FACTORS)

    def codes(self) -> BlockCodes:
        import torch

        with torch.no_grad():
            return block_codes(self._codes(), self._scales * self.factors, self._zero_points)

    def _codes(self) -> torch.Tensor:
        return (round_through(self.numbers) + self._zero_points[..., None]).clamp(0, self._top)
