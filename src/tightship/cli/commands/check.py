"""`tightship check`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.opening import keys_options
from tightship.cli.progress import progress_bars
from tightship.errors import ParityError

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("check", short_help="Say whether two models compute the same.")
@click.argument("first")
@click.argument("second")
@output.data_option
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for FIRST where it is a function.")
@click.option("--weights-second", type=click.Path(path_type=Path), help="State dict for SECOND.")
@click.option("--rtol", default=1e-3, show_default=True, help="Relative to how an output varies between inputs.")
@click.option(
    "--atol", default=1e-5, show_default=True, help="Variation below this, in the output's units, counts as this much."
)
@click.option("--locate", type=click.Path(path_type=Path), metavar="DIR", help="Write the first difference by itself.")
@click.option("--input-shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="Fix the shape of an input.")
@click.option("--device", is_flag=True, help="Run Core ML files in Core ML itself (macOS).")
@keys_options
@output.json_option
def command(
    first: str,
    second: str,
    data: str | None,
    weights: Path | None,
    weights_second: Path | None,
    rtol: float,
    atol: float,
    locate: Path | None,
    shapes: tuple[str, ...],
    device: bool,
    keys: Keys,
    as_json: bool,
) -> int:
    """Run FIRST and SECOND on the same inputs and say whether they compute the same; if not, which operator differs.

    Ends with 7 where they differ. --locate writes a folder with the operator alone as each model has it, its inputs,
    both outputs, and a script of a few lines that shows the difference.

    \b
    tightship check model.onnx out/model.onnx
    tightship check nets:resnet model.onnx --weights resnet.safetensors --data some.npz
    tightship check model.onnx converted.onnx --locate difference
    """
    from tightship import api
    from tightship.cli import show
    from tightship.core.shapes import parse_shapes

    with progress_bars(quiet=as_json) as progress:
        verdict = api.check(
            first,
            second,
            data,
            (weights, weights_second),
            rtol,
            atol,
            locate,
            parse_shapes(shapes),
            progress,
            keys,
            device,
        )
    output.answer(verdict, as_json, lambda: show.verdict(verdict))
    return 0 if verdict.agreement.agrees else ParityError.exit_code
