"""What one worker has seen of the versions in a rollout: outcomes, latencies, disagreements, as counts.

Counting costs about a microsecond: numbers in lists, nothing shared, nothing written. `take` gives what is new since
the last call, for the state to add up over workers. Only models with a rollout are watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tightship.core.session import Arrays

__all__ = [
    "DISAGREEMENT",
    "LATENCY",
    "LATENCY_LEVELS",
    "LEVELS",
    "OUTCOME",
    "Increment",
    "Observations",
    "latency_level",
    "level_seconds",
]

OUTCOME = "outcome"
LATENCY = "latency"
DISAGREEMENT = "disagreement"

LEVELS = 1000
"""A disagreement between 0 and 1 is counted in this many steps."""

_PER_OCTAVE = 8
LATENCY_LEVELS = 34 * _PER_OCTAVE  # one microsecond to more than four hours

Measure = Callable[[Arrays, Arrays], float]


def latency_level(seconds: float) -> int:
    """Return the number of a latency: 8 per doubling, so that neighbours differ by 9 %; 0 is a microsecond or less."""
    if seconds <= 1e-6:
        return 0
    return min(int(_PER_OCTAVE * math.log2(seconds * 1e6)), LATENCY_LEVELS - 1)


def level_seconds(level: int) -> float:
    """Return the smallest latency of a level."""
    return float(2 ** (level / _PER_OCTAVE) * 1e-6)


@dataclass(frozen=True)
class Increment:
    """How often something was seen since it was last asked for. `kind` is OUTCOME, LATENCY or DISAGREEMENT."""

    rollout: int
    step: int
    version: str
    kind: str
    level: int
    count: int


@dataclass
class _Tally:
    outcome: list[int] = field(default_factory=lambda: [0, 0])
    latency: list[int] = field(default_factory=lambda: [0] * LATENCY_LEVELS)
    disagreement: list[int] = field(default_factory=lambda: [0] * (LEVELS + 1))


class _Watched:
    """One step of one rollout of a model."""

    def __init__(self, key: tuple[int, int], versions: tuple[str, str], measure: Measure, time_copies: bool) -> None:
        self.key = key
        self.time_copies = time_copies
        self.measure = measure
        self.tallies = {version: _Tally() for version in versions}
        self._taken = {version: _Tally() for version in versions}

    def take(self) -> Iterator[Increment]:
        for version, tally in self.tallies.items():
            taken = self._taken[version]
            for kind in (OUTCOME, LATENCY, DISAGREEMENT):
                now = list(getattr(tally, kind))  # a copy in one step, while others go on counting
                for level, (new, old) in enumerate(zip(now, getattr(taken, kind), strict=True)):
                    if new != old:
                        yield Increment(*self.key, version, kind, level, new - old)
                setattr(taken, kind, now)


class Observations:
    """What a worker has seen of its models that are in a rollout."""

    def __init__(self) -> None:
        self._watched: dict[str, _Watched] = {}
        self._ended: list[_Watched] = []

    def watch(
        self, model: str, key: tuple[int, int], versions: tuple[str, str], measure: Measure, time_copies: bool
    ) -> None:
        """Count what the old and the new version do; `key` are rollout and step.

        `measure` says how far two answers differ. `time_copies`: also the latency of copies counts, since the new
        version answers nothing else.
        """
        watched = self._watched.get(model)
        if watched is None or watched.key != key:
            self.stop(model)
            self._watched[model] = _Watched(key, versions, measure, time_copies)

    def stop(self, model: str) -> None:
        """Count no more for a model. What was counted is still to be taken."""
        watched = self._watched.pop(model, None)
        if watched is not None:
            self._ended.append(watched)

    def watching(self, model: str) -> bool:
        """Whether anything is counted for a model."""
        return model in self._watched

    def add(self, model: str, version: str, seconds: float, failed: bool, shadow: bool = False) -> None:
        """Count an answer and how long it took, or a failure that was the model's or the server's, not the caller's.

        `shadow` says that it was a copy, for whose answer nobody waits.
        """
        watched = self._watched.get(model)
        if watched is None:
            return
        tally = watched.tallies.get(version)
        if tally is None:
            return
        tally.outcome[failed] += 1
        if not failed and (watched.time_copies or not shadow):
            tally.latency[latency_level(seconds)] += 1

    def compare(self, model: str, answered: str, shadow: str, answer: Arrays, copy: Arrays) -> None:
        """Count how far two answers to one request differ; answers that cannot be compared differ wholly."""
        watched = self._watched.get(model)
        if watched is None or not {answered, shadow} <= watched.tallies.keys():
            return
        try:
            difference = watched.measure(answer, copy)
        except Exception:  # whatever the answers are, a comparison must not harm who serves
            difference = 1.0
        level = math.ceil(min(max(difference, 0.0), 1.0) * LEVELS) if difference == difference else LEVELS
        newer = next(reversed(watched.tallies))
        watched.tallies[newer].disagreement[level] += 1

    def take(self) -> list[Increment]:
        """Return what was counted since the last call; called by one thread, while others count."""
        ended, self._ended = self._ended, []
        return [increment for watched in (*ended, *self._watched.copy().values()) for increment in watched.take()]
