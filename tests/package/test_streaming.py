"""Sealing a stream, with Google's tink as the judge of the format."""

from __future__ import annotations

import io
import mmap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import tink
from hypothesis import given
from hypothesis import strategies as st
from tink import secret_key_access, streaming_aead
from tink.proto import aes_gcm_hkdf_streaming_pb2, common_pb2, tink_pb2

from tightship.errors import SealError, UsageError
from tightship.package import streaming
from tightship.package.streaming import FIRST_BYTES, REST_BYTES, SEGMENT_BYTES

KEY = bytes(range(32))
ASSOCIATED = b"model.onnx"
SIZES = [
    0,
    1,
    FIRST_BYTES - 1,
    FIRST_BYTES,
    FIRST_BYTES + 1,
    FIRST_BYTES + REST_BYTES,
    FIRST_BYTES + REST_BYTES + 1,
    3 * SEGMENT_BYTES + 17,
]


def plain(n_bytes: int) -> bytes:
    return np.random.default_rng(n_bytes).bytes(n_bytes)


def sealed(data: bytes) -> bytes:
    target = io.BytesIO()
    streaming.encrypt(KEY, ASSOCIATED, data, target)
    return target.getvalue()


def opened(data: streaming.Source) -> bytes:
    target = io.BytesIO()
    streaming.decrypt(KEY, ASSOCIATED, data, target)
    return target.getvalue()


@pytest.fixture(scope="module")
def tinks() -> streaming_aead.StreamingAead:
    """Tink's own AES256_GCM_HKDF_1MB with our key."""
    streaming_aead.register()
    template = streaming_aead.streaming_aead_key_templates.AES256_GCM_HKDF_1MB
    format_ = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKeyFormat.FromString(template.value)
    value = aes_gcm_hkdf_streaming_pb2.AesGcmHkdfStreamingKey(params=format_.params, key_value=KEY)
    data = tink_pb2.KeyData(
        type_url=template.type_url,
        value=value.SerializeToString(),
        key_material_type=tink_pb2.KeyData.SYMMETRIC,
    )
    assert format_.params.hkdf_hash_type == common_pb2.SHA256
    entry = tink_pb2.Keyset.Key(key_data=data, status=tink_pb2.ENABLED, key_id=1, output_prefix_type=tink_pb2.RAW)
    keyset = tink_pb2.Keyset(primary_key_id=1, key=[entry]).SerializeToString()
    handle = tink.proto_keyset_format.parse(keyset, secret_key_access.TOKEN)
    primitive: streaming_aead.StreamingAead = handle.primitive(streaming_aead.StreamingAead)
    return primitive


