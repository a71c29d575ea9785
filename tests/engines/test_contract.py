"""What every row of the table of engines keeps, without any being named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tightship.core import extras, graph
from tightship.core.model import Form, Model
from tightship.core.session import Session
from tightship.core.target import Precision, Target
from tightship.engines import ENGINES, Engine, open_session
from tightship.errors import EngineError, MissingExtra

GRAPH = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[batch, 8, 64] a, float[batch, 8, 64] b) => (float[batch, 8, 64] total, float[batch, 8, 64] product) {
        total = Add (a, b)
        product = Mul (a, b)
    }"""
"""Two inputs that change nothing when swapped would not tell a wrong order: the halves are made to differ below."""


def graph_model() -> Model:
    import onnx

    return graph.from_bytes(onnx.parser.parse_model(GRAPH).SerializeToString())


def module_model() -> Model:
    import torch

    from tightship.core.torch_module import from_torch

    class Net(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"total": a + b, "product": a * b}

    return from_torch(Net().eval(), (torch.ones(1, 8, 64), torch.ones(1, 8, 64)))


def keras_model(total: str = "Add") -> Model:
    from tightship.core.keras_model import from_keras
    from tightship.core.tensorflow_runtime import require_keras

    require_keras("the tests")
    import keras

    inputs = [keras.Input((8, 64), name=name) for name in ("a", "b")]
    outputs = [getattr(keras.layers, total)(name="total")(inputs), keras.layers.Multiply(name="product")(inputs)]
    return from_keras(keras.Model(inputs, outputs))


MODELS: dict[Form, Callable[[], Model]] = {"graph": graph_model, "module": module_model, "keras": keras_model}


WITH_MODELS = [engine for engine in ENGINES.values() if engine.form]
"""Those that open files only keep the same rules in tests of their own, which import these."""


