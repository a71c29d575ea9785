"""`rollout`: new versions of a model that a running server serves, tried step by step and taken back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from tightship.errors import RolloutError, UsageError
from tightship.serve.access import is_loopback
from tightship.serve.api_keys import ADMIN_KEY_FILE
from tightship.serve.rollout.client import Server
from tightship.serve.rollout.status import Order, Status
from tightship.serve.settings import default_state
from tightship.serve.state import JournalEntry

__all__ = ["JournalEntry", "Order", "Server", "Status", "find_server", "start_rollout"]


def find_server(
    url: str = "http://127.0.0.1:8000",
    state: str | Path | None = None,
    key_file: str | Path | None = None,
    ca: str | Path | None = None,
) -> Server:
    """Return a running server to ask for rollouts, with the key in `key_file`, or that of its `state` folder.

    The folder is by default the one that a server on the port of `url` has for this user. Raises `UsageError` where
    there is no key.
    """
    try:
        port = urlsplit(url).port or (443 if url.startswith("https") else 80)
    except ValueError as error:
        raise UsageError(f"{url} is no address of a server: {error}") from error
    path = Path(key_file) if key_file is not None else Path(state or default_state(port)) / ADMIN_KEY_FILE
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"no administrator's key of the server at {url}: {error}; a server writes one into its state at its first "
            "start (--state DIR), or name a file that holds one (--api-key-file)"
        ) from error
    return Server(url, key, None if ca is None else Path(ca))


def start_rollout(server: Server, order: Order, package: str | Path, upload: bool | None = None) -> Status:
    """Start a rollout of `package`; a server on another machine, or with `upload`, is sent its bytes.

    Raises `RolloutError` where the server refuses, and `UsageError` where the plan makes no sense.
    """
    order.plan()
    path = Path(package).absolute()
    if upload is None:
        upload = not is_loopback(urlsplit(server.url).hostname or "")
    if not upload:
        return server.start(_with_path(order, str(path)))
    if not path.is_file():
        raise RolloutError(f"{path}: there is no such package to send")
    return server.start(_with_path(order, path.name), path)


def _with_path(order: Order, path: str) -> Order:
    from msgspec import structs

    return structs.replace(order, path=path)
