"""Keys from passphrases: argon2id (RFC 9106) or scrypt (RFC 7914), whose cost is stored beside what they protect.

What is read may come from a stranger, so cost is bounded both ways: dear enough for the writer to mean it, cheap enough
not to take the reader's memory or minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Protocol, TypeAlias

from tightship.core import extras
from tightship.errors import UnsupportedError, UsageError

__all__ = ["COSTS", "Argon2idCost", "Cost", "Passphrase", "ScryptCost"]

KEY_BYTES = 32
SALT_BYTES = 16
MAX_MEMORY_KIB = 256 << 10
MAX_WORK_KIB = 1 << 20
"""Memory written by all derivations that one package may ask for: some seconds of one core."""


class Derivation(Protocol):
    """A key derivation of `cryptography`."""

    def derive_into(self, key_material: bytes, buffer: bytearray) -> int:
        """Fill the buffer."""


def _derive(make: Callable[[], Derivation], secret: bytes) -> bytearray:
    extras.check("cryptography", "a passphrase")
    from cryptography.exceptions import UnsupportedAlgorithm

    derived = bytearray(KEY_BYTES)
    try:
        make().derive_into(secret, derived)
    except UnsupportedAlgorithm as error:
        raise UnsupportedError(f"this build of cryptography cannot derive a key from a passphrase: {error}") from error
    return derived


def _check(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{name} of a passphrase's cost is {low} to {high}, found {value!r}")


@dataclass(frozen=True)
class Argon2idCost:
    """The second recommended option of RFC 9106: 64 MiB, 3 passes, 4 lanes."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4

    suite: ClassVar[str] = "argon2id"

    def __post_init__(self) -> None:
        _check("memory_kib", self.memory_kib, 8 << 10, MAX_MEMORY_KIB)
        _check("iterations", self.iterations, 1, 16)
        _check("lanes", self.lanes, 1, 4)

    @property
    def work_kib(self) -> int:
        """Memory written in one derivation."""
        return self.memory_kib * self.iterations

    def derive(self, secret: bytes, salt: bytes) -> bytearray:
        """Return 32 bytes; `memory_kib` of memory are taken meanwhile."""
        from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

        return _derive(
            lambda: Argon2id(
                salt=salt,
                length=KEY_BYTES,
                iterations=self.iterations,
                lanes=self.lanes,
                memory_cost=self.memory_kib,
            ),
            secret,
        )


@dataclass(frozen=True)
class ScryptCost:
    """128 MiB by default (n 2^17, r 8, p 1), as OWASP's password storage advice has it."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1

    suite: ClassVar[str] = "scrypt"

    def __post_init__(self) -> None:
        _check("n", self.n, 1 << 14, 1 << 18)
        _check("r", self.r, 8, 8)
        _check("p", self.p, 1, 4)
        if self.n & (self.n - 1):
            raise UsageError(f"n of scrypt is a power of two, found {self.n}")

    @property
    def work_kib(self) -> int:
        """Memory written and read again in one derivation."""
        return 2 * 128 * self.n * self.r * self.p // 1024

    def derive(self, secret: bytes, salt: bytes) -> bytearray:
        """Return 32 bytes; 128 n r bytes of memory are taken meanwhile."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        return _derive(lambda: Scrypt(salt, KEY_BYTES, self.n, self.r, self.p), secret)


Cost: TypeAlias = Argon2idCost | ScryptCost

COSTS: Mapping[str, type[Cost]] = {cost.suite: cost for cost in (Argon2idCost, ScryptCost)}


@dataclass(frozen=True)
class Passphrase:
    """A passphrase that opens a package; `cost` is what a wrap made with it will cost every guess."""

    secret: bytes = field(repr=False)
    cost: Cost = field(default_factory=Argon2idCost)

    def __post_init__(self) -> None:
        if not self.secret:
            raise UsageError("an empty passphrase protects nothing; give one with letters in it")

    def parameters(self) -> dict[str, int]:
        """The cost as it is stored."""
        return dict(asdict(self.cost))