@pytest.fixture(params=WITH_MODELS, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> Engine:
    if not request.param.available:
        pytest.skip(f"{request.param.name} is not installed")
    return request.param


@pytest.fixture
def model(engine: Engine) -> Model:
    return MODELS[engine.form]()


@pytest.fixture
def session(engine: Engine, model: Model) -> Iterator[Session]:
    with open_session(model, Target(engine.name, threads=1)) as opened:
        yield opened


def arrays(count: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal((count, 8, 64), np.float32) for name in ("a", "b")}


def test_an_engine_is_found_under_its_own_name(engine: Engine) -> None:
    assert ENGINES[engine.name] is engine
    assert engine.form in get_args(Form)
    assert engine.gives


def test_every_engine_runs_float32_and_names_known_precisions(engine: Engine) -> None:
    assert engine.precisions()[0] == "f32"
    assert set(engine.precisions()) <= set(get_args(Precision))


def test_a_session_knows_its_target_and_describes_the_model(session: Session, engine: Engine, model: Model) -> None:
    assert session.target == Target(engine.name, threads=1)
    for found, expected in ((session.inputs, model.inputs), (session.outputs, model.outputs)):
        assert [(spec.name, spec.dtype) for spec in found] == [(spec.name, spec.dtype) for spec in expected]
        assert [spec.shape[1:] for spec in found] == [spec.shape[1:] for spec in expected]
        assert all(spec.batch is None for spec in found)


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_come_by_name_with_the_values_of_the_model(session: Session, count: int) -> None:
    inputs = arrays(count)
    outputs = session.run(inputs)
    assert list(outputs) == ["total", "product"]
    np.testing.assert_array_equal(outputs["total"], inputs["a"] + inputs["b"])  # one rounding, so exact
    np.testing.assert_array_equal(outputs["product"], inputs["a"] * inputs["b"])


def test_the_order_of_the_arrays_given_does_not_matter(engine: Engine) -> None:
    if engine.form == "graph":
        import onnx

        text = GRAPH.replace("Add (a, b)", "Sub (a, b)")
        model = graph.from_bytes(onnx.parser.parse_model(text).SerializeToString())
    elif engine.form == "keras":
        model = keras_model("Subtract")
    else:
        import torch

        from tightship.core.torch_module import from_torch

        class Net(torch.nn.Module):
            def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
                return {"total": a - b}

        model = from_torch(Net().eval(), (torch.ones(1, 8, 64), torch.ones(1, 8, 64)))
    inputs = arrays()
    with open_session(model, Target(engine.name)) as session:
        total = session.run(dict(reversed(inputs.items())))["total"]
    np.testing.assert_array_equal(total, inputs["a"] - inputs["b"])


def test_outputs_of_one_run_are_not_changed_by_the_next(session: Session) -> None:
    first = session.run(arrays(seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    second = session.run(arrays(seed=2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert not np.shares_memory(array, second[name])


def test_outputs_may_be_written_without_touching_inputs_or_later_runs(session: Session) -> None:
    inputs = arrays()
    expected = session.run(inputs)["total"].copy()
    outputs = session.run(inputs)
    for array in outputs.values():
        array[...] = np.nan
    assert all(np.isfinite(array).all() for array in inputs.values())
    np.testing.assert_array_equal(session.run(inputs)["total"], expected)


def test_inputs_may_be_read_only_and_not_contiguous(session: Session) -> None:
    inputs = arrays(3)
    expected = session.run(inputs)["total"]
    awkward = {name: np.asfortranarray(array) for name, array in inputs.items()}
    for array in awkward.values():
        array.flags.writeable = False
    np.testing.assert_array_equal(session.run(awkward)["total"], expected)


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": np.zeros((1, 8, 64), np.float32)},
        {"a": np.zeros((1, 8, 64), np.float32), "c": np.zeros((1, 8, 64), np.float32)},
        {"a": np.zeros((1, 8, 64), np.float32), "b": np.zeros((1, 8, 63), np.float32)},
    ],
    ids=["missing", "misnamed", "misshaped"],
)
def test_inputs_that_do_not_fit_are_an_engine_error(session: Session, wrong: dict[str, np.ndarray]) -> None:
    with pytest.raises(EngineError):
        session.run(wrong)


def test_inputs_of_another_type_are_an_engine_error_or_converted(session: Session) -> None:
    inputs = arrays()
    try:
        found = session.run({name: array.astype(np.float64) for name, array in inputs.items()})
    except EngineError:
        return
    np.testing.assert_array_equal(found["total"], inputs["a"] + inputs["b"])


def test_a_session_may_be_closed_twice_and_then_runs_no_more(engine: Engine, model: Model) -> None:
    session = open_session(model, Target(engine.name))
    session.close()
    session.close()
    with pytest.raises(EngineError):
        session.run(arrays())


def test_a_session_closes_at_the_end_of_its_block(engine: Engine, model: Model) -> None:
    with open_session(model, Target(engine.name)) as session:
        assert session.run(arrays())
    with pytest.raises(EngineError):
        session.run(arrays())


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"hello, I am no model"])
def test_bytes_that_are_no_model_are_an_engine_error(engine: Engine, content: bytes) -> None:
    with pytest.raises(EngineError):
        open_session(content, Target(engine.name))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_that_is_no_model_or_missing_is_an_engine_error(engine: Engine, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    with pytest.raises(EngineError):
        open_session(path, Target(engine.name))
    path.write_bytes(b"hello, I am no model")
    with pytest.raises(EngineError):
        open_session(path, Target(engine.name))


def test_a_model_of_another_form_is_an_engine_error(engine: Engine) -> None:
    other: Form = "module" if engine.form == "graph" else "graph"
    with pytest.raises(EngineError, match=f"found {other}"):
        open_session(Model(other, None, (), ()), Target(engine.name))


def test_a_precision_that_the_processor_lacks_is_an_engine_error(engine: Engine, model: Model) -> None:
    missing = next(precision for precision in get_args(Precision) if precision not in engine.precisions())
    with pytest.raises(EngineError, match=missing):
        open_session(model, Target(engine.name, precision=missing))


def test_every_precision_on_offer_is_as_near_as_its_mantissa(engine: Engine, model: Model) -> None:
    inputs = arrays()
    for precision in engine.precisions():
        with open_session(model, Target(engine.name, precision=precision)) as session:
            product = session.run(inputs)["product"]
        assert product.dtype == np.float32
        # Inputs and result are rounded to 24 bits (float32), 11 (float16) or 8 (bfloat16).
        relative = {"f32": 2**-23, "f16": 2**-9, "bf16": 2**-6}[precision]
        np.testing.assert_allclose(product, inputs["a"] * inputs["b"], rtol=relative)


def test_an_engine_that_is_not_installed_names_the_command(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine.name == "onnxruntime":
        pytest.skip("onnxruntime belongs to the base install")
    monkeypatch.setattr(extras, "available", lambda module: module != engine.module)
    with pytest.raises(MissingExtra, match=rf"pip install 'tightship\[{engine.name}\]'"):
        open_session(b"", Target(engine.name))


THREADS = """
import sys

import numpy as np
import psutil

from tightship.core import graph
from tightship.core.target import Target
from tightship.engines import ENGINES, open_session

name = sys.argv[1]
if ENGINES[name].form == "graph":
    import onnx

    text = '''<ir_version: 9, opset_import: ["" : 17]>
        net (float[1, 8, 64, 64] x, float[8, 8, 3, 3] w) => (float[1, 8, 62, 62] y) { y = Conv (x, w) }'''
    model = graph.from_bytes(onnx.parser.parse_model(text).SerializeToString())
elif ENGINES[name].form == "keras":
    from tightship.core.keras_model import from_keras
    from tightship.core.tensorflow_runtime import require_keras

    require_keras("the tests")
    import keras

    model = from_keras(keras.Sequential([keras.Input((64, 64, 8)), keras.layers.Conv2D(8, 3)]))
else:
    import torch

    from tightship.core.torch_module import from_torch

    torch.set_num_threads(1)
    model = from_torch(torch.nn.Conv2d(8, 8, 3).eval(), (torch.ones(1, 8, 64, 64),))
inputs = {spec.name: np.ones(spec.resolve(), np.float32) for spec in model.inputs}
for count in (1, 4):
    with open_session(model, Target(name, threads=count)) as session:
        session.run(inputs)
        print(psutil.Process().num_threads())
"""


def test_more_threads_are_used_where_the_target_says_so(engine: Engine) -> None:
    """Counted in a process of its own: threads of other tests stay alive."""
    done = subprocess.run([sys.executable, "-c", THREADS, engine.name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, four = map(int, done.stdout.split())
    assert one < four


def test_torch_runs_with_the_threads_of_the_session_that_runs() -> None:
    torch = pytest.importorskip("torch")
    with (
        open_session(module_model(), Target("torch", threads=1)) as one,
        open_session(module_model(), Target("torch", threads=2)) as two,
    ):
        for session in (one, two, one):
            session.run(arrays())
            assert torch.get_num_threads() == session.target.threads


def test_torch_in_bfloat16_rounds_products_and_still_gives_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any processor: bfloat16 without hardware is slow, not wrong."""
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    torch.manual_seed(0)
    model = from_torch(torch.nn.Linear(64, 64).eval(), (torch.randn(2, 64),))
    monkeypatch.setattr(type(ENGINES["torch"]), "precisions", lambda engine: ("f32", "bf16"))
    outputs = {}
    for precision in ("f32", "bf16"):
        with open_session(model, Target("torch", precision=precision)) as session:
            outputs[precision] = session.run({"input": np.ones((2, 64), np.float32)})["output"]
    error = np.abs(outputs["bf16"] - outputs["f32"]).max()
    assert outputs["bf16"].dtype == np.float32
    assert 1e-5 < error < 2**-6  # float32 would be below, a wrong product above: values are near 1, with 8 bits


def test_torch_opens_an_exported_program(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2).eval()
    torch.export.save(torch.export.export(module, (torch.ones(1, 3),)), tmp_path / "model.pt2")
    with open_session(tmp_path / "model.pt2", Target("torch")) as session:
        found = session.run({"input": np.ones((1, 3), np.float32)})["output"]
    np.testing.assert_array_equal(found, module(torch.ones(1, 3)).detach().numpy())


def test_torch_wraps_what_a_module_raises() -> None:
    torch = pytest.importorskip("torch")
    from tightship.core.torch_module import from_torch

    class Failing(torch.nn.Module):
        armed = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.armed:
                raise KeyError("boom")
            return x

    model = from_torch(Failing().eval(), (torch.ones(1, 3),))
    model.content.module.armed = True
    with (
        open_session(model, Target("torch")) as session,
        pytest.raises(EngineError, match="torch failed while running: 'boom'"),
    ):
        session.run({"x": np.ones((1, 3), np.float32)})
