"""`tightship inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("inspect", short_help="Say what is in a model and what looks risky.")
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for a model given as a function.")
@keys_options
@output.json_option
def command(model: str, weights: Path | None, keys: Keys, as_json: bool) -> None:
    """Say what is in MODEL: inputs, outputs, operators, parameters, bytes, multiply-accumulates, and what looks risky.

    \b
    tightship inspect model.onnx
    tightship inspect model.onnx --json
    tightship inspect model.ship --key receiver.key
    """
    from tightship import api
    from tightship.cli import show_package

    found = api.inspect(model, weights, keys)
    output.answer(found, as_json, lambda: show_package.inspected(found))
