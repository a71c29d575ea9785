"""The outcome of a search: every candidate tried, what was measured of it, and why it was taken or refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from tightship.core.budget import Budget
from tightship.core.measurement import Machine, Measurement
from tightship.core.model import Step
from tightship.core.target import Target
from tightship.errors import InvalidModel

__all__ = ["SOURCE", "Candidate", "Plan", "Sensitivity", "Status"]

PLAN_VERSION = 1
SOURCE = "source"
"""Name of the candidate that is the model as it was given."""

Status = Literal["baseline", "chosen", "accepted", "refused", "undecided", "failed"]


@dataclass(frozen=True)
class Candidate:
    """One way to run the model: its passes and target, what was measured, and the verdict with its reason.

    `undecided` means that the data does not suffice to say; `failed` that a pass or an engine raised.
    """

    name: str
    steps: tuple[Step, ...]
    target: Target
    status: Status
    reason: str
    measurement: Measurement | None = None
    on_front: bool = False


@dataclass(frozen=True)
class Sensitivity:
    """What quantizing one operator alone costs: signal-to-noise ratio in dB of the model's output (lower is worse)."""

    operator: str
    op_type: str
    sqnr_db: float


@dataclass(frozen=True)
class Plan:
    """What `optimize` returns. `chosen` is the name of the candidate to run; `source` if nothing was better; empty
    after a dry run. `generated` says that no person supplied the data.

    `output` is the path of the model that was written (None for a dry run), `notes` are findings for the reader,
    `command` runs it again.
    """

    source: str
    source_digest: str
    data: str
    metric: str
    budget: Budget
    seed: int
    n_calibration: int
    n_decision: int
    candidates: tuple[Candidate, ...]
    chosen: str
    machine: Machine
    sensitivity: tuple[Sensitivity, ...] = ()
    notes: tuple[str, ...] = ()
    command: str = ""
    output: str | None = None
    generated: bool = False
    version: int = field(default=PLAN_VERSION)

    @property
    def baseline(self) -> Candidate:
        """The source as it was given."""
        return self._named(SOURCE)

    @property
    def best(self) -> Candidate:
        """The chosen candidate."""
        return self._named(self.chosen)

    @property
    def front(self) -> tuple[Candidate, ...]:
        """Accepted candidates that no other accepted one beats in both size and latency."""
        return tuple(entry for entry in self.candidates if entry.on_front)

    def _named(self, name: str) -> Candidate:
        for entry in self.candidates:
            if entry.name == name:
                return entry
        raise LookupError(f"no candidate is called {name!r}; the plan of a dry run has neither source nor choice")

    def to_json(self) -> str:
        """Write the plan as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote. Raises `InvalidModel` where it is no plan of this version."""
        try:
            plan = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise InvalidModel(f"not a plan: {error}") from error
        if plan.version != PLAN_VERSION:
            raise InvalidModel(f"a plan of version {plan.version}; this tightship reads version {PLAN_VERSION}")
        return plan
