"""The verdicts. Pure functions of what was measured: no model is touched here."""

from __future__ import annotations

from collections.abc import Sequence

from tightship.core.budget import Budget
from tightship.core.measurement import Agreement, DropTest, Measurement, Ratio
from tightship.core.plan import Candidate, Status

__all__ = ["not_worth_it", "pareto_front", "quality_verdict", "rank", "too_different"]

ACCEPTED_STATUSES = ("baseline", "accepted", "chosen")


def not_worth_it(measured: Measurement, source: Measurement, budget: Budget) -> str | None:
    """Return why a candidate is refused before its quality is looked at, or None where it may go on.

    `measured` holds size, latency and the ratio to the source.
    """
    return _over_limits(measured, budget) or _no_gain(measured, source, budget)


def too_different(agreement: Agreement) -> str:
    """Say why a candidate that should compute the same as its source does not."""
    cause = agreement.cause or f"output {agreement.output!r} is off by {agreement.max_abs:.3g}"
    return f"should compute the same as the source but does not: {cause}"


def quality_verdict(test: DropTest) -> tuple[Status, str]:
    """Return the status (`accepted`, `refused`, `undecided`) and its reason."""
    bound = f"drop {test.drop:.4f}, at most {test.upper:.4f} at {test.confidence:.0%} confidence"
    if test.passed:
        return "accepted", f"{bound}; {test.allowed:g} is allowed"
    if test.n_needed is not None:
        return "undecided", f"not enough data: {test.n_needed} items needed, {test.n_items} are there ({bound})"
    return "refused", f"quality: {bound}, above the {test.allowed:g} allowed"


def rank(candidates: Sequence[Candidate], budget: Budget) -> list[Candidate]:
    """Sort measured candidates, best for the goal first; ties in size go to the faster, in latency to the smaller."""

    def by_goal(candidate: Candidate) -> tuple[float, float]:
        size, ratio = _size_and_ratio(candidate)
        return (ratio, size) if budget.goal == "latency" else (size, ratio)

    return sorted((entry for entry in candidates if entry.measurement is not None), key=by_goal)


def pareto_front(candidates: Sequence[Candidate]) -> frozenset[str]:
    """Return the names of the usable candidates that no other one beats in both size and time."""
    usable = [entry for entry in candidates if entry.status in ACCEPTED_STATUSES and entry.measurement is not None]
    points = {entry.name: _size_and_ratio(entry) for entry in usable}
    return frozenset(
        name for name, point in points.items() if not any(_dominates(other, point) for other in points.values())
    )


def _over_limits(measured: Measurement, budget: Budget) -> str | None:
    size_mb = measured.size_bytes / 1e6
    if budget.max_size_mb is not None and size_mb > budget.max_size_mb:
        return f"larger than the limit: {size_mb:.2f} MB, {budget.max_size_mb:g} MB allowed"
    latency = measured.latency
    if budget.max_latency_ms is not None and latency is not None and latency.median_ms > budget.max_latency_ms:
        return f"slower than the limit: {latency.median_ms:.3g} ms, {budget.max_latency_ms:g} ms allowed"
    return None


def _no_gain(measured: Measurement, source: Measurement, budget: Budget) -> str | None:
    ratio = measured.ratio
    if budget.goal == "latency":
        if ratio is not None and ratio.slower:
            return f"slower than the source: {_times(ratio)}"
        if ratio is not None and not ratio.faster:
            return f"not faster by more than the noise: {_times(ratio)}"
        return None
    if measured.size_bytes >= source.size_bytes:
        return f"not smaller than the source: {measured.size_bytes:,} bytes, the source has {source.size_bytes:,}"
    if budget.max_latency_ms is None and ratio is not None and ratio.slower:
        return f"slower than the source: {_times(ratio)}; --max-latency-ms would allow it"
    return None


def _times(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} of its time ({ratio.low:.2f} to {ratio.high:.2f})"


def _size_and_ratio(candidate: Candidate) -> tuple[float, float]:
    measured = candidate.measurement
    if measured is None:
        return float("inf"), float("inf")
    return float(measured.size_bytes), measured.ratio.median if measured.ratio else 1.0


def _dominates(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first != second and all(mine <= theirs for mine, theirs in zip(first, second, strict=True))
