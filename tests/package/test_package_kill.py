"""Packages survive kill -9: whatever was being done to one, the old state is there or the new."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tightship.core.atomic import sweep
from tightship.core.target import Target
from tightship.errors import SealError
from tightship.package import Manifest, PackedArtifact, open_package
from tightship.package.assembly import write_package
from tightship.package.keys import new_key, write_pair
from tightship.package.kinds import PrivateKey

MODEL = "artifacts/onnx/model.onnx"
MANIFEST = Manifest("net", "1", (PackedArtifact("onnx", "onnx", MODEL, Target(), 1),), {})
SIZE = 2_000_000

NURSERY = """
import os, random, signal, sys, time
random.seed(0)

def worked_on(work, at_most_s):
    # Each line on standard input starts a process that works; it is killed after a random time.
    for _ in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, b"!")
            while True:
                work()
        os.read(reader, 1)
        time.sleep(random.uniform(0, at_most_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        print("killed", flush=True)
"""

PACKING = (
    NURSERY
    + """
from pathlib import Path
from tightship.core.target import Target
from tightship.package import Manifest, PackedArtifact
from tightship.package.assembly import write_package

name = "artifacts/onnx/model.onnx"
manifest = Manifest("net", "1", (PackedArtifact("onnx", "onnx", name, Target(), 1),), {})

def pack():
    write_package(Path(sys.argv[1]), manifest, {name: bytes([random.randrange(256)]) * 2_000_000})

worked_on(pack, 0.06)
"""
)

REKEYING = (
    NURSERY
    + """
from pathlib import Path
from tightship.errors import SealError
from tightship.package.envelope import Envelope
from tightship.package.keys import load_private
from tightship.package.recipient_slots import rewrite
from tightship.package.recipients import unwrap, wrap

path, keys = Path(sys.argv[1]), [load_private(name) for name in sys.argv[2:]]
with Envelope(path) as envelope:
    data_key = unwrap(envelope.recipients.recipients, envelope.header.context, keys[0])

def rekey():
    with Envelope(path) as envelope:
        rewrite(envelope.archive, wrap(data_key, envelope.header.context, [random.choice(keys).public]))

worked_on(rekey, 0.02)
"""
)


@contextmanager
def killing(code: str, *words: Path) -> Iterator[Callable[[], None]]:
    """Give a function that lets a process work for a moment and ends it with kill -9."""
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None

        def kill() -> None:
            nursery.stdin.write(b"\n")  # type: ignore[union-attr]
            assert nursery.stdout.readline() == b"killed\n"  # type: ignore[union-attr]

        yield kill
        nursery.stdin.close()


def opens(path: Path, key: PrivateKey) -> bool:
    try:
        with open_package(path, key) as package:
            return package.read(MODEL) == bytes(SIZE)
    except SealError:
        return False


def kill_while_packing(folder: Path, times: int) -> int:
    """Return how many different packages were found."""
    path, found = folder / "a.ship", set()
    with killing(PACKING, path) as kill:
        for _ in range(times):
            kill()
            if path.exists():
                with open_package(path) as package:
                    content = bytes(package.read(MODEL))
                assert content == content[:1] * SIZE
                found.add(content[:1])
            sweep(folder)
            assert {child.name for child in folder.iterdir()} <= {"a.ship"}
    return len(found)


def kill_while_rekeying(folder: Path, times: int) -> int:
    """Return how many of the two receivers could open it at some time."""
    keys, path = [new_key("x25519"), new_key("x25519")], folder / "a.ship"
    names = [write_pair(key, folder / f"{index}")[0] for index, key in enumerate(keys)]
    write_package(path, MANIFEST, {MODEL: bytes(SIZE)}, [keys[0].public])
    found = set()
    with killing(REKEYING, path, *names) as kill:
        for _ in range(times):
            kill()
            able = [index for index, key in enumerate(keys) if opens(path, key)]
            assert len(able) == 1
            found.update(able)
    return len(found)


def test_a_package_killed_while_it_is_written_is_the_old_or_the_new(tmp_path: Path) -> None:
    assert kill_while_packing(tmp_path, 40) > 3


def test_a_package_killed_while_its_receivers_change_opens_for_the_old_or_the_new(tmp_path: Path) -> None:
    assert kill_while_rekeying(tmp_path, 40) == 2


@pytest.mark.slow
def test_a_thousand_kills_tear_nothing(tmp_path: Path) -> None:
    (tmp_path / "packing").mkdir()
    (tmp_path / "rekeying").mkdir()
    assert kill_while_packing(tmp_path / "packing", 500) > 3
    assert kill_while_rekeying(tmp_path / "rekeying", 500) == 2
