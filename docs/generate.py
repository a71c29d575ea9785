"""Write `docs/reference.md`, and the tables of formats (`docs/convert.md`) and of containers (`docs/weights.md`).

python docs/generate.py            write it
python docs/generate.py --check    say whether it is as the tables are
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click

from tightship import errors
from tightship.cli.main import cli
from tightship.core import extras
from tightship.formats import FORMATS, Format
from tightship.passes import PASSES

PAGE = Path(__file__).parent / "reference.md"
CONVERT = Path(__file__).parent / "convert.md"
WEIGHTS = Path(__file__).parent / "weights.md"
MEASURED = Path(__file__).parents[1] / "benchmarks" / "results" / "weights.json"
RESULTS = ("<!-- results -->\n", "<!-- /results -->")
MARKS = ("<!-- formats -->\n", "<!-- /formats -->")
WIDTH = 100


def page() -> str:
    """The whole page."""
    return "\n".join((*_head(), *_passes(), *_exit_codes(), *_commands())) + "\n"


def _head() -> Iterator[str]:
    yield "# Reference"
    yield ""
    yield "Written by `make docs` from the tables in the code; a test keeps the two alike."


def _passes() -> Iterator[str]:
    yield "\n## Passes\n"
    yield "What a `recipe.toml` may hold, and what `tightship compress` applies one by one.\n"
    yield "| pass | works on | data | keeps outputs | fields (defaults) | what it does |"
    yield "|---|---|---|---|---|---|"
    for name, entry in PASSES.items():
        values = ", ".join(f"`{field.name}={field.default!r}`" for field in fields(entry)) or "-"
        first = (entry.__doc__ or "").strip().partition("\n")[0]
        exact = "yes" if entry.lossless else "no"
        yield f"| `{name}` | {entry.form} | {entry.data} | {exact} | {values} | {first} |"


def _exit_codes() -> Iterator[str]:
    yield "\n## Exit codes\n"
    yield "```text"
    yield (errors.__doc__ or "").partition("\n\n")[2].strip()
    yield "```"


def _commands() -> Iterator[str]:
    yield "\n## Commands"
    context = click.Context(cli, info_name="tightship", max_content_width=WIDTH, terminal_width=WIDTH)
    yield from _help(cli, context)
    for name in cli.list_commands(context):
        command = cli.commands[name]
        inner = click.Context(command, context, info_name=name, terminal_width=WIDTH)
        yield from _help(command, inner)
        for part in sorted(command.commands) if isinstance(command, click.Group) else ():
            entry = command.commands[part]
            yield from _help(entry, click.Context(entry, inner, info_name=part, terminal_width=WIDTH))


def _help(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"\n### `{context.command_path}`\n"
    yield "```text"
    yield command.get_help(context)
    yield "```"


def convert_page() -> str:
    """The page on conversion with its table as the rows of `FORMATS` have it."""
    return _between(CONVERT, MARKS, _formats())


def weights_page() -> str:
    """The page on weights with the table that the benchmark measured."""
    return _between(WEIGHTS, RESULTS, _measured())


def _between(path: Path, marks: tuple[str, str], lines: Iterator[str]) -> str:
    before, _, rest = path.read_text(encoding="utf-8").partition(marks[0])
    _, _, after = rest.partition(marks[1])
    return "".join((before, marks[0], *(f"{line}\n" for line in lines), marks[1], after))


def _measured() -> Iterator[str]:
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    where = found["machine"]["processor"]
    yield f"{found['about']}, {where} ([how](../benchmarks/weights.py)); speeds are medians of three."
    yield ""
    yield "| container | size | write, MB per processor second | read | write, MB/s by the clock | read |"
    yield "|---|---|---|---|---|---|"
    for row in found["rows"]:
        speeds = ("write, MB per processor second", "read, MB per processor second", "write, MB/s", "read, MB/s")
        numbers = " | ".join(f"{row[speed]:,.0f}" for speed in speeds)
        yield f"| {row['container']} | {row['size, MB']:.1f} MB ({row['of the tensors']:.3f}) | {numbers} |"


def _formats() -> Iterator[str]:
    yield "| format | suffixes | read | written from | options | proven in | needs |"
    yield "|---|---|---|---|---|---|---|"
    for name, entry in FORMATS.items():
        suffixes = " ".join(f"`{suffix}`" for suffix in entry.suffixes) or f"`{entry.without_suffix}`"
        options = ", ".join(f"`{field.name}`" for field in fields(entry) if field.name != "input_shapes") or "-"
        read = "yes" if entry.reads_into else "-"
        written = " or ".join(entry.writes_from) or "-"
        yield f"| {name} | {suffixes} | {read} | {written} | {options} | {entry.engine or '-'} | {_needs(entry)} |"


def _needs(entry: Format) -> str:
    modules = (*entry.reads_with, *entry.writes_with)
    return ", ".join(dict.fromkeys(f"`[{extras.EXTRA_OF_MODULE[module]}]`" for module in modules)) or "-"


def main() -> int:
    """Write the pages, or check them."""
    pages = {PAGE: page(), CONVERT: convert_page(), WEIGHTS: weights_page()}
    if "--check" in sys.argv:
        return 0 if all(path.read_text(encoding="utf-8") == text for path, text in pages.items()) else 1
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
