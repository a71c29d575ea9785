"""Weights moved by a rounding: what stands for the sensitivity of a model that reads indices."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tightship import bridges, engines
from tightship.core import graph
from tightship.core.dataset import Dataset
from tightship.core.model import Form, Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.measure import parity
from tightship.measure.moved_weights import has_float_inputs, with_moved_weights

ENGINE = {"graph": "onnxruntime", "module": "torch", "keras": "tensorflow"}


def embedder() -> Model:
    """Rows of a table through a layer: codes [n, 3] -> y [n, 3, 2]."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        net (int64[n, 3] codes) => (float[n, 3, 2] y) {
            rows = Gather (table, codes)
            y = MatMul (rows, w)
        }"""
    )
    random = np.random.default_rng(0)
    for name, shape in (("table", (10, 4)), ("w", (4, 2))):
        proto.graph.initializer.append(numpy_helper.from_array(random.standard_normal(shape, np.float32), name))
    return graph.from_bytes(proto.SerializeToString())


def run(model: Model) -> np.ndarray:
    with engines.open_session(model, Target(ENGINE[model.form])) as session:
        [found] = session.run({session.inputs[0].name: CODES}).values()
    return found


CODES = np.random.default_rng(1).integers(0, 10, (4, 3))


@pytest.mark.parametrize("form", ["graph", "module", "keras"])
def test_every_form_is_moved_by_a_rounding_and_stays_as_it_was(form: Form) -> None:
    if form == "keras":
        pytest.importorskip("keras", reason="needs the tensorflow extra")
    model = bridges.route(embedder(), form)
    before = run(model)
    moved = run(with_moved_weights(model))
    np.testing.assert_array_equal(run(model), before)
    assert 0 < np.abs(moved - before).max() < 8 * 2**-22 * np.abs(before).max() * 4


def test_only_inputs_that_are_floats_can_be_moved() -> None:
    assert not has_float_inputs(embedder())


class Steep:
    """A session of one number per item, whose moved twin is off by `shift`."""

    def __init__(self, shift: float) -> None:
        self.target = Target()
        self.inputs = embedder().inputs
        self.outputs = embedder().outputs
        self.shift = shift

    def run(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["codes"][..., None].repeat(2, axis=-1).astype(np.float32) + np.float32(self.shift)}


@pytest.mark.parametrize(("moved", "agrees"), [(0.0, False), (1e-4, False), (1e-2, True)])
def test_what_a_rounding_of_the_weights_moves_is_allowed_for(moved: float, agrees: bool) -> None:
    data = Dataset.from_arrays("codes", "0", {"codes": CODES})
    found = parity.compare(Steep(0), Steep(0.02), data, moved=Steep(moved))  # type: ignore[arg-type]
    assert found.agrees is agrees


def test_a_module_keeps_its_own_weights() -> None:
    model = bridges.route(embedder(), "module")
    states = [with_moved_weights(model).content.module.state_dict(), model.content.module.state_dict()]
    assert all(not torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))
