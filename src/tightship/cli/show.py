"""What commands draw on the terminal: rich tables made of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tightship.api.benching import BenchTable
from tightship.api.checking import Verdict
from tightship.api.compressing import Compressed
from tightship.api.converting import FormatRow
from tightship.api.weighing import Weighed
from tightship.core.evidence import Evidence, evidence_path
from tightship.core.passes import Pass
from tightship.core.plan import Candidate, Plan
from tightship.measure.describe import Description
from tightship.measure.doctor import Diagnosis
from tightship.report import words
from tightship.report.verdict import grounds, headline

__all__ = [
    "bench",
    "compressed",
    "description",
    "doctor",
    "evidence",
    "formats",
    "plan",
    "recipes",
    "verdict",
    "weighed",
]

WIDE = 110
"""Columns from which reasons fit beside the numbers of a plan; below, they follow its table."""

STYLES = {
    "baseline": "",
    "chosen": "bold green",
    "accepted": "green",
    "undecided": "yellow",
    "refused": "dim",
    "failed": "red",
}


def plan(found: Plan) -> RenderableType:
    """Every candidate with its numbers and verdict, then the choice in a sentence and where the files are."""
    if not found.chosen:
        return Group(_proposals(found), Text("dry run: nothing was measured or written"))
    reasons = (Text(f"• {names}: {reason}") for reason, names in grounds(found))
    table = _ByWidth(_candidates(found, "why"), Group(_candidates(found), *reasons, ""))
    lines = [Text(headline(found), style="bold"), *(Text(f"note: {note}") for note in found.notes)]
    if found.output is not None:
        lines.append(Text(f"written: {found.output}   report: {_report_of(found.output)}"))
    return Group(table, *lines)


def description(found: Description) -> RenderableType:
    """What `inspect` found."""
    facts = _table(found.source, ("what", "value"))
    macs = "–" if found.macs is None else f"{found.macs:,}"
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    rows = {
        "format": f"{found.format} ({found.form})",
        "inputs": "\n".join(map(str, found.inputs)),
        "outputs": "\n".join(map(str, found.outputs)),
        "file": words.bytes_text(found.file_bytes),
        "parameters": f"{found.n_parameters:,}",
        "weights": ", ".join(f"{dtype} {words.bytes_text(size)}" for dtype, size in found.weight_bytes.items()),
        "multiply-accumulates": macs + (f" (not counted: {', '.join(found.not_counted)})" if found.not_counted else ""),
        **({"quantized": "\n".join(map(str, found.quantized))} if found.quantized else {}),
        "opset": opsets or "–",
        "operators": ", ".join(f"{name} {count}" for name, count in found.operators.items()),
        "largest weights": "\n".join(f"{w.name} {w.dtype}{list(w.shape)}" for w in found.largest_weights[:3]),
        "costliest": "\n".join(f"{cost.op_type} {cost.name}: {cost.macs:,}" for cost in found.costliest[:3]),
    }
    for key, value in rows.items():
        facts.add_row(Text(key), Text(value))
    return Group(facts, *_risks(found))


def bench(found: BenchTable) -> RenderableType:
    """Latency of each model on each target, quartiles below the median, and its speed beside the first, with interval.

    Two lines a row, so that a terminal of 80 columns has room for the names.
    """
    table = _table(
        f"batch {found.batch}, {found.data}, {found.machine.processor}",
        ("model", "target", "size>", "median>", "p95>", "speed>"),
    )
    for row in found.rows:
        size = words.bytes_text(row.size_bytes)
        if row.latency is None:
            table.add_row(row.model, str(row.target), size, Text(row.error, style="red"))
            continue
        latency = row.latency
        quartiles = f"{words.number(latency.low_ms)} to {words.ms_text(latency.high_ms)}"
        median = f"{words.ms_text(latency.median_ms)}\n{quartiles}"
        speed = f"{words.speed(row.ratio)}\n{words.speed_interval(row.ratio)}" if row.ratio else words.speed(row.ratio)
        table.add_row(row.model, str(row.target), size, median, words.ms_text(latency.p95_ms), speed)
    return table


def verdict(found: Verdict) -> RenderableType:
    """Whether two models agree, and what differs first."""
    agreement = found.agreement
    numbers = (
        f"largest difference {words.number(agreement.max_abs)}, {words.number(agreement.error)} of the tolerance, "
        f"{agreement.sqnr_db:.0f} dB, {agreement.n_items} items of {found.data}"
    )
    head = "they compute the same" if agreement.agrees else "they differ"
    lines = [Text(head, style="bold green" if agreement.agrees else "bold red"), Text(numbers)]
    if agreement.cause:
        lines.append(Text(agreement.cause))
    if found.where is not None:
        lines.append(Text(str(found.where)))
        if found.where.reproduction is not None:
            lines.append(Text(f"by itself: python {found.where.reproduction / 'reproduce.py'}"))
    return Group(*lines)


def _how(found: Evidence) -> str:
    return ", checked by reading back" if found.checked_by == "reading back" else ""


def evidence(found: Evidence) -> RenderableType:
    """The verdict of a conversion, how it was reached, and where the files are."""
    style = {"differs": "bold red", "not checked": "bold yellow"}.get(found.verdict, "bold green")
    route = " -> ".join((found.source_format, *(str(step) for step in found.steps)))
    lines = [
        Text(f"{found.verdict}{_how(found)}: {found.reason}", style=style),
        Text(f"{route}, {words.bytes_text(found.size_bytes)}, {found.seconds:.1f} s"),
    ]
    if found.difference:
        lines.append(Text(found.difference))
    lines += [Text(f"tried before: {attempt}") for attempt in found.attempts]
    lines += [Text(f"note: {note}") for note in found.notes]
    lines.append(Text(f"written: {found.output}   evidence: {evidence_path(Path(found.output))}"))
    return Group(*lines)


def formats(rows: Iterable[FormatRow]) -> RenderableType:
    """The matrix of formats; what is missing is told below it, with the command that installs it."""
    table = _table("formats", ("format", "suffixes", "read", "write", "proven in", "options"))
    missing: dict[str, None] = {}
    for row in rows:
        cells = []
        for cell in (row.read, row.write):
            known = cell in ("yes", "no")
            cells.append(Text(cell if known else "missing", style={"yes": "green", "no": "dim"}.get(cell, "yellow")))
            if not known:
                missing[cell] = None
        options = ", ".join(f"{name}={value}" for name, value in row.options.items() if value not in (None, ()))
        suffixes = " ".join(row.suffixes) or row.without_suffix
        table.add_row(row.name, suffixes, *cells, row.runs_in or "–", options)
    return Group(table, *(Text(f"missing: {command}") for command in missing))


def doctor(found: Diagnosis) -> RenderableType:
    """Engines, processor and advice; what is missing is in the advice, with the command that installs it."""
    machine = found.machine
    head = f"{machine.processor}, {machine.n_cores} cores, {machine.memory_gb:.1f} GB, {machine.system}"
    engines = _table("engines", ("engine", "version", "precisions", "gives"))
    for state in found.engines:
        cells = (state.name, state.version or "missing", ", ".join(state.precisions) or "–", state.gives)
        engines.add_row(*cells, style="" if state.version else "yellow")
    features = _table("processor", ("instructions", "here", "meaning"))
    for feature in found.features:
        style = "" if feature.present else "dim"
        features.add_row(feature.name, "yes" if feature.present else "no", feature.meaning, style=style)
    gpus = Text(f"GPUs: {', '.join(found.gpus) or 'none'}")
    return Group(Text(head, style="bold"), engines, features, gpus, *(Text(f"• {line}") for line in found.advice))


def recipes(passes: Mapping[str, type[Pass]]) -> RenderableType:
    """The table of passes with their fields."""
    table = _table("passes", ("pass", "data", "outputs", "fields (defaults)", "what it does"))
    table.columns[3].min_width = max(len(field.name) for entry in passes.values() for field in fields(entry))
    for name, entry in passes.items():
        own = "\n".join(f"{field.name} = {field.default!r}" for field in fields(entry))
        first = (entry.__doc__ or "").strip().partition("\n")[0]
        table.add_row(name, entry.data, "same" if entry.lossless else "change", Text(own), Text(first))
    return table


def compressed(found: Compressed) -> RenderableType:
    """What a recipe made."""
    sizes = f"{words.bytes_text(found.source_bytes)} -> {words.bytes_text(found.size_bytes)}"
    head = f"{found.output}: {sizes}" if found.changed else f"{found.output}: no pass found anything to change"
    return Group(Text(head, style="bold"), *(Text(f"note: {note}") for note in found.notes))


def weighed(found: Weighed) -> RenderableType:
    """What `weights` wrote, and that it reads back the same."""
    lines = [
        Text(f"{found.n_tensors} tensors, {found.n_bytes:,} bytes: the same to the last bit", style="bold green"),
        Text(f"written: {found.output} ({found.container}, {found.file_bytes:,} bytes)"),
        Text(f"digest of the tensors: {found.digest}"),
    ]
    if found.left_out:
        more = f" and {len(found.left_out) - 8} more" if len(found.left_out) > 8 else ""
        lines.append(Text(f"left out, being no tensors: {', '.join(found.left_out[:8])}{more}"))
    return Group(*lines)


@dataclass(frozen=True)
class _ByWidth:
    """Draws `wide` where the terminal has `WIDE` columns, else `narrow`."""

    wide: RenderableType
    narrow: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.wide if options.max_width >= WIDE else self.narrow


def _candidates(found: Plan, *more: str) -> Table:
    most = f"drop\nat most\n{words.unit(found.metric)}".rstrip() + ">"
    metric = words.shorten(found.metric, 12)
    table = _table(
        f"{found.source}: {len(found.candidates)} candidates",
        ("candidate", "size>", "latency>", "speed>", f"{metric}>", most, "verdict", *more),
    )
    for entry in found.candidates:
        cells = [*_numbers(found, entry), *([Text(entry.reason)] if more else [])]
        table.add_row(Text(entry.name), *cells, style=STYLES[entry.status])
    return table


def _numbers(found: Plan, entry: Candidate) -> Iterable[RenderableType]:
    measured = entry.measurement
    yield words.bytes_text(measured.size_bytes if measured else None)
    yield words.ms_text(measured.latency.median_ms if measured and measured.latency else None)
    yield words.speed(measured.ratio if measured else None)
    yield words.quality_text(measured.quality if measured else None, digits=2)
    yield words.bound_text(found.metric, measured.drop.upper if measured and measured.drop else None)
    yield entry.status


def _proposals(found: Plan) -> Table:
    table = _table(f"{found.source}: {len(found.candidates)} candidates", ("candidate", "passes", "target"))
    for entry in found.candidates:
        passes = ", ".join(str(step) for step in entry.steps) or "as it is"
        table.add_row(Text(entry.name), Text(passes), str(entry.target))
    return table


def _risks(found: Description) -> Iterable[RenderableType]:
    if not found.risks:
        return
    table = _table("what looks risky", ("what", "what to do"))
    for risk in found.risks:
        table.add_row(Text(risk.finding), Text(risk.advice))
    yield table


def _report_of(output: str) -> str:
    path = Path(output)
    if path.suffix == ".ship":
        return f"in it (tightship open {output} -o DIR)"
    beside = path.with_suffix(".report.html")
    return str(beside if beside.exists() else path.parent / "report.html")


def _table(title: str, columns: Iterable[str]) -> Table:
    """A table; a column whose name ends in `>` holds numbers: aligned right and never broken."""
    table = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    table.pad_edge = False
    for column in columns:
        right = column.endswith(">")
        head = Text(column.removesuffix(">").rstrip())
        table.add_column(head, justify="right" if right else "left", no_wrap=right, overflow="fold")
    return table
