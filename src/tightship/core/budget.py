"""What the user allows, and what to make as small as possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tightship.errors import UsageError

__all__ = ["Budget", "Goal"]

Goal = Literal["latency", "size"]


@dataclass(frozen=True)
class Budget:
    """The largest drop of the metric (in its own units) with the confidence it is to be shown at, and the limits.

    `max_latency_ms` and `max_size_mb` (10^6 bytes) are None where there is no limit. Without a latency limit nothing
    slower than the source is taken, whatever the goal.
    """

    max_drop: float = 0.01
    confidence: float = 0.95
    goal: Goal = "latency"
    max_latency_ms: float | None = None
    max_size_mb: float | None = None

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise UsageError(f"max drop must be zero or more, found {self.max_drop}")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"confidence must be at least 0.5 and below 1, found {self.confidence}")
        for name, limit in (("latency", self.max_latency_ms), ("size", self.max_size_mb)):
            if limit is not None and limit <= 0:
                raise UsageError(f"the {name} limit must be above zero, found {limit}")
