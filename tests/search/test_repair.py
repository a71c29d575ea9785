"""What fails on quality alone is done better before it is given up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tightship as ts
from tests.passes.blocks import correlated, decoder
from tightship.core.graph import to_bytes


def test_weights_rounded_to_nearest_that_lose_too_much_are_rounded_by_error_feedback(tmp_path: Path) -> None:
    model, data = tmp_path / "decoder.onnx", tmp_path / "data.npz"
    model.write_bytes(to_bytes(decoder()))
    np.savez(data, **next(correlated(400).open()).inputs)
    budget = ts.Budget(max_drop=0.006, goal="size", max_latency_ms=1000)
    options = ts.Options(
        work=tmp_path / "work", seconds=0.05, engines=("onnxruntime",), calibration=100, metric="cosine"
    )
    plan = ts.optimize(str(model), str(data), None, budget, options)
    verdicts = {entry.name: entry.status for entry in plan.candidates}
    nearest = next(name for name in verdicts if "weight-only @" in name)
    better = next(name for name in verdicts if "low-bit(block=32) @" in name)
    assert verdicts[nearest] != "accepted"
    assert verdicts[better] in ("accepted", "chosen")
