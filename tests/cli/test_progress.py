"""Progress on the error stream: bars on a terminal, only findings elsewhere, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from tightship.cli.progress import Bars, progress_bars
from tightship.core.progress import SILENT


def test_where_there_is_no_terminal_only_notes_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress, progress.step("building", 3) as advance:
        advance(1)
        progress.note("found [something]")
    captured = capsys.readouterr()
    assert captured.err == "found [something]\n"
    assert captured.out == ""


def test_quiet_progress_is_the_silent_one() -> None:
    with progress_bars(quiet=True) as progress:
        assert progress is SILENT


@pytest.fixture
def terminal() -> Progress:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    return Progress(TextColumn("{task.description}", markup=False), console=console, auto_refresh=False)


def test_steps_nest_and_are_gone_when_they_end(terminal: Progress) -> None:
    bars = Bars(terminal, terminal.console)
    with bars.step("outer", 2) as advance, bars.step("inner"):
        advance(1)
        assert [(task.description, task.completed, task.total) for task in terminal.tasks] == [
            ("outer", 1, 2),
            ("inner", 0, None),
        ]
    assert not terminal.tasks


def test_a_step_that_fails_is_gone_too(terminal: Progress) -> None:
    with pytest.raises(ValueError, match="wrong"), Bars(terminal, terminal.console).step("outer"):
        raise ValueError("wrong")
    assert not terminal.tasks


def test_a_description_is_never_taken_for_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bars() as progress, progress.step("reading [/weird] file", 1) as advance:
        advance(1)
    assert "reading [/weird] file" in stream.getvalue()
