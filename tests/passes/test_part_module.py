"""A part of a graph as a module computes what the graph does, with the weights it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.passes.blocks import correlated, decoder
from tests.passes.running import run, written
from tests.passes.test_segments import prepared
from tightship.core.graph import from_ir
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.passes.part_module import Tensors, part_module, tensors
from tightship.passes.segments import inner_model, segments
from tightship.passes.streams import Stream

torch = pytest.importorskip("torch")


def test_the_module_of_each_part_gives_what_the_part_gives(tmp_path: Path) -> None:
    graph = prepared(decoder()).graph
    stream = Stream.write(tmp_path / "0", [dict(next(correlated(4).open()).inputs)])
    for index, part in enumerate(segments(graph)):
        gives = [name for name in part.gives if name not in part.reads]
        made = part_module(graph, part.reads, gives, [linear.name for linear in part.linears])
        assert set(made.parameters) == {linear.name for linear in part.linears}
        found = made.module(*Tensors(stream, made.reads)[0])
        with open_session(from_ir(inner_model(graph, part.reads, gives, {})), Target(threads=1)) as session:
            stream = stream.through(session, part.gives, tmp_path / f"{index + 1}")
        for name, array in zip(gives, found, strict=True):
            np.testing.assert_allclose(array.numpy(), stream.batch(0)[name], atol=1e-4)


def test_another_weight_in_its_parameter_is_another_weight_of_the_graph() -> None:
    rng = np.random.default_rng(0)
    w, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((32, 64), (32, 64)))
    model = prepared(written("n (float[N, 64] x) => (float[N, 32] y) { y = Gemm <transB = 1> (x, w) }", w=w))
    made = part_module(model.graph, ["x"], ["y"], ["y"])
    name, fed = made.parameters["y"]
    assert fed.by_rows
    x = rng.standard_normal((3, 64)).astype(np.float32)
    changed = torch.func.functional_call(made.module, {name: torch.from_numpy(v)}, tensors({"x": x}, ["x"]))
    np.testing.assert_allclose(changed[0].numpy(), x @ v.T, atol=1e-4)
    np.testing.assert_allclose(run(model, {"x": x})["y"], x @ w.T, atol=1e-4)
