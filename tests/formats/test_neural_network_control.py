"""Branches and loops of Core ML's neural networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from coremltools.models.neural_network import NeuralNetworkBuilder

from tests.formats.neural_network_cases import build, run
from tightship.errors import UnsupportedError, UnsupportedOperators
from tightship.formats.neural_network import read_neural_network


def inside(network: Any) -> NeuralNetworkBuilder:
    return NeuralNetworkBuilder(input_features=None, output_features=None, spec=None, nn_spec=network)


def branch(b: NeuralNetworkBuilder) -> None:
    layer = b.add_branch("l", "condition")
    inside(layer.branch.ifBranch).add_elementwise("ten", ["x"], "y", "MULTIPLY", 10)
    inside(layer.branch.elseBranch).add_elementwise("more", ["x"], "y", "ADD", 10)


@pytest.mark.parametrize(("condition", "expected"), [(1, [10, 20, 30]), (0, [11, 12, 13])])
def test_a_branch_goes_one_way(condition: float, expected: list[float]) -> None:
    spec = build({"x": (3,), "condition": (1,)}, branch)
    found = run(spec, {"x": np.array([1, 2, 3]), "condition": np.array([condition])})
    assert found["y"].tolist() == expected


def counted(b: NeuralNetworkBuilder) -> None:
    b.add_copy("start", "x", "y")
    layer = b.add_loop("l")
    layer.loop.maxLoopIterations = 5
    body = inside(layer.loop.bodyNetwork)
    body.add_elementwise("add", ["y"], "sum", "ADD", 2)
    body.add_copy("again", "sum", "y")


def test_a_loop_runs_so_many_times() -> None:
    assert run(build({"x": (1,)}, counted), {"x": np.array([1.0])})["y"].tolist() == [11]


def conditional(b: NeuralNetworkBuilder, limit: int = 0) -> None:
    """Double y while it is below 100."""
    b.add_copy("start", "x", "y")
    layer = b.add_loop("l", condition="below")
    layer.loop.maxLoopIterations = limit
    inside(layer.loop.conditionNetwork).add_less_than("less", ["y"], "below", alpha=100.0)
    body = inside(layer.loop.bodyNetwork)
    body.add_elementwise("double", ["y"], "twice", "MULTIPLY", 2)
    body.add_copy("again", "twice", "y")


@pytest.mark.parametrize(("limit", "start", "expected"), [(0, 3, 192), (0, 300, 300), (2, 3, 12)])
def test_a_loop_runs_while_its_condition_holds(limit: int, start: float, expected: float) -> None:
    spec = build({"x": (1,)}, lambda b: conditional(b, limit))
    assert run(spec, {"x": np.array([start])})["y"].tolist() == [expected]


def test_a_loop_that_changes_a_shape_is_refused_by_name() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        b.add_copy("start", "x", "y")
        layer = b.add_loop("l")
        layer.loop.maxLoopIterations = 2
        body = inside(layer.loop.bodyNetwork)
        body.add_tile("longer", "y", "sum", [2])
        body.add_copy("again", "sum", "y")

    with pytest.raises(UnsupportedError, match="layer 'l': a loop that changes the shape of 'y'"):
        read_neural_network(build({"x": (1,)}, add), "net.mlmodel")


def test_all_layers_without_a_counterpart_are_named_those_inside_loops_too() -> None:
    def add(b: NeuralNetworkBuilder) -> None:
        counted(b)
        inside(b.nn_spec.layers[-1].loop.bodyNetwork).add_loop_break("stop")

    spec = build({"x": (1,)}, add)
    layer = spec.neuralNetwork.layers.add(name="mine", input=["x"], output=["z"])
    layer.custom.className = "Fancy"
    with pytest.raises(UnsupportedOperators, match=r"net.mlmodel: .* custom Fancy \('mine'\); loopBreak \('stop'\)"):
        read_neural_network(spec, "net.mlmodel")
