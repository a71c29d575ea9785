"""The page on sharing is run: its commands that need a registry, against one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests import nets
from tests.package import registries
from tightship.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "share.md"
HOST = "localhost:5000"


def commands() -> list[str]:
    blocks = re.findall(r"```shell\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ tightship")]


def test_the_commands_of_the_page_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nets.save(nets.conv_net(), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with registries.running(tmp_path) as server:
        for command in commands():
            assert main(shlex.split(command.replace(HOST, server.host))[1:]) == 0, command
    assert (tmp_path / "pulled.ship").read_bytes() == (tmp_path / "model.ship").read_bytes()
    assert len(commands()) >= 3
