"""Every error that tightship raises on purpose, and the exit code each ends the command with.

TightshipError (1)
├── UsageError (2)              an option or argument that makes no sense
├── ArtifactError (3)           a model file that cannot be used
│   ├── ArtifactNotFound            there is no such file
│   ├── UnknownFormat               no format recognises it
│   └── InvalidModel                truncated, corrupt, cyclic, or not what its suffix says
├── DatasetError (4)            data that cannot be used
│   └── DatasetMismatch             names, shapes or types that do not fit the model
├── UnsupportedError (5)        a correct model or request that tightship cannot serve
│   └── UnsupportedOperators        operators that no entry of a table answers for
├── MissingExtra (6)            a framework that is not installed
├── ParityError (7)             two models that should agree and do not
├── BudgetError (8)             nothing that was tried meets the budget
├── EngineError (9)             an engine refused the model or failed while running it
├── OutputError (10)            a file or folder that cannot be written
├── PackageError (11)           a package that is damaged, hostile or not one
├── SignatureError (12)         a package whose signature is missing, wrong or not trusted
├── SealError (13)              a seal that does not open: wrong key or passphrase, or changed bytes; which is not told
├── RegistryError (14)          a registry that cannot be reached, refuses, or sends something else
└── ServeError (15)             a server that cannot start, or was asked for what it cannot do
    ├── StateError                  a state that cannot be read or written, or workers that do not follow it
    └── RolloutError                a rollout that cannot be started, or is not there to be ended

A message says what the object is, what was expected, what was found, and what to do next. Ctrl-C ends with 130.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "ArtifactNotFound",
    "BudgetError",
    "DatasetError",
    "DatasetMismatch",
    "EngineError",
    "InvalidModel",
    "MissingExtra",
    "OutputError",
    "PackageError",
    "ParityError",
    "RegistryError",
    "RolloutError",
    "SealError",
    "ServeError",
    "SignatureError",
    "StateError",
    "TightshipError",
    "UnknownFormat",
    "UnsupportedError",
    "UnsupportedOperators",
    "UsageError",
    "nearest",
]


class TightshipError(Exception):
    """The root: catching it catches all that tightship raises on purpose."""

    exit_code = 1


class UsageError(TightshipError):
    """An option or argument that makes no sense."""

    exit_code = 2


class ArtifactError(TightshipError):
    """A model file that cannot be used."""

    exit_code = 3


class ArtifactNotFound(ArtifactError):
    """There is no such file."""


class UnknownFormat(ArtifactError):
    """No format recognises the file."""


class InvalidModel(ArtifactError):
    """The file is truncated, corrupt, cyclic, or not what its suffix says."""


class DatasetError(TightshipError):
    """Data that cannot be used."""

    exit_code = 4


class DatasetMismatch(DatasetError):
    """Names, shapes or types of the data do not fit the model."""


class UnsupportedError(TightshipError):
    """A correct model or request that tightship cannot serve."""

    exit_code = 5


class UnsupportedOperators(UnsupportedError):
    """Operators that no entry of a table answers for; the message lists all of them at once."""


class MissingExtra(TightshipError):
    """A framework that is not installed; the message holds the command that installs it."""

    exit_code = 6


class ParityError(TightshipError):
    """Two models that should agree and do not."""

    exit_code = 7


class BudgetError(TightshipError):
    """Nothing that was tried meets the budget."""

    exit_code = 8


class EngineError(TightshipError):
    """An engine refused the model or failed while running it."""

    exit_code = 9


class OutputError(TightshipError):
    """A file or folder that cannot be written."""

    exit_code = 10


class PackageError(TightshipError):
    """A package that is damaged, hostile or not one."""

    exit_code = 11


class SignatureError(TightshipError):
    """A package whose signature is missing, wrong, or made by a key that is not trusted."""

    exit_code = 12


class SealError(TightshipError):
    """A seal that does not open. The message is the same whatever the reason: it must not help who is guessing."""

    exit_code = 13


class RegistryError(TightshipError):
    """A registry that cannot be reached, refuses, or sends something else than was asked for."""

    exit_code = 14


class ServeError(TightshipError):
    """A server that cannot start, or was asked for what it cannot do."""

    exit_code = 15


class StateError(ServeError):
    """A server's state that cannot be read or written, or workers that do not follow it."""


class RolloutError(ServeError):
    """A rollout that cannot be started, or is not there to be ended."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
