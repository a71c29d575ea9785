"""`tightship optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tightship.cli import output
from tightship.cli.progress import progress_bars
from tightship.core.budget import Budget

__all__ = ["command"]


@click.command("optimize", short_help="Find the smallest or fastest form that is provably good enough.")
@click.argument("model")
@output.data_option
@click.option("-o", "--output", "place", metavar="OUT", help="A folder, a package (.ship) or an .onnx file.")
@click.option("--max-drop", default=0.01, show_default=True, help="Largest drop of the metric, in its own units.")
@click.option("--goal", type=click.Choice(["latency", "size"]), default="latency", show_default=True)
@click.option("--confidence", default=0.95, show_default=True, help="Confidence that the drop is within --max-drop.")
@click.option("--max-latency-ms", type=float, help="Refuse what is slower. Also allows slower than the source.")
@click.option("--max-size-mb", type=float, help="Refuse what is larger (10^6 bytes).")
@click.option("--metric", metavar="NAME", help="accuracy, f1, mse, cosine, kl, or package.module:function.")
@click.option("--engine", "engines", multiple=True, metavar="NAME", help="Only this engine; may be repeated.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads to run on; 0: the search may choose.")
@click.option("--calibration", type=click.IntRange(min=1), metavar="N", help="Items to calibrate with.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict for a model given as a function.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Judge this recipe.toml instead of searching.")
@click.option("--seed", default=0, show_default=True, help="Decides which items calibrate and which decide.")
@click.option("--dry-run", is_flag=True, help="List what would be tried; measure and write nothing.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Continue from finished steps.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder of finished steps [the user's cache].")
@click.option("--seconds", default=1.0, show_default=True, help="About how long each candidate is timed.")
@output.json_option
def command(model: str, data: str | None, place: str | None, as_json: bool, **values: Any) -> None:
    """Find the smallest or fastest form of MODEL that is provably good enough, and write it with its evidence.

    MODEL is an .onnx or .pt2 file, or package.module:function returning a torch module and example inputs.
    Without --data, inputs are generated and fidelity to the source takes the place of accuracy.

    \b
    tightship optimize model.onnx --data calib.npz --max-drop 0.01 -o out
    tightship optimize model.onnx --data calib.npz --goal size -o small.onnx
    tightship optimize model.onnx --data calib.npz -o model.ship
    tightship optimize nets:resnet --weights resnet.safetensors -o out
    """
    from tightship import api
    from tightship.cli import show

    limits = {field: values.pop(field) for field in Budget.__dataclass_fields__}
    with progress_bars(quiet=as_json) as progress:
        plan = api.optimize(model, data, place, Budget(**limits), api.Options(**values), progress)
    output.answer(plan, as_json, lambda: show.plan(plan))
