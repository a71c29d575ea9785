"""`tightship compress PASS`: one sub-command per row of the table of passes, its flags made from the fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click

from tightship.cli import output
from tightship.cli.progress import progress_bars
from tightship.core.passes import Pass
from tightship.core.recipe import Recipe

__all__ = ["command"]


_SEED = "seed"
"""One for all that is random: which items calibrate, and what a pass draws itself."""


class _Passes(click.Group):
    """Commands are made when asked for, so that starting the tool imports no pass."""

    def list_commands(self, context: click.Context) -> list[str]:
        from tightship.passes import PASSES

        return [*PASSES, "recipe"]

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        from tightship.passes import PASSES

        if name == "recipe":
            return _recipe
        return _command_of(PASSES[name])


@click.group("compress", cls=_Passes, short_help="Apply one pass or a recipe; nothing is decided.")
def command() -> None:
    """Apply one pass, or a recipe file, to a model; nothing is measured or refused.

    \b
    tightship compress int8-static model.onnx --data calib.npz -o small.onnx
    tightship compress weight-only model.onnx --bits 4 -o small.onnx
    tightship compress low-bit model.onnx --data calib.npz --bits 2 --block 64 --preset best -o small.onnx
    tightship compress recipe recipe.toml model.onnx --data calib.npz -o small.onnx
    """


def _shared(function: Any) -> Any:
    decorators = (
        click.argument("model"),
        click.option("-o", "--output", "place", required=True, type=click.Path(path_type=Path), metavar="OUT.onnx"),
        output.data_option,
        click.option("--weights", type=click.Path(path_type=Path), help="State dict for a model given as a function."),
        click.option("--calibration", type=click.IntRange(min=1), default=100, show_default=True, metavar="N"),
        click.option(
            "--seed", default=0, show_default=True, help="Decides which items calibrate, and what a pass draws."
        ),
        click.option("--resume/--no-resume", default=True, show_default=True, help="Continue from finished steps."),
        click.option("--work", type=click.Path(path_type=Path), help="Folder of finished steps [the user's cache]."),
        output.json_option,
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


@click.command("recipe")
@click.argument("recipe", type=click.Path(path_type=Path))
@_shared
def _recipe(recipe: Path, **values: Any) -> None:
    """Apply the passes of a recipe.toml, such as `tightship optimize` leaves behind."""
    from tightship.passes import PASSES

    _run(Recipe.read(recipe, PASSES), **values)


def _command_of(entry: type[Pass]) -> click.Command:
    names = [field.name for field in fields(entry)]

    @_shared
    def run(**values: Any) -> None:
        own = {name: values[name] for name in names}
        shared = {name: value for name, value in values.items() if name not in names or name == _SEED}
        _run(Recipe((entry(**own),)), **shared)

    made: click.Command = click.command(entry.name, help=entry.__doc__)(run)
    hints = get_type_hints(entry)
    made.params += [_option(field, hints[field.name]) for field in fields(entry) if field.name != _SEED]
    return made


def _option(field: Field[Any], hint: Any) -> click.Option:
    flag = "--" + field.name.replace("_", "-")
    default = None if field.default is MISSING else field.default
    if hint is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=default, show_default=True)
    if get_origin(hint) is Literal:
        return click.Option([flag], type=_Choice(get_args(hint)), default=default, show_default=True)
    if get_origin(hint) is tuple:
        return click.Option([flag], multiple=True, default=default, help="May be repeated.")
    return click.Option([flag], type=hint, default=default, show_default=True)


class _Choice(click.Choice[Any]):
    """A choice among the values of a Literal, integers included."""

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__([str(value) for value in values])
        self._values = {str(value): value for value in values}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._values[str(super().convert(str(value), param, ctx))]


def _run(
    recipe: Recipe,
    model: str,
    place: Path,
    data: str | None,
    weights: Path | None,
    calibration: int,
    seed: int,
    resume: bool,
    work: Path | None,
    as_json: bool,
) -> None:
    from tightship import api
    from tightship.cli import show

    with progress_bars(quiet=as_json) as progress:
        made = api.compress(model, recipe, place, data, weights, calibration, seed, work, resume, progress)
    output.answer(made, as_json, lambda: show.compressed(made))
