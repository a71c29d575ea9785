"""How rollouts and the journal are drawn on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tightship.serve.rollout.judge import Bounds, Evidence
from tightship.serve.rollout.status import Status
from tightship.serve.state import JournalEntry

__all__ = ["journal", "status", "table"]

COLOURS = {"promoted": "green", "rolled back": "red", "aborted": "yellow"}


def status(found: Status) -> RenderableType:
    """Draw one rollout: where it stands, what was seen of both versions, and what comes next."""
    rollout = found.rollout
    lines = [
        Text.assemble(
            f"{rollout.model}: version {rollout.old} -> {rollout.new}, {rollout.plan.strategy}, ", _state(found)
        )
    ]
    if rollout.state == "running":
        what = "workers" if rollout.plan.by_worker else "requests"
        lines.append(
            Text(f"step {rollout.step + 1} of {found.n_steps}: {found.share:.4g} of {what} go to {rollout.new}")
        )
    if found.reason:
        lines.append(Text(found.reason, style="bold" if rollout.ended else ""))
    if found.evidence is None:
        return Group(*lines)
    return Group(*lines, _evidence(found, found.evidence))


def table(found: Sequence[Status]) -> RenderableType:
    """Draw a line per rollout."""
    if not found:
        return Text("no rollout; `tightship rollout start MODEL PACKAGE` starts one")
    drawn = Table("id", "model", "versions", "strategy", "state", "by", "started", "why", box=None)
    for one in found:
        rollout = one.rollout
        versions = f"{rollout.old} -> {rollout.new}"
        drawn.add_row(
            str(rollout.id),
            Text(rollout.model),
            versions,
            rollout.plan.strategy,
            _state(one),
            Text(rollout.who),
            _moment(rollout.started_at),
            Text(one.reason),
        )
    return drawn


def journal(entries: Sequence[JournalEntry]) -> RenderableType:
    """Draw a line per entry."""
    drawn = Table("when", "who", "what", "model", "version", "why", box=None)
    for entry in entries:
        drawn.add_row(_moment(entry.at), *map(Text, (entry.who, entry.what, entry.model, entry.version, entry.why)))
    return drawn


def _state(found: Status) -> Text:
    return Text(found.rollout.state, style=COLOURS.get(found.rollout.state, "cyan"))


def _evidence(found: Status, seen: Evidence) -> Table:
    drawn = Table("", f"version {found.rollout.old}", f"version {found.rollout.new}", "allowed", box=None)
    limits = found.rollout.plan.limits
    drawn.add_row("answers", f"{seen.errors_old.seen:,}", f"{seen.answers:,}", "")
    drawn.add_row("errors", _share(seen.errors_old), _share(seen.errors_new), f"{limits.errors:.2%} more")
    drawn.add_row(
        "latency, p95", _latency(seen.latency_old), _latency(seen.latency_new), f"{limits.latency_ratio:g} times"
    )
    drawn.add_row("disagreement", "", _share(seen.disagreement), f"{limits.disagreement:.2%}")
    return drawn


def _share(bounds: Bounds) -> str:
    return f"{bounds.value:.2%} ({bounds.low:.2%} to {bounds.high:.2%})" if bounds.seen else "-"


def _latency(bounds: Bounds) -> str:
    return f"{bounds.value:.3g} ms" if bounds.seen else "-"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
