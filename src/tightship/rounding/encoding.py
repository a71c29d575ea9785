"""How a weight matrix is written in codes: how many bits each, and how many of them share a scale."""

from __future__ import annotations

from dataclasses import dataclass

from tightship.errors import UsageError

__all__ = ["BITS", "BLOCKS", "Encoding"]

BITS = (2, 3, 4, 8)
BLOCKS = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Encoding:
    """Codes of `bits` bits; every `block` numbers along K of a weight `[N, K]` share a scale and a zero point.

    `symmetric` fixes the zero point in the middle of the codes, `2 ** (bits - 1)`.
    """

    bits: int = 4
    block: int = 128
    symmetric: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("bits", self.bits, BITS), ("block", self.block, BLOCKS)):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(map(str, known))}, found {value}")

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    @property
    def packed_bits(self) -> int:
        """Bits that a code takes in a file: codes of 3 bits lie in fields of 4, which is what engines read."""
        return 4 if self.bits == 3 else self.bits

    def n_blocks(self, n_columns: int) -> int:
        """Blocks of a row of `n_columns` numbers; the last may not be full."""
        return -(-n_columns // self.block)
