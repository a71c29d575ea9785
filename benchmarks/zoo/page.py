"""`docs/zoo.md`, written from the results alone: a table of models and formats, and each failing cell explained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "PROVEN", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

PROVEN = ("equal", "within tolerance")

CAUSES = (
    (
        r"Core ML takes .* found input .*int8",
        "Core ML's arrays are float or int32: a file whose inputs are 8-bit has to be given them outside.",
    ),
    (
        r"prelu op: rank 3 or rank 5 input is only supported",
        "coremltools: Core ML's prelu of vectors wants one slope for all channels; MTCNN's has one for each.",
    ),
)
"""Why cells fail whose message (a regular expression) does not say all of it, and whose fault it is."""


def page(document: Mapping[str, Any]) -> str:
    """The whole page."""
    cells = {(cell["model"], cell["format"]): cell for cell in document["rows"]}
    models = tuple(dict.fromkeys(model for model, _ in cells))
    formats = tuple(dict.fromkeys(name for model in models for _, name in cells if (model, name) in cells))
    notes = _numbered(document["rows"])
    parts = (*_head(document), *_table(cells, models, formats, notes), *_failures(notes), *_agreement(document))
    return "\n".join((*parts, *_machine(document["machine"]))) + "\n"


def _head(document: Mapping[str, Any]) -> Iterator[str]:
    rows = document["rows"]
    n_proven = sum(cell["verdict"] in PROVEN for cell in rows)
    yield "# The zoo"
    yield ""
    n_cells = document.get("n_cells", len(rows))
    left = f" ({n_cells - len(rows)} cells of {n_cells} have not been run)" if n_cells > len(rows) else ""
    yield f"Every model to every format: {n_proven} of {len(rows)} conversions are proven{left},"
    yield "by running both files on the same inputs, all outputs compared, the output in the engine of its format; Core"
    yield "ML, which nothing here runs, is read back. Written by `make zoo` from"
    yield "[its result](../benchmarks/results/zoo.json); the networks are in [examples/zoo](../examples/zoo)."
    yield ""
    yield "A cell holds the largest absolute error of any output (`=`: equal to the last bit), in brackets its share"
    yield "of the tolerance (1e-3 of how an output varies over items, and what rounding explains), and the processor"
    yield "seconds of reading, converting, writing and proving, libraries imported before. A number tells why a cell is"
    yield "unproven."
    yield ""


def _table(
    cells: Mapping[tuple[str, str], Mapping[str, Any]],
    models: Sequence[str],
    formats: Sequence[str],
    notes: Mapping[tuple[str, str], int],
) -> Iterator[str]:
    yield f"| model | {' | '.join(formats)} |"
    yield f"|---|{'---|' * len(formats)}"
    for model in models:
        shown = (_shown(cells.get((model, name)), notes) for name in formats)
        yield f"| {model} | {' | '.join(shown)} |"


def _shown(cell: Mapping[str, Any] | None, notes: Mapping[tuple[str, str], int]) -> str:
    if cell is None:
        return ""
    if cell["verdict"] not in PROVEN:
        number = notes[_cause(cell)]
        return f"{cell['verdict']} [{number}](#{number})"
    error = "=" if cell["verdict"] == "equal" else f"{cell['max_abs']:.0e} ({cell['error']:.2g})"
    return f"{error}, {cell['cpu_s']:.0f} s"


def _cause(cell: Mapping[str, Any]) -> tuple[str, str]:
    """What cells with the same message have in common; the name of the output does not count."""
    return cell["verdict"], re.sub(r"^model\.\w+: ", "", cell["message"])


def _numbered(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], int]:
    causes = dict.fromkeys(_cause(cell) for cell in rows if cell["verdict"] not in PROVEN)
    return {cause: number for number, cause in enumerate(causes, start=1)}


def _failures(notes: Mapping[tuple[str, str], int]) -> Iterator[str]:
    yield "\n## Conversions that are not proven\n"
    if not notes:
        yield "There are none."
    for (verdict, message), number in notes.items():
        yield f'- <a id="{number}"></a>**{number}** {verdict}: {_escaped(message)}{_explained(message)}'


def _explained(message: str) -> str:
    why = next((why for pattern, why in CAUSES if re.search(pattern, message)), "")
    return f" *{why}*" if why else ""


def _escaped(message: str) -> str:
    return re.sub(r"([|<>*_`\[\]])", r"\\\1", message)


def _agreement(document: Mapping[str, Any]) -> Iterator[str]:
    rows = document.get("agreement", [])
    if not rows:
        return
    yield "\n## One network in several formats\n"
    yield "Files of one network as their makers published them, run as they are on the same inputs, each in the"
    yield "engine of its format, against the first. Inputs and outputs of another layout are transposed.\n"
    yield "| network | file | largest difference | largest output |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {row['network']} | {row['file']} | {row['max_abs']:.1e} | {row['largest']:.2g} |"


def _machine(found: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield "\n## Where\n"
    yield f"{found['processor']}, {found['n_cores']} cores, {found['system']}, Python {found['python']}, {versions}."
