"""The first runs of a model: whether requests may share a run is found out, not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import nets
from tightship import engines
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.errors import EngineError
from tightship.serve.loaded import Opener
from tightship.serve.settings import Limits
from tightship.serve.warming import warm

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'


def opened(text: str) -> Session:
    model = onnx.parser.parse_model(f"{HEAD} net {text}")
    return engines.open_session(model.SerializeToString(), Target(threads=1))


def wide(body: str = "y = MatMul (x, w)", batch: str = "n") -> Session:
    """A product with 1024 x 1024 weights: two rows cost little more than one."""
    weights = "s = Constant <value = int64[2] {1024, 1024}> () w = ConstantOfShape <value = float[1] {0.01}> (s)"
    return opened(f"(float[{batch}, 1024] x) => (float[{batch}, 1024] y) {{ {weights} {body} }}")


def test_a_model_that_gains_by_it_shares_runs() -> None:
    found = warm(wide())
    assert found.together and found.n_elements == 1024 and 0 < found.run_s < 1


def test_a_model_that_mixes_its_items_does_not() -> None:
    mixing = "z = MatMul (x, w) m = ReduceMean <axes = [0], keepdims = 1> (z) y = Sub (z, m)"
    assert not warm(wide(mixing)).together


def test_a_model_of_one_item_at_a_time_does_not() -> None:
    assert not warm(wide(batch="1")).together


def test_texts_and_indices_are_made_up_so_that_they_are_taken() -> None:
    text = "(string[n] t, int64[n, 5] i) => (string[n] u, float[n, 5] e) <float[2] table = {1, 2}> "
    session = opened(f"{text} {{ u = Identity (t) e = Gather (table, i) }}")
    assert warm(session).run_s < 1


def test_a_model_that_takes_one_of_the_items_alone_is_served_without_sharing() -> None:
    found = warm(opened("(int64[n] i) => (float[n] e) <float[1] table = {1}> { e = Gather (table, i) }"))
    assert 0 < found.run_s < 1 and not found.together


def test_a_model_with_free_axes_that_takes_no_length_is_not_run() -> None:
    shape = "(float[n, m] x) => (float[n, 7] y) <int64[2] s = {-1, 7}, float[7, 7] w = {" + ",".join(["1"] * 49)
    found = warm(opened(f"{shape}}}> {{ y = MatMul (x, w) }}"))
    assert found.run_s == float("inf") and not found.together


def test_a_model_of_fixed_shapes_that_does_not_run_is_refused() -> None:
    with pytest.raises(EngineError):
        warm(opened("(int64[1] x) => (float[1] y) <float[2] t = {1, 2}, int64[1] far = {9}> "
                    "{ z = Add (x, far) y = Gather (t, z) }"))  # fmt: skip


def test_a_tiny_model_runs_on_the_loop_with_one_thread(tmp_path: Path) -> None:
    loaded = Opener(Limits()).open("net", "1", nets.save(nets.mlp(8), tmp_path))
    assert loaded.inline and loaded.target.threads == 1 and not loaded.batches
    assert loaded.quick(8) and not loaded.quick(1000)
    assert np.isfinite(loaded.run({"x": np.ones((1, 8), np.float32)})["y"]).all()
    loaded.retire()
