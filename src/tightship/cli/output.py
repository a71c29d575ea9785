"""How every command answers: JSON on request, else something drawn on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec
from rich.console import Console, RenderableType

__all__ = ["answer", "data_option", "json_option", "show", "threads_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts instead of tables.")
data_option = click.option(
    "--data", metavar="DATA", help="An .npz of arrays by input name, or package.module:function yielding batches."
)
threads_option = click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0: all.")


def answer(value: Any, as_json: bool, draw: Callable[[], RenderableType]) -> None:
    """Print `value` as JSON, or what `draw` returns."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
    else:
        show(draw())


def show(drawing: RenderableType) -> None:
    """Draw on standard output, as wide as the terminal."""
    Console(soft_wrap=False).print(drawing)
