"""Rollouts from start to end. There is no leader: whichever worker looks first takes the next step, in one transaction.

Between two transactions nothing is halfway: at every moment the state says which version is stable, and that one is
loaded wherever it answers. A kill at any moment leaves the step before or the step after.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tightship.errors import StateError
from tightship.serve.deaths import MAX_DEATHS, told
from tightship.serve.failures import BadRequest, Conflict
from tightship.serve.packages import Stored
from tightship.serve.rollout.judge import ROLL_BACK, STEP, Situation, Verdict, evidence_of, judge
from tightship.serve.rollout.records import (
    ABORTED,
    PREPARING,
    PROMOTED,
    ROLLED_BACK,
    RUNNING,
    Records,
    Rollout,
)
from tightship.serve.rollout.strategies import ROLLBACK, SWITCH, Plan
from tightship.serve.routing import Routes
from tightship.serve.state import Change, State
from tightship.serve.workers import Workers, problem_of

__all__ = ["Rollouts", "situation_of"]

SERVER = "server"
_POLL_S = 0.02


class _Overtaken(Exception):
    """Another worker took this step."""


@dataclass(frozen=True)
class Rollouts:
    """The verbs, on a state and its workers. Those that wait for workers block: not for an event loop's thread."""

    state: State
    workers: Workers

    def start(self, model: str, stored: Stored, plan: Plan, who: str, why: str = "") -> Rollout:
        """Begin a rollout: the version is wanted, and tried by the plan's steps once every worker has it.

        Raises `NoSuchModel`, and `Conflict` where the model is not served, has a rollout, or answers with these bytes.
        """
        with self.state.change(who) as change:
            known = change.desired().find(model)
            if not known.served:
                raise Conflict(f"{model} is unloaded; load it before a new version is tried beside it")
            self._check_idle(change, model)
            new = change.adopt(model, stored)
            if new == known.routes.stable:
                raise Conflict(f"these bytes are version {new} of {model}, which answers already")
            return self._begin(change, model, known.routes.stable, new, plan, why or stored.source)

    def switch(self, model: str, stored: Stored, who: str, timeout_s: float) -> str:
        """Let a new version answer as soon as every worker has it; return it. What answers already stays.

        Raises what `start` raises, and `BadRequest` with the reason where a worker cannot load it.
        """
        known = self.state.desired().find(model)
        current = known.find(known.routes.stable)
        if current is not None and current.digest == stored.digest:
            return current.version
        ended = self._wait_for_end(self.start(model, stored, SWITCH, who), timeout_s)
        if ended.state != PROMOTED:
            raise BadRequest(
                f"version {ended.new} of {model} cannot be served: {ended.reason}; all is as it was before"
            )
        return ended.new

    def promote(self, model: str, who: str, why: str = "") -> Rollout:
        """End a rollout now: the new version answers all. Raises `Conflict` where none runs, or it is still loaded."""
        with self.state.change(who) as change:
            rollout = self._running(change, model)
            if rollout.state == PREPARING:
                raise Conflict(f"version {rollout.new} of {model} is not loaded everywhere yet; ask again soon")
            _promote(change, rollout, why or "by hand")
        return self._followed(change, rollout)

    def abort(self, model: str, who: str, why: str = "") -> Rollout:
        """End a rollout now: the old version answers all. Raises `Conflict` where none runs."""
        with self.state.change(who) as change:
            rollout = self._running(change, model)
            _take_back(change, rollout, ABORTED, why or "by hand")
        return self._followed(change, rollout)

    def rollback(self, model: str, who: str, why: str = "", timeout_s: float = 120.0) -> Rollout:
        """Go back: a running rollout is ended; where none runs, the version before the stable one answers again.

        Raises `Conflict` where there is none before it, and `BadRequest` where it cannot be loaded any more.
        """
        with self.state.change(who) as change:
            running = Records(change.connection).running(model)
            if running:
                _take_back(change, running[0], ROLLED_BACK, why or "by hand")
            else:
                rollout = self._begin_back(change, model, why or "by hand")
        if running:
            return self._followed(change, running[0])
        ended = self._wait_for_end(rollout, timeout_s)
        if ended.state != PROMOTED:
            raise BadRequest(f"{model} cannot go back to version {ended.new}: {ended.reason}")
        return ended

    def drop(self, change: Change, model: str, reason: str) -> None:
        """Inside a change, end a rollout that runs, because something else happens to the model."""
        for rollout in Records(change.connection).running(model):
            _take_back(change, rollout, ABORTED, reason)

    def record_switch(self, change: Change, model: str, old: str, new: str) -> None:
        """Inside a change that lets another version answer at once, write it down as what one can go back from."""
        records = Records(change.connection)
        rollout = records.find(records.begin(model, old, new, SWITCH, change.who))
        assert rollout is not None
        records.end(rollout, PROMOTED, "by a new start of the server")

    def step(self) -> None:
        """Take the steps that are due, of all rollouts. Called now and then by every worker."""
        with self.state.database.reading() as connection:
            records = Records(connection)
            running, stale = records.running(), records.to_unload(time.time())
        for rollout in running:
            self._advance(rollout)
        for rollout in stale:
            with suppress(_Overtaken), self.state.change(SERVER) as change:
                _unload_old(change, rollout)

    def verdict(self, rollout: Rollout) -> Verdict:
        """Say what comes next of a rollout that has not ended, and why."""
        if rollout.deaths >= MAX_DEATHS:
            return Verdict(ROLL_BACK, told(rollout.new, rollout.deaths, rollout.deaths_loading))
        if rollout.state == RUNNING:
            with self.state.database.reading() as connection:
                at = situation_of(rollout, Records(connection))
            return judge(rollout.plan, at, evidence_of(rollout.plan, at))
        reports = self.workers.living()
        problem = problem_of(reports, rollout.model, rollout.new)
        if problem:
            return Verdict(ROLL_BACK, f"version {rollout.new} could not be loaded: {problem}")
        waiting = [report.id for report in reports if (rollout.model, rollout.new) not in report.loaded]
        if waiting or not reports:
            return Verdict("wait", f"version {rollout.new} is being loaded by {len(waiting)} of {len(reports)} workers")
        return Verdict(STEP, "loaded by every worker")

    def _advance(self, rollout: Rollout) -> None:
        verdict = self.verdict(rollout)
        if verdict.decision not in (STEP, ROLL_BACK):
            return
        with suppress(_Overtaken), self.state.change(SERVER) as change:
            now = Records(change.connection).find(rollout.id)
            if now is None or (now.state, now.step) != (rollout.state, rollout.step):
                raise _Overtaken
            if verdict.decision == ROLL_BACK:
                _take_back(change, rollout, ROLLED_BACK, verdict.reason)
                return
            following = 0 if rollout.state == PREPARING else rollout.step + 1
            if following < len(rollout.plan.steps):
                _enter(change, rollout, following, verdict.reason)
            else:
                _promote(change, rollout, verdict.reason)

    def _begin(self, change: Change, model: str, old: str, new: str, plan: Plan, why: str) -> Rollout:
        records = Records(change.connection)
        number = records.begin(model, old, new, plan, change.who)
        change.forgive(model, new)
        change.note(f"rollout {plan.strategy}", model, new, why)
        rollout = records.find(number)
        assert rollout is not None
        return rollout

    def _begin_back(self, change: Change, model: str, why: str) -> Rollout:
        known = change.desired().find(model)
        last = Records(change.connection).brought(model, known.routes.stable)
        before = None if last is None else known.find(last.old)
        if before is None or not Path(before.path).exists():
            raise Conflict(f"{model} has no version before {known.routes.stable} to go back to")
        change.want(model, before.version, True)
        return self._begin(change, model, known.routes.stable, before.version, ROLLBACK, why)

    def _check_idle(self, change: Change, model: str) -> None:
        running = Records(change.connection).running(model)
        if running:
            raise Conflict(
                f"rollout {running[0].id} of {model} to version {running[0].new} runs; promote or abort it first"
            )

    def _running(self, change: Change, model: str) -> Rollout:
        change.desired().find(model)
        running = Records(change.connection).running(model)
        if not running:
            raise Conflict(f"no rollout of {model} runs")
        return running[0]

    def _followed(self, change: Change, rollout: Rollout) -> Rollout:
        self.workers.wait_until_applied(change.revision)
        return self.find(rollout.id) or rollout

    def find(self, number: int) -> Rollout | None:
        """Return a rollout by its number, or None."""
        with self.state.database.reading() as connection:
            return Records(connection).find(number)

    def _wait_for_end(self, rollout: Rollout, timeout_s: float) -> Rollout:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.step()
            found = self.find(rollout.id)
            if found is not None and found.ended:
                self.workers.wait_until_applied(self.state.revision())
                return found
            time.sleep(_POLL_S)
        raise StateError(
            f"version {rollout.new} of {rollout.model} was not loaded by every worker within {timeout_s:g} s; it "
            "answers as soon as it is, unless you abort it"
        )


