"""The report is one file, says what the plan says, and lets no name become markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from tightship.core.model import Step
from tightship.core.plan import Plan
from tightship.core.recipe import Recipe
from tightship.passes import PASSES
from tightship.report import recipe_toml, render

PageOf = Callable[[Plan], str]

VOID = {"meta", "br", "hr", "img", "input", "link", "use", "path", "rect", "circle", "line", "col"}


class Page(HTMLParser):
    """Reads a page; collects tags and texts, and fails on tags closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.urls += [value for key, value in attrs if key in ("src", "href", "xlink:href", "action") and value]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\u00a0", " ") + " "


PLANS = ("rich", "nothing_better", "fidelity", "crowded", "hostile")


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    found: Plan = request.getfixturevalue(request.param)
    return found


def test_the_page_is_whole_and_asks_no_network_for_anything(plan: Plan, page_of: PageOf) -> None:
    page = Page(page_of(plan))
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert all(url.startswith("#") for url in page.urls)
    assert not re.search(r"https?:|url\((?!#)|@import", page_of(plan))


def test_ids_in_the_page_are_unique_and_every_reference_has_one(plan: Plan, page_of: PageOf) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page_of(plan))
    assert len(ids) == len(set(ids))
    wanted = re.findall(r"url\(#([^)]+)\)", page_of(plan)) + re.findall(r'\shref="#([^"]+)"', page_of(plan))
    assert wanted and set(wanted) <= set(ids)


def test_the_same_plan_gives_the_same_page(rich: Plan, page_of: PageOf) -> None:
    assert render(rich) == page_of(rich)


def test_every_candidate_stands_in_it_with_its_reason_and_passes(rich: Plan, page_of: PageOf) -> None:
    text = Page(page_of(rich)).text
    for entry in rich.candidates:
        assert entry.name in text and entry.reason in text and str(entry.target) in text
        assert all(str(step) in text for step in entry.steps)


def test_the_headline_says_what_was_gained_and_what_it_cost(rich: Plan, page_of: PageOf) -> None:
    sentence = (
        "4.1 times as fast, 3.7 times as small, accuracy 98.2 % → 98.1 % (drop at most 0.64 points at 95 % confidence)"
    )
    assert sentence in Page(page_of(rich)).text


def test_it_says_when_nothing_was_better_and_why(nothing_better: Plan, page_of: PageOf) -> None:
    text = Page(page_of(nothing_better)).text
    assert "Nothing was better than the source: 6 refused, 1 failed" in text
    assert text.index("larger than the limit: 94.0 MB, 60 MB allowed") < text.index("Size against latency")


def test_it_says_that_fidelity_took_the_place_of_accuracy_where_inputs_were_generated(
    fidelity: Plan, page_of: PageOf
) -> None:
    assert "fidelity to the source model takes the place of accuracy" in Page(page_of(fidelity)).text


def test_it_does_not_speak_of_fidelity_where_labels_decided(rich: Plan, page_of: PageOf) -> None:
    assert "fidelity" not in Page(page_of(rich)).text


def test_markup_in_a_name_stays_text(hostile: Plan, page_of: PageOf) -> None:
    assert "<script" not in page_of(hostile)
    assert '<script>alert("x")' in Page(page_of(hostile)).text


def test_a_formula_in_a_name_stays_text(hostile: Plan, page_of: PageOf) -> None:
    assert "$\\frac{1}{2}$" in Page(page_of(hostile)).text


def test_what_was_not_measured_is_an_en_dash(rich: Plan, page_of: PageOf) -> None:
    row = page_of(rich).partition("u2 is unknown")[0].rpartition("<tr")[2]
    assert row.count(">–<") == 4  # latency, speed, accuracy and drop of a candidate that failed


def test_it_says_where_and_with_what_it_was_measured(rich: Plan, page_of: PageOf) -> None:
    text = Page(page_of(rich)).text
    assert rich.machine.processor in text and "onnxruntime 1.31.1" in text
    assert rich.command in text and rich.source_digest in text


def test_every_sensitive_operator_is_in_a_table_and_only_the_worst_are_drawn(rich: Plan, page_of: PageOf) -> None:
    page = page_of(rich)
    last = max(rich.sensitivity, key=lambda entry: entry.sqnr_db).operator
    assert all(f'<th scope="row">{entry.operator}</th>' in page for entry in rich.sensitivity)
    assert page.count(last) == 1


def test_a_plan_without_measured_times_has_a_page_without_plots(nothing_better: Plan) -> None:
    bare = replace(
        nothing_better, candidates=tuple(replace(entry, measurement=None) for entry in nothing_better.candidates)
    )
    assert "svg" not in Page(render(bare)).tags


def test_the_recipe_in_it_is_read_back_as_the_same_passes_and_target(rich: Plan) -> None:
    steps = tuple(entry().step for entry in PASSES.values())
    made = replace(rich.best, steps=steps)
    recipe = Recipe.from_toml(recipe_toml(made), PASSES)
    assert recipe.target == made.target
    assert tuple(entry.step for entry in recipe.passes) == steps


def test_a_parameter_that_is_a_list_of_names_is_written_whole(rich: Plan) -> None:
    names = [f"/layer{index}" for index in range(50)]
    made = replace(rich.best, steps=(Step("int8-static", {"exclude": names}),))
    assert all(f'"{name}"' in recipe_toml(made) for name in names)
