"""TFLite files: read into graphs that LiteRT agrees with, written from modules and Keras, refused where damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.core import child, extras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.engines import open_session
from tightship.engines.onnxruntime import OnnxRuntime
from tightship.errors import (
    EngineError,
    InvalidModel,
    MissingExtra,
    UnsupportedError,
    UnsupportedOperators,
    UsageError,
)
from tightship.formats.tflite import TfLite
from tightship.formats.tflite_structure import outline

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")
pytest.importorskip("ai_edge_litert")
nn = torch.nn

QUANTIZED = (
    "mlperf_tiny/ad01_int8.tflite",
    "mlperf_tiny/kws_ref_model.tflite",
    "mlperf_tiny/pretrainedResnet_quant.tflite",
    "mlperf_tiny/str_ww_ref_model.tflite",
    "mlperf_tiny/vww_96_int8.tflite",
    "tflite_micro/hello_world_int8.tflite",
    "tflite_micro/micro_speech_quantized.tflite",
    "tflite_micro/person_detect.tflite",
    "tflite_mobilenet_v1_025/mobilenet_v1_0.25_224_quant.tflite",
)

STEPS = 4
"""Largest difference from LiteRT in steps of the output's own scale, on noise over the whole range of the inputs.

The graph adds up in float and rounds once where LiteRT multiplies by fixed-point scales, so an operator's output is
one step off now and then, and the next operators add to it. LiteRT's own two sets of kernels (XNNPACK and the
reference) differ by 4 on micro_speech and by 3 on the keyword spotter. ONNX Runtime runs the graph as it is written
here, without its fused integer kernels: where a processor has no VNNI, those saturate sums of 16 bits, and are 23 steps
off on the keyword spotter."""

FLOATS = (
    "dtln/model_1.tflite",
    "dtln/model_2.tflite",
    "mlperf_tiny/ad01_fp32.tflite",
    "mlperf_tiny/pretrainedResnet.tflite",
    "mlperf_tiny/vww_96_float.tflite",
    "tflite_micro/hello_world_float.tflite",
    "tflite_mobilenet_v1_025/mobilenet_v1_0.25_224_1_default_1.tflite",
    "ultraface/version-RFB-320_without_postprocessing.tflite",
    "ultraface/version-slim-320_without_postprocessing.tflite",
)

HYBRID = (
    "dtln/model_quant_1.tflite",
    "dtln/model_quant_2.tflite",
    "mlperf_tiny/kws_ref_model_float32.tflite",
)
"""8-bit weights and float outputs: LiteRT rounds the inputs of each product to 8 bits, one part in 254 of their
largest, where the graph keeps them as they are; so LiteRT is the rougher of the two."""

QUICK = frozenset({"tflite_micro/person_detect.tflite"})
"""Read in every run of the tests (TensorFlow takes seconds to start for each); the others by `make test-slow`."""


def cases(names: tuple[str, ...]) -> list[object]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow, id=Path(name).name) for name in names]


class Net(nn.Module):
    """Two inputs, two named outputs, a convolution whose layout TFLite turns around."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.norm = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 16)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(self.conv(image)).relu().mean((2, 3))
        return {"scaled": features * scale, "features": self.linear(features)}


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding(ids).mean(1)


