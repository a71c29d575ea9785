"""`inspect`: what is in a model, and what looks risky."""

from __future__ import annotations

from pathlib import Path

from tightship.api import loading
from tightship.measure.describe import Description, describe

__all__ = ["inspect"]


def inspect(model: str | Path, weights: Path | None = None) -> Description:
    """Read a model and describe it: inputs, outputs, operators, parameters, bytes, multiply-accumulates, risks."""
    source = loading.read(str(model), weights)
    return describe(source.model, source.artifact)
