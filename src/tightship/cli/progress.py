"""Progress bars on the error stream while work goes on; where that is no terminal, only what was found out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tightship.core.progress import SILENT, Advance
from tightship.core.progress import Progress as Reporter

__all__ = ["Bars", "progress_bars"]


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[Reporter]:
    """Draw bars while the block runs; nothing where `quiet`."""
    if quiet:
        yield SILENT
        return
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as drawn:
        yield Bars(drawn, console)


class Bars:
    """`core.progress.Progress` drawn by rich: one bar per open step, gone when the step ends."""

    def __init__(self, drawn: Progress, console: Console) -> None:
        self._drawn = drawn
        self._console = console

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Advance]:
        task = self._drawn.add_task(description, total=total)
        try:
            yield lambda units: self._drawn.advance(task, units)
        finally:
            self._drawn.remove_task(task)

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)
