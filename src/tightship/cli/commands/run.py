"""`tightship run`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options
from tightship.cli.progress import progress_bars

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("run", short_help="Run a model or a package on data and write its outputs.")
@click.argument("model")
@click.option("--data", required=True, metavar="DATA", help="An .npz of arrays, or package.module:function.")
@click.option("-o", "--output", "place", required=True, metavar="OUT.npz", help="Where the outputs go.")
@click.option("--engine", default="", metavar="NAME", help="Run on this engine [that of the model's plan or format].")
@click.option("--artifact", default="", metavar="NAME", help="Of a package with several: which one [the first].")
@output.threads_option
@keys_options
@output.json_option
def command(
    model: str, data: str, place: str, engine: str, artifact: str, threads: int, keys: Keys, as_json: bool
) -> None:
    """Run MODEL on every item of DATA and write its outputs, by name, to an .npz file.

    A package is opened in memory: nothing of it is written to a disk, also where it is sealed.

    \b
    tightship run model.onnx --data data.npz -o outputs.npz
    tightship run model.ship --data data.npz -o outputs.npz --key receiver.key --trust signer.pub
    """
    from tightship.api import running
    from tightship.cli import show_package

    with progress_bars(quiet=as_json) as progress:
        ran = running.run(model, data, place, engine, threads, artifact, keys, progress)
    output.answer(ran, as_json, lambda: show_package.ran(ran))
