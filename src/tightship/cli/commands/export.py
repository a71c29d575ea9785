"""`tightship export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tightship.cli import output
from tightship.cli.access import tell
from tightship.cli.opening import keys_options

if TYPE_CHECKING:
    from tightship.package.opening import Keys

__all__ = ["command"]


@click.command("export", short_help="Write a model as MLflow, Triton, KServe or people read it.")
@click.argument("source", metavar="PACKAGE|MODEL")
@click.option("--format", "form", required=True, metavar="mlflow|triton|kserve|dir", help="Who is to read it.")
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR")
@click.option("--artifact", default="", metavar="NAME", help="Which of a package's models  [default: the first taken].")
@click.option("--max-batch", type=int, help="Triton, KServe: items put together in one run  [default: 8].")
@click.option("--storage-uri", metavar="URI", help="KServe: where the cluster finds the model repository.")
@keys_options
@output.json_option
def command(
    source: str,
    form: str,
    folder: Path,
    artifact: str,
    max_batch: int | None,
    storage_uri: str | None,
    keys: Keys,
    as_json: bool,
) -> None:
    """Write a model of PACKAGE, or MODEL, into the folder DIR as another tool reads it.

    \b
    mlflow   an MLflow model: flavours onnx and pyfunc, signature, requirements
    triton   a model repository for NVIDIA Triton, with config.pbtxt
    kserve   an InferenceService (protocol v2) with the model repository it serves
    dir      run.py, requirements.txt, Dockerfile and README

    The model's files are those of the package, byte by byte; DIR appears whole or not at all. What was sealed lies
    readable in it.

    \b
    tightship export model.ship --format mlflow -o mlflow-model
    tightship export model.ship --format triton --max-batch 16 -o repository --key receiver.key
    tightship export model.ship --format kserve --storage-uri s3://models/digits -o kserve
    tightship export model.onnx --format dir -o folder
    """
    from tightship import api

    given = {"max_batch": max_batch, "storage_uri": storage_uri}
    options = {name: value for name, value in given.items() if value is not None}
    found = api.export(source, form, folder, keys, artifact, options)
    listed = "\n".join(f"  {name}" for name in found.files)
    tell(found, as_json, f"{found.folder}:\n{listed}\n{found.model}: sha256:{found.model_sha256}")
