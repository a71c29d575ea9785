"""Each tested drop of quality with its upper confidence bound, against what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tightship.core.measurement import DropTest
from tightship.core.plan import Plan, Status
from tightship.report import words
from tightship.report.plots.canvas import MARKER_SIZES, MARKERS, name_rows, new_figure, short
from tightship.report.plots.svg import COLOURS, drawing, inline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["forest"]

N_ALLOWED_SHOWN = 6
"""The scale ends at this many allowed drops; what lies beyond is an arrow at the edge, its numbers beside it."""


@dataclass(frozen=True)
class _Row:
    number: int
    name: str
    status: Status
    drop: DropTest


def forest(plan: Plan) -> str:
    """Draw one row per candidate that came to the quality test."""
    rows = _rows(plan)
    if not rows:
        return ""
    factor = 100.0 if words.unit(plan.metric) else 1.0
    with drawing():
        figure, axes = new_figure(1.0 + 0.28 * len(rows))
        low, high = _limits([row.drop for row in rows])
        axes.set_xlim(low * factor, high * factor)
        for place, row in enumerate(rows):
            _draw(axes, place, row, factor, high)
            text = f"{words.drop_text(plan.metric, row.drop.drop)}  (≤ {words.bound_text(plan.metric, row.drop.upper)})"
            axes.annotate(text, (1.015, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
        _draw_allowed(
            axes, plan.metric, rows[0].drop.allowed * factor, words.drop_text(plan.metric, plan.budget.max_drop)
        )
        name_rows(axes, [f"{row.number}  {short(row.name)}" for row in rows])
        scale = f", {words.unit(plan.metric)}" if words.unit(plan.metric) else ""
        axes.set_xlabel(f"drop of {short(plan.metric)} and its upper bound{scale}")
        title = "Drop of quality with its upper confidence bound"
        return inline(figure, "forest", title, f"{len(rows)} candidates; the table holds the numbers.", {})


def _rows(plan: Plan) -> list[_Row]:
    return [
        _Row(number, entry.name, entry.status, entry.measurement.drop)
        for number, entry in enumerate(plan.candidates, start=1)
        if entry.measurement is not None and entry.measurement.drop is not None
    ]


def _draw(axes: Axes, place: int, row: _Row, factor: float, high: float) -> None:
    colour = COLOURS[row.status]
    inside = row.drop.upper <= high
    start, end = row.drop.drop * factor, min(row.drop.upper, high) * factor
    if start <= end:
        axes.plot([start, end], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        size = MARKER_SIZES[row.status] * 0.9
        edge = COLOURS["paper"]
        axes.plot([start], [place], MARKERS[row.status], color=colour, ms=size, mec=edge, zorder=5, clip_on=False)
    axes.plot([end], [place], "|" if inside else ">", color=colour, ms=9 if inside else 7, clip_on=False)


def _draw_allowed(axes: Axes, metric: str, allowed: float, text: str) -> None:
    axes.axvline(0, color=COLOURS["muted"], linewidth=0.8)
    axes.axvline(allowed, color=COLOURS["refused"], linewidth=1.2, linestyle="--")
    axes.annotate(
        f"allowed {text} {words.unit(metric)}".rstrip(),
        (allowed, 1.0),
        (0, 3),
        ("data", "axes fraction"),
        "offset points",
        ha="center",
        va="bottom",
        color=COLOURS["refused"],
    )


def _limits(drops: Sequence[DropTest]) -> tuple[float, float]:
    allowed = drops[0].allowed
    uppers = [drop.upper for drop in drops if math.isfinite(drop.upper)]
    scale = max(allowed, min((upper for upper in uppers if upper > 0), default=0.0)) or 1.0
    high = max([allowed * 1.5, scale, *(upper for upper in uppers if upper <= N_ALLOWED_SHOWN * scale)]) * 1.06
    low = max(min([0.0, *(drop.drop for drop in drops)]), -high)
    return low - 0.06 * (high - low), high
