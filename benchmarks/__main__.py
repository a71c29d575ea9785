"""Run every benchmark, or those named: `python -m benchmarks [choice static_int8 real ...]`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent

FOLDERS = {
    "language": "benchmarks.language.__main__",
    "serving": "benchmarks.serving.own",
    "serving_peers": "benchmarks.serving.against_peers",
    "serving_grpc": "benchmarks.serving.grpc_calls",
}
"""Benchmarks that have a folder; the zoo and the soak have targets of their own."""


def main() -> None:
    """Run the `main` of each script."""
    scripts = {path.stem for path in HERE.glob("*.py") if not path.stem.startswith("_") and path.stem != "report"}
    known = {name: f"benchmarks.{name}" for name in sorted(scripts)} | FOLDERS
    for name in sys.argv[1:] or known:
        if name not in known:
            sys.exit(f"no benchmark {name!r}; there are {', '.join(known)}")
        print(f"== {name}", flush=True)
        sys.argv = [name]
        importlib.import_module(known[name]).main()


if __name__ == "__main__":
    main()
