"""What is packed: models, and what lies beside each as evidence, gathered into the names it has in a package."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec

import tightship
from tightship import engines, formats
from tightship.core.artifact import Artifact, file_digest
from tightship.core.evidence import Evidence, evidence_path
from tightship.core.model import Model, Step
from tightship.core.plan import Plan
from tightship.core.recipe import Recipe
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.errors import ArtifactNotFound, MissingExtra, PackageError, UsageError
from tightship.package.manifest import Manifest, PackedArtifact
from tightship.passes import PASSES

__all__ = ["Contents", "Given", "gather"]

PLAN, RECIPE, REPORT, EVIDENCE = "plan.json", "recipe.toml", "report.html", ".evidence.json"

Read = TypeVar("Read")


@dataclass(frozen=True)
class Given:
    """A model as the user named it, and what was found beside it."""

    artifact: Artifact
    documents: Mapping[str, Path]
    plan: Plan | None
    evidence: Evidence | None
    recipe: str

    @property
    def target(self) -> Target:
        """Where it is meant to run: the plan's choice, else the engine of its format."""
        if self.plan is not None and self.plan.chosen:
            return self.plan.best.target
        return Target(formats.FORMATS[self.artifact.format].engine)


@dataclass(frozen=True)
class Contents:
    """The manifest (without the records of its files), the files by their name in the package, and notes."""

    manifest: Manifest
    files: Mapping[str, Path]
    notes: tuple[str, ...]


def gather(models: Sequence[str], name: str, version: str, licence: str, intended_use: str) -> Contents:
    """Find what belongs into the package of `models`: paths of models, or folders that `optimize` wrote.

    Raises `ArtifactError` where one is no model, and `PackageError` where evidence speaks of another file.
    """
    if not models:
        raise UsageError("pack needs at least one model, or a folder that optimize wrote")
    given = [_given(Path(model)) for model in models]
    labels = _labels([entry.artifact.format for entry in given])
    files: dict[str, Path] = {}
    artifacts = []
    for label, entry in zip(labels, given, strict=True):
        files |= {f"artifacts/{label}/{inside}": path for inside, path in _files(entry.artifact)}
        files |= {_document_name(document, label, labels): path for document, path in entry.documents.items()}
        path = f"artifacts/{label}/{entry.artifact.path.name}"
        artifacts.append(PackedArtifact(label, entry.artifact.format, path, entry.target, entry.artifact.size_bytes))
    described, notes = _described(given[0])
    if not any(entry.plan or entry.evidence for entry in given):
        notes = (*notes, "there is no evidence beside the model: convert and optimize leave some")
    manifest = replace(
        described, name=name, version=version, artifacts=tuple(artifacts), licence=licence, intended_use=intended_use
    )
    return Contents(manifest, files, notes)


def _given(path: Path) -> Given:
    if (path / PLAN).is_file():
        found = [child for child in sorted(path.iterdir()) if child.name.startswith("model.")]
        if len(found) != 1:
            raise ArtifactNotFound(f"{path}: expected one model.* beside {PLAN}, found {len(found)}")
        model, documents = found[0], {name: path / name for name in (PLAN, RECIPE, REPORT)}
    else:
        model, documents = path, {name: path.with_suffix(f".{name}") for name in (PLAN, RECIPE, REPORT)}
    artifact = formats.recognise(str(model))
    if artifact.entry or artifact.format == "torch-source":
        raise UsageError(f"{model} is code, which is not packed; convert it: tightship convert {model} -o NAME.pt2")
    documents[f"{model.name}{EVIDENCE}"] = evidence_path(model)
    documents = {name: place for name, place in documents.items() if place.is_file()}
    evidence = _read(documents.get(f"{model.name}{EVIDENCE}"), Evidence)
    if evidence is not None:
        _check_evidence(evidence, artifact, evidence_path(model))
    recipe = documents[RECIPE].read_text(encoding="utf-8") if RECIPE in documents else ""
    if recipe:
        Recipe.from_toml(recipe, PASSES, str(documents[RECIPE]))
    return Given(artifact, documents, _read(documents.get(PLAN), Plan), evidence, recipe)


