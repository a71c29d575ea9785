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
from tightship.passes.quantize import fast_weight_bits
from tightship.passes.simplify import Simplify
from tightship.passes.smooth import Smooth
from tightship.passes.weight_only import WeightOnly

__all__ = ["Proposal", "compressed", "free", "targets", "variants"]

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

    Static int8 is tried twice, plainly and with all that makes it more accurate at the same speed: the plain one takes
    graphs that the other cannot go through operator by operator.
    """
    bits = fast_weight_bits(processor.features())
    accurate = Int8Static(weight_bits=bits, ranges="mse", rounding="gptq", correct_biases=True)
    static: tuple[tuple[Pass, ...], ...] = ((Int8Static(weight_bits=bits),), (Equalize(), Smooth(), accurate))
    weights = ((WeightOnly(bits=8, block=128),), (WeightOnly(bits=4),))
    dynamic = ((Int8Dynamic(weight_bits=bits),),) if engine == "onnxruntime" else ()
    return (*static, *dynamic, *weights)


def _worthwhile(passes: Sequence[Pass], model: Model) -> bool:
    return all(not isinstance(entry, Quantizer) or bool(entry.operators(model)) for entry in passes)