class Unclosed(io.BytesIO):
    """Tink closes what it writes to."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("n_bytes", SIZES)
def test_tink_reads_what_we_seal(n_bytes: int, tinks: streaming_aead.StreamingAead) -> None:
    with tinks.new_decrypting_stream(io.BytesIO(sealed(plain(n_bytes))), ASSOCIATED) as stream:
        assert stream.read() == plain(n_bytes)


@pytest.mark.parametrize("n_bytes", SIZES)
def test_we_open_what_tink_seals(n_bytes: int, tinks: streaming_aead.StreamingAead) -> None:
    target = Unclosed()
    with tinks.new_encrypting_stream(target, ASSOCIATED) as stream:
        stream.write(plain(n_bytes))
    assert opened(target.getvalue()) == plain(n_bytes)
    assert len(target.getvalue()) == streaming.ciphertext_size(n_bytes)


@pytest.mark.parametrize("n_bytes", SIZES)
def test_what_is_sealed_opens_again_by_every_way(n_bytes: int) -> None:
    ciphertext = sealed(plain(n_bytes))
    assert len(ciphertext) == streaming.ciphertext_size(n_bytes)
    assert streaming.plaintext_size(len(ciphertext)) == n_bytes
    assert opened(io.BytesIO(ciphertext)) == opened(ciphertext) == plain(n_bytes)
    buffer = bytearray(n_bytes)
    assert streaming.decrypt_into(KEY, ASSOCIATED, io.BytesIO(ciphertext), buffer) == n_bytes
    assert buffer == plain(n_bytes)
    into = bytearray(len(ciphertext))
    assert streaming.encrypt_into(KEY, ASSOCIATED, io.BytesIO(plain(n_bytes)), into) == len(into)
    assert opened(into) == plain(n_bytes)


@given(st.integers(0, 1 << 45))
def test_sizes_are_each_others_inverse(n_bytes: int) -> None:
    assert streaming.plaintext_size(streaming.ciphertext_size(n_bytes)) == n_bytes


@pytest.mark.parametrize("n_bytes", [0, 1, 40, 55, SEGMENT_BYTES + 1, SEGMENT_BYTES + 16, 2 * SEGMENT_BYTES + 5])
def test_a_length_that_no_sealed_stream_has_is_refused(n_bytes: int) -> None:
    with pytest.raises(SealError):
        streaming.plaintext_size(n_bytes)


class Trickle(io.RawIOBase):
    """Gives and takes a little at a time, as pipes and sockets do."""

    def __init__(self, data: bytes = b"") -> None:
        self.data, self.position, self.written = data, 0, bytearray()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self.data[self.position : self.position + min(len(buffer), 60_001)]
        buffer[: len(part)] = part
        self.position += len(part)
        return len(part)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        self.written += data[:50_003]
        return min(len(data), 50_003)


class ReadOnly:
    """A stream without `readinto`."""

    def __init__(self, data: bytes) -> None:
        self.stream = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.stream.read(min(size, 77_777))


@pytest.mark.parametrize("make", [Trickle, ReadOnly])
def test_sources_that_give_a_little_at_a_time_are_read_whole(make: Callable[[bytes], IO[bytes]]) -> None:
    data, target = plain(SIZES[-1]), io.BytesIO()
    streaming.encrypt(KEY, ASSOCIATED, make(data), target)
    assert opened(make(target.getvalue())) == data


def test_a_target_that_takes_a_little_at_a_time_gets_everything() -> None:
    data, target = plain(SIZES[-1]), Trickle()
    streaming.encrypt(KEY, ASSOCIATED, data, target)  # type: ignore[arg-type]
    assert opened(bytes(target.written)) == data


def test_a_mapped_file_is_a_source_and_a_mapping_a_target(tmp_path: Path) -> None:
    data = plain(2 * SEGMENT_BYTES)
    (tmp_path / "plain").write_bytes(data)
    with (tmp_path / "plain").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        target = io.BytesIO()
        streaming.encrypt(KEY, ASSOCIATED, mapped, target)
    buffer = mmap.mmap(-1, len(data))
    streaming.decrypt_into(KEY, ASSOCIATED, target.getvalue(), buffer)
    assert buffer[:] == data


def test_the_same_plaintext_is_never_sealed_alike() -> None:
    first, second = sealed(b"weights"), sealed(b"weights")
    assert first[1:40] != second[1:40]
    assert first[40:] != second[40:]


def test_a_buffer_of_another_length_is_refused_and_left_empty() -> None:
    for size in (99, 101):
        buffer = bytearray(b"x" * size)
        with pytest.raises(SealError):
            streaming.decrypt_into(KEY, ASSOCIATED, sealed(plain(100)), buffer)
        assert not any(buffer)
    with pytest.raises(UsageError, match="does not fit into 155 bytes"):
        streaming.encrypt_into(KEY, ASSOCIATED, plain(100), bytearray(155))


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(UsageError, match="a data key has 32 bytes, found 16"):
        streaming.encrypt(bytes(16), b"", b"", io.BytesIO())


class Nowhere(io.RawIOBase):
    """Takes everything and keeps nothing."""

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        return len(data)


def test_streams_take_a_few_mebibytes_however_long_they_are() -> None:
    class Zeros(Trickle):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            size = min(len(buffer), (64 << 20) - self.position)
            self.position += size
            return size

    tracemalloc.start()
    try:
        streaming.encrypt(KEY, ASSOCIATED, Zeros(), Nowhere())  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_wiped_secret_is_zeros() -> None:
    secret = streaming.new_data_key()
    assert len(secret) == 32
    assert any(secret)
    streaming.wipe(secret)
    assert secret == bytes(32)
