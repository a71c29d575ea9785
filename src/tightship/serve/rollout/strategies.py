"""How a new version goes live: the steps it takes, how long each, and what it may not do meanwhile.

canary       a growing share of requests
blue-green   watched beside the old version first, then all requests at once; the old one stays ready to come back
shadow       no answer of its own until it is promoted: all requests are copied to it and compared
rolling      one worker process after the other
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tightship.errors import UsageError, nearest
from tightship.serve.rollout.disagreement import AUTO, MEASURES

__all__ = ["ROLLBACK", "STRATEGIES", "SWITCH", "Limits", "Plan", "Step", "make_plan"]

STRATEGIES = ("canary", "blue-green", "shadow", "rolling")
CANARY_SHARES = (0.01, 0.05, 0.25, 1.0)
ROLLING_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Step:
    """The share of requests (or of workers) that the new version answers, and the share that is copied to compare."""

    share: float
    shadow: float


@dataclass(frozen=True)
class Limits:
    """What a new version may do, compared with the old one.

    `errors` is how much more of its answers may fail, `latency_ratio` how many times as long its 95th percentile may
    be, `disagreement` how far its answers may differ on average, as `measure` counts it. A version within its limits is
    taken back with a probability of at most 1 - `confidence` over the whole rollout, however often it is looked at. A
    step ends no sooner than the new version has seen `min_requests`.
    """

    errors: float = 0.01
    latency_ratio: float = 1.5
    disagreement: float = 0.05
    measure: str = AUTO
    confidence: float = 0.95
    min_requests: int = 100


@dataclass(frozen=True)
class Plan:
    """One rollout from its first step to its promotion.

    Each step lasts `every_s` or longer; a rollout whose last word is still open after `give_up_s` is taken back. The
    old version stays loaded for `keep_old_s` after the promotion. No steps: promoted as soon as every worker has it.
    """

    strategy: str
    steps: tuple[Step, ...] = ()
    every_s: float = 600.0
    limits: Limits = field(default_factory=Limits)
    by_worker: bool = False
    by_key: bool = False
    keep_old_s: float = 600.0
    give_up_s: float = 24 * 3600.0


SWITCH = Plan("switch")
ROLLBACK = Plan("rollback")


def make_plan(
    strategy: str,
    shares: Sequence[float] = (),
    every_s: float = 600.0,
    shadow: float | None = None,
    limits: Limits | None = None,
    by_key: bool = False,
    keep_old_s: float = 600.0,
    give_up_s: float = 24 * 3600.0,
) -> Plan:
    """Return the plan of a strategy. `shares` are those of a canary's or a rolling rollout's steps, ending with 1.

    `shadow` is the share of requests that is copied: by default a tenth, and with the strategy `shadow` all. With
    `by_key` callers stay with their version by their API key. Raises `UsageError`.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"there is no strategy {strategy!r}{nearest(strategy, STRATEGIES)}; {', '.join(STRATEGIES)}")
    limits = limits or Limits()
    if strategy == "shadow" and shadow == 0:
        raise UsageError("a shadow rollout lives from the requests that are copied; give it a share above 0")
    copied = (1.0 if strategy == "shadow" else 0.1) if shadow is None else shadow
    _check(shares, every_s, copied, limits, keep_old_s, give_up_s)
    steps = tuple(Step(share, copied) for share in _shares(strategy, tuple(shares)))
    return Plan(strategy, steps, every_s, limits, strategy == "rolling", by_key, keep_old_s, give_up_s)


def _shares(strategy: str, shares: tuple[float, ...]) -> tuple[float, ...]:
    if strategy == "canary":
        return shares or CANARY_SHARES
    if strategy == "rolling":
        return shares or ROLLING_SHARES
    if shares:
        raise UsageError(f"steps are for canary and rolling; a {strategy} rollout has its own")
    return (0.0, 1.0) if strategy == "blue-green" else (0.0,)


def _check(
    shares: Sequence[float], every_s: float, shadow: float, limits: Limits, keep_old_s: float, give_up_s: float
) -> None:
    grows = all(low < high for low, high in pairwise(shares))
    if shares and not (grows and shares[0] > 0 and shares[-1] == 1.0):
        raise UsageError(f"steps must grow and end with 100, e.g. 1,5,25,100; found {_percent(shares)}")
    if len(shares) > 100:
        raise UsageError(f"{len(shares)} steps; at most 100 are allowed")
    if limits.measure not in MEASURES:
        raise UsageError(f"there is no measure {limits.measure!r}{nearest(limits.measure, MEASURES)}")
    ranges = (
        ("every", every_s, 0.0, 30 * 86400.0),
        ("shadow", shadow, 0.0, 1.0),
        ("errors", limits.errors, 0.0, 1.0),
        ("latency ratio", limits.latency_ratio, 1.0, 1e6),
        ("disagreement", limits.disagreement, 0.0, 1.0),
        ("confidence", limits.confidence, 0.5, 0.999999),
        ("min requests", limits.min_requests, 0, 1e12),
        ("keep old", keep_old_s, 0.0, 365 * 86400.0),
        ("give up", give_up_s, every_s, 365 * 86400.0),
    )
    for name, value, low, high in ranges:
        if not low <= value <= high:
            raise UsageError(f"{name} must be from {low:g} to {high:g}, found {value:g}")


def _percent(shares: Sequence[float]) -> str:
    return ",".join(f"{100 * share:g}" for share in shares)
