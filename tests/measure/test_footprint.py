"""Peak memory, measured in real child processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tightship.core import graph
from tightship.core.target import Target
from tightship.errors import EngineError
from tightship.measure.footprint import peak_memory

MEBIBYTE = 2**20


def feed(width: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((1, width), np.float32)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, moved to where the test can see what is left in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_count_and_what_the_parent_holds_does_not(tmp_path: Path) -> None:
    width = 2048  # two matrices of 16 MiB
    small = peak_memory(nets.save(nets.mlp(64), tmp_path, "small.onnx"), Target(threads=1), feed(64))
    ballast = np.ones(200 * MEBIBYTE, np.uint8)
    large = peak_memory(nets.save(nets.mlp(width), tmp_path, "large.onnx"), Target(threads=1), feed(width))
    assert ballast.any()
    # The weights at least once; at most the file, the parsed model, and a packed copy of each.
    assert 30 * MEBIBYTE < large - small < 4 * 32 * MEBIBYTE
    assert 5 * MEBIBYTE < small < 200 * MEBIBYTE


def test_a_model_in_memory_is_measured_and_leaves_no_file(cache: Path) -> None:
    model = graph.from_bytes(nets.mlp(64).SerializeToString())
    assert peak_memory(model, Target(threads=1), feed(64)) > MEBIBYTE
    assert list((cache / "tightship" / "footprint").iterdir()) == []


def test_a_model_that_cannot_be_opened_is_an_engine_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00" * 64)
    with pytest.raises(EngineError, match="measuring memory on onnxruntime f32: onnxruntime cannot open the model"):
        peak_memory(tmp_path / "broken.onnx", Target(), feed(64))


def test_a_child_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    path = nets.save(nets.mlp(64), tmp_path)
    with pytest.raises(EngineError, match=r"took longer than 0\.01 s and was stopped"):
        peak_memory(path, Target(), feed(64), timeout_s=0.01)


def test_a_child_that_crashes_is_an_engine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    path = nets.save(nets.mlp(64), tmp_path)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(EngineError, match="was ended by SIGSEGV"):
        peak_memory(path, Target(), feed(64))


def test_a_child_that_fails_to_start_says_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho first >&2\necho no such interpreter >&2\nexit 3\n")
    failing.chmod(0o755)
    path = nets.save(nets.mlp(64), tmp_path)
    monkeypatch.setattr(sys, "executable", str(failing))
    with pytest.raises(EngineError, match="failed: no such interpreter"):
        peak_memory(path, Target(), feed(64))
