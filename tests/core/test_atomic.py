"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tightship.core import atomic
from tightship.errors import OutputError


def test_a_file_that_is_written_whole_is_there(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "new" / "a.txt", "text")
    assert (tmp_path / "new" / "a.txt").read_text() == "text"
    assert [child.name for child in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.writing(tmp_path / "a.txt") as temporary:
        temporary.write_text("half of the ne")
        raise ZeroDivisionError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_an_output_error_that_names_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.txt: No space left on device"),
        atomic.writing(tmp_path / "a.txt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_disk_is_an_output_error() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OutputError), atomic.writing(Path("/tmp/tightship-test-full")) as temporary:
        temporary.symlink_to(full)
        temporary.write_bytes(b"x" * 100_000)
    assert not Path("/tmp/tightship-test-full").exists()


def test_a_place_below_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place"):
        atomic.write_text(tmp_path / "file" / "a.txt", "text")


def test_a_folder_of_ours_is_replaced(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic.replace_folder(tmp_path / "out", frozenset({"a.txt"})) as folder:
            (folder / "a.txt").write_text(text)
    assert (tmp_path / "out" / "a.txt").read_text() == "two"
    assert [child.name for child in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_a_strangers_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"thesis\.tex"), atomic.replace_folder(tmp_path, frozenset({"a.txt"})):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_checking_that_a_place_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    atomic.check_writable(tmp_path / "model.onnx", None)
    assert list(tmp_path.iterdir()) == []


def test_sweep_puts_back_a_folder_that_a_killed_process_had_moved_away(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    holder = tmp_path / f".tmp-{int(child.stdout)}-abc"
    (holder / "out").mkdir(parents=True)
    (holder / "replaced").mkdir()
    (holder / "replaced" / "a.txt").write_text("old")
    atomic.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / f".tmp-{int(child.stdout)}-abc"
    alive = tmp_path / f".tmp-{os.getpid()}-abc"
    for folder in (dead, alive, tmp_path / "kept"):
        folder.mkdir()
    assert atomic.sweep(tmp_path) == 1
    assert sorted(child.name for child in tmp_path.iterdir()) == sorted([alive.name, "kept"])
