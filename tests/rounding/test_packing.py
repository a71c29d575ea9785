"""Bit packing: whatever goes in comes out, and lies in the bytes where engines look for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightship.errors import UsageError
from tightship.rounding.packing import PACKED_BITS, pack, unpack


@given(st.data(), st.sampled_from(PACKED_BITS), st.integers(0, 4), st.integers(0, 5), st.integers(0, 70))
def test_unpacking_returns_what_was_packed(data: st.DataObject, bits: int, rows: int, blocks: int, n: int) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    codes = np.random.default_rng(seed).integers(0, 2**bits, (rows, blocks, n), dtype=np.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (rows, blocks, -(-n * bits // 8))
    np.testing.assert_array_equal(unpack(packed, bits, n), codes)


@given(st.data(), st.sampled_from(PACKED_BITS), st.integers(1, 40))
def test_the_bytes_are_one_number_whose_lowest_bits_are_the_first_code(data: st.DataObject, bits: int, n: int) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=n, max_size=n))
    as_number = sum(code << (bits * place) for place, code in enumerate(codes))
    packed = pack(np.array(codes, np.uint8), bits)
    assert int.from_bytes(packed.tobytes(), "little") == as_number


def test_four_bit_codes_fill_a_byte_from_below() -> None:
    assert pack(np.array([1, 2, 3]), 4).tolist() == [0x21, 0x03]


@pytest.mark.parametrize("codes", [[16], [-1]])
def test_a_code_that_does_not_fit_is_refused(codes: list[int]) -> None:
    with pytest.raises(UsageError, match=r"codes of 4 bits must be 0\.\.15, found"):
        pack(np.array(codes), 4)


@pytest.mark.parametrize("bits", [0, 1, 3, 16])
def test_a_width_that_leaves_a_rest_in_a_byte_is_refused(bits: int) -> None:
    with pytest.raises(UsageError, match=f"at 2, 4, 8 bits, found {bits}"):
        pack(np.array([0]), bits)


def test_bytes_of_another_number_of_codes_are_refused() -> None:
    with pytest.raises(UsageError, match="5 codes of 4 bits fill 3 bytes, found 2"):
        unpack(np.zeros(2, np.uint8), 4, 5)