class Many(nn.Module):
    """More outputs than digits, some of the same value: neither order nor names may be lost."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x * (index // 2) for index in range(12)]


def net() -> Model:
    torch.manual_seed(0)
    return from_torch(Net().eval(), (torch.randn(1, 3, 8, 8), torch.randn(1, 1)))


def examples(model: Model) -> dict[str, np.ndarray]:
    return {spec.name: tensor.numpy() for spec, tensor in zip(model.inputs, model.content.example_inputs, strict=True)}


def errors(model: Model, path: Path) -> dict[str, float]:
    """Largest difference of each output from torch's, relative to its largest value."""
    inputs = examples(model)
    with open_session(model, Target("torch")) as reference, open_session(path, Target("litert")) as session:
        assert [spec.name for spec in session.inputs] == [spec.name for spec in model.inputs]
        assert [spec.dtype for spec in session.inputs] == [spec.dtype for spec in model.inputs]
        assert [spec.name for spec in session.outputs] == [spec.name for spec in model.outputs]
        expected, found = reference.run(inputs), session.run(inputs)
    return {
        name: float(np.abs(found[name] - array).max() / max(np.abs(array).max(), 1e-30))
        for name, array in expected.items()
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return formats.write(net(), tmp_path_factory.mktemp("written") / "net.tflite").path


def noise(session: object, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    arrays = {}
    for spec in session.inputs:  # type: ignore[attr-defined]
        shape = spec.resolve(1)
        if spec.dtype == "float32":
            arrays[spec.name] = random.standard_normal(shape, np.float32)
        else:
            limits = np.iinfo(spec.dtype)
            arrays[spec.name] = random.integers(limits.min, limits.max, shape, spec.dtype, endpoint=True)
    return arrays


def read_and_compare(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of outputs of LiteRT and of the graph in ONNX Runtime, on four inputs, names and types being equal."""
    model = formats.read(formats.recognise(str(path)))
    data = path.read_bytes()
    pairs = []
    with (
        open_session(outline(data).repaired(data), Target("litert", threads=1)) as reference,
        OnnxRuntime().open(model, Target(threads=1), without=["QDQSelectorActionTransformer"]) as session,
    ):
        for mine, others in ((reference.inputs, session.inputs), (reference.outputs, session.outputs)):
            assert [(spec.name, spec.dtype) for spec in mine] == [(spec.name, spec.dtype) for spec in others]
        for seed in range(4):
            inputs = noise(reference, seed)
            expected, found = reference.run(inputs), session.run(inputs)
            pairs += [(expected[name].astype(float), found[name].astype(float)) for name in expected]
    return pairs


@pytest.mark.parametrize("name", cases(FLOATS))
def test_a_float_file_reads_into_a_graph_that_computes_the_same(data_dir: Path, name: str) -> None:
    for expected, found in read_and_compare(data_dir / name):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", cases(QUANTIZED))
def test_a_quantized_file_reads_into_a_graph_within_a_few_steps(data_dir: Path, name: str) -> None:
    pairs = read_and_compare(data_dir / name)
    assert max(np.abs(expected - found).max() for expected, found in pairs) <= STEPS


@pytest.mark.parametrize("name", cases(HYBRID))
def test_a_file_with_quantized_weights_alone_agrees_as_far_as_litert_rounds(data_dir: Path, name: str) -> None:
    for expected, found in read_and_compare(data_dir / name):
        assert np.abs(expected - found).max() <= 0.05 * np.abs(expected).max()


def test_the_repaired_person_detector_sees_the_person(data_dir: Path) -> None:
    """Its biases carry the axis of the weights, which LiteRT refuses; the class of its two pictures is the judge."""
    path = data_dir / "tflite_micro" / "person_detect.tflite"
    with pytest.raises(EngineError, match="quantized_dimension"):
        open_session(path, Target("litert"))
    data = path.read_bytes()
    assert outline(outline(data).repaired(data)).misplaced_axes == ()
    with open_session(outline(data).repaired(data), Target("litert")) as session:
        (spec,) = session.inputs
        scores = {}
        for name in ("person", "no_person"):
            # As the example that the file comes from: rows from the top, bytes taken for int8 as they are.
            pixels = np.frombuffer((path.parent / f"{name}.bmp").read_bytes()[-96 * 96 :], np.int8)
            (found,) = session.run({spec.name: pixels.reshape(1, 96, 96, 1)[:, ::-1]}).values()
            scores[name] = int(found[0, 1]) - int(found[0, 0])
    assert scores["person"] > 100
    assert scores["no_person"] < -100


@pytest.mark.usefixtures("no_child")
def test_custom_operators_are_named_all_at_once(data_dir: Path) -> None:
    path = data_dir / "tflite_micro" / "audio_preprocessor_int8.tflite"
    custom = outline(path.read_bytes()).custom_operators
    assert len(custom) == 9
    assert "SignalWindow" in custom
    with pytest.raises(UnsupportedOperators, match="9 custom operators") as caught:
        formats.read(formats.recognise(str(path)))
    assert all(name in str(caught.value) for name in custom)


def test_a_module_is_written_with_its_names_and_computes_the_same(written: Path) -> None:
    assert max(errors(net(), written).values()) < 1e-6
    assert outline(written.read_bytes()).inputs == ("image", "scale")
    assert outline(written.read_bytes()).outputs == ("scaled", "features")


def test_what_was_written_reads_back_into_a_graph(written: Path) -> None:
    for expected, found in read_and_compare(written):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("precision", "least", "most"), [("float16", 1e-6, 2e-3), ("int8", 1e-4, 3e-2)])
def test_a_lower_precision_is_smaller_and_as_near_as_it_rounds(
    written: Path, tmp_path: Path, precision: str, least: float, most: float
) -> None:
    """One rounding is 2^-12 (float16) or 2^-8 (int8, weights and activations) of the largest value."""
    path = TfLite(precision).write(net(), tmp_path / "net.tflite").path  # type: ignore[arg-type]
    assert path.stat().st_size < written.stat().st_size
    assert least < max(errors(net(), path).values()) < most


def test_indices_keep_their_64_bits(tmp_path: Path) -> None:
    model = from_torch(Lookup().eval(), (torch.randint(0, 20, (1, 7)),))
    path = formats.write(model, tmp_path / "lookup.tflite").path
    assert max(errors(model, path).values()) < 1e-6


def test_many_outputs_keep_their_names_and_order(tmp_path: Path) -> None:
    model = from_torch(Many().eval(), (torch.randn(1, 3),))
    found = errors(model, formats.write(model, tmp_path / "many.tflite").path)
    assert max(found.values()) < 1e-6
    assert list(found) == [f"output_{index}" for index in range(12)]


@pytest.fixture(scope="module")
def keras() -> object:
    pytest.importorskip("tensorflow")
    from tightship.core.tensorflow_runtime import require_keras

    require_keras("the tests")
    import keras

    return keras


def from_keras_compared(model: object, path: Path, count: int) -> float:
    from tightship.core.keras_model import from_keras

    wrapped = from_keras(model)  # type: ignore[arg-type]
    formats.write(wrapped, path)
    random = np.random.default_rng(0)
    inputs = {spec.name: random.standard_normal((count, *spec.shape[1:]), np.float32) for spec in wrapped.inputs}  # type: ignore[arg-type]
    with open_session(path, Target("litert")) as session:
        assert [spec.name for spec in session.inputs] == [spec.name for spec in wrapped.inputs]
        assert [spec.name for spec in session.outputs] == [spec.name for spec in wrapped.outputs]
        found = session.run(inputs)
    given = [inputs[spec.name] for spec in wrapped.inputs]
    expected = model(given if len(given) > 1 else given[0], training=False)  # type: ignore[operator]
    pairs = zip(expected if isinstance(expected, list) else [expected], found.values(), strict=True)
    return max(float(np.abs(np.asarray(tensor) - array).max()) for tensor, array in pairs)


def test_a_keras_model_is_written_with_a_free_batch(keras: object, tmp_path: Path) -> None:
    layers = keras.layers  # type: ignore[attr-defined]
    image, shift = keras.Input((8, 8, 3), name="image"), keras.Input((4,), name="a_shift")  # type: ignore[attr-defined]
    features = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Conv2D(4, 3)(image)))
    outputs = [layers.Subtract(name="total")([features, shift]), layers.Dense(2, name="aux")(features)]
    model = keras.Model([image, shift], outputs)  # type: ignore[attr-defined]
    assert from_keras_compared(model, tmp_path / "net.tflite", 3) < 1e-6


def test_a_recurrent_keras_model_is_written_for_one_item(keras: object, tmp_path: Path) -> None:
    layers = keras.layers  # type: ignore[attr-defined]
    sequence = keras.Input((5, 4), name="sequence")  # type: ignore[attr-defined]
    model = keras.Model(sequence, layers.Dense(3)(layers.LSTM(6)(sequence)))  # type: ignore[attr-defined]
    assert from_keras_compared(model, tmp_path / "net.tflite", 1) < 1e-6
    with open_session(tmp_path / "net.tflite", Target("litert")) as session:
        assert session.inputs[0].shape == (1, 5, 4)


def test_a_module_that_cannot_be_traced_leaves_nothing_behind(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(UnsupportedError, match=r"net\.tflite: litert-torch cannot convert the module"):
        formats.write(from_torch(Branching().eval(), (torch.ones(1, 4),)), tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_said_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = formats.write(from_torch(nn.Linear(4, 2).eval(), (torch.ones(1, 4),)), tmp_path / "net.tflite").path
    with open_session(path, Target("litert")) as session:
        session.run({"input": np.ones((1, 4), np.float32)})
    assert capfd.readouterr() == ("", "")


def test_another_form_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="written from a module or Keras, found a graph"):
        formats.write(Model("graph", None, (), ()), tmp_path / "net.tflite")


def test_weights_beside_it_make_no_sense(written: Path) -> None:
    with pytest.raises(UsageError, match="leave out the weights"):
        formats.recognise(str(written), Path("weights.pt"))


@pytest.mark.parametrize(("missing", "extra"), [("tf2onnx", "tensorflow"), ("litert_torch", "litert")])
def test_a_missing_library_is_named_with_its_command(
    written: Path, monkeypatch: pytest.MonkeyPatch, missing: str, extra: str
) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != missing)
    with pytest.raises(MissingExtra, match=rf"pip install 'tightship\[{extra}\]'"):
        if missing == "tf2onnx":
            formats.read(formats.recognise(str(written)))
        else:
            formats.write(net(), written)


class Opened(Exception):
    """A parser would have been let loose on the file."""


@pytest.fixture
def no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Opened

    monkeypatch.setattr(child, "run_in_child", stop)
    monkeypatch.setattr("tightship.formats.tflite.run_in_child", stop)


@pytest.mark.parametrize("keep", [0, 4, 8, 30, 0.3, 0.7, 0.99])
@pytest.mark.usefixtures("no_child")
def test_a_file_that_is_cut_short_is_refused_before_any_parser(written: Path, tmp_path: Path, keep: float) -> None:
    whole = written.read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(InvalidModel, match=r"cut\.tflite: ") as caught:
        formats.read(formats.recognise(str(path)))
    assert caught.value.exit_code == 3


def test_every_changed_byte_is_refused_as_invalid_or_left_to_the_child(written: Path) -> None:
    """The outline never fails otherwise: no other exception, no reading outside."""
    whole = written.read_bytes()
    refused = 0
    for position in range(0, len(whole), 7):
        for value in (0x00, 0x7F, 0xFF):
            changed = bytearray(whole)
            changed[position] = value
            try:
                outline(bytes(changed))
            except InvalidModel:
                refused += 1
    assert refused > 50


@pytest.mark.usefixtures("no_child")
def test_a_root_that_leads_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wild.tflite"
    for offset in (0xFFFFFFFF, 0x7FFFFFFF, 9, 4096):
        path.write_bytes(struct.pack("<I", offset) + b"TFL3" + bytes(64))
        with pytest.raises(InvalidModel, match=r"wild\.tflite"):
            formats.read(formats.recognise(str(path)))


@pytest.mark.usefixtures("no_child")
def test_another_kind_of_file_is_named_by_what_it_begins_with(tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    with pytest.raises(InvalidModel, match=r"expected a TFLite model, with b'TFL3' at byte 4, found b'\\r\\n\\x1a\\n'"):
        formats.read(formats.recognise(str(path)))
