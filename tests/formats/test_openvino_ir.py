"""OpenVINO IR: written from a graph, run under the graph's names, never read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.core import extras, graph
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import ArtifactNotFound, EngineError, MissingExtra, UnsupportedError, UsageError
from tightship.formats.openvino_ir import OpenVinoIr

pytest.importorskip("openvino")

TWINS = """<ir_version: 9, opset_import: ["" : 17]>
    net (float[batch, 4] a, float[batch, 4] b)
        => (float[batch, 4] total, float[batch, 4] again, float[batch, 4] unchanged) {
        sum = Add (a, b)
        total = Identity (sum)
        again = Identity (sum)
        unchanged = Identity (a)
    }"""
"""Values that are one for a compiler: each output has to keep its own name all the same."""


def model(text: str = TWINS) -> Model:
    import onnx

    return graph.from_bytes(onnx.parser.parse_model(text).SerializeToString())


def linear(n_rows: int = 64) -> Model:
    """y = x @ w with random weights, of which a float16 file keeps 11 bits."""
    import onnx_ir

    weight = onnx_ir.tensor(np.random.default_rng(0).standard_normal((n_rows, 8), np.float32), name="w")
    result = model(f"""<ir_version: 9, opset_import: ["" : 17]>
        net (float[batch, {n_rows}] x, float[{n_rows}, 8] w) => (float[batch, 8] y) {{ y = MatMul (x, w) }}""").graph
    result.graph.inputs[1].const_value = weight
    result.graph.register_initializer(result.graph.inputs[1])
    del result.graph.inputs[1]
    return graph.from_ir(result)


def inputs(count: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    return {name: random.standard_normal((count, 4), np.float32) for name in ("a", "b")}


def test_the_file_runs_under_the_names_of_the_graph_with_any_number_of_items(tmp_path: Path) -> None:
    artifact = formats.write(model(), tmp_path / "net.xml")
    with open_session(artifact.path, Target("openvino")) as session:
        assert [spec.name for spec in session.inputs] == ["a", "b"]
        for count in (1, 3):
            given = inputs(count)
            found = session.run(given)
            assert list(found) == ["total", "again", "unchanged"]
            np.testing.assert_array_equal(found["total"], given["a"] + given["b"])
            np.testing.assert_array_equal(found["again"], given["a"] + given["b"])
            np.testing.assert_array_equal(found["unchanged"], given["a"])


def test_the_artifact_is_both_files(tmp_path: Path) -> None:
    artifact = formats.write(linear(), tmp_path / "net.xml")
    assert artifact.files == (tmp_path / "net.xml", tmp_path / "net.bin")
    assert formats.recognise(str(tmp_path / "net.xml")) == artifact
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]


def test_float16_halves_the_weights_and_rounds_them(tmp_path: Path) -> None:
    given = {"x": np.random.default_rng(1).standard_normal((2, 1024), np.float32)}
    found, sizes = {}, {}
    for precision in ("float32", "float16"):
        artifact = OpenVinoIr(precision).write(linear(1024), tmp_path / f"{precision}.xml")
        sizes[precision] = artifact.companions[0].stat().st_size
        with open_session(artifact.path, Target("openvino")) as session:
            found[precision] = session.run(given)["y"]
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.01)
    error = np.abs(found["float16"] - found["float32"]).max() / np.abs(found["float32"]).max()
    assert 1e-6 < error < 2**-11 * 4  # one rounding per weight, and the errors of 1024 add up as their root


def test_the_format_is_run_and_not_read(tmp_path: Path) -> None:
    artifact = formats.write(model(), tmp_path / "net.xml")
    with pytest.raises(UnsupportedError, match=r"net\.xml: OpenVINO IR is run \(engine openvino\), not read"):
        formats.read(artifact)


def test_a_network_without_its_weights_beside_it_is_not_found(tmp_path: Path) -> None:
    formats.write(model(), tmp_path / "net.xml")
    (tmp_path / "net.bin").unlink()
    with pytest.raises(ArtifactNotFound, match=r"net\.bin: no such file"):
        formats.recognise(str(tmp_path / "net.xml"))
    (tmp_path / "net.bin").touch()
    with pytest.raises(UsageError, match="leave out the weights"):
        formats.recognise(str(tmp_path / "net.xml"), tmp_path / "weights.pt")


def test_another_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="written from a graph, found a module"):
        formats.write(Model("module", None, (), ()), tmp_path / "net.xml")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_that_openvino_does_not_know_leaves_nothing_behind(tmp_path: Path) -> None:
    text = """<ir_version: 9, opset_import: ["" : 17, "some.company" : 1]>
        net (float[1, 4] a) => (float[1, 4] y) { y = some.company.Mystery (a) }"""
    with pytest.raises(UnsupportedError, match=r"net\.xml: OpenVINO cannot convert the graph"):
        formats.write(model(text), tmp_path / "net.xml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_network_that_is_cut_short_is_an_engine_error(tmp_path: Path, keep: float) -> None:
    path = formats.write(linear(), tmp_path / "net.xml").path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep) if keep > 1 or not keep else int(len(whole) * keep)])
    with pytest.raises(EngineError, match="OpenVINO cannot open the model"):
        open_session(path, Target("openvino"))


def test_without_openvino_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != "openvino")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[openvino\]'"):
        formats.write(model(), tmp_path / "net.xml")
