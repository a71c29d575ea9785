"""Where labels go in a crowded plot: beside their points, over nothing else, tied to them by a line where far away.

Greedy: labels are placed in the order they are given, each at the nearest free place on rings around its point; a text
that finds none gives way to its shorter form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Box", "Label", "Placed", "boxes_along", "place"]

RINGS = (6.0, 11.0, 17.0, 25.0, 36.0, 50.0, 70.0, 95.0)
"""Distances from point to label in points of type."""
N_ANGLES = 16


@dataclass(frozen=True)
class Box:
    """A rectangle with its corners at (left, bottom) and (right, top)."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two have an area in common."""
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> Box:
        """The square around a point."""
        return cls(x - radius, y - radius, x + radius, y + radius)


@dataclass(frozen=True)
class Label:
    """A point and the forms its label may take, longest first, each as (text, width, height)."""

    x: float
    y: float
    forms: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True)
class Placed:
    """A text, the box it fills, and whether it is far enough from its point to need a line to it."""

    text: str
    box: Box
    tied: bool


def place(labels: Sequence[Label], frame: Box, fixed: Sequence[Box], lines: Sequence[Box]) -> list[Placed]:
    """Return a place for each label inside `frame`, off `fixed` (markers), and off `lines` where that is possible."""
    taken = list(fixed)
    result = []
    for label in labels:
        placed = _best(label, frame, taken, lines)
        taken.append(placed.box)
        result.append(placed)
    return result


def boxes_along(points: Sequence[tuple[float, float]], step: float = 4.0) -> list[Box]:
    """Cover a line through `points` with small boxes."""
    covered = []
    for (x0, y0), (x1, y1) in pairwise(points):
        n_steps = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / step))
        for index in range(n_steps + 1):
            share = index / n_steps
            covered.append(Box.around(x0 + share * (x1 - x0), y0 + share * (y1 - y0), step / 2))
    return covered


def _best(label: Label, frame: Box, taken: Sequence[Box], lines: Sequence[Box]) -> Placed:
    for obstacles in ((*taken, *lines), taken):
        for text, width, height in label.forms:
            # A long text far from its point says less than a short one near it.
            rings = RINGS[:4] if len(label.forms) > 1 and text == label.forms[0][0] else RINGS
            for ring, box in _places(label, width, height, rings):
                if frame.holds(box) and not any(box.overlaps(other) for other in obstacles):
                    return Placed(text, box, ring > RINGS[1])
    text, width, height = label.forms[-1]
    return Placed(text, next(_places(label, width, height, RINGS[:1]))[1], False)


def _places(label: Label, width: float, height: float, rings: Sequence[float]) -> Iterator[tuple[float, Box]]:
    for ring in rings:
        for turn in range(N_ANGLES):
            # Right first, then above, below and left of the point, by turns away from it.
            angle = (turn + 1) // 2 * (1 if turn % 2 else -1) * 2 * math.pi / N_ANGLES
            along, up = math.cos(angle), math.sin(angle)
            centre_x = label.x + along * (ring + width / 2)
            centre_y = label.y + up * (ring + height / 2)
            half_width, half_height = width / 2, height / 2
            yield (
                ring,
                Box(centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height),
            )
