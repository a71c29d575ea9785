"""The table of passes. Adding a pass is one file here and its row."""

from __future__ import annotations

from tightship.core.passes import Pass
from tightship.core.table import Table
from tightship.passes.awq import Awq
from tightship.passes.equalize import Equalize
from tightship.passes.int8_dynamic import Int8Dynamic
from tightship.passes.int8_static import Int8Static
from tightship.passes.low_bit import LowBit
from tightship.passes.simplify import Simplify
from tightship.passes.smooth import Smooth
from tightship.passes.weight_only import WeightOnly

__all__ = ["PASSES"]

PASSES: Table[type[Pass]] = Table(
    "pass",
    {
        Simplify.name: Simplify,
        Awq.name: Awq,
        Equalize.name: Equalize,
        Smooth.name: Smooth,
        Int8Dynamic.name: Int8Dynamic,
        Int8Static.name: Int8Static,
        WeightOnly.name: WeightOnly,
        LowBit.name: LowBit,
    },
)
