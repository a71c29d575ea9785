"""The proof of a conversion: source and result run on the same inputs, and the operator named where they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from tightship import engines, formats
from tightship.api import loading, locating
from tightship.core import extras
from tightship.core.artifact import Artifact
from tightship.core.dataset import Dataset
from tightship.core.evidence import CheckedBy, Verdict
from tightship.core.measurement import Agreement
from tightship.core.model import Model
from tightship.core.progress import Progress
from tightship.core.session import Arrays, Session
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import EngineError, InvalidModel, TightshipError, UnsupportedError
from tightship.formats import Format
from tightship.measure import parity
from tightship.measure.moved_weights import has_float_inputs, with_moved_weights
from tightship.measure.output_steps import steps_behind_squashing
from tightship.search import Source

__all__ = ["Proof", "Proven", "by_default", "proof_for", "prove", "where"]

PALETTES = ("palette8", "palette6", "palette4", "palette2")

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 0.5, **dict.fromkeys(PALETTES, 0.5)}
"""rtol by the precision that is written: one rounding of float16 is 2^-11, one of 8 bits 2^-8, and a network adds up
those of all its operators. What is quantized further is judged by `optimize`, on the metric that matters."""

UNITS = {"float16": 2**-11, "int8": 2**-8, **dict.fromkeys(PALETTES, 2**-11)}
"""Relative rounding error of one number, by the precision that is written."""

QUANTIZED_RTOL = 0.1
"""Of a source that is quantized itself: values fall to either side of a tie, and engines round activations differently.
Two sets of LiteRT's own kernels differ by up to 4 steps of the output; 4 of 255 steps are about a tenth of what an
output varies by."""

QUANTIZED_STEPS = 4
"""By so many steps outputs of 8 bits may differ, for the same reason; or by as many as one step of logits is worth."""


@dataclass(frozen=True)
class Proof:
    """What a conversion is proven on, and how closely it has to agree (see `parity.compare`)."""

    source: Source
    data: Dataset
    rtol: float
    atol: float
    steps: int
    unit: float
    progress: Progress


@dataclass(frozen=True)
class Proven:
    """What became of the proof, and how it was had."""

    verdict: Verdict
    reason: str
    agreement: Agreement | None = None
    checked_by: CheckedBy = "running"


def proof_for(
    entry: Format, source: Source, dataset: Dataset, rtol: float | None, atol: float, progress: Progress
) -> Proof:
    """How closely a file of this format has to agree with its source, where the user does not say."""
    steps = max(QUANTIZED_STEPS, steps_behind_squashing(source.model.graph)) if _is_quantized(source.model) else 0
    unit = UNITS.get(getattr(entry, "precision", ""), 0.0)
    return Proof(source, dataset, _rtol(entry, source.model) if rtol is None else rtol, atol, steps, unit, progress)


def _rtol(entry: Format, model: Model) -> float:
    by_precision = TOLERANCES[getattr(entry, "precision", "float32")]
    return max(by_precision, QUANTIZED_RTOL) if _is_quantized(model) else by_precision


def _is_quantized(model: Model) -> bool:
    """Whether a graph rounds what it computes to 8 bits or fewer; weights that were rounded before are exact."""
    return model.form == "graph" and any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits") for node in model.graph.graph
    )


def prove(entry: Format, artifact: Artifact, proof: Proof) -> Proven:
    """Run what was written, in the engine that it is for; where there is none here, read it back and run that."""
    engine = engines.ENGINES[entry.engine] if entry.engine else None
    runs = engine is not None and engine.available
    if not runs and not entry.readable:
        return Proven("not checked", _why_not(entry), checked_by="")
    try:
        reference = proof.source.open(exact=True)
    except EngineError as error:
        reason = f"{proof.source.target.engine} cannot run the source: {error}"
        return Proven("not checked", reason, checked_by="")
    with reference:
        try:
            session = _opened(entry, artifact) if runs else _read_back(artifact, reference)
        except (EngineError, InvalidModel, UnsupportedError) as error:
            what = f"{entry.engine} cannot open what was written" if runs else "what was written cannot be read back"
            return Proven("differs", f"{what}: {error}", checked_by="running" if runs else "reading back")
        with session:
            found = _told(_compared(reference, session, proof))
    return found if runs else replace(found, checked_by="reading back")


def _why_not(entry: Format) -> str:
    if not entry.engine:
        return f"no engine on this system runs {entry.name} files"
    engine = engines.ENGINES[entry.engine]
    command = extras.install_command(engine.module)
    return f"{entry.name} files are run by {engine.name}, which is not installed: {command}"


def _opened(entry: Format, artifact: Artifact) -> Session:
    return engines.open_session(entry.loadable(artifact), Target(entry.engine, exact=True))


def _read_back(artifact: Artifact, reference: Session) -> Session:
    """The file as it is read into a form, run by the engine of that form."""
    return _Widened(Source.of(artifact, formats.read(artifact)).open(exact=True), reference)


class _Widened:
    """A session whose integers of 32 bits stand for the reference's of 64: Core ML has no others."""

    def __init__(self, narrow: Session, reference: Session) -> None:
        self.target = narrow.target
        self._narrow = narrow
        self.inputs = _widened(narrow.inputs, reference.inputs)
        self.outputs = _widened(narrow.outputs, reference.outputs)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        found = self._narrow.run({spec.name: inputs[spec.name].astype(spec.dtype) for spec in self._narrow.inputs})
        return {spec.name: found[spec.name].astype(spec.dtype) for spec in self.outputs}

    def close(self) -> None:
        self._narrow.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _widened(specs: Sequence[TensorSpec], reference: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    if len(specs) != len(reference):
        return tuple(specs)
    names = parity.pair([spec.name for spec in specs], [spec.name for spec in reference])
    wide = {spec.name for spec in reference if spec.dtype == "int64"}
    return tuple(
        replace(spec, dtype="int64") if spec.dtype == "int32" and names[spec.name] in wide else spec for spec in specs
    )


def by_default(entry: Format, proven: Proven, path: Path, proof: Proof) -> Iterator[str]:
    """Say what engines add by themselves to 8-bit numbers: products round what they read, and sums saturate."""
    model = proof.source.model
    if proven.verdict not in ("equal", "within tolerance") or model.form != "graph":
        return
    if proven.checked_by != "running":
        return
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.graph):
        return
    loadable = entry.loadable(Artifact(path, entry.name))
    with proof.source.open() as reference, engines.open_session(loadable, Target(entry.engine)) as session:
        found = _compared(reference, session, proof)
    if not found.agrees:
        yield (
            "proven without what engines add by themselves to 8-bit numbers (inputs rounded, sums that saturate); "
            f"run by default, {proof.source.target.engine} and {entry.engine} differ by {found.max_abs:.2g}"
        )


