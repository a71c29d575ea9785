"""Weights at 8, 4, 3 or 2 bits, rounded so that the outputs stay, not the weights."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.graph import from_ir
from tightship.core.model import Model
from tightship.core.opset import at_opset
from tightship.core.passes import DataNeed, Operator, PassResult, Quantizer, Statistics
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store
from tightship.errors import DatasetError, UsageError
from tightship.passes.block_by_block import BlockByBlock, Order, graph_digest, weight_key
from tightship.passes.codable import Embedding, Product, coded_operators
from tightship.passes.coded_weights import CodedWeight, Spelling, WeightWriter, coded_arrays
from tightship.passes.editing import editable, infer_shapes, name_everything, refuse_nan, unknown_exclusions
from tightship.passes.noise import Measure, measure_noise
from tightship.passes.product_time import product_times
from tightship.passes.trained_rounding import Loss, Training
from tightship.rounding.allocation import least_cost, least_noise
from tightship.rounding.blocks import quantize_blocks
from tightship.rounding.encoding import BITS, Encoding
from tightship.rounding.solve import PRESETS, Method

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["LowBit"]

Choice = Literal["preset", "on", "off"]
"""A part of the method: as the preset has it for this number of bits, or the person's own choice."""

_FLOAT = 16
"""The number of bits that stands for a weight left as it is."""

_FIRST_OPSET_OF_BITS = {2: 25, 3: 21, 4: 21, 8: 21, _FLOAT: 21}
"""Since when DequantizeLinear has blocks, and codes of so many bits."""

_FLOAT_BITS = 32
_WIDTHS = (8, 4, 2)
"""The bits that are chosen from, besides float."""

_BATCH = 8
_TRAINING_BATCH = 2
"""Items that go through the graph at once; training takes a few such batches for every step."""


