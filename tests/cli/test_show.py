"""What commands draw: whole at every width, and no name is taken for markup."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest
from rich.console import Console, RenderableType

from tests.plans import RICH
from tightship.cli import show
from tightship.core.measurement import Machine
from tightship.core.plan import Plan
from tightship.measure.doctor import Diagnosis, EngineState, Feature
from tightship.passes import PASSES

WIDTHS = (80, 120)


def drawn(drawing: RenderableType, width: int = 120, styled: bool = False) -> str:
    console = Console(
        width=width, force_terminal=styled, color_system="standard" if styled else None, legacy_windows=False
    )
    with console.capture() as capture:
        console.print(drawing)
    return capture.get()


def squeezed(text: str) -> str:
    """The text without spaces, so that line breaks do not matter."""
    return re.sub(r"\s", "", text)


@pytest.fixture
def dry() -> Plan:
    proposals = tuple(replace(entry, measurement=None, status="undecided") for entry in RICH.candidates[1:])
    return replace(RICH, candidates=proposals, chosen="", output=None)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_plan_fits_the_terminal(width: int) -> None:
    assert max(map(len, drawn(show.plan(RICH), width).splitlines())) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_of_a_plan_are_never_broken(width: int) -> None:
    text = drawn(show.plan(RICH), width)
    for number in ("94.1 MB", "5.40 ms", "4.1×", "98.09 %", "0.64"):
        assert number in text


def test_a_narrow_terminal_gets_the_reasons_below_the_table() -> None:
    text = squeezed(drawn(show.plan(RICH), 80))
    assert squeezed("• openvino, openvino bf16: larger than the limit: 94.0 MB, 60 MB allowed") in text
    assert text.index("undecided") < text.index("larger")


def test_a_plan_ends_with_the_verdict_the_notes_and_where_the_files_are() -> None:
    text = drawn(show.plan(RICH))
    assert "4.1 times as fast, 3.7 times as small, accuracy 98.2 % → 98.1 %" in text
    assert f"note: {RICH.notes[0]}" in text
    assert "written: out/model.onnx   report: out/report.html" in text


def test_the_chosen_row_stands_out() -> None:
    bold = re.findall(r"\x1b\[1;32m([^\x1b]*)", drawn(show.plan(RICH), styled=True))
    assert any("int8 static openvino, 3" in part for part in bold)
    assert not any("weights" in part for part in bold)


def test_a_name_that_looks_like_markup_is_shown_as_it_is() -> None:
    odd = "[bold]x[/bold] [/red]"
    entry = replace(RICH.candidates[1], name=odd, reason=odd)
    text = drawn(show.plan(replace(RICH, candidates=(RICH.candidates[0], entry, RICH.best), notes=(odd,))))
    assert text.count(odd) == 3


@pytest.mark.parametrize("width", WIDTHS)
def test_a_dry_run_lists_what_would_be_tried(dry: Plan, width: int) -> None:
    text = drawn(show.plan(dry), width)
    assert all(squeezed(str(entry.target)) in squeezed(text) for entry in dry.candidates)
    assert "dry run: nothing was measured or written" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_every_pass_is_listed_with_its_fields(width: int) -> None:
    text = drawn(show.recipes(PASSES), width)
    for name, entry in PASSES.items():
        assert name in text
        assert all(field.name in text for field in fields(entry))


def test_doctor_names_the_command_that_installs_what_is_missing() -> None:
    engines = (EngineState("openvino", "", (), "speed", "pip install 'tightship[openvino]'"),)
    machine = Machine("a processor", 2, (), 8.0, "Linux", "3.11", {})
    features = (Feature("avx2", "256-bit vectors", True), Feature("amx_int8", "tiles", False))
    advice = ("openvino is missing; it gives speed: pip install 'tightship[openvino]'",)
    text = drawn(show.doctor(Diagnosis(machine, engines, features, (), advice)))
    assert "pip install 'tightship[openvino]'" in text
    assert re.search(r"avx2 +yes", text) and re.search(r"amx_int8 +no", text)
