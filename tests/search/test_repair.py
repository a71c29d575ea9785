"""What fails on quality alone is done better before it is given up."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tightship as ts
from tests.passes.blocks import correlated, decoder
from tightship.core.graph import to_bytes
from tightship.core.passes import Quantizer
from tightship.passes.int8_static import Int8Static
from tightship.passes.weight_only import WeightOnly
from tightship.search.candidates import better


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


def test_a_method_is_bettered_once_and_keeps_its_codes() -> None:
    for plain in (Int8Static(weight_bits=8), WeightOnly(bits=4)):
        *before, last = better(plain)
        assert all(entry.lossless for entry in before)
        assert isinstance(last, Quantizer) and better(last) == ()
    assert isinstance(better(Int8Static(weight_bits=8))[-1], Int8Static)
    assert better(Int8Static(weight_bits=8))[-1].step.parameters["weight_bits"] == 8
    assert better(WeightOnly(bits=8)) == ()
