"""Kill -9 while a package comes: the file is the old one or the new one, and the next pull ends well."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.package import registries
from tests.package.registries import Server
from tightship.package import oci

N_BYTES = 1 << 20


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with registries.running(tmp_path) as found:
        yield found


@pytest.fixture
def versions(server: Server, tmp_path: Path) -> list[tuple[str, bytes]]:
    """Two versions of a package in the registry, pinned, with their bytes."""
    package, pushed = tmp_path / "model.ship", []
    for number in range(2):
        package.write_bytes(os.urandom(N_BYTES))
        pinned = oci.push(package, server.place(f"model:{number}"), state=tmp_path / "state").pinned
        pushed.append((pinned, package.read_bytes()))
    return pushed


def killed_pull(place: str, output: Path, seconds: float) -> bool:
    """Pull in a child and kill it after so long; return whether it had ended by itself."""
    child = os.fork()
    if not child:
        try:
            oci.pull(place, output)
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return not os.WIFSIGNALED(os.waitpid(child, 0)[1])


def pull_seconds(place: str, output: Path) -> float:
    started = time.perf_counter()
    oci.pull(place, output)
    return time.perf_counter() - started


def kill_again_and_again(versions: list[tuple[str, bytes]], folder: Path, n_kills: int) -> None:
    output = folder / "model.ship"
    contents = {data for _, data in versions}
    longest = max(pull_seconds(versions[0][0], output) for _ in range(3))
    rng, n_ended = random.Random(0), 0
    for number in range(n_kills):
        n_ended += killed_pull(versions[number % 2][0], output, rng.uniform(0, 1.3 * longest))
        assert output.read_bytes() in contents, f"torn after kill {number}"
    assert n_ended < n_kills * 0.9, "the kills came too late to test anything"
    for place, data in versions:
        oci.pull(place, output)
        assert output.read_bytes() == data
    assert [path.name for path in folder.iterdir()] == ["model.ship"]


def test_a_pull_that_is_killed_leaves_the_old_file_or_the_new_one(
    versions: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    kill_again_and_again(versions, folder, 40)


@pytest.mark.slow
def test_a_thousand_kills_leave_the_old_file_or_the_new_one(versions: list[tuple[str, bytes]], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    kill_again_and_again(versions, folder, 1000)


def test_a_push_that_is_killed_is_done_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightship.package.oci.upload.CHUNK", 64 << 10)
    package, state, rng = tmp_path / "model.ship", tmp_path / "state", random.Random(0)
    oci.push(_filled(package), server.place("warm:1"), state=state)
    for number in range(10):
        _filled(package)
        child = os.fork()
        if not child:
            try:
                oci.push(package, server.place(f"m:{number}"), state=state)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pushed = oci.push(package, server.place(f"m:{number}"), state=state)
        oci.pull(pushed.pinned, tmp_path / "out.ship")
        assert (tmp_path / "out.ship").read_bytes() == package.read_bytes()


def _filled(package: Path) -> Path:
    package.write_bytes(os.urandom(N_BYTES))
    return package
