"""The commands of the page on decoders run, on a checkpoint as small as its own example."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from tests.formats.checkpoints import CONFIG, save, tensors, token_ids
from tightship.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "decoders.md"


def commands() -> list[str]:
    blocks = re.findall(r"```shell\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ tightship")]


def test_the_commands_of_the_page_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "my-llama", CONFIG, tensors(CONFIG, torch.bfloat16), n_shards=2)
    np.savez(tmp_path / "tokens.npz", input_ids=token_ids(CONFIG, (16, 12)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in commands():
        assert main(shlex.split(command)[1:]) == 0, command
    assert len(commands()) >= 5
    assert np.load("logits.npz")["logits"].shape == (16, 12, 50)
    assert Path("small.onnx").stat().st_size < 0.5 * Path("my-llama.onnx").stat().st_size
