"""Run the comparison: `python -m benchmarks.language [--only PATTERN] [--fresh PATTERN]`; finished rows are kept."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.language import coded
from benchmarks.language.methods import MAKERS
from benchmarks.language.score import Judge
from benchmarks.language.trained import Trained, trained
from benchmarks.report import RESULTS, finish
from tightship.core import atomic

ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("TIGHTSHIP_PEERS", ROOT / ".peers/bin/python"))
"""The interpreter of an environment with `hqq` and `auto-round`, which `make peers` makes."""

FOLDER = Path(__file__).parent / "peers"
SCRIPTS = {"hqq": FOLDER / "hqq_codes.py", "auto-round": FOLDER / "auto_round_codes.py"}
N_WINDOWS = 64
"""Held-out windows that are scored: 8,192 tokens."""

OTHER_BITS = {"ort rtn": (8, 4, 2), "ort hqq": (8, 4, 2), "ort k-quant": (8, 4)}
"""Bits that a method has, where not all."""

TARGETS: tuple[tuple[str, tuple[str, int, int], tuple[str, int, int], str, float], ...] = (
    ("KL at 4 bits g128 against ORT's RTN g128", ("ours balanced", 4, 128), ("ort rtn", 4, 128), "kl", 0.35),
    ("KL at 4 bits g128 against ORT's k-quant g32", ("ours balanced", 4, 128), ("ort k-quant", 4, 32), "kl", 0.6),
    ("KL at 2 bits g64 against ORT's RTN", ("ours balanced", 2, 64), ("ort rtn", 2, 64), "kl", 0.2),
    ("KL at 2 bits g64 against plain GPTQ", ("ours balanced", 2, 64), ("gptq", 2, 64), "kl", 0.65),
    ("perplexity at 8 bits g128 against float", ("ours balanced", 8, 128), ("float", 32, 0), "perplexity", 1.001),
    ("perplexity at 4 bits g128 against float", ("ours balanced", 4, 128), ("float", 32, 0), "perplexity", 1.01),
)
"""What is to be reached: a row, the row it is divided by, the number, and the largest allowed ratio."""


@dataclass(frozen=True)
class Case:
    """One method at one encoding."""

    method: str
    bits: int
    block: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.bits} g{self.block}"


def cases() -> list[Case]:
    """Every method at every bits and block that it has; blocks of 32 at 4 bits for ONNX Runtime's."""
    found = []
    for method in (*MAKERS, *SCRIPTS):
        for bits in OTHER_BITS.get(method, (8, 4, 3, 2)):
            blocks = (32, 64, 128) if bits == 4 and method.startswith("ort") else (64, 128)
            found += [Case(method, bits, block) for block in blocks]
    return found


def measure(case: Case, source: Trained, judge: Judge) -> dict[str, Any]:
    """Make the case's file in a process of its own and score it."""
    made = source.folder / "made" / f"{case.name.replace(' ', '-')}.onnx"
    made.parent.mkdir(exist_ok=True)
    row: dict[str, Any] = {"method": case.method, "bits": case.bits, "block": case.block}
    arguments = [str(case.bits), str(case.block)]
    if case.method in SCRIPTS and not PEERS.exists():
        return row | {"failed": f"there is no {PEERS}: run make peers"}
    try:
        if case.method in SCRIPTS:
            codes = made.with_suffix(".safetensors")
            script = [str(PEERS), str(SCRIPTS[case.method]), str(source.weights)]
            cost = run([*script, str(source.folder / "calibration.npy"), *arguments, str(codes)])
            coded.write(source, coded.read(codes), case.bits, made)
        else:
            module = [sys.executable, "-m", "benchmarks.language.methods", case.method]
            cost = run([*module, *arguments, str(source.folder), str(made)])
        row |= {"bytes": made.stat().st_size} | cost
        for where, score_of in (("", judge.simulation), (" in the engine", judge.engine)):
            score = score_of(made)
            row |= {f"perplexity{where}": score.perplexity, f"kl{where}": score.kl}
    except Exception as error:  # a peer's failure is its result; HQQ's 8 bits do not run in the engine
        row |= {"failed": f"{type(error).__name__}: {error}"[:300]}
    return row


def run(command: Sequence[str]) -> dict[str, float]:
    """Run a process on one core; processor seconds, and peak resident memory in 10^6 bytes."""
    threads = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
    launcher = [sys.executable, str(Path(__file__).with_name("cost.py"))]
    done = subprocess.run(
        [*launcher, *command], capture_output=True, cwd=ROOT, env={**os.environ, **threads}, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


def reached(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each target with its ratio, where both of its rows are there."""
    values = {(row["method"], row["bits"], row["block"]): row for row in rows if row.get("kl", "") != ""}
    found = []
    for about, ours, other, number, largest in TARGETS:
        if ours in values and other in values:
            ratio = values[ours][number] / values[other][number]
            found.append({"target": about, "ratio": ratio, "at most": largest, "reached": ratio <= largest})
    return found


def main() -> None:
    """Run what has no row yet, and what is asked for anew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="*", help="rows that match, as 'ours * 4 g128'")
    parser.add_argument("--fresh", default="", help="rows to measure anew")
    options = parser.parse_args()
    source = trained()
    judge = Judge(source.onnx, source.held_out[:: len(source.held_out) // N_WINDOWS])
    kept = source.folder / "rows.json"
    for case in cases():
        known = case.name in load(kept) and not fnmatch.fnmatch(case.name, options.fresh)
        if not known and fnmatch.fnmatch(case.name, options.only):
            started = time.perf_counter()
            row = measure(case, source, judge)
            shown = {key: value for key, value in row.items() if key in ("failed", "kl", "perplexity")}
            print(f"{case.name:26} {shown} {time.perf_counter() - started:.0f} s", flush=True)
            # Read again: another run may have added rows meanwhile.
            atomic.write_bytes(kept, json.dumps({**load(kept), case.name: row}, indent=1).encode())
    report(source, judge, load(kept))


def load(kept: Path) -> dict[str, dict[str, Any]]:
    """The rows so far, by name."""
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    return rows


def report(source: Trained, judge: Judge, done: Mapping[str, Mapping[str, Any]]) -> None:
    """Write every row, the float model first."""
    first = {"method": "float", "bits": 32, "block": 0, "perplexity": judge.float.perplexity, "kl": 0.0}
    rows = [first | {"bytes": source.onnx.stat().st_size}]
    rows += [dict(done[case.name]) for case in cases() if case.name in done]
    columns = dict.fromkeys(key for row in rows for key in row)
    about = f"weight-only quantization of a decoder of 3.5 million parameters, {judge.held_out.size} held-out tokens"
    finish("language", about, [{key: row.get(key, "") for key in columns} for row in rows])
    written = RESULTS / "language.json"
    document = json.loads(written.read_text(encoding="utf-8")) | {"targets": reached(rows)}
    atomic.write_bytes(written, (json.dumps(document, indent=2) + "\n").encode())
    for entry in document["targets"]:
        print(", ".join(f"{key} {value}" for key, value in entry.items()))


if __name__ == "__main__":
    main()
