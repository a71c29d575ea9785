"""How every benchmark ends: a table on the terminal and a JSON file that names machine and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tightship.measure.machine import machine

RESULTS = Path(__file__).parent / "results"
BUILD = Path(__file__).parent.parent / "build"


def finish(name: str, about: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show the rows and write `results/NAME.json`."""
    table = Table(*(str(key) for key in rows[0]), title=about)
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    document = {"benchmark": name, "about": about, "machine": asdict(machine()), "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
