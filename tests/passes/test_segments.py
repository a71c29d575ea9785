"""A graph cut at its narrow places computes, part by part, what it computes as a whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.nets import lstm_net, mlp
from tests.passes.blocks import correlated, decoder
from tests.passes.running import made_up_inputs, model_of, run, written
from tightship.core.graph import from_ir
from tightship.core.model import Model
from tightship.core.session import Arrays
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.passes.editing import editable, infer_shapes, name_everything
from tightship.passes.segments import inner_model, segments
from tightship.passes.streams import Stream


def prepared(model: Model) -> Model:
    graph = editable(model)
    name_everything(graph)
    infer_shapes(graph)
    return from_ir(graph)


def part_by_part(model: Model, inputs: Arrays, folder: Path) -> Arrays:
    stream = Stream.write(folder / "start", [inputs])
    for index, part in enumerate(segments(model.graph)):
        gives = [name for name in part.gives if name not in part.reads]
        with open_session(from_ir(inner_model(model.graph, part.reads, gives, {})), Target(threads=1)) as session:
            stream = stream.through(session, part.gives, folder / str(index))
    return next(iter(stream))


def test_a_decoder_is_cut_at_its_residual_sums_and_carries_the_mask_along() -> None:
    found = segments(prepared(decoder(2)).graph)
    assert [sorted(part.reads) for part in found] == [
        ["mask", "x"],
        ["a0", "mask"],
        ["mask", "r1"],
        ["a1"],
        ["r2"],
    ]
    assert [[linear.weight.name for linear in part.linears] for part in found] == [
        ["wq0", "wk0", "wv0", "wo0"],
        ["wu0", "wd0"],
        ["wq1", "wk1", "wv1", "wo1"],
        ["wu1", "wd1"],
        ["head"],
    ]


def test_products_that_read_the_same_value_are_one_group() -> None:
    first = segments(prepared(decoder(1)).graph)[0]
    assert [(read, [linear.weight.name for linear in group]) for read, group in first.groups()] == [
        ("h0", ["wq0", "wk0", "wv0"]),
        ("c0", ["wo0"]),
    ]


def test_part_by_part_is_the_whole(tmp_path: Path) -> None:
    model = prepared(decoder(3))
    inputs = dict(next(correlated(4).open()).inputs)
    np.testing.assert_allclose(part_by_part(model, inputs, tmp_path)["y"], run(model, inputs)["y"], atol=1e-5)


def test_recurrent_and_plain_networks_are_cut_too(tmp_path: Path) -> None:
    for count, proto in enumerate((mlp(), lstm_net())):
        model = prepared(model_of(proto))
        inputs = made_up_inputs(model)
        folder = tmp_path / str(count)
        np.testing.assert_allclose(part_by_part(model, inputs, folder)["y"], run(model, inputs)["y"], atol=1e-5)


def test_an_output_in_the_middle_lives_to_the_end(tmp_path: Path) -> None:
    weights = {name: np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) for name in "uvw"}
    text = """n (float[N, 64] x) => (float[N, 64] a, float[N, 64] c) {
        a = MatMul (x, u)
        b = MatMul (a, v)
        c = MatMul (b, w)
    }"""
    model = prepared(written(text, **weights))
    inputs = made_up_inputs(model)
    found = part_by_part(model, inputs, tmp_path)
    for name, array in run(model, inputs).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-4)


def test_what_a_subgraph_reads_from_outside_lives_until_then(tmp_path: Path) -> None:
    weights = {name: np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32) for name in "uvw"}
    text = """n (float[N, 64] x, bool choose) => (float[N, 64] c) {
        a = MatMul (x, u)
        b = MatMul (a, v)
        d = MatMul (b, w)
        c = If (choose) <
            then_branch = t () => (float[N, 64] e) { e = Add (d, a) },
            else_branch = f () => (float[N, 64] e) { e = Sub (d, a) }
        >
    }"""
    model = prepared(written(text, **weights))
    inputs = {"x": np.ones((2, 64), np.float32), "choose": np.array(False)}
    assert "a" in segments(model.graph)[-1].reads
    np.testing.assert_allclose(part_by_part(model, inputs, tmp_path)["c"], run(model, inputs)["c"], rtol=1e-5)
