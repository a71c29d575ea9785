"""The report: one HTML file with its plots inside, that opens anywhere and asks no network for anything.

Names come from foreign files: the template escapes every text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tightship.core.plan import Candidate, Plan, Sensitivity
from tightship.report import plots, verdict, words

__all__ = ["recipe_toml", "render"]

TEMPLATE = "report.html.j2"

N_SENSITIVE = 30
"""Rows of the first table of operators; the rest is a second one."""

N_GROUNDS = 6
"""Reasons said at the top where nothing was better; the table holds them all."""


@dataclass(frozen=True)
class _Row:
    """One candidate as the table shows it; its target has a line of its own and is left out of its name."""

    number: int
    name: str
    passes: tuple[str, ...]
    target: str
    size: str
    latency: str
    speed: str
    speed_interval: str
    quality: str
    drop: str
    bound: str
    status: str
    reason: str


def render(plan: Plan) -> str:
    """Return the report of a plan as a whole HTML document."""
    import jinja2
    from markupsafe import Markup

    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = _whole
    ranked = sorted(plan.sensitivity, key=lambda entry: entry.sqnr_db)
    return environment.get_template(TEMPLATE).render(
        plan=plan,
        headline=verdict.headline(plan),
        fidelity=verdict.fidelity(plan),
        cards=verdict.cards(plan),
        grounds=verdict.grounds(plan)[:N_GROUNDS] if plan.best is plan.baseline else (),
        conditions=verdict.conditions(plan),
        rows=[_row(plan, number, entry) for number, entry in enumerate(plan.candidates, start=1)],
        unit=words.unit(plan.metric),
        metric=words.title(plan.metric),
        pareto=Markup(plots.pareto(plan)),
        n_untimed=len(plan.candidates) - plots.n_timed(plan),
        forest=Markup(plots.forest(plan)),
        bars=Markup(plots.sensitivity(plan)),
        sensitivity=_sensitivity(ranked[:N_SENSITIVE]),
        less_sensitive=_sensitivity(ranked[N_SENSITIVE:]),
        machine=_machine(plan),
        recipe=recipe_toml(plan.best),
    )


def recipe_toml(candidate: Candidate) -> str:
    """Write what makes a candidate in the form of `Recipe.to_toml`, so that `--recipe` takes it."""
    import tomli_w

    passes = [{"name": step.name, **step.parameters} for step in candidate.steps]
    return tomli_w.dumps({"target": asdict(candidate.target), "passes": passes})


def _whole(text: str) -> str:
    """Keep numbers and their units, and both ends of a change, on one line."""
    return re.sub(r"(?<=\d) (?=%|points|→)|(?<=→) ", "\u00a0", text)


def _row(plan: Plan, number: int, entry: Candidate) -> _Row:
    measured = entry.measurement
    latency = measured.latency if measured else None
    ratio = measured.ratio if measured else None
    drop = measured.drop if measured else None
    return _Row(
        number=number,
        name=entry.name.removesuffix(f" @ {entry.target}"),
        passes=tuple(str(step) for step in entry.steps),
        target=str(entry.target),
        size=words.bytes_text(measured.size_bytes if measured else None),
        latency=words.ms_text(latency.median_ms if latency else None),
        speed=words.speed(ratio),
        speed_interval=words.speed_interval(ratio) if ratio else "",
        quality=words.quality_text(measured.quality if measured else None, 2),
        drop=words.drop_text(plan.metric, drop.drop if drop else None),
        bound=f"≤ {words.bound_text(plan.metric, drop.upper)}" if drop else "",
        status=entry.status,
        reason=entry.reason,
    )


def _sensitivity(entries: Sequence[Sensitivity]) -> list[tuple[str, str, str]]:
    return [(entry.operator, entry.op_type, words.number(entry.sqnr_db)) for entry in entries]


def _machine(plan: Plan) -> tuple[tuple[str, str], ...]:
    machine = plan.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return (
        ("Processor", machine.processor),
        ("Physical cores", str(machine.n_cores)),
        ("Instruction sets", ", ".join(machine.features) or "unknown"),
        ("Memory", f"{words.number(machine.memory_gb)} GB"),
        ("System", machine.system),
        ("Python", machine.python),
        ("Versions", versions or words.DASH),
    )
