"""`convert`: from one format to another, each conversion proven by running both files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tightship import bridges, engines, formats
from tightship.api import loading, locating
from tightship.core import atomic, extras
from tightship.core.artifact import Artifact, file_digest
from tightship.core.dataset import Dataset
from tightship.core.evidence import CheckedBy, Evidence, Verdict, evidence_path
from tightship.core.measurement import Agreement
from tightship.core.model import Form, Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.errors import (
    EngineError,
    InvalidModel,
    MissingExtra,
    OutputError,
    ParityError,
    TightshipError,
    UnsupportedError,
    UsageError,
)
from tightship.formats import Format
from tightship.measure import parity
from tightship.measure.machine import machine
from tightship.measure.moved_weights import has_float_inputs, with_moved_weights
from tightship.search import Source

__all__ = ["FormatRow", "convert", "list_formats"]

N_ITEMS = 16

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "int8": 0.5}
"""rtol by the precision that is written: one rounding of float16 is 2^-11, one of 8 bits 2^-8, and a network adds up
those of all its operators. What is quantized further is judged by `optimize`, on the metric that matters."""

UNITS = {"float16": 2**-11, "int8": 2**-8}
"""Relative rounding error of one number, by the precision that is written."""

QUANTIZED_RTOL = 0.1
"""Of a source that is quantized itself: values fall to either side of a tie, and engines round activations differently.
Two sets of LiteRT's own kernels differ by up to 4 steps of the output; 4 of 255 steps are about a tenth of what an
output varies by."""

QUANTIZED_STEPS = 4
"""By so many steps outputs of 8 bits may differ, for the same reason."""


@dataclass(frozen=True)
class FormatRow:
    """One row of the matrix: what can be done with a format on this machine, and what would be needed for more.

    `read` and `write` are `yes`, `no` (not built), or the command that installs what is missing.
    """

    name: str
    suffixes: tuple[str, ...]
    read: str
    write: str
    runs_in: str
    options: Mapping[str, Any]
    about: str


@dataclass(frozen=True)
class _Proof:
    """What a conversion is proven on, and how closely it has to agree (see `parity.compare`)."""

    source: Source
    data: Dataset
    rtol: float
    atol: float
    steps: int
    unit: float
    progress: Progress


@dataclass(frozen=True)
class _Proven:
    """What became of the proof, and how it was had."""

    verdict: Verdict
    reason: str
    agreement: Agreement | None = None
    checked_by: CheckedBy = "running"


@dataclass(frozen=True)
class _Made:
    """A conversion as it lies in `folder`, proven or not."""

    model: Model
    folder: Path
    proven: _Proven

    @property
    def verdict(self) -> Verdict:
        return self.proven.verdict

    @property
    def reason(self) -> str:
        return self.proven.reason


def list_formats() -> tuple[FormatRow, ...]:
    """Return the matrix of formats as it is on this machine."""
    return tuple(_row(entry) for entry in formats.FORMATS.values())


def convert(
    source: str | Path,
    output: str | Path,
    data: str | Dataset | None = None,
    weights: Path | None = None,
    rtol: float | None = None,
    atol: float = 1e-5,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    options: Mapping[str, Any] | None = None,
    trusted: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
) -> Evidence:
    """Convert `source` to the format that the suffix of `output` names, run both on the same inputs, and write the
    verdict beside it.

    `options` are fields of the output's format (`opset`, `precision`), `trusted` classes that a pickle may import.
    `rtol` is relative to how an output varies over items; by default 1e-3, more where the output is written at a lower
    precision or the source is quantized. Where there are several ways to the format, the next is tried when one fails
    or its result differs.
    Raises `ParityError` where the result differs and `force` is not given (nothing is written then), and
    `UnsupportedError`, `UnsupportedOperators` or `MissingExtra` where there is no way.
    """
    started, place = time.perf_counter(), Path(output)
    entry = _chosen(formats.format_of_output(place), options or {})
    _require(entry.writes_with, f"writing {entry.name}")
    read = loading.read(str(source), weights, input_shapes, trusted)
    _refuse_same_place(read, place)
    ways = _ways(entry, read)
    dataset, notes = loading.data_for(data, loading.drawable(read.model, progress), N_ITEMS, seed=0)
    steps = QUANTIZED_STEPS if _is_quantized(read.model) else 0
    if steps:
        notes = (*notes, f"the source is quantized: outputs of 8 bits may differ by {steps} steps")
    unit = UNITS.get(getattr(entry, "precision", ""), 0.0)
    proof = _Proof(read, dataset, _rtol(entry, read.model) if rtol is None else rtol, atol, steps, unit, progress)
    _check_place(place)
    with atomic.folder_beside(place) as stage:
        made, attempts = _first_proven(entry, ways, stage / place.name, proof)
        where = _where(entry, made, made.folder / place.name, proof) if made.verdict == "differs" else ""
        if where and not force:
            raise ParityError(
                f"{place}: not written, since it does not compute what {source} does: {made.reason}; {where}; "
                f"to see it by itself, write it with --force and run: tightship check {source} {place} --locate DIR"
            )
        evidence = replace(_evidence(entry, made, place, proof), difference=where)
        notes = (*notes, *_by_default(entry, made, made.folder / place.name, proof))
        _deliver(made.folder, place)
    seconds = round(time.perf_counter() - started, 3)
    evidence = replace(evidence, attempts=attempts, notes=notes, seconds=seconds)
    evidence.write(place)
    return evidence


def _evidence(entry: Format, made: _Made, place: Path, proof: _Proof) -> Evidence:
    source, files = proof.source, _files(made.folder)
    return Evidence(
        source=source.artifact.entry or str(source.artifact.path),
        source_format=source.artifact.format,
        source_digest=source.digest,
        source_engine=str(source.target),
        output=str(place),
        output_format=entry.name,
        output_engine=entry.engine if made.proven.checked_by == "running" else "",
        steps=(*made.model.history, _written(entry)),
        verdict=made.verdict,
        reason=made.reason,
        rtol=proof.rtol,
        data=proof.data.name,
        machine=machine(),
        seconds=0.0,
        size_bytes=sum(path.stat().st_size for path in files),
        files={str(path.relative_to(made.folder)): file_digest(path) for path in files},
        agreement=made.proven.agreement,
        checked_by=made.proven.checked_by,
    )


def _chosen(entry: Format, options: Mapping[str, Any]) -> Format:
    known = {field.name for field in fields(entry)}
    unknown = sorted(set(options) - known)
    if unknown:
        has = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise UsageError(f"format {entry.name} has no option {', '.join(unknown)}; {has}")
    return replace(entry, **options)


def _written(entry: Format) -> Step:
    chosen = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return Step(f"write-{entry.name}", {name: value for name, value in chosen.items() if value not in (None, ())})


def _require(modules: Sequence[str], purpose: str) -> None:
    for module in reversed(modules):  # the last is of the extra that has them all
        extras.check(module, purpose)


def _refuse_same_place(source: Source, place: Path) -> None:
    taken = {path.resolve() for path in source.artifact.files} | {source.artifact.path.resolve()}
    if place.resolve() in taken:
        raise UsageError(f"the output {place} would replace the source; choose another place")


def _rtol(entry: Format, model: Model) -> float:
    by_precision = TOLERANCES[getattr(entry, "precision", "float32")]
    return max(by_precision, QUANTIZED_RTOL) if _is_quantized(model) else by_precision


def _is_quantized(model: Model) -> bool:
    """Whether a graph rounds what it computes to 8 bits or fewer; weights that were rounded before are exact."""
    return model.form == "graph" and any(
        node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulNBits") for node in model.graph.graph
    )


def _ways(entry: Format, source: Source) -> tuple[tuple[Form, ...], ...]:
    ways = bridges.ways(source.model.form, entry.writes_from, entry.through)
    if not ways:
        raise UnsupportedError(f"no bridge leads from a {source.model.form} to what {entry.name} is written from")
    return ways


def _first_proven(
    entry: Format, ways: Sequence[Sequence[Form]], stage: Path, proof: _Proof
) -> tuple[_Made, tuple[str, ...]]:
    """Try each way to the format; return the first result that agrees, else the last that was made, and why others
    were not taken.

    `stage` is a path with the name of the output, in whose place a folder for each way is made.
    """
    made, failure, attempts = None, None, []
    for number, way in enumerate(ways):
        folder = stage.with_name(f"way-{number}")
        folder.mkdir()
        try:
            found = _make(entry, way, folder / stage.name, proof)
        except (UnsupportedError, MissingExtra) as error:
            attempts.append(f"by way of {' and '.join(way)}: {error}")
            failure = failure or error
            continue
        made = found
        if found.verdict != "differs":
            break
        attempts.append(f"by way of {' and '.join(way)}: {found.reason}")
    if made is None:
        assert failure is not None
        raise failure
    return made, tuple(attempts)


def _make(entry: Format, way: Sequence[Form], path: Path, proof: _Proof) -> _Made:
    model = proof.source.model
    for form in way[1:]:
        model = bridges.route(model, form, proof.progress)
    with proof.progress.step(f"writing {entry.name}"):
        try:
            artifact = entry.write(model, path)
        except TightshipError as error:  # the user knows the output by its name, not by where it is staged
            raise type(error)(str(error).replace(str(path), path.name)) from error
    return _Made(model, path.parent, _prove(entry, artifact, proof))


def _prove(entry: Format, artifact: Artifact, proof: _Proof) -> _Proven:
    """Run what was written, in the engine that it is for; where there is none here, read it back and run that."""
    engine = engines.ENGINES[entry.engine] if entry.engine else None
    runs = engine is not None and engine.available
    if not runs and not entry.readable:
        return _Proven("not checked", _why_not(entry), checked_by="")
    try:
        reference = proof.source.open(exact=True)
    except EngineError as error:
        reason = f"{proof.source.target.engine} cannot run the source: {error}"
        return _Proven("not checked", reason, checked_by="")
    with reference:
        try:
            session = _opened(entry, artifact) if runs else _read_back(artifact)
        except (EngineError, InvalidModel, UnsupportedError) as error:
            what = f"{entry.engine} cannot open what was written" if runs else "what was written cannot be read back"
            return _Proven("differs", f"{what}: {error}")
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


def _read_back(artifact: Artifact) -> Session:
    """The file as it is read into a form, run by the engine of that form."""
    return Source.of(artifact, formats.read(artifact)).open(exact=True)


def _by_default(entry: Format, made: _Made, path: Path, proof: _Proof) -> Iterator[str]:
    """Say what engines add by themselves to 8-bit numbers: products round what they read, and sums saturate."""
    model = proof.source.model
    if made.verdict not in ("equal", "within tolerance") or model.form != "graph":
        return
    if made.proven.checked_by != "running":
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


def _compared(reference: Session, session: Session, proof: _Proof) -> Agreement:
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


def _moved(proof: _Proof, stack: ExitStack) -> Session | None:
    """The source with its weights moved by a rounding, where its inputs cannot be."""
    model = proof.source.model
    if has_float_inputs(model):
        return None
    engine = proof.source.target.engine
    target = replace(proof.source.target, engine=engine if engines.ENGINES[engine].form else "onnxruntime")
    return stack.enter_context(engines.open_session(with_moved_weights(model), target))


def _told(found: Agreement) -> _Proven:
    if not found.agrees:
        return _Proven("differs", found.cause or f"output {found.output!r} is off by {found.max_abs:.3g}", found)
    if not found.max_abs:
        return _Proven("equal", f"every output is the same to the last bit on {found.n_items} items", found)
    told = f"off by {found.max_abs:.2g} at most, {found.error:.2g} of the tolerance ({found.n_items} items)"
    return _Proven("within tolerance", told, found)


def _where(entry: Format, made: _Made, path: Path, proof: _Proof) -> str:
    """Which operator differs first, in words: of the file where it is read back, else of what it was written from."""
    try:
        written = loading.read(str(path)) if entry.readable else Source.of(Artifact(path, entry.name), made.model)
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
    if found.difference or found.lost or entry.readable or made.model.form != "module":
        return str(found)
    return _wrongly_written(entry, made.model, path.with_name(f"cut{path.suffix}"), proof)


def _wrongly_written(entry: Format, model: Model, path: Path, proof: _Proof) -> str:
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


def _check_place(place: Path) -> None:
    """Raise `OutputError` where the output cannot be written, or a folder in its place is not an earlier output."""
    if place.is_dir() and any(place.iterdir()) and not evidence_path(place).exists():
        raise OutputError(f"{place} is a folder that no conversion has written; choose another place")
    atomic.check_writable(place, frozenset("*") if place.is_dir() else None)


def _deliver(folder: Path, place: Path) -> None:
    """Rename what was made into its place, the output itself last; what it replaces is moved away first."""
    for made in sorted(folder.iterdir(), key=lambda path: path.name == place.name):
        target = place.with_name(made.name)
        if target.is_dir():
            target.rename(folder.with_name("replaced"))
        made.replace(target)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _row(entry: Format) -> FormatRow:
    return FormatRow(
        entry.name,
        entry.suffixes,
        _can(entry.reads_into is not None, entry.reads_with),
        _can(bool(entry.writes_from), entry.writes_with),
        entry.engine,
        {field.name: getattr(entry, field.name) for field in fields(entry)},
        (type(entry).__doc__ or "").strip().partition("\n")[0],
    )


def _can(built: bool, modules: Sequence[str]) -> str:
    if not built:
        return "no"
    missing = [module for module in modules if not extras.available(module)]
    return extras.install_command(missing[-1]) if missing else "yes"  # the last is of the extra that has them all
