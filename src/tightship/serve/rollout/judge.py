"""What the observations of a rollout say: go on, wait, or take it back, and why.

Errors and latency are compared within a step, where both versions answer at the same time: over steps, a busy hour of
one could be held against a quiet hour of the other. Disagreement is about the same requests: it is added up over all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tightship.serve.observations import (
    DISAGREEMENT,
    LATENCY,
    LATENCY_LEVELS,
    LEVELS,
    OUTCOME,
    level_seconds,
)
from tightship.serve.rollout.sequential import Seen, log_capital, lower_bound, upper_bound
from tightship.serve.rollout.strategies import Limits, Plan

__all__ = [
    "ROLL_BACK",
    "STEP",
    "WAIT",
    "Bounds",
    "Counts",
    "Evidence",
    "Situation",
    "Verdict",
    "evidence_of",
    "judge",
]

WAIT, STEP, ROLL_BACK = "wait", "step", "roll back"

Counts = Mapping[tuple[int, str, str], Mapping[int, int]]
"""How often each level was seen, by step, version and kind."""

_SLOW = 0.05  # the share of requests beyond the 95th percentile
_KINDS = 3


@dataclass(frozen=True)
class Bounds:
    """A measured number and between what it is, at every moment at once with the rollout's confidence."""

    seen: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What was seen so far, for a reader and for the verdict. Latencies are 95th percentiles in milliseconds.

    `answers` are those of the new version that were counted in this step, copies included.
    """

    answers: int
    errors_new: Bounds
    errors_old: Bounds
    latency_new: Bounds
    latency_old: Bounds
    disagreement: Bounds


@dataclass(frozen=True)
class Verdict:
    """WAIT, STEP or ROLL_BACK, and why."""

    decision: str
    reason: str


@dataclass(frozen=True)
class Situation:
    """Where a rollout stands: its versions, step, how long it has been there and runs at all, and what was seen."""

    old: str
    new: str
    step: int
    step_s: float
    total_s: float
    counts: Counts = field(default_factory=dict)


def evidence_of(plan: Plan, at: Situation) -> Evidence:
    """Sum up what was seen, each number with the error that the plan's confidence leaves for it."""
    alpha = (1 - plan.limits.confidence) / _KINDS
    each = alpha / max(1, len(plan.steps)) / 2  # the two versions are bounded apart
    reference = _step_of(at, at.old, OUTCOME)
    outcome_new = _outcome(at.counts, at.step, at.new)
    return Evidence(
        outcome_new.total,
        _share(outcome_new, each),
        _share(_outcome(at.counts, reference, at.old), each),
        _slowest(at.counts.get((at.step, at.new, LATENCY), {}), each),
        _slowest(at.counts.get((_step_of(at, at.old, LATENCY), at.old, LATENCY), {}), each),
        _share(_disagreement(at), alpha),
    )


def judge(plan: Plan, at: Situation, evidence: Evidence) -> Verdict:
    """Decide what comes next. A breach counts at any time; a step ends when its time is over and enough was seen."""
    breach = _breach(plan.limits, at, evidence)
    if breach:
        return Verdict(ROLL_BACK, breach)
    missing = _missing(plan, at, evidence)
    if missing and at.total_s > plan.give_up_s:
        return Verdict(ROLL_BACK, f"undecided after {at.total_s:,.0f} s: {missing}")
    return Verdict(WAIT, missing) if missing else Verdict(STEP, _praise(plan.limits, evidence))


def _breach(limits: Limits, at: Situation, found: Evidence) -> str:
    sure = f"(certain to {100 * limits.confidence:.4g} %)"
    old, new, differ = found.errors_old, found.errors_new, found.disagreement
    if new.low > old.high + limits.errors:
        return (
            f"errors: {new.value:.2%} of {new.seen:,} answers of version {at.new} failed, {old.value:.2%} of "
            f"{old.seen:,} of version {at.old}; at most {limits.errors:.2%} more are allowed {sure}"
        )
    if differ.low > limits.disagreement + 1 / LEVELS:  # levels are rounded up
        return (
            f"disagreement: {differ.value:.2%} over {differ.seen:,} requests that versions {at.old} and {at.new} both "
            f"answered; at most {limits.disagreement:.2%} is allowed {sure}"
        )
    slow, quick = found.latency_new, found.latency_old
    if quick.seen and slow.low > limits.latency_ratio * quick.high:
        return (
            f"latency: the 95th percentile of version {at.new} is {slow.value:.3g} ms over {slow.seen:,} answers, that "
            f"of version {at.old} {quick.value:.3g} ms over {quick.seen:,}; at most {limits.latency_ratio:g} times is "
            f"allowed {sure}"
        )
    return ""


