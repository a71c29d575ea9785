"""`optimize`: read, split, search, deliver."""

from __future__ import annotations

import shlex
from dataclasses import asdict, fields
from pathlib import Path

from tightship import formats
from tightship.api import delivery, loading
from tightship.api.options import Options
from tightship.core.budget import Budget
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.plan import Candidate, Plan
from tightship.core.progress import SILENT, Progress
from tightship.core.recipe import Recipe
from tightship.errors import BudgetError
from tightship.measure.machine import machine
from tightship.measure.metrics import metric_named
from tightship.measure.quantization import quantized_operators
from tightship.passes import PASSES
from tightship.search import Outcome, Workshop, propose, search

__all__ = ["optimize"]


def optimize(
    model: str | Path,
    data: str | Dataset | None = None,
    output: Path | str | None = None,
    budget: Budget | None = None,
    options: Options | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Search for the smallest or fastest form of `model` within `budget`, and write it with its evidence.

    `model` is a path or `package.module:function`; `data` an `.npz` file, a function yielding batches, a `Dataset`, or
    None: then inputs are generated and fidelity to the source takes the place of accuracy. `output` is a folder, a
    file ending in `.onnx`, or a package ending in `.ship`; None writes nothing. With `options.dry_run` the plan holds
    what would be tried.

    Raises any `TightshipError`; `BudgetError` where a limit of size or latency is met by nothing (the report is written
    all the same, the model is not).
    """
    budget, options = budget or Budget(), options or Options()
    place = delivery.place(output, formats.recognise(str(model), options.weights).path)
    workshop, notes = _workshop(str(model), data, options, progress)
    request = _command(str(model), data, output, budget, options)
    if options.dry_run:
        return _plan(workshop, budget, options, notes, request, _dry(workshop, options))
    recipe = Recipe.read(options.recipe, PASSES) if options.recipe else None
    outcome = search(workshop, budget, options.engines, options.threads, recipe)
    plan = _plan(workshop, budget, options, notes, request, outcome)
    unmet = _unmet_limit(plan)
    if place is not None:
        plan = delivery.deliver(place, plan, outcome.chosen, workshop, with_model=not unmet)
    if unmet:
        where = f"; {place.report} says what was tried" if place else ""
        raise BudgetError(f"nothing that was tried meets the budget: {unmet}{where}")
    return plan


def _workshop(
    model: str, data: str | Dataset | None, options: Options, progress: Progress
) -> tuple[Workshop, tuple[str, ...]]:
    store = loading.store_at(options.work, options.resume)
    source = loading.read(model, options.weights)
    graph = loading.graph_of(source, store, progress)
    inside = source.model if source.model.form == "graph" else formats.read(formats.recognise(str(graph)))
    split = loading.split_data(data, inside, options.calibration, options.seed)
    metric = metric_named(options.metric or loading.default_metric(split.decision))
    workshop = Workshop(
        store,
        source,
        graph,
        inside.inputs,
        split.calibration,
        split.decision,
        metric,
        machine(),
        options.seconds,
        progress,
    )
    return workshop, (*_notes(inside, split, metric.name), *split.notes)


def _notes(model: Model, split: loading.Split, metric: str) -> tuple[str, ...]:
    return (*_quantized(model), *_without_labels(split, metric))


def _quantized(model: Model) -> tuple[str, ...]:
    ways = quantized_operators(model.graph)
    if not ways:
        return ()
    return (
        f"Quantized already: {'; '.join(map(str, ways))}. That stays as it is, and only what is still float "
        "is tried at fewer bits; quality is told against the model as it was given.",
    )


def _without_labels(split: loading.Split, metric: str) -> tuple[str, ...]:
    if split.decision.generated:
        return (
            "No data was given: inputs were generated, and fidelity to the source model "
            f"({metric}) takes the place of accuracy.",
        )
    if not split.decision.labelled:
        return (f"The data has no labels: fidelity to the source model ({metric}) takes the place of accuracy.",)
    return ()


def _dry(workshop: Workshop, options: Options) -> tuple[Candidate, ...]:
    proposals = propose(workshop, options.engines, options.threads)
    return tuple(
        Candidate(
            proposal.name,
            tuple(entry.step for entry in proposal.recipe.passes),
            proposal.target,
            "undecided",
            "dry run: would be tried",
        )
        for proposal in proposals
    )


def _plan(
    workshop: Workshop,
    budget: Budget,
    options: Options,
    notes: tuple[str, ...],
    command: str,
    outcome: Outcome | tuple[Candidate, ...],
) -> Plan:
    searched = outcome if isinstance(outcome, Outcome) else None
    artifact = workshop.source.artifact
    return Plan(
        source=artifact.entry or str(artifact.path),
        source_digest=workshop.source.digest,
        data=workshop.decision.name,
        generated=workshop.decision.generated,
        metric=workshop.metric.name,
        budget=budget,
        seed=options.seed,
        n_calibration=workshop.calibration.n_items if workshop.calibration else 0,
        n_decision=workshop.decision.n_items,
        candidates=searched.candidates if searched else outcome,  # type: ignore[arg-type]
        chosen=searched.chosen.name if searched else "",
        machine=workshop.machine,
        sensitivity=searched.sensitivity if searched else (),
        notes=(*notes, *(searched.notes if searched else ())),
        command=command,
    )


def _unmet_limit(plan: Plan) -> str:
    """Say which limit of the budget the chosen candidate breaks; only the source itself can."""
    measured, budget = plan.best.measurement, plan.budget
    if measured is None:
        return ""
    size_mb, latency = measured.size_bytes / 1e6, measured.latency
    if budget.max_size_mb is not None and size_mb > budget.max_size_mb:
        return f"the smallest that is good enough has {size_mb:.2f} MB, {budget.max_size_mb:g} MB are allowed"
    if budget.max_latency_ms is not None and latency is not None and latency.median_ms > budget.max_latency_ms:
        return f"the best takes {latency.median_ms:.3g} ms, {budget.max_latency_ms:g} ms are allowed"
    return ""


def _command(
    model: str, data: str | Dataset | None, output: Path | str | None, budget: Budget, options: Options
) -> str:
    """Write the command line that runs the same again; values at their defaults are left out."""
    words = ["tightship", "optimize", model]
    words += ["--data", data if isinstance(data, str) else data.name] if data is not None else []
    for group in (budget, options):
        defaults = {field.name: field.default for field in fields(group)}
        for name, value in asdict(group).items():
            if value != defaults[name] and name not in ("dry_run", "resume"):
                words += _flag(name, value)
    words += ["-o", str(output)] if output is not None else []
    return shlex.join(words)


def _flag(name: str, value: object) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, tuple):
        return [word for entry in value for word in ("--engine", str(entry))]
    return [flag, str(value)]
