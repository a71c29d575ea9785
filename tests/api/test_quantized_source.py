"""A model that is quantized already is optimized as it is: nothing of it is quantized a second time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import nets
from tightship import api
from tightship.core.passes import Pass
from tightship.core.recipe import Recipe
from tightship.passes.int8_static import Int8Static
from tightship.passes.low_bit import LowBit
from tightship.passes.weight_only import WeightOnly

ALL = (Int8Static(attention=True), WeightOnly(), LowBit(preset="fast", block=32))


@pytest.fixture
def data(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.standard_normal((80, 256), np.float32))
    return str(tmp_path / "data.npz")


@pytest.mark.parametrize("first", [Int8Static(), WeightOnly()], ids=lambda entry: entry.name)
def test_no_pass_changes_what_is_quantized(first: Pass, data: str, tmp_path: Path) -> None:
    nets.save(nets.mlp(), tmp_path)
    once = tmp_path / "once.onnx"
    api.compress(tmp_path / "model.onnx", Recipe((first,)), once, data)
    found = {str(entry) for entry in api.inspect(once).quantized}
    assert found
    for second in ALL:
        api.compress(once, Recipe((second,)), tmp_path / "twice.onnx", data)
        again = {str(entry) for entry in api.inspect(tmp_path / "twice.onnx").quantized}
        assert found <= again, second.name


def test_optimize_says_that_the_model_is_quantized_and_leaves_it_so(data: str, tmp_path: Path) -> None:
    nets.save(nets.mlp(), tmp_path)
    api.compress(tmp_path / "model.onnx", Recipe((Int8Static(),)), tmp_path / "int8.onnx", data)
    options = api.Options(engines=("onnxruntime",), seconds=0.05, work=tmp_path / "work")
    plan = api.optimize(tmp_path / "int8.onnx", data, options=options)
    assert any("Quantized already: QDQ: int8 weights, uint8 activations" in note for note in plan.notes)
    assert {step.name for candidate in plan.candidates for step in candidate.steps} <= {"simplify"}
