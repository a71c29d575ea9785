"""Run the zoo: `python -m benchmarks.zoo [--only PATTERN] [--quick] [--fresh] [--again] [--timeout S]`."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.report import RESULTS
from benchmarks.zoo.agreement import agreements
from benchmarks.zoo.cells import QUICK, Entry, entries, run_cell, targets
from benchmarks.zoo.page import PAGE, PROVEN, page
from tightship.core import atomic
from tightship.formats import FORMATS
from tightship.measure.machine import machine

RESULT = RESULTS / "zoo.json"
TIMEOUT_S = 300.0


def load() -> dict[str, Any]:
    """The results so far."""
    if RESULT.is_file():
        document: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
        return document
    return {"benchmark": "zoo", "about": "every model to every format, each conversion proven", "rows": []}


def cells() -> dict[tuple[str, str], Mapping[str, Any]]:
    """The cells that have a result."""
    return {(cell["model"], cell["format"]): cell for cell in load()["rows"]}


def save(rows: Mapping[tuple[str, str], Mapping[str, Any]], **more: Any) -> None:
    """Write the results, in the order of the tables, and the page that shows them."""
    models = {entry.name: number for number, entry in enumerate(entries())}
    columns = {name: number for number, name in enumerate(targets())}

    def place(cell: Mapping[str, Any]) -> tuple[int, int]:  # what is not here now keeps its results, at the end
        return models.get(cell["model"], len(models)), columns.get(cell["format"], len(columns))

    ordered = sorted(rows.values(), key=place)
    found = asdict(machine())
    found["versions"] |= versions()
    document = {**load(), "machine": found, "n_cells": len(models) * len(columns), "rows": ordered, **more}
    atomic.write_bytes(RESULT, (json.dumps(document, indent=1) + "\n").encode())
    atomic.write_bytes(PAGE, page(document).encode())


def versions() -> dict[str, str]:
    """Versions of what the formats need, as far as it is installed."""
    modules = {name for entry in FORMATS.values() for name in (*entry.reads_with, *entry.writes_with)}
    packages = importlib.metadata.packages_distributions()
    installed = sorted({packages[name.partition(".")[0]][0] for name in modules if name.partition(".")[0] in packages})
    return {name: importlib.metadata.version(name) for name in installed}


def run(wanted: Sequence[Entry], formats: Mapping[str, str], again: bool, fresh: bool, timeout_s: float) -> None:
    """Run every cell that has no result yet; `again` those too that were not proven, `fresh` all of them."""
    for entry in wanted:
        for name, suffix in formats.items():
            done = cells().get((entry.name, name))
            if done and not fresh and (done["verdict"] in PROVEN or not again):
                continue
            started = time.perf_counter()
            cell = run_cell(entry, name, suffix, timeout_s)
            print(
                f"{entry.name:52} {name:16} {cell.verdict:16} {time.perf_counter() - started:6.1f} s  "
                f"{'' if cell.error is None else f'{cell.max_abs:.1e} {cell.error:.3f} '}{cell.message[:150]}",
                flush=True,
            )
            save({**cells(), (entry.name, name): asdict(cell)})


def main() -> None:
    """Run what is asked for; every option narrows or repeats."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*", help="models (or MODEL>FORMAT) that match, as *dtln*")
    parser.add_argument("--quick", action="store_true", help="five small models")
    parser.add_argument("--fresh", action="store_true", help="run cells anew that have a result")
    parser.add_argument("--again", action="store_true", help="run cells anew that were not proven")
    parser.add_argument("--agreement", action="store_true", help="only compare the files of one network")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="seconds for each cell")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cell that runs is ended too
    model, _, column = options.only.partition(">")
    wanted = [entry for entry in entries() if fnmatch.fnmatch(entry.name, model)]
    wanted = [entry for entry in wanted if not options.quick or entry.name in QUICK]
    chosen = {name: suffix for name, suffix in targets().items() if fnmatch.fnmatch(name, column or "*")}
    if options.fresh and options.only == "*" and not options.quick:
        save({})
    if not options.agreement:
        run(wanted, chosen, options.again, options.fresh, options.timeout)
        save(cells())
    if options.agreement or (options.only == "*" and not options.quick):
        found: list[dict[str, Any]] = []
        for row in agreements():
            found.append(row)
            save(cells(), agreement=found)


if __name__ == "__main__":
    main()
