"""WAV files: RIFF with PCM of 8, 16, 24 or 32 bits, or floating point. What the header claims is not believed.

http://soundfile.sapp.org/doc/WaveFormat/, and WAVE_FORMAT_EXTENSIBLE of Microsoft's mmreg.h
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tightship.serve.failures import BadRequest

__all__ = ["Wav", "read_wav"]

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
MAX_CHANNELS = 16
MAX_CHUNKS = 64
LOUDEST = 2.0**31
"""Floating point samples are meant to lie within -1 to 1; some programs write whole numbers of up to 32 bits."""


@dataclass(frozen=True)
class Wav:
    """Samples within -1 to 1, channels averaged, float32 [n], and how many there are in a second."""

    rate_hz: int
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate_hz


def read_wav(data: bytes, max_seconds: float) -> Wav:
    """Read a file that lies in memory; only so much of it as `max_seconds` and a sample. Raises `BadRequest`."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise BadRequest("the body is no WAV file: it does not begin with RIFF and WAVE")
    chunks = dict(_chunks(data))
    if b"fmt " not in chunks or b"data" not in chunks:
        raise BadRequest("the WAV file has no fmt or no data chunk; it was cut off, or is another kind of RIFF")
    code, n_channels, rate_hz, n_bits = _format(chunks[b"fmt "])
    frame = n_channels * n_bits // 8
    longest = (int(max_seconds * rate_hz) + 1) * frame
    raw = chunks[b"data"][:longest]
    with np.errstate(over="ignore", invalid="ignore"):
        values = _values(raw[: len(raw) // frame * frame], code, n_bits).reshape(-1, n_channels)
        mono = values[:, 0] if n_channels == 1 else values.mean(axis=1, dtype=np.float32)
    if not (np.abs(mono) <= LOUDEST).all():
        raise BadRequest("the WAV file has samples that are no numbers, or far beyond any sound")
    return Wav(rate_hz, mono)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Name and content of each chunk, the last maybe cut off: streams state a size that never came."""
    view, place = memoryview(data), 12
    for _ in range(MAX_CHUNKS):
        if place + 8 > len(data):
            return
        name, size = struct.unpack_from("<4sI", data, place)
        yield name, view[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _format(chunk: memoryview) -> tuple[int, int, int, int]:
    """Code, channels, samples in a second, bits of a sample."""
    if len(chunk) < 16:
        raise BadRequest("the WAV file's fmt chunk is too short")
    code, n_channels, rate_hz, _, _, n_bits = struct.unpack_from("<HHIIHH", chunk)
    if code == EXTENSIBLE and len(chunk) >= 26:
        (code,) = struct.unpack_from("<H", chunk, 24)
    if (code, n_bits) not in ((PCM, 8), (PCM, 16), (PCM, 24), (PCM, 32), (FLOAT, 32), (FLOAT, 64)):
        raise BadRequest(f"the WAV file has format {code} of {n_bits} bits; expected PCM of 8 to 32 bits, or float")
    if not 1 <= n_channels <= MAX_CHANNELS or not 1000 <= rate_hz <= 768_000:
        raise BadRequest(f"the WAV file has {n_channels} channels and {rate_hz} samples a second, which is not read")
    return code, n_channels, rate_hz, n_bits


def _values(raw: memoryview, code: int, n_bits: int) -> np.ndarray:
    if code == FLOAT:
        return np.frombuffer(raw, f"<f{n_bits // 8}").astype(np.float32)
    if n_bits == 8:  # the only one without a sign
        return (np.frombuffer(raw, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if n_bits == 24:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        whole = wide.reshape(-1).view("<i4")
        return (whole / 2.0**31).astype(np.float32)
    return (np.frombuffer(raw, f"<i{n_bits // 8}") / 2.0 ** (n_bits - 1)).astype(np.float32)
