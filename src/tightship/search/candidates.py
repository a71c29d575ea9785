"""Which candidates are worth trying: a table of recipes per engine, cut down to what the model has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tightship import engines
from tightship.core import processor
from tightship.core.model import Model
from tightship.core.passes import Pass, Quantizer
from tightship.core.recipe import Recipe
from tightship.core.target import Target
from tightship.passes.equalize import Equalize
from tightship.passes.int8_dynamic import Int8Dynamic
from tightship.passes.int8_static import Int8Static
from tightship.passes.low_bit import LowBit
from tightship.passes.quantize import fast_weight_bits
from tightship.passes.simplify import Simplify
from tightship.passes.smooth import Smooth
from tightship.passes.weight_only import WeightOnly

__all__ = ["Proposal", "better", "compressed", "free", "targets", "variants"]

SIMPLIFIED = Recipe((Simplify(),))


@dataclass(frozen=True)
class Proposal:
    """A recipe and the target to run its result on."""

    recipe: Recipe
    target: Target

    @property
    def name(self) -> str:
        """How the plan calls it: `simplify + int8-static @ onnxruntime f32`."""
        return f"{self.recipe} @ {self.target}"

    @property
    def lossless(self) -> bool:
        """Whether outputs should stay the same up to float32 rounding, so that parity decides and not quality."""
        return self.recipe.lossless and self.target.precision == "f32"


def targets(allowed: Sequence[str], threads: int) -> tuple[Target, ...]:
    """Return one target per engine (of those allowed, empty: all that are installed) and precision it has here."""
    chosen = [engines.ENGINES[name] for name in allowed] if allowed else list(engines.ENGINES.values())
    return tuple(
        Target(engine.name, precision, threads=threads)
        for engine in chosen
        if engine.form == "graph" and engine.available
        for precision in engine.precisions()
    )


def free(wanted: Iterable[Target]) -> tuple[Proposal, ...]:
    """Candidates that cost no quality to speak of: the simplified graph on every engine and precision."""
    return tuple(Proposal(SIMPLIFIED, target) for target in wanted)


def variants(target: Target, model: Model, threads: int, latency_ms: float) -> tuple[Target, ...]:
    """Return other settings of the same engine that may be faster.

    One thread where the model is so quick that waking a second costs more than it gives; the plain layout on ONNX
    Runtime where there are convolutions, since blocking them costs a reorder at each end.
    """
    others = []
    if not threads and processor.n_cores() > 1 and latency_ms < ONE_THREAD_BELOW_MS:
        others.append(replace(target, threads=1))
    if target.engine == "onnxruntime" and any(node.op_type == "Conv" for node in model.graph.graph):
        others.append(replace(target, layout="plain"))
    return tuple(others)


ONE_THREAD_BELOW_MS = 5.0


def compressed(model: Model, settings: Sequence[Target], calibrated: bool) -> tuple[Proposal, ...]:
    """Candidates that trade quality: each engine's recipes that find something to change in `model` (simplified).

    `settings` holds the best target of each engine; `calibrated` says whether there is calibration data.
    """
    return tuple(
        Proposal(Recipe((Simplify(), *passes)), target)
        for target in settings
        for passes in _recipes(target.engine)
        if (calibrated or all(entry.data == "none" for entry in passes)) and _worthwhile(passes, model)
    )


def _recipes(engine: str) -> tuple[tuple[Pass, ...], ...]:
    """Return what to try behind `simplify`; a quantizer comes last.

    Each kind of codes is tried in the way that takes least to find; `better` is for those that pay and lose too much.
    """
    bits = fast_weight_bits(processor.features())
    dynamic = ((Int8Dynamic(weight_bits=bits),),) if engine == "onnxruntime" else ()
    return ((Int8Static(weight_bits=bits),), *dynamic, (WeightOnly(bits=8, block=128),), (WeightOnly(bits=4),))


def better(quantizer: Quantizer) -> tuple[Pass, ...]:
    """Return what finds the same codes by a method that takes longer, to put in its place; nothing if there is none."""
    if isinstance(quantizer, WeightOnly) and quantizer.bits < 8:
        return (LowBit(bits=quantizer.bits, block=quantizer.block, symmetric=quantizer.symmetric),)
    if isinstance(quantizer, Int8Static) and quantizer == Int8Static(weight_bits=quantizer.weight_bits):
        accurate = replace(quantizer, ranges="mse", rounding="gptq", correct_biases=True)
        return (Equalize(), Smooth(), accurate)
    return ()


def _worthwhile(passes: Sequence[Pass], model: Model) -> bool:
    return all(not isinstance(entry, Quantizer) or bool(entry.operators(model)) for entry in passes)
