"""How fast sealing and opening are against the cipher alone, what memory they take, and what a receiver costs.

Raw is one `encrypt_into` or `decrypt_into` call of `cryptography` over the same 1 GB in memory. All runs on one core,
interleaved, and is counted in seconds of that core, the system's included, so that other work on the machine does not
count. To reach, memory to memory: 0.6 of raw for sealing, 0.7 for opening, and 64 MB above the payload's own. Where a
file is read or written (in a folder in memory, where there is one: the disk is not what is measured), the system
copies every byte once more, at about the speed of the cipher.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.report import finish
from tightship.package import recipients, streaming
from tightship.package.kinds import KINDS, PrivateKey, PublicKey, new_key
from tightship.package.recipients import Argon2idCost, Passphrase, ScryptCost

N_BYTES = 10**9
N_ROUNDS = 5
N_WRAPS = 21
KEY = bytes(range(32))
NONCE = bytes(12)
NAME = b"model.onnx"
GIB = 1 << 30


@dataclass(frozen=True)
class Payload:
    """1 GB in memory and in files, plain and sealed, and where results go."""

    folder: Path
    plain: bytearray
    sealed: bytearray
    raw: bytearray

    def seal_in_memory(self) -> None:
        """Bytes to bytes."""
        streaming.encrypt_into(KEY, NAME, self.plain, self.sealed)

    def seal_to_file(self) -> None:
        """Bytes to a file."""
        with self._write("made.sealed") as target:
            streaming.encrypt(KEY, NAME, self.plain, target)

    def seal_files(self) -> None:
        """File to file."""
        with self._read("plain") as source, self._write("made.sealed") as target:
            streaming.encrypt(KEY, NAME, source, target)

    def open_in_memory(self) -> None:
        """Bytes to bytes."""
        streaming.decrypt_into(KEY, NAME, self.sealed, self.plain)

    def open_to_memory(self) -> None:
        """File to bytes: how a package is opened for a session."""
        with self._read("sealed") as source:
            streaming.decrypt_into(KEY, NAME, source, self.plain)

    def open_files(self) -> None:
        """File to file."""
        with self._read("sealed") as source, self._write("made.plain") as target:
            streaming.decrypt(KEY, NAME, source, target)

    def encrypt_raw(self) -> None:
        """The cipher alone."""
        AESGCM(KEY).encrypt_into(NONCE, self.plain, None, self.raw)

    def decrypt_raw(self) -> None:
        """The cipher alone."""
        AESGCM(KEY).decrypt_into(NONCE, self.raw, None, self.plain)

    def _read(self, name: str) -> Any:
        return (self.folder / name).open("rb", buffering=0)

    def _write(self, name: str) -> Any:
        return (self.folder / name).open("r+b", buffering=0)


OPERATIONS: dict[str, tuple[str, str, float | None]] = {
    "seal, memory to memory": ("seal_in_memory", "encrypt_raw", 0.6),
    "seal, memory to file": ("seal_to_file", "encrypt_raw", None),
    "seal, file to file": ("seal_files", "encrypt_raw", None),
    "open, memory to memory": ("open_in_memory", "decrypt_raw", 0.7),
    "open, file to memory": ("open_to_memory", "decrypt_raw", None),
    "open, file to file": ("open_files", "decrypt_raw", None),
}
"""Each operation with the raw call that it is compared with, and the ratio to reach."""


@contextmanager
def payload() -> Iterator[Payload]:
    """Make the payload; its files are there in full, so that no round pays for new pages."""
    where = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=where if where.is_dir() else None))
    try:
        plain = bytearray(np.random.default_rng(0).bytes(N_BYTES))
        made = Payload(folder, plain, bytearray(streaming.ciphertext_size(N_BYTES)), bytearray(N_BYTES + 16))
        made.seal_in_memory()
        made.encrypt_raw()
        for name, data in {
            "plain": plain,
            "made.plain": plain,
            "sealed": made.sealed,
            "made.sealed": made.sealed,
        }.items():
            (folder / name).write_bytes(data)
        yield made
    finally:
        shutil.rmtree(folder)


def throughput() -> list[dict[str, Any]]:
    """Measure all operations in turn, `N_ROUNDS` times, each between two of its raw calls."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in OPERATIONS}
    peaks: dict[str, list[float]] = {name: [] for name in OPERATIONS}
    with payload() as made:
        for _ in range(N_ROUNDS):
            for name, (method, raw, _) in OPERATIONS.items():
                before = _seconds(getattr(made, raw))
                with peak(peaks[name]):
                    ours = _seconds(getattr(made, method))
                seconds[name].append(((before + _seconds(getattr(made, raw))) / 2, ours))
    return [_row(name, seconds[name], max(peaks[name])) for name in OPERATIONS]


@contextmanager
def peak(found: list[float]) -> Iterator[None]:
    """Append the most memory (MB) that this process had meanwhile, above what it had before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status_kb("VmRSS")
    yield
    found.append((_status_kb("VmHWM") - before) * 1024 / 1e6)


def _row(name: str, seconds: list[tuple[float, float]], peak_mb: float) -> dict[str, Any]:
    ratios = sorted(raw / ours for raw, ours in seconds)
    return {
        "operation on 1 GB": name,
        "GiB per CPU s": N_BYTES / GIB / statistics.median(ours for _, ours in seconds),
        "raw GiB per CPU s": N_BYTES / GIB / statistics.median(raw for raw, _ in seconds),
        "ratio": statistics.median(ratios),
        "low": ratios[0],
        "high": ratios[-1],
        "to reach": OPERATIONS[name][2] or "-",
        "MB above payload": peak_mb,
    }


def _seconds(run: Callable[[], None]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def wrapping() -> list[dict[str, Any]]:
    """Milliseconds of one core to wrap the data key for one receiver, and for that receiver to unwrap it."""
    pairs: list[tuple[str, PublicKey | Passphrase, PrivateKey | Passphrase]] = []
    for name, kind in KINDS.items():
        if kind.receives:
            key = new_key(name)
            pairs.append((name, key.public, key))
    for cost in (Argon2idCost(), ScryptCost()):
        phrase = Passphrase(b"correct horse battery staple", cost)
        pairs.append((f"passphrase, {cost.suite}", phrase, phrase))
    return [_wrapping_row(*pair) for pair in pairs]


def _wrapping_row(name: str, receiver: PublicKey | Passphrase, opener: PrivateKey | Passphrase) -> dict[str, Any]:
    wrapped = recipients.wrap(KEY, NAME, [receiver])
    n_wraps = 5 if isinstance(receiver, Passphrase) else N_WRAPS
    wraps = [1000 * _seconds(lambda: _ignore(recipients.wrap(KEY, NAME, [receiver]))) for _ in range(n_wraps)]
    unwraps = [1000 * _seconds(lambda: _ignore(recipients.unwrap(wrapped, NAME, opener))) for _ in range(n_wraps)]
    return {"receiver": name, **_spread("wrap CPU ms", wraps), **_spread("unwrap CPU ms", unwraps)}


def _ignore(value: object) -> None:
    del value


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    low, middle, high = np.percentile(values, (10, 50, 90)).tolist()
    return {name: middle, f"{name} low": low, f"{name} high": high}


def main() -> None:
    """Measure, show and store both tables."""
    finish("wrapping", "the data key for one receiver: median of 21, 10th and 90th percentile", wrapping())
    finish("sealing", "sealing and opening 1 GB against the cipher alone: median, lowest, highest of 5", throughput())


if __name__ == "__main__":
    main()
