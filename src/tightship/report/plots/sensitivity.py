"""What quantizing single operators costs, the worst first."""

from __future__ import annotations

import math

from tightship.core.plan import Plan
from tightship.report import words
from tightship.report.plots.canvas import name_rows, new_figure, short
from tightship.report.plots.svg import COLOURS, drawing, inline

__all__ = ["N_SHOWN", "sensitivity"]

N_SHOWN = 30
"""More bars than this are left to the table."""


def sensitivity(plan: Plan) -> str:
    """Draw the signal-to-noise ratio in dB of the output with one operator quantized, at most `N_SHOWN` of them."""
    worst = sorted(plan.sensitivity, key=lambda entry: entry.sqnr_db)[:N_SHOWN]
    if not worst:
        return ""
    with drawing():
        figure, axes = new_figure(0.8 + 0.22 * len(worst))
        finite = [entry.sqnr_db for entry in worst if math.isfinite(entry.sqnr_db)]
        low, high = min([0.0, *finite]), max([1.0, *finite])
        for row, entry in enumerate(worst):
            length = _length(entry.sqnr_db, high)
            axes.barh(row, length, height=0.68, color=COLOURS["accepted"])
            spot = max(length, 0.0), row
            axes.annotate(words.number(entry.sqnr_db), spot, (4, 0), "data", "offset points", va="center")
        axes.set_xlim(low * 1.1, high * 1.12)
        name_rows(axes, [f"{short(entry.operator)}  ({short(entry.op_type, 16)})" for entry in worst])
        axes.set_xlabel("signal-to-noise ratio of the output, dB")
        description = f"{len(worst)} operators; the table holds the numbers."
        return inline(figure, "sensitivity", "Most sensitive operators", description, {})


def _length(sqnr_db: float, longest: float) -> float:
    """No noise at all reaches past the longest bar; all noise, or none that can be told, leaves no bar."""
    if math.isfinite(sqnr_db):
        return sqnr_db
    return longest * 1.1 if sqnr_db > 0 else 0.0
