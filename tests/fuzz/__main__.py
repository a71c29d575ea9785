"""`make fuzz`: every reader on damaged files for FUZZ_SECONDS together (120), each in a process of its own.

python -m tests.fuzz                     all readers
python -m tests.fuzz NAME SECONDS SEED   one, in this process; prints its outcome as JSON

What fails is kept in build/fuzz, the count in benchmarks/results/fuzz.json; a failure ends with 1. FUZZ_SEED repeats a
run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.fuzz.readers import READERS
from tests.fuzz.trial import fuzz

KEEP = Path("build/fuzz")
MEMORY_BYTES = 16 * 2**30


def one(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Fuzz one reader here."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    outcome = fuzz(READERS[name], seconds, None, seed, KEEP)
    return {**asdict(outcome), "n_inputs": outcome.n_inputs}


def apart(name: str, seconds: float, seed: int) -> dict[str, Any]:
    """Fuzz one reader in a process of its own, whose death is a failure too."""
    command = [sys.executable, "-m", "tests.fuzz", name, str(seconds), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (
            f"the process ended with {done.returncode}; its input is {KEEP / f'{name}-last'}\n{done.stderr[-2000:]}"
        )
        return {"reader": name, "ends": {"failed": 1}, "failures": [reason], "n_inputs": 1}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def main() -> int:
    """Fuzz all, show and store the counts."""
    from benchmarks.report import finish

    seconds, seed = float(os.environ.get("FUZZ_SECONDS", "120")), int(os.environ.get("FUZZ_SEED", time.time_ns()))
    found = [apart(name, seconds / len(READERS), seed) for name in READERS]
    for outcome in found:
        for failure in outcome["failures"]:
            print(f"== {outcome['reader']}\n{failure}", file=sys.stderr)
    rows = [
        {
            "reader": outcome["reader"],
            "inputs": outcome["n_inputs"],
            "read": outcome["ends"].pop("read", 0),
            "failed": outcome["ends"].pop("failed", 0),
            "refused": ", ".join(f"{kind} {count}" for kind, count in sorted(outcome["ends"].items())),
        }
        for outcome in found
    ]
    finish("fuzz", f"{sum(row['inputs'] for row in rows):,} damaged files in {seconds:g} s, seed {seed}", rows)
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    KEEP.mkdir(parents=True, exist_ok=True)
    if len(sys.argv) > 1:
        print(json.dumps(one(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))))
        sys.exit(0)
    sys.exit(main())
