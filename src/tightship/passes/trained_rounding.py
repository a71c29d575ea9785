"""Rounding by gradients: of one part to its float outputs, and of the scales of the whole model to the float model's.

Needs PyTorch; the graph, or its part, is converted by the bridge, and codes go back into the arrays they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import numpy as np

from tightship.core.progress import Progress
from tightship.core.session import Arrays
from tightship.passes.block_by_block import Feeds, Order, Part, weight_key
from tightship.passes.coded_weights import CodedWeight, coded_arrays
from tightship.passes.linear import Linear, linear_operators
from tightship.passes.part_module import PartModule, Tensors, part_module, tensors
from tightship.passes.streams import Stream
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.distillation import DistillationSettings, distill
from tightship.rounding.scale_training import ScaleTrainingSettings, train_scales
from tightship.rounding.signround import SignRoundSettings, signround
from tightship.rounding.trainable import WeightPlace

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Loss", "Training"]

Loss = Literal["mse", "kl"]


@dataclass(frozen=True)
class Training:
    """What is trained, and how long: `steps` for each part, four times as many for the whole model.

    `parts`: offsets and ranges of each part by SignRound. `scales`: scales of the whole model, codes held fixed.
    `weights`: codes and scales of the whole model, by distillation. `loss` compares the outputs of the whole model.
    """

    parts: bool
    scales: bool
    weights: bool
    loss: Loss
    steps: int
    seed: int = 0

    @property
    def whole_too(self) -> bool:
        """Whether the whole model is trained."""
        return self.scales or self.weights

    def part(self, part: Part, progress: Progress) -> dict[str, np.ndarray]:
        """Return the arrays of the weights of a part, trained to give what the float part gives on float inputs."""
        chosen = _by_weight(linear for linear in part.segment.linears if linear.name in part.orders)
        gives = [name for name in part.segment.gives if name not in part.segment.reads]
        made = part_module(part.graph, part.segment.reads, gives, [linear.name for linear in chosen.values()])
        settings = SignRoundSettings(steps=self.steps, seed=self.seed)
        with _targets(made, part.floats) as targets:
            work = _Work(made, chosen, part.orders, part.arrays)
            inputs = Tensors(part.rounded, made.reads)
            found = signround(
                made.module, work.places, inputs, targets, start=work.codes, settings=settings, progress=progress
            )
        return work.arrays(found)

    def whole(
        self,
        graph: onnx_ir.Model,
        orders: Mapping[str, Order],
        arrays: Mapping[str, np.ndarray],
        feeds: Feeds,
        progress: Progress,
    ) -> dict[str, np.ndarray]:
        """Return the arrays of all weights, trained together to give what the float model gives."""
        chosen = _by_weight(linear for linear in linear_operators(graph) if linear.name in orders)
        reads = [value.name or "" for value in graph.graph.inputs]
        gives = [value.name or "" for value in graph.graph.outputs]
        made = part_module(graph, reads, gives, [linear.name for linear in chosen.values()])
        work = _Work(made, chosen, orders, arrays)
        with TemporaryDirectory(prefix="tightship-") as folder:
            stream = Stream.write(Path(folder) / "inputs", feeds())
            inputs = Tensors(stream, made.reads)
            with _targets(made, stream) as targets:
                return work.arrays(self._end_to_end(work, inputs, targets, progress))

    def _end_to_end(self, work: _Work, inputs: Tensors, targets: Tensors, progress: Progress) -> dict[str, BlockCodes]:
        module, codes, steps = work.made.module, work.codes, 4 * self.steps
        if self.weights:
            distilling = DistillationSettings(steps=steps, seed=self.seed)
            codes = distill(module, work.places, codes, inputs, targets, settings=distilling, progress=progress)
        if self.scales:
            settings = ScaleTrainingSettings(steps=steps, seed=self.seed)
            codes = train_scales(
                module, work.places, codes, inputs, targets, loss=self.loss, settings=settings, progress=progress
            )
        return codes


@dataclass(frozen=True)
class _Work:
    """Products to train by the key of their weight, and what their weights are by now."""

    made: PartModule
    products: Mapping[str, Linear]
    orders: Mapping[str, Order]
    before: Mapping[str, np.ndarray]

    @property
    def places(self) -> list[WeightPlace]:
        found = []
        for linear in self.products.values():
            name, fed = self.made.parameters[linear.name]
            found.append(WeightPlace(name, not fed.by_rows, self.orders[linear.name].encoding))
        return found

    @property
    def codes(self) -> dict[str, BlockCodes]:
        """By the name of the parameter, as training wants them."""
        return {
            self.made.parameters[linear.name][0]: CodedWeight.of(self.before, key).block_codes()
            for key, linear in self.products.items()
        }

    def arrays(self, found: Mapping[str, BlockCodes]) -> dict[str, np.ndarray]:
        made: dict[str, np.ndarray] = {}
        for key, linear in self.products.items():
            name, fed = self.made.parameters[linear.name]
            coded = coded_arrays(found[name], self.orders[linear.name].encoding, fed.rows.shape[1])
            made |= {f"{key}{part}": array for part, array in coded.items()}
        return made


@contextmanager
def _targets(made: PartModule, stream: Stream) -> Iterator[Tensors]:
    """Give the outputs of a module on a stream, its weights being those of the float model; on disk meanwhile."""
    import torch

    def outputs() -> Iterator[Arrays]:
        with torch.no_grad():
            for batch in stream:
                found = made.module(*tensors(batch, made.reads))
                yield {name: value.numpy() for name, value in zip(made.gives, found, strict=True)}

    with TemporaryDirectory(prefix="tightship-") as folder:
        yield Tensors(Stream.write(Path(folder) / "outputs", outputs()), made.gives)


def _by_weight(linears: Iterable[Linear]) -> dict[str, Linear]:
    """Return one product for each weight, by its key."""
    found: dict[str, Linear] = {}
    for linear in linears:
        found.setdefault(weight_key(linear), linear)
    return found
