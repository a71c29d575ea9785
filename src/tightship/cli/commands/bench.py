"""`tightship bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options
from tightship.cli.progress import progress_bars

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("bench", short_help="Time models on every engine, interleaved.")
@click.argument("models", nargs=-1, required=True)
@output.data_option
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Only this engine; may be repeated.")
@output.threads_option
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Items per run.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="About how long each is timed.")
@keys_options
@output.json_option
def command(
    models: tuple[str, ...],
    data: str | None,
    engines: tuple[str, ...],
    threads: int,
    batch: int,
    seconds: float,
    keys: Keys,
    as_json: bool,
) -> None:
    """Time MODELS on every engine, turn by turn in one run, and compare each with the first.

    \b
    tightship bench model.onnx
    tightship bench model.onnx out/model.onnx --engine openvino --threads 1
    tightship bench model.onnx model.ship --key receiver.key
    """
    from tightship import api
    from tightship.cli import show

    with progress_bars(quiet=as_json) as progress:
        table = api.bench(models, data, engines, threads, batch, seconds, progress, keys)
    output.answer(table, as_json, lambda: show.bench(table))
