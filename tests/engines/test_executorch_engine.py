"""ExecuTorch: `.pte` files are written from modules and run as torch runs them; inputs and outputs go by position."""

# ruff: noqa: F401 - the rules of every engine are imported so that they are collected here, with this file's fixtures

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.engines.test_contract import (
    test_a_file_that_is_no_model_or_missing_is_an_engine_error,
    test_a_model_of_another_form_is_an_engine_error,
    test_a_precision_that_the_processor_lacks_is_an_engine_error,
    test_an_engine_that_is_not_installed_names_the_command,
    test_bytes_that_are_no_model_are_an_engine_error,
)
from tightship import formats
from tightship.core.model import Model
from tightship.core.session import Session
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.engines import ENGINES, Engine, open_session
from tightship.errors import EngineError

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")
nn = torch.nn


class Net(nn.Module):
    """Two inputs, two outputs; a convolution that XNNPACK takes and an index that it leaves to portable kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.embedding = nn.Embedding(10, 4)

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.conv(image).relu().mean((2, 3))
        return {"features": features, "shifted": features - self.embedding(ids).mean(1)}


@pytest.fixture
def engine() -> Engine:
    return ENGINES["executorch"]


@pytest.fixture(scope="module")
def net() -> Model:
    torch.manual_seed(0)
    return from_torch(Net().eval(), (torch.randn(1, 3, 8, 8), torch.randint(0, 10, (1, 5))))


@pytest.fixture(scope="module")
def file(net: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return formats.write(net, tmp_path_factory.mktemp("executorch") / "net.pte").path


@pytest.fixture
def model(file: Path) -> Path:
    return file


@pytest.fixture
def session(file: Path) -> Iterator[Session]:
    with open_session(file, Target("executorch")) as opened:
        yield opened


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "input_0": random.standard_normal((1, 3, 8, 8), np.float32),
        "input_1": random.integers(0, 10, (1, 5), np.int64),
    }


def test_the_session_describes_the_file_by_position(session: Session) -> None:
    assert [str(spec) for spec in session.inputs] == ["input_0: float32[1, 3, 8, 8]", "input_1: int64[1, 5]"]
    assert [str(spec) for spec in session.outputs] == ["output_0: float32[1, 4]", "output_1: float32[1, 4]"]


def test_outputs_are_those_of_torch(session: Session, net: Model) -> None:
    for seed in range(3):
        given = inputs(seed)
        expected = net.content.module(*map(torch.from_numpy, given.values()))
        for found, wanted in zip(session.run(given).values(), expected.values(), strict=True):
            np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=0, atol=1e-5)


def test_outputs_of_one_run_are_not_changed_by_the_next(session: Session) -> None:
    first = session.run(inputs(1))
    kept = {name: array.copy() for name, array in first.items()}
    second = session.run(inputs(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert not np.array_equal(second[name], array)


def test_inputs_may_be_read_only_and_not_contiguous(session: Session) -> None:
    expected = session.run(inputs())
    awkward = {name: np.asfortranarray(array) for name, array in inputs().items()}
    for array in awkward.values():
        array.flags.writeable = False
    for name, array in session.run(awkward).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_0": None}, "no array for input input_0"),
        ({"input_0": np.zeros((2, 3, 8, 8), np.float32)}, r"expected input_0.*found.*\[2, 3, 8, 8\].*--input-shape"),
        ({"input_0": np.zeros((1, 3, 8, 8), np.float64)}, "expected input_0.*found.*float64"),
        ({"input_2": np.zeros(1, np.float32)}, "unknown input input_2"),
    ],
    ids=["missing", "misshaped", "mistyped", "unknown"],
)
def test_inputs_that_do_not_fit_are_an_engine_error(
    session: Session, changed: dict[str, np.ndarray | None], message: str
) -> None:
    given = {name: array for name, array in {**inputs(), **changed}.items() if array is not None}
    with pytest.raises(EngineError, match=message):
        session.run(given)


def test_a_session_may_be_closed_twice_and_then_runs_no_more(file: Path) -> None:
    session = open_session(file, Target("executorch"))
    session.close()
    session.close()
    with pytest.raises(EngineError, match="the session is closed"):
        session.run(inputs())


def test_bytes_run_as_the_file_does(file: Path, session: Session) -> None:
    with open_session(file.read_bytes(), Target("executorch")) as other:
        for name, array in other.run(inputs()).items():
            np.testing.assert_array_equal(array, session.run(inputs())[name])


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_program_that_is_cut_short_is_an_engine_error(file: Path, keep: float) -> None:
    whole = file.read_bytes()
    with pytest.raises(EngineError, match="ExecuTorch cannot open the model"):
        open_session(whole[: int(len(whole) * keep)], Target("executorch"))