def _read(path: Path | None, kind: type[Read]) -> Read | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PackageError(f"{path} is no {kind.__name__} of a model: {error}; make it anew or remove it") from error


def _check_evidence(evidence: Evidence, artifact: Artifact, path: Path) -> None:
    """Evidence holds the digests of what it speaks of."""
    folder = artifact.path.parent
    for name, digest in evidence.files.items():
        file = folder / name
        if not file.is_file() or file_digest(file) != digest:
            raise PackageError(f"{path} speaks of another {name} than the one beside it; convert again, or remove it")


def _labels(names: Sequence[str]) -> list[str]:
    """The formats, numbered where one comes again."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name}-{count}" for name, count in zip(names, counts, strict=True)]


def _files(artifact: Artifact) -> Iterator[tuple[str, Path]]:
    """Every file with its path below the model's folder. Raises `PackageError` for a link out of it."""
    folder = artifact.path.parent
    for path in artifact.files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise PackageError(f"{path} is a link out of the model's folder; copy the file there")
        yield path.relative_to(folder).as_posix(), path


def _document_name(document: str, label: str, labels: Sequence[str]) -> str:
    below = "" if label == labels[0] else f"{label}/"
    return document if document == REPORT and not below else f"evidence/{below}{document}"


def _described(given: Given) -> tuple[Manifest, tuple[str, ...]]:
    """What the first model, its plan and its evidence say; the rest of the manifest is filled in later."""
    interface, notes = _interface(given.artifact)
    plan, evidence = given.plan, given.evidence
    chosen = plan.best if plan is not None and plan.chosen else None
    steps: tuple[Step, ...] = (*(evidence.steps if evidence else ()), *(chosen.steps if chosen else ()))
    found = chosen.measurement if chosen else None
    metrics: dict[str, float] = {}
    if found is not None:
        metrics["size_bytes"] = found.size_bytes
        metrics |= {found.quality.metric: found.quality.value} if found.quality else {}
        metrics |= {"latency_ms": found.latency.median_ms} if found.latency else {}
        metrics |= {"drop_at_most": found.drop.upper} if found.drop else {}
        metrics |= {"speed_up": 1 / found.ratio.median} if found.ratio else {}
    if evidence is not None and evidence.agreement is not None:
        metrics["largest_difference"] = evidence.agreement.max_abs
    verdict = f"{evidence.verdict}: {evidence.reason}" if evidence else ""
    verdict = f"{chosen.status}: {chosen.reason}" if chosen else verdict
    source = plan or evidence
    return Manifest(
        name="",
        version="",
        artifacts=(),
        files={},
        inputs=interface[0],
        outputs=interface[1],
        history=steps,
        recipe=given.recipe,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        verdict=verdict,
        source=Path(source.source).name if source else "",
        source_digest=source.source_digest if source else "",
        made_by=f"tightship {tightship.__version__}",
    ), notes


def _interface(artifact: Artifact) -> tuple[tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]], tuple[str, ...]]:
    """Inputs and outputs: a graph is read and checked, other files are opened by their engine."""
    entry = formats.FORMATS[artifact.format]
    try:
        if artifact.format == "onnx" or not entry.engine:
            model: Model = formats.read(artifact)
            return (model.inputs, model.outputs), ()
        loadable = entry.loadable(artifact)
        if isinstance(loadable, Model):
            return (loadable.inputs, loadable.outputs), ()
        with engines.open_session(loadable, Target(entry.engine)) as session:
            return (session.inputs, session.outputs), ()
    except MissingExtra as error:
        return ((), ()), (f"inputs and outputs of {artifact.path.name} are not known here: {error}",)
