"""A plan as a page: one HTML file that needs nothing else, and the words it shares with the terminal."""

from __future__ import annotations

from tightship.report.html import recipe_toml, render
from tightship.report.verdict import headline

__all__ = ["headline", "recipe_toml", "render"]
