"""The table of passes. Adding a pass is one file here and its row."""

from __future__ import annotations

from tightship.core.passes import Pass
from tightship.core.table import Table

__all__ = ["PASSES"]

PASSES: Table[type[Pass]] = Table("pass", {})
