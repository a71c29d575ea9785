"""A loaded model, ready to run on a Target."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from tightship.core.specs import TensorSpec
from tightship.core.target import Target

__all__ = ["Arrays", "Session"]

Arrays = dict[str, np.ndarray]
"""Arrays by tensor name."""


class Session(Protocol):
    """What every engine opens. Engines wrap their own failures in `EngineError`.

    A session is a context manager; `close` frees what it holds and may be called twice.
    """

    @property
    def target(self) -> Target: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run once. The arrays returned are the caller's own: a later run does not change them."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
