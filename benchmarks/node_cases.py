"""How many of ONNX's own node cases a bridge from ONNX passes.

`onnx.backend.test` has some 1,900 cases of one operator each, with inputs, expected outputs and tolerances. A case
counts if the converted model gives every output in its type, shape and value. To reach: 92 % on the way to PyTorch,
where `onnx2torch` 1.5.15 passes 320 of 1,884 under the same judge; 70 % on the way to Keras.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tests.bridges.node_cases import PASSED, cases, judge

BRIDGES = {
    "ONNX to PyTorch": ("tests.bridges.onnx_to_torch.running", "run", "torch"),
    "ONNX to Keras": ("tests.bridges.onnx_to_keras.running", "run", "keras"),
    "ONNX to Keras, shapes left as inputs": ("tests.bridges.onnx_to_keras.running", "run_as_given", "keras"),
}
"""Where the function is that converts and runs a case, and the framework that it converts to.

Cases feed shapes, axes and recurrent weights as inputs, where exporters write constants. Keras has to know them when
the model is built, so the second row makes them constants and the third does not.
"""

N_REASONS = 8
"""Failures that are listed, by the start of what went wrong."""


def measure(bridge: str, module: str, function: str, framework: str) -> dict[str, Any]:
    """Judge one bridge on all cases."""
    run = getattr(importlib.import_module(module), function)
    started = time.process_time()
    verdicts = judge(run)
    failed = {name: why for name, why in verdicts.items() if why != PASSED}
    reasons = Counter(why.partition(":")[0] for why in failed.values()).most_common(N_REASONS)
    return {
        "bridge": bridge,
        "versions": f"onnx {_version('onnx')}, {framework} {_version(framework)}",
        "cases": len(cases()),
        "passed": len(cases()) - len(failed),
        "share %": 100 * (1 - len(failed) / len(cases())),
        "cpu s": time.process_time() - started,
        "failures by kind": ", ".join(f"{count} {reason}" for reason, count in reasons),
    }


def main() -> None:
    """Judge every bridge that is there."""
    rows = [measure(bridge, *where) for bridge, where in BRIDGES.items() if _is_there(where[0])]

    from benchmarks.report import finish

    finish("node_cases", "ONNX's own node cases that pass after conversion", rows)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    main()
