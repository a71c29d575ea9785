"""The drawings: what is in them, where labels go, and that matplotlib is left as it was found."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightship.core.plan import Candidate, Plan, Sensitivity
from tightship.report import plots
from tightship.report.plots.labels import Box, Label, place
from tightship.report.plots.pareto import points

FRAME = Box(0, 0, 600, 400)


def test_times_in_the_plot_are_the_ratios_that_the_verdicts_rest_on(rich: Plan) -> None:
    assert rich.best.measurement is not None and rich.best.measurement.ratio is not None
    assert rich.baseline.measurement is not None and rich.baseline.measurement.latency is not None
    drawn = next(point for point in points(rich) if point.status == "chosen")
    source_ms = rich.baseline.measurement.latency.median_ms
    ratio = rich.best.measurement.ratio
    assert drawn.latency_ms == ratio.median * source_ms
    assert (drawn.low_ms, drawn.high_ms) == (ratio.low * source_ms, ratio.high * source_ms)


def test_a_candidate_without_a_time_is_left_out_and_counted(rich: Plan) -> None:
    assert plots.n_timed(rich) == len(rich.candidates) - 1


def test_every_point_has_its_number_and_a_hover_text(rich: Plan) -> None:
    drawing = plots.pareto(rich)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawing)
    for point in points(rich):
        assert any(text.split(" ")[0] == str(point.number) for text in texts)
        assert f"<title>{point}</title>" in drawing


@pytest.mark.parametrize(("factor", "unit"), [(1e-4, "kB"), (1.0, "MB"), (1000.0, "GB")])
def test_sizes_are_drawn_in_the_unit_that_suits_them(rich: Plan, factor: float, unit: str) -> None:
    def scaled(entry: Candidate) -> Candidate:
        assert entry.measurement is not None
        size_bytes = round(entry.measurement.size_bytes * factor)
        return replace(entry, measurement=replace(entry.measurement, size_bytes=size_bytes))

    drawing = plots.pareto(replace(rich, candidates=tuple(map(scaled, rich.candidates))))
    assert f"size, {unit}</text>" in drawing


def test_the_drawing_takes_every_colour_from_the_page(rich: Plan) -> None:
    for drawing in (plots.pareto(rich), plots.forest(rich), plots.sensitivity(rich)):
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "var(--ink)" in drawing


def test_the_forest_names_the_bound_of_what_lies_beyond_its_edge(rich: Plan) -> None:
    assert "44.10 (≤ 45.90)" in plots.forest(rich).replace("  ", " ")


@pytest.mark.parametrize("allowed", [0.0, 1e-6, 0.5])
def test_the_forest_is_drawn_for_any_allowed_drop(rich: Plan, allowed: float) -> None:
    def with_allowed(plan: Plan) -> Plan:
        candidates = tuple(
            replace(
                entry, measurement=replace(entry.measurement, drop=replace(entry.measurement.drop, allowed=allowed))
            )
            if entry.measurement and entry.measurement.drop
            else entry
            for entry in plan.candidates
        )
        return replace(plan, candidates=candidates)

    assert plots.forest(with_allowed(rich)).count("(≤") == 5


def test_an_operator_whose_noise_is_not_a_number_has_no_bar_but_a_row(rich: Plan) -> None:
    odd = (Sensitivity("broken", "Conv", float("nan")), Sensitivity("free", "Conv", float("inf")))
    drawing = plots.sensitivity(replace(rich, sensitivity=(*odd, *rich.sensitivity[:2])))
    assert "broken" in drawing and "∞" in drawing


@pytest.mark.parametrize("draw", [plots.pareto, plots.forest, plots.sensitivity])
def test_an_empty_plan_has_no_drawings(rich: Plan, draw: Callable[[Plan], str]) -> None:
    source = replace(rich.baseline, measurement=None)
    assert draw(replace(rich, candidates=(source,), chosen="source", sensitivity=())) == ""


def test_settings_of_matplotlib_are_neither_used_nor_changed(rich: Plan) -> None:
    plain = plots.pareto(rich)
    with matplotlib.rc_context({"font.size": 40.0, "axes.facecolor": "#ff0000", "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert plots.pareto(rich) == plain
        assert dict(matplotlib.rcParams) == before


@given(st.lists(st.tuples(st.integers(100, 500), st.integers(100, 300)), max_size=25))
def test_labels_lie_inside_the_frame_and_on_nothing(spots: list[tuple[int, int]]) -> None:
    markers = [Box.around(x, y, 4.0) for x, y in spots]
    placed = place([Label(x, y, (("12", 12.0, 9.0),)) for x, y in spots], FRAME, markers, [])
    boxes = [label.box for label in placed]
    assert all(FRAME.holds(box) for box in boxes)
    assert not any(box.overlaps(marker) for box in boxes for marker in markers)
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_a_long_text_gives_way_to_its_short_form_where_there_is_no_room() -> None:
    forms = (("4 a very long name", 620.0, 9.0), ("4", 6.0, 9.0))
    assert place([Label(300, 200, forms)], FRAME, [], [])[0].text == "4"


def test_a_label_keeps_off_lines_where_it_can() -> None:
    wall = [Box(301, 0, 340, 400)]
    placed = place([Label(300, 200, (("4", 6.0, 9.0),))], FRAME, [], wall)[0]
    assert not placed.box.overlaps(wall[0])


def test_a_label_with_room_nowhere_is_still_written() -> None:
    full = [Box(0, 0, 600, 400)]
    assert place([Label(300, 200, (("4", 6.0, 9.0),))], FRAME, full, [])[0].text == "4"
