"""Planted faults are found by what operators compute, across forms that share neither names nor operators."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import nets
from tightship import bridges
from tightship.core import graph
from tightship.core.model import Form, Model
from tightship.measure.generate import generate
from tightship.measure.traces import first_lost, traced


@pytest.fixture(scope="module")
def source() -> Model:
    return graph.from_bytes(nets.conv_net().SerializeToString())


def converted(source: Model, form: Form) -> Model:
    if form == "keras":
        pytest.importorskip("keras", reason="needs the tensorflow extra")
    return bridges.route(source, form)


def lost(first: Model, second: Model) -> str | None:
    found = first_lost(first, second, generate(second if first.form == "keras" else first, 2, seed=0))
    return None if found is None else found.operator


@pytest.mark.parametrize("form", ["module", "keras"])
def test_nothing_is_lost_by_a_bridge_that_is_right(source: Model, form: Form) -> None:
    other = converted(source, form)
    assert lost(source, other) is None
    assert lost(other, source) is None


def test_an_activation_that_became_another_is_the_first_lost(source: Model) -> None:
    module = converted(source, "module")
    code = module.content.module
    next(node for node in code.graph.nodes if node.target is torch.relu).target = torch.tanh
    code.recompile()
    assert lost(source, module) == "b"


def test_weights_that_went_wrong_are_found_in_channels_last(source: Model) -> None:
    made = converted(source, "keras")
    second = [layer for layer in made.content.layers if "conv" in type(layer).__name__.lower()][1]
    second.kernel.assign(np.asarray(second.kernel)[..., ::-1])
    assert lost(source, made) == "c"


def test_the_layer_of_a_plain_module_is_named() -> None:
    from tightship.core.torch_module import from_torch

    network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()
    model = from_torch(network, (torch.zeros(2, 4),))
    made = bridges.route(model, "graph")
    assert lost(model, made) is None
    network[2].weight = torch.nn.Parameter(network[2].weight + 1.0)  # the graph has the memory of the former
    assert lost(model, made) == "2"


def test_results_say_what_they_were_made_from(source: Model) -> None:
    feed = {"image": np.ones((1, 1, 8, 8), np.float32)}
    found = {result.operator: result for result in traced(source, feed)}
    assert found["d"].reads == ("c",) and found["d"].shape == (1, 32, 8, 8)
    assert list(found["d"].summary) == pytest.approx(
        [found["d"].summary[0], found["d"].summary[1], 0.0, found["c"].summary[3]], abs=1e-6
    )
