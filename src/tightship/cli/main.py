"""`tightship`: the commands, and how each ends (errors as one line and an exit code, Ctrl-C as 130)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

import tightship
from tightship.cli.commands import (
    access,
    bench,
    check,
    compress,
    convert,
    diff,
    doctor,
    export,
    formats,
    inspect,
    keys,
    optimize,
    pack,
    pull,
    push,
    recipes,
    rekey,
    rollout,
    run,
    serve,
    sign,
    verify,
    weights,
)
from tightship.cli.commands import open as open_package
from tightship.errors import TightshipError

__all__ = ["main"]

INTERRUPTED = 130

COMMANDS = (
    optimize.command,
    inspect.command,
    convert.command,
    check.command,
    bench.command,
    compress.command,
    run.command,
    weights.command,
    keys.command,
    pack.command,
    open_package.command,
    verify.command,
    sign.command,
    rekey.command,
    diff.command,
    push.command,
    pull.command,
    export.command,
    serve.command,
    rollout.command,
    access.command,
)
ABOUT = (doctor.command, formats.command, recipes.command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(tightship.__version__, prog_name="tightship")
def cli() -> None:
    """Make a trained model small, fast and proven.

    \b
    tightship optimize model.onnx --data calib.npz --max-drop 0.01 -o out
    tightship convert model.onnx -o model.pt2
    tightship inspect model.onnx
    tightship doctor

    \b
    Exit codes: 0 done; 1 failed; 2 usage; 3 model; 4 data; 5 unsupported;
    6 missing extra; 7 models differ; 8 budget not met; 9 engine; 10 output;
    11 package; 12 signature; 13 seal; 14 registry; 15 server; 130 interrupted.
    """


for entry in (*COMMANDS, *ABOUT):
    cli.add_command(entry)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # a command's answer is not for TensorFlow's greetings
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    try:
        result: Any = cli.main(words, prog_name="tightship", standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; finished steps are kept, the same command continues from them", err=True)
        return INTERRUPTED
    except TightshipError as error:
        _tell(error, as_json)
        return error.exit_code
    except MemoryError:
        click.echo("error: out of memory; try a smaller batch or fewer --calibration items", err=True)
        return 1
    except BrokenPipeError:
        return 1
    return result if isinstance(result, int) else 0


def _tell(error: TightshipError, as_json: bool) -> None:
    if as_json:
        import msgspec

        report = {"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code}
        click.echo(msgspec.json.encode(report).decode())
    click.echo(f"error: {error}", err=True)
