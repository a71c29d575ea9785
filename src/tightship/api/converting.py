"""`convert`: from one format to another, each conversion proven by running both files."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tightship import bridges, formats
from tightship.api import loading
from tightship.api.proving import Proof, Proven, by_default, proof_for, prove, where
from tightship.core import atomic, extras
from tightship.core.artifact import file_digest
from tightship.core.dataset import Dataset
from tightship.core.evidence import Evidence, Verdict, evidence_path
from tightship.core.model import Form, Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.errors import (
    MissingExtra,
    OutputError,
    ParityError,
    TightshipError,
    UnsupportedError,
    UsageError,
)
from tightship.formats import Format
from tightship.measure.machine import machine
from tightship.search import Source

__all__ = ["FormatRow", "convert", "list_formats"]

N_ITEMS = 16


@dataclass(frozen=True)
class FormatRow:
    """One row of the matrix: what can be done with a format on this machine, and what would be needed for more.

    `without_suffix` says what a source is that has none of the suffixes.
    `read` and `write` are `yes`, `no` (not built), or the command that installs what is missing.
    """

    name: str
    suffixes: tuple[str, ...]
    read: str
    write: str
    runs_in: str
    options: Mapping[str, Any]
    about: str
    without_suffix: str = ""


@dataclass(frozen=True)
class _Made:
    """A conversion as it lies in `folder`, proven or not."""

    model: Model
    folder: Path
    proven: Proven

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
    proof = proof_for(entry, read, dataset, rtol, atol, progress)
    if proof.steps:
        notes = (*notes, f"the source is quantized: outputs of 8 bits may differ by {proof.steps} steps")
    _check_place(place)
    with atomic.folder_beside(place) as stage:
        made, attempts = _first_proven(entry, ways, stage / place.name, proof)
        named = where(entry, made.model, made.folder / place.name, proof) if made.verdict == "differs" else ""
        if named and not force:
            raise ParityError(
                f"{place}: not written, since it does not compute what {source} does: {made.reason}; {named}; "
                f"to see it by itself, write it with --force and run: tightship check {source} {place} --locate DIR"
            )
        evidence = replace(_evidence(entry, made, place, proof), difference=named)
        notes = (*notes, *by_default(entry, made.proven, made.folder / place.name, proof))
        _deliver(made.folder, place)
    seconds = round(time.perf_counter() - started, 3)
    evidence = replace(evidence, attempts=attempts, notes=notes, seconds=seconds)
    evidence.write(place)
    return evidence


def _evidence(entry: Format, made: _Made, place: Path, proof: Proof) -> Evidence:
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
    types = get_type_hints(type(entry))
    for name, value in options.items():
        allowed = get_args(types[name]) if get_origin(types[name]) is Literal else (value,)
        if value not in allowed:
            raise UsageError(f"format {entry.name} has the {name} {', '.join(allowed)}; found {value}")
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


def _ways(entry: Format, source: Source) -> tuple[tuple[Form, ...], ...]:
    ways = bridges.ways(source.model.form, entry.writes_from, entry.through)
    if not ways:
        raise UnsupportedError(f"no bridge leads from a {source.model.form} to what {entry.name} is written from")
    return ways


def _first_proven(
    entry: Format, ways: Sequence[Sequence[Form]], stage: Path, proof: Proof
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


def _make(entry: Format, way: Sequence[Form], path: Path, proof: Proof) -> _Made:
    model = proof.source.model
    for form in way[1:]:
        model = bridges.route(model, form, proof.progress)
    with proof.progress.step(f"writing {entry.name}"):
        try:
            artifact = entry.write(model, path)
        except TightshipError as error:  # the user knows the output by its name, not by where it is staged
            raise type(error)(str(error).replace(str(path), path.name)) from error
    return _Made(model, path.parent, prove(entry, artifact, proof))


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
        entry.without_suffix,
    )


def _can(built: bool, modules: Sequence[str]) -> str:
    if not built:
        return "no"
    missing = [module for module in modules if not extras.available(module)]
    return extras.install_command(missing[-1]) if missing else "yes"  # the last is of the extra that has them all
