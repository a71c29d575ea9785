"""`tightship recipes`."""

from __future__ import annotations

from dataclasses import fields

import click

from tightship.cli import output

__all__ = ["command"]


@click.command("recipes", short_help="List the passes with their fields.")
@output.json_option
def command(as_json: bool) -> None:
    """List the passes with their fields: what a recipe.toml may hold, and the flags of `tightship compress`."""
    from tightship.cli import show
    from tightship.passes import PASSES

    plain = {name: {field.name: field.default for field in fields(entry)} for name, entry in PASSES.items()}
    output.answer(plain, as_json, lambda: show.recipes(PASSES))
