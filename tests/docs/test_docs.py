"""The documentation is run: commands and Python blocks as a reader would, generated pages against their tables."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import nets

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    """Every block of a kind with the page it stands on; a page's blocks in order."""
    return [(page.name, text) for page in PAGES for found, text in BLOCK.findall(page.read_text()) if found == kind]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's cache, the same for all pages: what one page has measured, the next one finds."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader's `model.onnx` and `data.npz` lie, and `text.onnx` and `text.npz` for what is about products."""
    nets.save(nets.conv_net(), tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", image=rng.random((300, 1, 8, 8), np.float32), labels=rng.integers(0, 4, 300))
    onnx.save(nets.mlp(), tmp_path / "text.onnx")
    np.savez(tmp_path / "text.npz", x=rng.standard_normal((300, 256)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return tmp_path


def commands(text: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    return [line[2:] for line in lines if line.startswith("$ tightship")]


@pytest.mark.parametrize("page", sorted({page for page, text in blocks("console") if commands(text)}))
def test_the_commands_of_a_page_run_in_order(page: str, folder: Path) -> None:
    for command in [line for name, text in blocks("console") if name == page for line in commands(text)]:
        words = [sys.executable, "-m", *shlex.split(command, comments=True)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, env={**os.environ}, check=False)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize(("page", "text"), blocks("python"))
def test_the_python_of_a_page_runs(page: str, text: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{page}\n{text}\n{done.stderr}"


def test_the_reference_page_is_as_the_tables_are() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], check=False)
    assert done.returncode == 0, "run `make docs` and commit docs/reference.md"


def test_pages_name_only_files_that_are_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
