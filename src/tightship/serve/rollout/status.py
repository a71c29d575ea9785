"""A rollout as people and programs are told of it, and what starts one: the values of `/admin/rollouts`."""

from __future__ import annotations

import msgspec

from tightship.serve.rollout.controller import Rollouts, situation_of
from tightship.serve.rollout.judge import Evidence, evidence_of
from tightship.serve.rollout.records import RUNNING, Records, Rollout
from tightship.serve.rollout.strategies import Limits, Plan, make_plan

__all__ = ["Order", "Reason", "Status", "history", "status_of"]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rollout is to be: `path` is a package on the server's machine, empty where it comes as the body.

    `steps` are the shares of the steps in per cent; the other fields are those of `make_plan` and of `Limits`.
    """

    model: str
    path: str = ""
    strategy: str = "canary"
    steps: tuple[float, ...] = ()
    every_s: float = 600.0
    shadow: float | None = None
    errors: float = 0.01
    latency_ratio: float = 1.5
    disagreement: float = 0.05
    measure: str = "auto"
    confidence: float = 0.95
    min_requests: int = 100
    by_key: bool = False
    keep_old_s: float = 600.0
    give_up_s: float = 86_400.0
    why: str = ""

    def plan(self) -> Plan:
        """Return the plan that this describes. Raises `UsageError`."""
        limits = Limits(
            self.errors, self.latency_ratio, self.disagreement, self.measure, self.confidence, self.min_requests
        )
        shares = [step / 100 for step in self.steps]
        return make_plan(
            self.strategy, shares, self.every_s, self.shadow, limits, self.by_key, self.keep_old_s, self.give_up_s
        )


class Reason(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why somebody ends a rollout."""

    why: str = ""


class Status(msgspec.Struct, frozen=True):
    """A rollout, what was seen in its last step, and what comes next.

    `share` is that of the new version in this step; `verdict` is wait, step or roll back, empty after the end.
    """

    rollout: Rollout
    share: float = 0.0
    n_steps: int = 0
    verdict: str = ""
    reason: str = ""
    evidence: Evidence | None = None


def status_of(rollouts: Rollouts, rollout: Rollout) -> Status:
    """Say how a rollout stands."""
    steps = rollout.plan.steps
    evidence = None
    if steps and (rollout.ended or rollout.state == RUNNING):
        with rollouts.state.database.reading() as connection:
            evidence = evidence_of(rollout.plan, situation_of(rollout, Records(connection)))
    if rollout.ended:
        return Status(rollout, n_steps=len(steps), reason=rollout.reason, evidence=evidence)
    share = steps[rollout.step].share if rollout.state == RUNNING else 0.0
    verdict = rollouts.verdict(rollout)
    return Status(rollout, share, len(steps), verdict.decision, verdict.reason, evidence)


def history(rollouts: Rollouts, model: str, limit: int) -> tuple[Rollout, ...]:
    """Return rollouts, of one model or of all, the newest first."""
    with rollouts.state.database.reading() as connection:
        return tuple(Records(connection).history(model, limit))
