"""What the drawings share: the figure, the shape of each verdict, and rows with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tightship.core.plan import Status
from tightship.report import words
from tightship.report.plots.svg import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MARKERS", "MARKER_SIZES", "name_rows", "new_figure", "short"]

MARKERS: dict[Status, str] = {
    "baseline": "s",
    "chosen": "*",
    "accepted": "o",
    "refused": "X",
    "undecided": "D",
    "failed": "P",
}
"""Shape of each verdict, so that it can be told without its colour."""

MARKER_SIZES: dict[Status, float] = {
    "baseline": 7,
    "chosen": 14,
    "accepted": 7.5,
    "refused": 7.5,
    "undecided": 6.5,
    "failed": 7.5,
}
"""Diameters in points that look alike."""

WIDTH_INCHES = 11.0
NAME_LENGTH = 52


def new_figure(height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure of the page's width at one pixel to the point, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=72, layout="constrained")
    return figure, figure.add_subplot()


def short(name: str, length: int = NAME_LENGTH) -> str:
    """Make a foreign name fit beside a plot."""
    return words.shorten(printable(name), length)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a plot, the first at the top, and take away what only a vertical scale needs."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
