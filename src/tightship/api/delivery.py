"""What `optimize` leaves behind: the model, `plan.json`, `recipe.toml` and `report.html`, all whole or none.

A package (`.ship`) holds all of them.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from tightship import formats, report
from tightship.api import packing
from tightship.core import atomic
from tightship.core.plan import Plan
from tightship.core.recipe import Recipe
from tightship.errors import OutputError
from tightship.package.opening import is_package
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["Place", "deliver", "place"]

OURS = frozenset({"model.*", "plan.json", "recipe.toml", "report.html"})


@dataclass(frozen=True)
class Place:
    """Where the output goes: a folder with fixed names, one `.onnx` file with the others beside it, or a package.

    Where nothing meets the budget there is no package, and the others lie beside where it would be.
    """

    path: Path
    is_file: bool

    @property
    def is_package(self) -> bool:
        """Whether one file takes everything."""
        return is_package(self.path)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path.with_suffix(".report.html") if self.is_file else self.path / "report.html"


def place(output: Path | str | None, source: Path) -> Place | None:
    """Check that the output can be written, before hours of work, and that `source` is not in its way.

    Raises `OutputError`; a folder is taken only if it is empty or holds what an earlier run left, `plan.json` among it.
    """
    if output is None:
        return None
    path = Path(output)
    chosen = Place(path, path.suffix.lower() == ".onnx" or is_package(path))
    atomic.check_writable(path, None if chosen.is_file else OURS)
    if path.is_dir() and any(path.iterdir()) and not (path / "plan.json").exists():
        raise OutputError(f"{path} holds files that are not ours; choose an empty or new folder for the output")
    if path.resolve() in (source.resolve(), *source.resolve().parents):
        raise OutputError(f"the output {path} would replace the source {source}; choose another place")
    return chosen


def deliver(where: Place, plan: Plan, chosen: Trial, workshop: Workshop, with_model: bool) -> Plan:
    """Write everything and return the plan with the path of the model in it."""
    recipe = Recipe(chosen.proposal.recipe.passes, chosen.proposal.target).to_toml()
    if where.is_package and with_model:
        return _deliver_package(where.path, plan, recipe, chosen, workshop)
    if where.is_file:
        return _deliver_file(where, plan, recipe, chosen, workshop, with_model)
    name = _model_name(chosen, workshop)
    plan = replace(plan, output=str(where.path / name) if with_model else None)
    with atomic.replace_folder(where.path, OURS) as folder:
        if with_model:
            _write_model(chosen, workshop, folder / name)
        _write_documents(folder, plan, recipe)
    return plan


def _deliver_package(path: Path, plan: Plan, recipe: str, chosen: Trial, workshop: Workshop) -> Plan:
    plan = replace(plan, output=str(path))
    with atomic.folder_beside(path) as folder:
        _write_model(chosen, workshop, folder / _model_name(chosen, workshop))
        _write_documents(folder, plan, recipe)
        packing.pack([folder], path, progress=workshop.progress)
    return plan


def _deliver_file(where: Place, plan: Plan, recipe: str, chosen: Trial, workshop: Workshop, with_model: bool) -> Plan:
    plan = replace(plan, output=str(where.path) if with_model else None)
    with ExitStack() as stack:
        for file, text in _documents(plan, recipe).items():
            beside = where.path.with_suffix(f".{file}")
            stack.enter_context(atomic.writing(beside)).write_text(text, encoding="utf-8")
        if with_model:
            _write_model(chosen, workshop, where.path)
    return plan


def _write_documents(folder: Path, plan: Plan, recipe: str) -> None:
    for file, text in _documents(plan, recipe).items():
        (folder / file).write_text(text, encoding="utf-8")


def _documents(plan: Plan, recipe: str) -> dict[str, str]:
    return {"plan.json": plan.to_json(), "recipe.toml": recipe, "report.html": report.render(plan)}


def _model_name(chosen: Trial, workshop: Workshop) -> str:
    """What is delivered is a graph, or the source as it was where that is chosen and runs elsewhere."""
    if chosen.built is not None:
        return "model.onnx"
    artifact = workshop.source.artifact
    return "model.pt2" if artifact.entry else f"model{artifact.path.suffix}"


def _write_model(chosen: Trial, workshop: Workshop, path: Path) -> None:
    source = workshop.source
    if chosen.built is None and path.suffix != ".onnx":
        if source.artifact.entry:
            formats.write(source.model, path)
        elif source.artifact.path.is_dir():
            shutil.copytree(source.artifact.path, path)
        else:
            shutil.copyfile(source.artifact.path, path)
        return
    file = chosen.built.path if chosen.built is not None else workshop.graph
    artifact = formats.recognise(str(file))
    if artifact.companions:
        formats.write(formats.read(artifact), path)
    else:
        with atomic.writing(path) as temporary:
            shutil.copyfile(file, temporary)
