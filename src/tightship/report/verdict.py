"""A plan in sentences: the headline, the numbers before and after, and what was tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tightship.core.measurement import DropTest, Measurement
from tightship.core.plan import Plan, Status
from tightship.measure.metrics import METRICS
from tightship.report import words

__all__ = ["STATUSES", "Card", "cards", "conditions", "counts", "fidelity", "grounds", "headline"]

STATUSES: tuple[Status, ...] = ("baseline", "chosen", "accepted", "refused", "undecided", "failed")
"""Every verdict, in the order of legends."""

NEAREST_FIRST: tuple[Status, ...] = ("baseline", "chosen", "accepted", "undecided", "refused", "failed")


@dataclass(frozen=True)
class Card:
    """One number before and after, and what the change comes to."""

    title: str
    before: str
    after: str
    change: str
    detail: str = ""


def headline(plan: Plan) -> str:
    """Say in one sentence what came of the search."""
    if plan.best is plan.baseline:
        return f"Nothing was better than the source: {counts(plan) or 'nothing else was tried'}"
    before, after = plan.baseline.measurement, plan.best.measurement
    if before is None or after is None:
        return f"{plan.best.name} was chosen; what it gains was not measured"
    speed = words.speed_words(after.ratio) if after.ratio else ""
    size = words.smaller(before.size_bytes, after.size_bytes)
    sentence = ", ".join(part for part in (speed, size, _quality_words(plan, before, after)) if part)
    return sentence[0].upper() + sentence[1:]


def counts(plan: Plan) -> str:
    """Say how many candidates met which verdict, the source left out: `4 refused, 1 failed`."""
    others = [entry.status for entry in plan.candidates if entry is not plan.baseline]
    return ", ".join(f"{others.count(status)} {status}" for status in STATUSES if status in others)


def grounds(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return each distinct reason with the names of its candidates, the source left out, the near misses first."""
    named: dict[str, list[str]] = {}
    for entry in sorted(plan.candidates, key=lambda entry: NEAREST_FIRST.index(entry.status)):
        if entry is not plan.baseline:
            named.setdefault(entry.reason, []).append(entry.name)
    return tuple((reason, ", ".join(names)) for reason, names in named.items())


def cards(plan: Plan) -> tuple[Card, ...]:
    """Return size, latency, quality and peak memory, before and after; without changes where the source stays."""
    before, after = plan.baseline.measurement, plan.best.measurement
    if before is None or after is None:
        return ()
    made = [_size_card(before, after), _latency_card(before, after), _quality_card(plan, before, after)]
    if before.peak_memory_bytes or after.peak_memory_bytes:
        made.append(_memory_card(before, after))
    return tuple(replace(card, change="") if plan.best is plan.baseline else card for card in made)


def fidelity(plan: Plan) -> str:
    """Say plainly where nearness to the source was judged in place of accuracy; empty where labels were there."""
    if plan.generated:
        return (
            "No data was given: inputs were generated, so fidelity to the source model takes the place of accuracy. "
            "The numbers say how near the outputs stay to the source's on such inputs, not how often they are right."
        )
    if plan.metric in METRICS and METRICS[plan.metric].needs == "source":
        return (
            f"The metric {plan.metric} compares with the source model and asks for no labels: the numbers say how near "
            "the outputs stay to the source's on this data, not how often they are right."
        )
    return ""


def conditions(plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return what was tested and how, as (term, sentence)."""
    drops = [entry.measurement.drop for entry in plan.candidates if entry.measurement and entry.measurement.drop]
    budget = plan.budget
    limits = [
        f"latency at most {words.ms_text(budget.max_latency_ms)}" if budget.max_latency_ms else "",
        f"size at most {words.number(budget.max_size_mb)} MB" if budget.max_size_mb else "",
    ]
    return (
        ("Goal", ", ".join(["as fast as possible" if budget.goal == "latency" else "as small as possible"]
                           + [limit for limit in limits if limit])),
        ("Data", plan.data),
        ("Metric", f"{plan.metric}; a drop of at most {_with_unit(plan.metric, budget.max_drop)} is allowed"),
        ("Items that decided", f"{plan.n_decision:,}"),
        ("Items that calibrated", f"{plan.n_calibration:,}; none of them decided" if plan.n_calibration else "none"),
        ("Confidence", _confidence(plan, drops)),
        ("Test", "; ".join(sorted({drop.method for drop in drops})) or "no candidate came to the quality test"),
        ("Seed", str(plan.seed)),
    )  # fmt: skip


def _confidence(plan: Plan, drops: Sequence[DropTest]) -> str:
    level = words.percent(plan.budget.confidence)
    if not drops:
        return level
    strictest = words.percent(max(drop.confidence for drop in drops))
    return (
        f"{level} that no candidate is accepted wrongly, one-sided: {len(drops)} tested, and to correct for those that "
        f"were planned, single bounds are taken at up to {strictest}"
    )


def _size_card(before: Measurement, after: Measurement) -> Card:
    sizes = before.size_bytes, after.size_bytes
    return Card("Size", words.bytes_text(sizes[0]), words.bytes_text(sizes[1]), words.smaller(*sizes))


def _latency_card(before: Measurement, after: Measurement) -> Card:
    times = [words.ms_text(entry.latency.median_ms if entry.latency else None) for entry in (before, after)]
    ratio = after.ratio
    if ratio is None:
        return Card("Latency", times[0], times[1], "")
    detail = f"{words.percent(ratio.confidence)} interval {words.speed_interval(ratio)}, {ratio.n_pairs} pairs"
    return Card("Latency", times[0], times[1], words.speed_words(ratio), detail)


def _quality_card(plan: Plan, before: Measurement, after: Measurement) -> Card:
    values = [words.quality_text(entry.quality, 2) for entry in (before, after)]
    change = _change(plan, after)
    detail = ""
    if after.quality:
        detail = f"{words.percent(after.quality.confidence)} interval {words.quality_interval(after.quality)}"
    return Card(words.title(plan.metric), values[0], values[1], change, detail)


def _memory_card(before: Measurement, after: Measurement) -> Card:
    peaks = before.peak_memory_bytes, after.peak_memory_bytes
    change = words.smaller(peaks[0], peaks[1]) if peaks[0] and peaks[1] else ""
    return Card("Peak memory", words.bytes_text(peaks[0]), words.bytes_text(peaks[1]), change)


def _quality_words(plan: Plan, before: Measurement, after: Measurement) -> str:
    values = [words.quality_text(entry.quality) for entry in (before, after)]
    change = _change(plan, after)
    if after.quality is None:
        return change
    if before.quality is None:
        values = [values[1]]
    return f"{plan.metric} {' → '.join(values)}" + (f" ({change})" if change else "")


def _change(plan: Plan, after: Measurement) -> str:
    """Say what the change cost: the bound of its drop or, of a lossless candidate, how near its outputs are."""
    if after.drop is not None:
        level = words.percent(plan.budget.confidence)
        if after.drop.upper <= 0:
            return f"no drop at {level} confidence"
        return f"drop at most {_with_unit(plan.metric, after.drop.upper)} at {level} confidence"
    if after.agreement is not None and after.agreement.agrees:
        return f"same outputs up to rounding, largest difference {words.number(after.agreement.max_abs, 2)}"
    return ""


def _with_unit(metric: str, drop: float) -> str:
    return f"{words.bound_text(metric, drop)} {words.unit(metric)}".rstrip()
