"""`tightship convert`."""

from __future__ import annotations

from pathlib import Path

import click

from tightship.cli import output
from tightship.cli.progress import progress_bars
from tightship.errors import ParityError

__all__ = ["command"]

PRECISIONS = ("float32", "float16", "int8", "palette8", "palette6", "palette4", "palette2")
"""Those of all formats; the palettes are Core ML's."""


@click.command("convert", short_help="Write a model in another format, and prove that it computes the same.")
@click.argument("model")
@click.option("-o", "--output", "place", required=True, type=click.Path(path_type=Path), metavar="OUT")
@output.data_option
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for a model given as a function.")
@click.option("--rtol", type=float, help="Relative to how an output varies between inputs  [default: by precision].")
@click.option("--atol", default=1e-5, show_default=True, help="Variation below this, in the output's units, counts so.")
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="Fix the shape of an input.")
@click.option("--opset", type=click.IntRange(min=7), help="ONNX: the opset to write.")
@click.option("--precision", type=click.Choice(PRECISIONS), help="What weights are written in.")
@click.option("--source", "as_source", is_flag=True, help="PyTorch: write Python source and safetensors, into OUT.py.")
@click.option("--trust-pickle", "trusted", multiple=True, metavar="CLASS", help="A class that a pickle may import.")
@click.option("--force", is_flag=True, help="Write the output even where it differs from its source.")
@output.json_option
def command(
    model: str,
    place: Path,
    data: str | None,
    weights: Path | None,
    rtol: float | None,
    atol: float,
    shapes: tuple[str, ...],
    opset: int | None,
    precision: str | None,
    as_source: bool,
    trusted: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> int:
    """Write MODEL in the format that the suffix of OUT names, run both on the same inputs, and say whether they agree.

    The verdict lies in OUT.evidence.json. Ends with 7, and writes nothing, where the result differs.
    `tightship formats` lists the formats.

    \b
    tightship convert model.onnx -o model.pt2
    tightship convert nets:resnet --weights resnet.safetensors -o resnet.keras
    tightship convert model.onnx --source -o net.py
    tightship convert model.onnx --input-shape image=1,3,224,224 --precision float16 -o model.tflite
    """
    from tightship import api
    from tightship.cli import show
    from tightship.core.shapes import parse_shapes

    if as_source and place.suffix != ".py":
        place = place / "net.py"
    options = {"opset": opset, "precision": precision}
    chosen = {name: value for name, value in options.items() if value is not None}
    with progress_bars(quiet=as_json) as progress:
        evidence = api.convert(
            model, place, data, weights, rtol, atol, parse_shapes(shapes), chosen, trusted, force, progress
        )
    output.answer(evidence, as_json, lambda: show.evidence(evidence))
    return ParityError.exit_code if evidence.verdict == "differs" and not force else 0
