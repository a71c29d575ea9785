"""The verbs, in the order a person meets them. The command line is a thin skin over these functions.

inspect   what is in a model, and what looks risky
convert   write a model in another format, and prove that it computes the same
check     do two models compute the same
bench     which of several models and engines is fastest here
compress  apply one recipe, nothing decided
optimize  search for the smallest or fastest model within a budget, with the evidence
doctor    what this machine has and can do
"""

from __future__ import annotations

from tightship.api.benching import BenchRow, bench
from tightship.api.checking import check
from tightship.api.compressing import compress
from tightship.api.converting import convert, list_formats
from tightship.api.inspecting import inspect
from tightship.api.optimizing import optimize
from tightship.api.options import Options
from tightship.measure.doctor import examine as doctor

__all__ = [
    "BenchRow",
    "Options",
    "bench",
    "check",
    "compress",
    "convert",
    "doctor",
    "inspect",
    "list_formats",
    "optimize",
]