def situation_of(rollout: Rollout, records: Records) -> Situation:
    """Return where a rollout stands, with all that was observed of it."""
    now = time.time()
    return Situation(
        rollout.old,
        rollout.new,
        rollout.step,
        now - rollout.step_at,
        now - rollout.started_at,
        records.counts(rollout),
    )


def _enter(change: Change, rollout: Rollout, number: int, reason: str) -> None:
    plan, step = rollout.plan, rollout.plan.steps[number]
    routes = Routes(rollout.old, rollout.new, step.share, step.shadow, by_key=plan.by_key)
    change.route(rollout.model, routes, plan.by_worker)
    Records(change.connection).enter(rollout, number)
    what = f"{step.share:.4g} of {'workers' if plan.by_worker else 'requests'}, {step.shadow:.4g} copied"
    change.note("rollout step", rollout.model, rollout.new, f"step {number + 1}: {what}; {reason}")


def _promote(change: Change, rollout: Rollout, reason: str) -> None:
    change.route(rollout.model, Routes(rollout.new))
    Records(change.connection).end(rollout, PROMOTED, reason, time.time() + rollout.plan.keep_old_s)
    change.note(PROMOTED, rollout.model, rollout.new, reason)


def _take_back(change: Change, rollout: Rollout, state: str, reason: str) -> None:
    change.route(rollout.model, Routes(rollout.old))
    change.want(rollout.model, rollout.new, False)
    Records(change.connection).end(rollout, state, reason)
    change.note(state, rollout.model, rollout.new, reason)


def _unload_old(change: Change, rollout: Rollout) -> None:
    """The version before a promotion has been kept long enough, unless it came back since."""
    records = Records(change.connection)
    if not records.forget_unload(rollout):
        raise _Overtaken
    model = change.desired().models.get(rollout.model)
    needed = {one.new for one in records.running(rollout.model)} | {one.old for one in records.running(rollout.model)}
    if model is not None and rollout.old not in needed | {model.routes.stable}:
        change.want(rollout.model, rollout.old, False)
        change.note("unload", rollout.model, rollout.old, f"{rollout.plan.keep_old_s:g} s after version {rollout.new}")