def _missing(plan: Plan, at: Situation, found: Evidence) -> str:
    step = plan.steps[at.step]
    if at.step_s < plan.every_s:
        return f"step {at.step + 1} of {len(plan.steps)} ends in {plan.every_s - at.step_s:,.0f} s at the earliest"
    who, seen = (at.new, found.answers) if step.share or step.shadow else (at.old, found.errors_old.seen)
    if seen < plan.limits.min_requests:
        return f"version {who} has seen {seen:,} of {plan.limits.min_requests:,} requests in this step"
    last = at.step == len(plan.steps) - 1
    if last and step.shadow > 0 and plan.limits.disagreement < 1 and found.disagreement.high > plan.limits.disagreement:
        return (
            f"disagreement is at most {found.disagreement.high:.2%} after {found.disagreement.seen:,} comparisons; "
            f"more are needed to show that it is at most {plan.limits.disagreement:.2%}"
        )
    return ""


def _praise(limits: Limits, found: Evidence) -> str:
    parts = [f"{found.errors_new.value:.2%} errors in {found.answers:,} answers"]
    if found.disagreement.seen:
        parts.append(f"disagreement {found.disagreement.value:.2%}, at most {found.disagreement.high:.2%}")
    if found.latency_new.seen and found.latency_old.seen:
        parts.append(f"latency {found.latency_new.value / found.latency_old.value:.2f} times")
    return ", ".join(parts)


def _step_of(at: Situation, version: str, kind: str) -> int:
    """The last step so far in which a version was seen: the old one is not, once all requests go to the new one."""
    return max(
        (step for step, name, what in at.counts if (name, what) == (version, kind) and step <= at.step), default=0
    )


def _outcome(counts: Counts, step: int, version: str) -> Seen:
    found = counts.get((step, version, OUTCOME), {})
    return Seen.of(found.get(1, 0), sum(found.values()))


def _disagreement(at: Situation) -> Seen:
    total: dict[int, int] = {}
    for (_, version, kind), levels in at.counts.items():
        if (version, kind) == (at.new, DISAGREEMENT):
            for level, count in levels.items():
                total[level] = total.get(level, 0) + count
    known = sorted({0, *total})
    return Seen(np.array(known) / LEVELS, np.array([total.get(level, 0) for level in known], np.float64))


def _share(seen: Seen, alpha: float) -> Bounds:
    return Bounds(seen.total, seen.mean, lower_bound(seen, alpha), upper_bound(seen, alpha))


def _slowest(levels: Mapping[int, int], alpha: float) -> Bounds:
    """The 95th percentile and its bounds.

    It lies above a level if surely more than 5 % do. That a level is chosen by the data costs nothing: of all levels
    above the true percentile, the nearest has the most observations beyond it (Howard and Ramdas, Bernoulli 2022).
    """
    total = sum(levels.values())
    low = value = 0.0
    high = level_seconds(LATENCY_LEVELS)
    beyond = total
    for level in sorted(levels):
        beyond -= levels[level]
        above = Seen.of(beyond, total)
        if log_capital(above, _SLOW) > -np.log(alpha):
            low = level_seconds(level + 1)
        if not value and beyond <= _SLOW * total:
            value = level_seconds(level) * 2 ** (1 / 16)
        if log_capital(above.reversed(), 1 - _SLOW) > -np.log(alpha):
            high = level_seconds(level + 1)
            break
    return Bounds(total, 1e3 * value, 1e3 * low, 1e3 * high)
