"""The command line: parse, call one function of `tightship.api`, show. The only room that prints."""

from __future__ import annotations

from tightship.cli.main import main

__all__ = ["main"]
