"""`tightship inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from tightship.cli import output

__all__ = ["command"]


@click.command("inspect", short_help="Say what is in a model and what looks risky.")
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for a model given as a function.")
@output.json_option
def command(model: str, weights: Path | None, as_json: bool) -> None:
    """Say what is in MODEL: inputs, outputs, operators, parameters, bytes, multiply-accumulates, and what looks risky.

    \b
    tightship inspect model.onnx
    tightship inspect model.onnx --json
    """
    from tightship import api
    from tightship.cli import show

    found = api.inspect(model, weights)
    output.answer(found, as_json, lambda: show.description(found))