def _compared(reference: Session, session: Session, proof: Proof) -> Agreement:
    with ExitStack() as stack:
        return parity.compare(
            reference,
            session,
            proof.data,
            rtol=proof.rtol,
            atol=proof.atol,
            steps=proof.steps,
            unit=proof.unit,
            moved=_moved(proof, stack),
            progress=proof.progress,
        )


def _moved(proof: Proof, stack: ExitStack) -> Session | None:
    """The source with its weights moved by a rounding, where its inputs cannot be."""
    model = proof.source.model
    if has_float_inputs(model):
        return None
    engine = proof.source.target.engine
    target = replace(proof.source.target, engine=engine if engines.ENGINES[engine].form else "onnxruntime")
    try:
        return stack.enter_context(engines.open_session(with_moved_weights(model), target))
    except EngineError:  # a file that its own engine runs, and no other: then nothing tells how sensitive it is
        return None


def _told(found: Agreement) -> Proven:
    if not found.agrees:
        return Proven("differs", found.cause or f"output {found.output!r} is off by {found.max_abs:.3g}", found)
    if not found.max_abs:
        return Proven("equal", f"every output is the same to the last bit on {found.n_items} items", found)
    told = f"off by {found.max_abs:.2g} at most, {found.error:.2g} of the tolerance ({found.n_items} items)"
    return Proven("within tolerance", told, found)


def where(entry: Format, model: Model, path: Path, proof: Proof) -> str:
    """Which operator differs first, in words: of the file where it is read back, else of `model`, which became it."""
    try:
        written = loading.read(str(path)) if entry.readable else Source.of(Artifact(path, entry.name), model)
    except TightshipError as error:
        return str(locating.Location(not_located=f"{path.name} cannot be read back: {error}"))
    found = locating.locate(
        proof.source,
        written,
        proof.data,
        rtol=proof.rtol,
        atol=proof.atol,
        folder=None,
        progress=proof.progress,
    )
    if found.difference or found.lost or entry.readable or model.form != "module":
        return str(found)
    return _wrongly_written(entry, model, path.with_name(f"cut{path.suffix}"), proof)


def _wrongly_written(entry: Format, model: Model, path: Path, proof: Proof) -> str:
    """The operator that went wrong between a module that is right and a file that nothing reads back."""

    def agrees(cut: Model) -> bool:
        loadable = entry.loadable(entry.write(cut, path))
        with engines.open_session(cut, Target("torch")) as one, engines.open_session(loadable, written_to) as other:
            return _compared(one, other, proof).agrees

    written_to = Target(entry.engine, exact=True)
    try:
        operator = locating.first_wrong_cut(model, agrees, proof.progress)
    except TightshipError as error:
        return str(locating.Location(not_located=f"a part of the model cannot be written by itself: {error}"))
    finally:
        path.unlink(missing_ok=True)
    named = f"first operator that goes wrong: {operator}" if operator else "which operator goes wrong is not known"
    return f"the module that it was written from is right, but {entry.name} does not compute it; {named}"
