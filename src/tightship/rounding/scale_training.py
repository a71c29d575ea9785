"""Scales trained with the codes held fixed, over a block or end to end.

The second half of EfficientQAT (Chen and others, arXiv 2407.11062; there E2E-QP): nothing is rounded on the way, so
gradients are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tightship.core import extras
from tightship.core.progress import SILENT, Progress
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.descent import Samples, Schedule, adam, descend, objective, split
from tightship.rounding.trainable import WeightPlace, start_codes

if TYPE_CHECKING:
    import torch

__all__ = ["ScaleTrainingSettings", "train_scales"]

_FACTORS = 0.1, 10.0
"""Bounds of the factors: a scale never reaches zero."""


@dataclass(frozen=True)
class ScaleTrainingSettings:
    """How long and how hard to train: `steps` of Adam over `batch` samples each, the rate falling along a cosine.

    `learning_rate` is relative to each scale. The fraction `held_out` of the samples judges which scales were best.
    """

    steps: int = 120
    batch: int = 2
    learning_rate: float = 5e-3
    held_out: float = 0.2
    evaluations: int = 6
    seed: int = 0


def train_scales(
    module: torch.nn.Module,
    places: Sequence[WeightPlace],
    codes: Mapping[str, BlockCodes],
    inputs: Sequence[tuple[torch.Tensor, ...]],
    targets: Sequence[tuple[torch.Tensor, ...]],
    *,
    loss: Literal["mse", "kl"] = "mse",
    settings: ScaleTrainingSettings | None = None,
    progress: Progress = SILENT,
) -> dict[str, BlockCodes]:
    """Return `codes` with other scales; codes and zero points stay.

    `inputs` and `targets` are samples of what goes into `module` and what should come out: with the loss `mse` all
    floating outputs, with `kl` the logits of the float model as the first output (positions on all axes but the last).
    On the held-out samples the result is never worse than `codes`. The module, in evaluation mode, stays as it is.
    Raises `UsageError` and `DatasetError` where the arguments do not fit.
    """
    extras.require("torch", "training scales")
    settings = settings or ScaleTrainingSettings()
    schedule = Schedule(settings.steps, settings.batch, settings.evaluations, settings.seed)
    samples = Samples(inputs, targets)
    chosen = split(len(inputs), settings.held_out, settings.seed)
    start = start_codes(module, places, codes)
    trainees = {name: _Scales(found) for name, found in start.items()}
    move = adam([(trainee.factors, settings.learning_rate) for trainee in trainees.values()])
    return descend(
        module, places, trainees, start, samples, objective(loss, targets, chosen[1]), move, schedule, chosen, progress
    )


class _Scales:
    """Fixed codes, and a factor on each of their scales `[N, blocks]`."""

    def __init__(self, start: BlockCodes) -> None:
        import torch

        self._start = start
        self._scales = torch.from_numpy(start.scales)
        self._zero_points = torch.from_numpy(start.zero_points)
        # Bytes, so that what is kept of the codes is a quarter of the weight; each use makes numbers of them.
        self._codes = torch.from_numpy(start.codes)
        self.factors = torch.ones_like(self._scales, requires_grad=True)

    def parameters(self) -> Sequence[torch.Tensor]:
        return (self.factors,)

    def blocks(self) -> torch.Tensor:
        steps = self._codes.float() - self._zero_points.float()[..., None]
        return steps * (self._scales * self.factors)[..., None]

    def confine(self) -> None:
        import torch

        with torch.no_grad():
            self.factors.clamp_(*_FACTORS)

    def codes(self) -> BlockCodes:
        scales = (self._scales * self.factors).detach().numpy()
        return BlockCodes(self._start.codes, scales, self._start.zero_points)
