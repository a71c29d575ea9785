"""`tightship rollout start`, `status`, `promote`, `abort`, `rollback` and `history`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tightship.cli import output
from tightship.errors import RolloutError

if TYPE_CHECKING:
    from tightship.api.rolling import Server, Status

__all__ = ["command"]

Command = TypeVar("Command", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)
UNITS = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PERCENT = click.FloatRange(0, 100)

_SERVER = (
    click.option("--server", "url", default="http://127.0.0.1:8000", show_default=True, metavar="URL"),
    click.option("--state", type=FILE, metavar="DIR", help="The server's state, for its key [that of the URL's port]."),
    click.option("--api-key-file", "key_file", type=FILE, metavar="FILE", help="An administrator's key, in a file."),
    click.option("--ca", type=FILE, metavar="FILE", help="PEM file of authorities to trust for https."),
)
_WHY = click.option("--why", default="", metavar="TEXT", help="What the journal says about it.")


def _of_a_server(command: Command) -> Command:
    """Add the options, and give the command what they say as one argument, `server`."""

    @wraps(command)
    def with_server(url: str, state: Path | None, key_file: Path | None, ca: Path | None, **others: Any) -> Any:
        from tightship.api import rolling

        return command(server=rolling.find_server(url, state, key_file, ca), **others)

    wrapped: Any = with_server
    for option in reversed(_SERVER):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _seconds(context: click.Context, option: click.Parameter, text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|)", text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no time; expected e.g. 30s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def _steps(context: click.Context, option: click.Parameter, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are no steps; expected per cents that grow, e.g. 1,5,25,100") from error


@click.group("rollout", short_help="Bring new versions live step by step; they are taken back by themselves.")
def command() -> None:
    """Bring a new version of a model live on a running server, watched beside the old one.

    Errors, latency and disagreement with the old version are judged all the while. A version that breaks a limit is
    taken back within seconds, and one that keeps them is promoted: both by itself, and both with the reason.

    \b
    tightship rollout start resnet new.ship --steps 1,5,25,100 --every 10m
    tightship rollout status resnet
    tightship rollout rollback resnet --why "customers complain"
    """


@command.command("start", short_help="Try a new version.")
@click.argument("model")
@click.argument("package", type=FILE)
@click.option("--strategy", default="canary", show_default=True, help="canary, blue-green, shadow or rolling.")
@click.option("--steps", callback=_steps, default="", metavar="1,5,25,100",
              help="Per cents of requests (canary) or workers (rolling).")  # fmt: skip
@click.option("--every", "every_s", callback=_seconds, default="10m", show_default=True, help="How long a step lasts.")
@click.option("--shadow", type=PERCENT, help="Per cent of requests copied to compare  [10; all with shadow].")
@click.option("--max-errors", type=PERCENT, default=1.0, show_default=True, help="Per cent more failures allowed.")
@click.option("--max-latency-ratio", type=click.FloatRange(min=1), default=1.5, show_default=True,
              help="Times the old version's 95th percentile allowed.")  # fmt: skip
@click.option("--max-disagreement", type=PERCENT, default=5.0, show_default=True, help="Per cent allowed.")
@click.option("--measure", default="auto", show_default=True, help="class, values, direction, exact or auto.")
@click.option("--confidence", type=PERCENT, default=95.0, show_default=True, help="Per cent, over the whole rollout.")
@click.option("--min-requests", type=click.IntRange(min=0), default=100, show_default=True, help="Seen in each step.")
@click.option("--by-key", is_flag=True, help="Callers stay with their version by API key, not only by X-Sticky-Key.")
@click.option("--keep-old", "keep_old_s", callback=_seconds, default="10m", show_default=True,
              help="How long the old version stays loaded after the end.")  # fmt: skip
@click.option("--give-up", "give_up_s", callback=_seconds, default="24h", show_default=True,
              help="When a rollout that is still undecided is taken back.")  # fmt: skip
@click.option("--upload/--no-upload", default=None, help="Send the package [where the server is on another machine].")
@click.option("--wait", is_flag=True, help="Wait for the end; exit code 15 where it is not promoted.")
@_WHY
@_of_a_server
@output.json_option
def start(
    model: str, package: Path, server: Server, upload: bool | None, wait: bool, as_json: bool, **plan: Any
) -> None:
    """Try PACKAGE as the new version of MODEL, by a strategy.

    \b
    canary      a growing share of requests
    blue-green  watched beside the old version, then all requests at once
    shadow      no answer of its own: requests are copied to it and compared
    rolling     one worker process after the other

    The package is checked (digest, signature) and warmed on every worker before it gets a request.

    \b
    tightship rollout start resnet new.ship
    tightship rollout start resnet new.ship --strategy shadow --every 1h --max-disagreement 2
    tightship rollout start resnet new.ship --steps 10,100 --every 5m --wait
    """
    from tightship.api import rolling

    fractions = {name: plan.pop(f"max_{name}") / 100 for name in ("errors", "disagreement")}
    fractions["confidence"] = plan.pop("confidence") / 100
    shadow = plan.pop("shadow")
    order = rolling.Order(
        model,
        shadow=None if shadow is None else shadow / 100,
        latency_ratio=plan.pop("max_latency_ratio"),
        **fractions,
        **plan,
    )
    status = rolling.start_rollout(server, order, package, upload)
    if wait:
        status = server.wait(status)
    _show(status, as_json)
    if wait and status.rollout.state != "promoted":
        raise RolloutError(f"version {status.rollout.new} of {model} was {status.rollout.state}: {status.reason}")


@command.command("status", short_help="How rollouts stand, and what was seen.")
@click.argument("model", default="")
@click.option("--running", is_flag=True, help="Only those that have not ended.")
@_of_a_server
@output.json_option
def status(model: str, running: bool, server: Server, as_json: bool) -> None:
    """Show the rollout of MODEL that runs, or the last one, with what was seen; without MODEL, a line for each."""
    from tightship.cli import show_rollout

    found = server.list(model, running, limit=1 if model else 20)
    if as_json:
        output.answer(found, as_json, lambda: "")
    elif model and found:
        output.show(show_rollout.status(found[0]))
    else:
        output.show(show_rollout.table(found))


@command.command("promote", short_help="End a rollout with the new version.")
@click.argument("model")
@_WHY
@_of_a_server
@output.json_option
def promote(model: str, why: str, server: Server, as_json: bool) -> None:
    """End the rollout of MODEL now: the new version answers all."""
    _show(server.promote(model, why), as_json)


@command.command("abort", short_help="End a rollout with the old version.")
@click.argument("model")
@_WHY
@_of_a_server
@output.json_option
def abort(model: str, why: str, server: Server, as_json: bool) -> None:
    """End the rollout of MODEL now: the old version answers all."""
    _show(server.abort(model, why), as_json)


@command.command("rollback", short_help="Go back to the version before.")
@click.argument("model")
@_WHY
@_of_a_server
@output.json_option
def rollback(model: str, why: str, server: Server, as_json: bool) -> None:
    """Go back: end the rollout of MODEL that runs; where none does, let the version before answer again."""
    _show(server.rollback(model, why), as_json)


@command.command("history", short_help="Who did what, when and why.")
@click.argument("model", default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many lines.")
@_of_a_server
@output.json_option
def history(model: str, limit: int, server: Server, as_json: bool) -> None:
    """Show the server's journal, of MODEL or of all models, the newest first."""
    from tightship.cli import show_rollout

    found = server.journal(model, limit)
    output.answer(found, as_json, lambda: show_rollout.journal(found))


def _show(status: Status, as_json: bool) -> None:
    from tightship.cli import show_rollout

    output.answer(status, as_json, lambda: show_rollout.status(status))
