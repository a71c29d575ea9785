"""Try candidates, measure each, and say which is taken and why.

`search` is the whole of it: baseline, free candidates (engine, precision, threads, layout), compression, and repair of
those that fail on quality alone.
"""

from __future__ import annotations

from tightship.search.search import Outcome, propose, search
from tightship.search.source import Source
from tightship.search.workshop import Workshop

__all__ = ["Outcome", "Source", "Workshop", "propose", "search"]
