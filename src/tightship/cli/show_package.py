"""What the commands around packages draw on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tightship.api.inspecting import PackageDescription
from tightship.api.packing import Packed, Unpacked, Verification
from tightship.api.running import Ran
from tightship.cli import show
from tightship.measure.describe import Description
from tightship.package import Manifest
from tightship.package.differences import Difference
from tightship.package.signing import Signer
from tightship.report import words

__all__ = ["differences", "inspected", "packed", "ran", "unpacked", "verification"]


def packed(made: Packed) -> RenderableType:
    """What was written, and for whom."""
    facts = [words.bytes_text(made.size_bytes), "signed" if made.signed else "not signed"]
    facts.append(f"sealed to {_count(made.recipients, 'receiver')}" if made.recipients else _sealed(made.sealed))
    lines = [Text(f"{made.path}: {', '.join(facts)}", style="bold")]
    if made.manifest is not None:
        lines += [Text(f"• {artifact.path} for {artifact.target}") for artifact in made.manifest.artifacts]
        lines += [Text(f"• {made.manifest.verdict}")] if made.manifest.verdict else []
    lines += [Text(f"receiver: {receiver}") for receiver in made.recipients]
    return Group(*lines, *_notes(made.notes))


def unpacked(found: Unpacked) -> RenderableType:
    """Which files were written."""
    head = Text(f"{found.path}: {_count(found.files, 'file')} written to {found.folder}", style="bold")
    return Group(head, *_signer(found.signer), *(Text(f"• {name}") for name in found.files))


def verification(found: Verification) -> RenderableType:
    """What was checked."""
    n_files = f"{found.files} file{'' if found.files == 1 else 's'}"
    head = f"{found.path}: {n_files} and the manifest are as they were packed"
    if found.sealed_only:
        head = f"{found.path}: it is as it was signed, and was not opened"
    lines = [Text(head, style="bold green"), *_signer(found.signer)]
    if not found.signed:
        lines.append(Text("not signed: whoever can change the file can change its digests too", style="yellow"))
    digest = [Text(f"digest: {found.digest}")] if found.digest else []
    return Group(*lines, *digest, *_notes(found.notes))


def differences(first: str, second: str, found: Sequence[Difference]) -> RenderableType:
    """What differs, side by side."""
    if not found:
        return Text(f"{first} and {second} hold the same", style="bold green")
    table = Table(title=Text(f"{first} and {second}: {_count(found, 'difference')}", style="bold"), box=box.SIMPLE_HEAD)
    table.title_justify, table.header_style, table.pad_edge = "left", "bold", False
    for column in ("what", "name", "first", "second"):
        table.add_column(column, overflow="fold")
    for row in found:
        table.add_row(row.kind, Text(row.name), _side(row.first), _side(row.second))
    return table


def ran(found: Ran) -> RenderableType:
    """What was run, how long it took, what was written."""
    head = f"{found.model}: {found.n_items} items of {found.data} on {found.target}"
    times = f"opened in {words.ms_text(found.open_ms)}, ran in {words.ms_text(found.run_ms)}"
    outputs = [Text(f"• {spec}") for spec in found.outputs]
    return Group(
        Text(head, style="bold"), Text(times), *outputs, Text(f"written: {found.output}"), *_notes(found.notes)
    )


def inspected(found: Description | PackageDescription) -> RenderableType:
    """A model, or a package and the model in it where that could be opened."""
    return _described(found) if isinstance(found, PackageDescription) else show.description(found)


def _described(found: PackageDescription) -> RenderableType:
    sealed = f"sealed to {_count(found.recipients, 'receiver')}" if found.sealed else "not sealed"
    signed = f"signed by the key called {found.signed_by[:16]}" if found.signed_by else "not signed"
    signed = f"signed by {found.claimed}" if found.claimed else signed
    head = Text(f"{found.path}: {words.bytes_text(found.size_bytes)}, {sealed}, {signed}", style="bold")
    lines: list[RenderableType] = [head, *_signer(found.signer)]
    lines += [Text(f"receiver: {receiver}") for receiver in found.recipients]
    if found.manifest is None:
        lines.append(Text("what is in it is not shown: give --key, or --passphrase-file"))
    else:
        lines.append(_manifest(found.manifest))
    if found.not_read:
        lines.append(Text(f"its model is not described: {found.not_read}"))
    if found.model is not None:
        lines.append(show.description(found.model))
    return Group(*lines)


def _manifest(manifest: Manifest) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    rows = {
        "name": f"{manifest.name} {manifest.version}",
        "artifacts": "\n".join(f"{entry.name}: {entry.path} for {entry.target}" for entry in manifest.artifacts),
        "licence": manifest.licence,
        "intended use": manifest.intended_use,
        "made of": f"{manifest.source} {manifest.source_digest[:16]}".strip(),
        "history": "\n".join(map(str, manifest.history)),
        "verdict": manifest.verdict,
        "takes": "\n".join(manifest.processing.told()) if manifest.processing else "",
        "metrics": "\n".join(f"{name} {value:.6g}" for name, value in manifest.metrics.items()),
        "files": "\n".join(
            f"{name} {words.bytes_text(record.size)} {record.sha256[:16]}" for name, record in manifest.files.items()
        ),
        "made by": manifest.made_by,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def _signer(signer: Signer | None) -> Iterator[Text]:
    if signer is not None and signer.provider:
        yield Text(f"signed by {signer.subject} of {signer.provider} as {signer.name!r}", style="green")
    elif signer is not None:
        whose = f" ({signer.subject})" if signer.subject else ""
        yield Text(f"signed by {signer.kind} key {signer.key_id[:16]}{whose} as {signer.name!r}", style="green")


def _sealed(sealed: bool) -> str:
    return "sealed" if sealed else "not sealed"


def _side(value: str | float | None) -> Text:
    return Text("–" if value is None else f"{value:.6g}" if isinstance(value, float) else value)


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _notes(notes: Sequence[str]) -> Iterator[Text]:
    yield from (Text(f"note: {note}") for note in notes)
