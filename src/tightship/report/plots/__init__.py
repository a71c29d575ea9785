"""The drawings of the report. Each takes a plan and returns an `<svg>` element, or nothing where there is none to draw.

Numbers beside points are the candidates' places in the plan, counted from 1, as in the report's table.
"""

from __future__ import annotations

from tightship.report.plots.forest import forest
from tightship.report.plots.pareto import n_timed, pareto
from tightship.report.plots.sensitivity import sensitivity

__all__ = ["forest", "n_timed", "pareto", "sensitivity"]
