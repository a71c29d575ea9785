"""`tightship weights`."""

from __future__ import annotations

from pathlib import Path

import click

from tightship.cli import output
from tightship.cli.progress import progress_bars

__all__ = ["command"]


@click.command("weights", short_help="Write the tensors of a model in another container, bit by bit the same.")
@click.argument("source", metavar="IN")
@click.argument("place", type=click.Path(path_type=Path), metavar="OUT")
@click.option(
    "--to",
    type=click.Choice(["safetensors", "json", "hdf5", "numpy", "pickle", "torch"]),
    help="The container of OUT  [default: by its suffix].",
)
@click.option("--trust-pickle", "trusted", multiple=True, metavar="NAME", help="A name that a pickle may mention.")
@click.option(
    "--compression", type=click.Choice(["none", "gzip", "lzf", "blosc"]), help="For HDF5; gzip for NumPy too."
)
@output.json_option
def command(
    source: str, place: Path, to: str | None, trusted: tuple[str, ...], compression: str | None, as_json: bool
) -> None:
    """Write the tensors of IN, a container or any readable model, to OUT: safetensors, JSON, HDF5, NumPy, pickle or
    PyTorch. What was written is read back and compared bit by bit.

    No code of a pickle ever runs: one that wants more than arrays and containers is refused with the names it wants.

    \b
    tightship weights model.onnx weights.safetensors
    tightship weights checkpoint.pt weights.h5 --compression blosc
    tightship weights weights.safetensors weights.json --json
    """
    from tightship import api
    from tightship.cli import show

    with progress_bars(quiet=as_json) as progress:
        found = api.weights(source, place, to, trusted, compression, progress)
    output.answer(found, as_json, lambda: show.weighed(found))
