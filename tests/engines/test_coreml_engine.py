"""Core ML's session, against a stand-in for coremltools: the real one runs on macOS alone."""

from __future__ import annotations

import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tightship import engines
from tightship.core.target import Target
from tightship.errors import EngineError, UnsupportedError

coremltools = pytest.importorskip("coremltools")


def array(name: str, kind: int, *shape: int) -> Any:
    features = SimpleNamespace(dataType=kind, shape=shape)
    return SimpleNamespace(
        name=name, type=SimpleNamespace(WhichOneof=lambda _: "multiArrayType", multiArrayType=features)
    )


class Doubling:
    """What MLModel documents: a spec, and predict from a dict of arrays to a dict of arrays."""

    def __init__(self, path: str, compute_units: Any) -> None:
        assert compute_units is coremltools.ComputeUnit.CPU_ONLY

    def get_spec(self) -> Any:
        inputs, outputs = [array("x", 65568, 1, 3)], [array("y", 65568, 1, 3)]
        return SimpleNamespace(description=SimpleNamespace(input=inputs, output=outputs))

    def predict(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "x" not in data:
            raise RuntimeError("no x\nand more")
        return {"y": data["x"] * 2}


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(coremltools.models, "MLModel", Doubling)


def test_a_session_gives_what_predict_gives_by_name(on_macos: None) -> None:
    with engines.open_session(Path("net.mlpackage"), Target("coreml")) as session:
        assert [str(spec) for spec in (*session.inputs, *session.outputs)] == ["x: float32[1, 3]", "y: float32[1, 3]"]
        found = session.run({"x": np.float32([[1, 2, 3]])})
        np.testing.assert_array_equal(found["y"], [[2, 4, 6]])
        with pytest.raises(EngineError, match=r"Core ML failed while running: no x$"):
            session.run({})


@pytest.mark.skipif(platform.system() == "Darwin", reason="there Core ML runs")
def test_on_another_system_it_says_where_it_runs() -> None:
    assert not engines.ENGINES["coreml"].available
    with pytest.raises(UnsupportedError, match="Core ML runs on macOS only, and this is "):
        engines.open_session(Path("net.mlpackage"), Target("coreml"))