@dataclass(frozen=True)
class LowBit(Quantizer):
    """Store the weights of products at 8, 4, 3 or 2 bits, rounded so that the outputs stay.

    Every `block` weights that meet the same output share a float32 scale and, unless `symmetric`, a zero point. The
    graph is gone through one part at a time, each rounded on what the parts before it, rounded already, give it; so
    models larger than memory pass, and a killed run goes on behind its last finished part.

    `preset` "fast" searches the range of each block and needs the data for nothing else; "balanced" feeds the error of
    each column back into those that follow (GPTQ), aimed at the output of the float model (GPTAQ); "best" trains the
    rounding of each part by `steps` gradients besides, and below 4 bits the whole model, which then must fit into
    memory; it needs PyTorch. Each choice can be made by a field of its own. `loss` says how outputs of the whole model
    are compared: as numbers (mse) or as logits (kl; "auto" takes an output called logits for such).
    `average_bits`, `least_sqnr_db` and `most_kl` choose the bits of each operator, of 8, 4, 2 and float, by what it
    alone costs at the outputs: the least noise at so many bits per weight on average, or the cheapest choice at which
    the noises of all stay so far below the outputs, or their divergences from the logits below so many nats; `bits` is
    not used then. `sensitivity` is the measure for `average_bits`. The cheapest is that with the fewest `bytes`, or
    with the least `latency` of its products, timed here with `rows` rows of activations (1: decoding). `rank` adds a
    float correction of that rank to every product. `operator_bits` sets the bits of single operators, as `lm_head=8` or
    `*down_proj*=16` (16: stays as it is; the first pattern that matches counts). Embeddings are rounded to nearest at
    `embedding_bits` (0: they stay). Codes of 3 bits take 4 in the file.
    """

    name: ClassVar[str] = "low-bit"
    data: ClassVar[DataNeed] = "calibration"

    bits: Literal[8, 4, 3, 2] = 4
    block: Literal[16, 32, 64, 128, 256] = 128
    symmetric: bool = False
    preset: Literal["fast", "balanced", "best"] = "balanced"
    clip: Choice = "preset"
    error_feedback: Choice = "preset"
    activation_order: Choice = "preset"
    asymmetric_calibration: Choice = "preset"
    refit: Choice = "preset"
    train_parts: Choice = "preset"
    train_scales: Choice = "preset"
    distill: Choice = "preset"
    loss: Literal["auto", "mse", "kl"] = "auto"
    steps: int = 120
    seed: int = 0
    rank: int = 0
    operator_bits: tuple[str, ...] = ()
    average_bits: float = 0.0
    least_sqnr_db: float = 0.0
    most_kl: float = 0.0
    sensitivity: Measure = "sqnr"
    cheapest: Literal["bytes", "latency"] = "bytes"
    rows: int = 1
    embedding_bits: Literal[0, 4, 8] = 8
    spelling: Spelling = "MatMulNBits"

    def __post_init__(self) -> None:
        Encoding(self.bits, self.block, self.symmetric)
        if self.preset not in PRESETS:
            raise UsageError(f"low-bit: preset must be one of {', '.join(PRESETS)}, found {self.preset!r}")
        if self.steps < 1:
            raise UsageError(f"low-bit: steps must be at least 1, found {self.steps}")
        if self.distill == "on" and self.loss == "mse":
            raise UsageError("low-bit: distill compares logits; set loss to kl, or leave distill off")
        if self.rank and (self.preset == "best" or "on" in (self.train_parts, self.train_scales, self.distill)):
            raise UsageError("low-bit: a correction of low rank is for weights that are not trained; choose one")
        if self.rank < 0:
            raise UsageError(f"low-bit: rank must be zero (no correction) or more, found {self.rank}")
        if sum(map(bool, (self.average_bits, self.least_sqnr_db, self.most_kl))) > 1:
            raise UsageError("low-bit: give one of average_bits, least_sqnr_db and most_kl")
        if self.most_kl < 0 or self.rows < 1:
            raise UsageError(f"low-bit: most_kl {self.most_kl} and rows {self.rows} must be above zero")
        if self.cheapest == "latency" and not (self.least_sqnr_db or self.most_kl):
            raise UsageError("low-bit: the least latency is sought within least_sqnr_db or most_kl; give one of them")
        if self.average_bits and self.average_bits < min(_WIDTHS):
            raise UsageError(f"low-bit: average_bits must be {min(_WIDTHS)} or more, found {self.average_bits}")
        self._overrides()

    def operators(self, model: Model) -> tuple[Operator, ...]:
        return tuple(target.operator for target in self._targets(model.graph))

    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        """Return the codes of every weight that any choice of `exclude` rounds."""
        if data is None:
            raise DatasetError("calibration needs data and got none: give representative inputs, 100 items or more")
        refuse_nan(model.graph)
        graph = self._prepared(model)
        everything = replace(self, exclude=())
        targets = list(everything._targets(graph))
        rows = {_key(target): target for target in targets if isinstance(target, Embedding)}
        found = {
            f"{key}{name}": array for key, target in rows.items() for name, array in self._embedding(target).items()
        }
        products = [target.name for target in targets if isinstance(target, Product)]
        widths = self._widths(graph, products, data, progress)
        orders = {name: self._order(bits) for name, bits in widths.items() if bits != _FLOAT}
        if not orders:
            return found
        key = (everything.step, graph_digest(graph), data.digest) if store is not None else ()
        training = self._training(graph, orders)
        work = BlockByBlock(graph, orders, key, progress, store)
        if training.parts:
            work = replace(work, train_part=lambda part: training.part(part, progress))
        if training.whole_too:
            work = replace(work, train_whole=lambda found, begin: training.whole(graph, orders, found, begin, progress))
        batch = _TRAINING_BATCH if training.parts or training.whole_too else _BATCH
        coded = work.run(lambda: (feed.arrays for feed in feeds(data, model.inputs, batch)))
        return ChainMap(found, coded)  # type: ignore[arg-type]

    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        notes = unknown_exclusions(self.exclude, self.operators(model))
        graph = self._prepared(model)
        targets = [
            target
            for target in self._targets(graph)
            if target.name not in self.exclude and f"{_key(target)}encoding" in statistics
        ]
        if not targets:
            return PassResult(model, False, notes)
        if self._mixed:
            counts = Counter(int(statistics[f"{_key(target)}encoding"][0]) for target in targets)
            notes = (*notes, "operators by bits: " + ", ".join(f"{n} at {bits}" for bits, n in sorted(counts.items())))
        writer = WeightWriter(graph, self.spelling)
        for target in targets:
            target.write(writer, CodedWeight.of(statistics, _key(target)))
        name_everything(graph)
        return PassResult(model.after(self.step, graph), True, notes)

    def _prepared(self, model: Model) -> onnx_ir.Model:
        """Return an editable copy with unique names and known types, in an opset that has what is to be written."""
        graph = editable(model)
        name_everything(graph)
        if self.spelling == "DequantizeLinear":
            opset = _FIRST_OPSET_OF_BITS[min(self._bits_of(target.name) for target in self._targets(graph))]
            graph = at_opset(from_ir(graph), max(opset, graph.opset_imports.get("", opset))).graph
        infer_shapes(graph)
        return graph

    def _targets(self, graph: onnx_ir.Model) -> Iterator[Product | Embedding]:
        for target in coded_operators(graph, self.block):
            bits = self.embedding_bits if isinstance(target, Embedding) else self._bits_of(target.name)
            if bits not in (0, _FLOAT):
                yield target

    def _bits_of(self, name: str) -> int:
        return next((bits for pattern, bits in self._overrides() if fnmatchcase(name, pattern)), self.bits)

    def _overrides(self) -> list[tuple[str, int]]:
        found = []
        for entry in self.operator_bits:
            pattern, _, bits = entry.rpartition("=")
            if not pattern or bits not in {str(number) for number in (*BITS, _FLOAT)}:
                known = ", ".join(str(number) for number in (*BITS, _FLOAT))
                raise UsageError(f"low-bit: operator_bits takes PATTERN=BITS with bits {known}, found {entry!r}")
            found.append((pattern, int(bits)))
        return found

    def _widths(self, graph: onnx_ir.Model, names: list[str], data: Dataset, progress: Progress) -> dict[str, int]:
        """Return the bits of each product: what is written in the fields, or what serves the outputs best."""
        chosen = {name: self._bits_of(name) for name in names}
        free = [name for name in names if not any(fnmatchcase(name, pattern) for pattern, _ in self._overrides())]
        if not free or not self._mixed:
            return chosen
        encodings = [Encoding(bits, self.block, self.symmetric) for bits in _WIDTHS]
        measure: Measure = "kl" if self.most_kl else "sqnr" if self.least_sqnr_db else self.sensitivity
        found = measure_noise(graph, free, encodings, data, progress, measure)
        noise = np.hstack([found.noise, np.zeros((len(free), 1))])
        cost = np.hstack([found.cost, found.cost[:, :1] / _WIDTHS[0] * _FLOAT_BITS])
        if self.average_bits:
            columns = least_noise(noise, cost, self.average_bits * cost[:, 0].sum() / _WIDTHS[0])
        else:
            if self.cheapest == "latency":
                cost = product_times(found.shapes, encodings, self.rows, progress)
            columns = least_cost(noise, cost, self.most_kl or 10 ** (-self.least_sqnr_db / 10))
        return chosen | {name: (*_WIDTHS, _FLOAT)[column] for name, column in zip(free, columns, strict=True)}

    @property
    def _mixed(self) -> bool:
        return bool(self.average_bits or self.least_sqnr_db or self.most_kl)

    def _order(self, bits: int) -> Order:
        return Order(Encoding(bits, self.block, self.symmetric), self._method(bits), self.rank)

    def _method(self, bits: int) -> Method:
        chosen = {
            name: getattr(self, name) == "on"
            for name in ("clip", "error_feedback", "activation_order", "asymmetric_calibration", "refit")
            if getattr(self, name) != "preset"
        }
        return replace(PRESETS[self.preset][bits], **chosen)

    def _training(self, graph: onnx_ir.Model, orders: Mapping[str, Order]) -> Training:
        """Return what is trained: at "best" each part, and below 4 bits the whole model."""
        best, least = self.preset == "best", min(order.encoding.bits for order in orders.values())
        is_logits = [value.name for value in graph.graph.outputs[:1]] == ["logits"]
        loss: Loss = self.loss if self.loss != "auto" else "kl" if is_logits else "mse"

        def on(choice: Choice, preset: bool) -> bool:
            return preset if choice == "preset" else choice == "on"

        return Training(
            parts=on(self.train_parts, best and least < 8),
            scales=on(self.train_scales, best and least < 4),
            weights=on(self.distill, best and least < 3 and loss == "kl"),
            loss=loss,
            steps=self.steps,
            seed=self.seed,
        )

    def _embedding(self, target: Embedding) -> dict[str, np.ndarray]:
        encoding, rows = Encoding(self.embedding_bits, self.block, self.symmetric), target.rows()
        return coded_arrays(quantize_blocks(rows, encoding), encoding, rows.shape[1])


def _key(target: Product | Embedding) -> str:
    return weight_key(target.linear) if isinstance(target, Product) else f"{target.key[0]}/"
