"""Write the table of operators in `docs/coreml.md` from the tables of the reader and the registry of coremltools.

python docs/generate_coreml.py     write it
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tightship.formats.mil import operators
from tightship.formats.mil.table import DECOMPRESSED, NEWEST, OPERATORS, REASONS, WALKED

PAGE = Path(__file__).parent / "coreml.md"
MARKS = ("<!-- operators -->\n", "<!-- /operators -->")

NOT_COUNTED = ("_const_symbolic",)
"""It is never saved."""

VERSIONS = {"iOS15": 15, "iOS16": 16, "iOS17": 17, "iOS18": 18}


def known() -> dict[str, int]:
    """Every operator that coremltools knows for ML programs, and the version of iOS that it came with."""
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    found = {}
    for name, classes in SSAOpRegistry.core_ops.items():
        modules = {entry.__module__.split(".")[-2] for entry in classes.values()}
        found[name] = min(VERSIONS[module] for module in modules)
    return found


def page() -> str:
    """The page with its table as the code has it."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return "".join((before, MARKS[0], *(f"{line}\n" for line in _table()), MARKS[1], after))


def _table() -> Iterator[str]:
    operators.load()
    counted = {name: since for name, since in known().items() if name not in NOT_COUNTED}
    answered = {name for name in counted if _is_read(name)}
    yield f"{len(answered)} of {len(counted)} operators ({100 * len(answered) / len(counted):.0f} %) are read.\n"
    yield "| operator | since iOS | read | |"
    yield "|---|---|---|---|"
    for name in sorted(counted):
        note = "" if name in answered else REASONS.get(name, "")
        yield f"| `{name}` | {counted[name]} | {'yes' if name in answered else 'no'} | {note or _note(name)} |"


def _is_read(name: str) -> bool:
    return name in WALKED or any(table.find(name, NEWEST) is not None for table in (OPERATORS, DECOMPRESSED))


def _note(name: str) -> str:
    """What of an operator is not read, as its entry says it."""
    return PARTS.get(name, "")


PARTS = {
    "conv_quantized": "constants of 8 bits, linear",
    "crop_resize": "boxes by their corners, samples from corner to corner",
    "lstm": "without a clipped cell",
    "make_list": "of elements whose shape is known",
    "non_maximum_suppression": "not within each class",
    "resize": "of nearest neighbours, the default sampling",
    "sliding_windows": "along an axis of known length",
    "affine": "all that Core ML has",
}
"""Parts of operators that are read."""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
