"""The report is one file, says what the plan says, and lets no name become markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from tightship.core.plan import Plan
from tightship.core.recipe import Recipe
from tightship.passes import PASSES
from tightship.report import render
from tightship.report.html import recipe_toml

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

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


PLANS = ("rich", "nothing_better", "fidelity", "crowded", "hostile")


@pytest.fixture(params=PLANS)
def plan(request: pytest.FixtureRequest) -> Plan:
    found: Plan = request.getfixturevalue(request.param)
    return found


def test_the_page_is_whole_and_asks_no_network_for_anything(plan: Plan) -> None:
    page = Page(render(plan))
    assert "script" not in page.tags and "link" not in page.tags and "img" not in page.tags
    assert all(url.startswith("#") for url in page.urls)
    assert not re.search(r"url\((?!#)|@import", render(plan))


def test_ids_in_the_page_are_unique(plan: Plan) -> None:
    ids = re.findall(r'\sid="([^"]+)"', render(plan))
    assert len(ids) == len(set(ids))


def test_the_same_plan_gives_the_same_page(plan: Plan) -> None:
    assert render(plan) == render(plan)


def test_every_candidate_stands_in_it_with_its_reason(rich: Plan) -> None:
    text = Page(render(rich)).text
    for entry in rich.candidates:
        assert entry.name in text and entry.reason in text


def test_the_headline_says_what_was_gained(rich: Plan) -> None:
    assert "4.1 times as fast, 3.7 times as small" in Page(render(rich)).text


def test_it_says_when_nothing_was_better(nothing_better: Plan) -> None:
    assert "Nothing was better than the source" in Page(render(nothing_better)).text


def test_it_says_that_fidelity_took_the_place_of_accuracy(fidelity: Plan) -> None:
    assert "fidelity" in Page(render(fidelity)).text.lower()


def test_markup_in_a_name_stays_text(hostile: Plan) -> None:
    assert '<script>alert("x")' not in render(hostile)
    assert '<script>alert("x")' in Page(render(hostile)).text


def test_the_recipe_in_it_can_be_read_back(rich: Plan) -> None:
    plain = [entry for entry in rich.candidates if all(step.name in PASSES for step in entry.steps)]
    assert plain
    for entry in plain:
        assert Recipe.from_toml(recipe_toml(entry), PASSES).target == entry.target
