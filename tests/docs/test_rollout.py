"""The page on rollouts is run: its commands, against a server that runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.serve import candidates
from tests.serve.live import serving
from tightship.api.packing import pack
from tightship.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "rollout.md"


def commands() -> list[str]:
    blocks = re.findall(r"```shell\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ tightship")]


def test_the_commands_of_the_page_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack([candidates.write(tmp_path, "good")], tmp_path / "digits.ship")
    pack([candidates.write(tmp_path, "better")], tmp_path / "better.ship")
    monkeypatch.chdir(tmp_path)
    serve, *others = commands()
    models, workers = shlex.split(serve)[2:3], shlex.split(serve)[3:]
    assert len(others) >= 5
    with serving(tmp_path, [tmp_path / model for model in models], *workers) as server:
        for command in others:
            if " promote " in command:
                wait_until_it_runs(server.url, server.state)
            words = [*shlex.split(command)[1:], "--server", server.url, "--state", str(server.state)]
            assert main(words) == 0, command


def wait_until_it_runs(url: str, state: Path) -> None:
    """A reader takes longer than a machine to go on to the next line."""
    from tightship.api.rolling import find_server

    server = find_server(url, state)
    while server.list("digits", limit=1)[0].rollout.state == "preparing":
        pass
