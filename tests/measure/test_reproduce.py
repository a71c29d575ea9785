"""A planted fault is cut down to the operator that has it, and the script beside it shows the same difference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.errors import OutputError
from tightship.measure.locate import first_difference
from tightship.measure.reproduce import reproduce

NET = """<ir_version: 8, opset_import: ["" : {opset}]>
net (float[n, 3, 8, 8] x) => (float[n, 36] y) {{
  {first}
  [conv] b = Conv<pads = [1, 1, 1, 1]>(a, w1)
  [norm] c{more} = BatchNormalization<{mode}>(b, scale, shift, mean, variance)
  {between}
  [conv2] e = Conv(d, w2)
  [flat] f = Flatten(e)
  [soft] y = Softmax{axis}(f)
}}"""

PARTS = {
    "opset": "17",
    "first": "[in] a = Mul(x, unit)",
    "mode": "epsilon = 0.001",
    "more": "",
    "between": "[act] d = Relu(c)",
}


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def net(axis: str = "<axis = 1>", large: float = 1.0, **changed: str) -> Model:
    model = onnx.parser.parse_model(NET.format(axis=axis, **{**PARTS, **changed}))
    weights = {
        "w1": normal(4, 3, 3, 3) * np.float32(large), "scale": normal(4), "shift": normal(4), "mean": normal(4),
        "variance": np.float32([0.5, 1, 1.5, 2]), "w2": normal(1, 4, 3, 3) / np.float32(large),
        "unit": np.float32([1]), "pixel": np.float32([1 / 255]), "half": np.float32([0.5]),
    }  # fmt: skip
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(weights[name], name) for name in weights if name in used)
    return graph.from_bytes(model.SerializeToString())


DATA = Dataset.from_arrays("test", "0", {"x": normal(4, 3, 8, 8)})

HALF = """[down] h = Cast<to = 10>(c)
  [up] i = Cast<to = 1>(h)
  [act] d = Relu(i)"""

FAULTS = {
    "preprocessing": (net(), net(first="[in] a = Mul(x, pixel)"), "in", "is off by|normalization is missing"),
    "another operator before": (net(), net(first="[in] a = Add(x, half)"), "conv", "no counterpart: in"),
    "training mode": (
        net(),
        net(more=", m, v", mode="training_mode = 1, epsilon = 0.001"),
        "norm",
        "it is in training mode",
    ),
    "layout": (net(), net(between="[turn] t = Transpose<perm = [0, 1, 3, 2]>(c)\n[act] d = Relu(t)"), "act", "axes in"),
    "float16 overflow": (net(large=1e5), net(large=1e5, between=HALF), "act", "overflows|beyond"),
    "opset": (net(opset="12", axis=""), net(opset="13", axis="<axis = 0>"), "soft", "axis is 0|as opset 13 defines it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_kind_of_fault_is_located_and_named(fault: str) -> None:
    first, second, operator, cause = FAULTS[fault]
    difference = first_difference(first, second, Target(), Target(), DATA)
    assert difference is not None
    assert difference.operator == operator
    assert any(part in str(difference) for part in cause.split("|")), str(difference)


def test_the_script_shows_the_difference_with_the_engine_alone(tmp_path: Path) -> None:
    first, second = net(), net(mode="epsilon = 0.5")
    difference = first_difference(first, second, Target(), Target(), DATA)
    assert difference is not None
    folder = reproduce(first, second, difference, (Target(), Target()), DATA, tmp_path / "difference")
    outputs = np.load(folder / "outputs.npz")
    off = np.abs(outputs["expected"].astype(np.float64) - outputs["found"]).max()
    done = subprocess.run([sys.executable, "reproduce.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(off)
    assert off > 0.01
    assert "tightship" not in (folder / "reproduce.py").read_text()


def test_the_parts_hold_the_operator_alone(tmp_path: Path) -> None:
    first, second = net(), net(mode="epsilon = 0.5")
    difference = first_difference(first, second, Target(), Target(), DATA)
    assert difference is not None
    folder = reproduce(first, second, difference, (Target(), Target()), DATA, tmp_path / "difference")
    for name in ("expected", "found"):
        part = onnx.load(folder / f"{name}.onnx")
        assert [node.op_type for node in part.graph.node] == ["BatchNormalization"]
        assert [value.name for value in part.graph.input] == ["b"]


def test_operators_without_a_counterpart_are_part_of_it(tmp_path: Path) -> None:
    first, second, *_ = FAULTS["layout"]
    difference = first_difference(first, second, Target(), Target(), DATA)
    assert difference is not None
    folder = reproduce(first, second, difference, (Target(), Target()), DATA, tmp_path / "difference")
    kinds = [[node.op_type for node in onnx.load(folder / f"{name}.onnx").graph.node] for name in ("expected", "found")]
    assert kinds == [["Relu"], ["Transpose", "Relu"]]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    first, second = net(), net(mode="epsilon = 0.5")
    difference = first_difference(first, second, Target(), Target(), DATA)
    assert difference is not None
    with pytest.raises(OutputError, match=r"mine\.txt"):
        reproduce(first, second, difference, (Target(), Target()), DATA, tmp_path)
