"""The way from a PyTorch module to an ONNX graph."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from tightship import formats
from tightship.bridges import BRIDGES, chain, route, ways
from tightship.bridges.torch_to_onnx import to_graph
from tightship.core import extras, graph
from tightship.core.model import Form, Model
from tightship.core.progress import Advance
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.engines import open_session
from tightship.errors import MissingExtra, UnsupportedError, UnsupportedOperators

torch = pytest.importorskip("torch")
nn = torch.nn

ROOT = Path(__file__).parents[2]


class Notes:
    """Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @contextmanager
    def step(self, description: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda _units: None

    def note(self, text: str) -> None:
        self.texts.append(text)


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(4, 6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x)[0][:, -1])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm(8)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.norm(self.table(ids))[:, None]
        hidden = nn.functional.scaled_dot_product_attention(x, x, x)[:, 0] * mask[..., None]
        return {"hidden": hidden, "longest": mask.sum(1)}


class Nested(nn.Module):
    """Outputs that no exporter knows the class of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, None]]:
        return self.layer(x), (x + 1, None)


class Unused(nn.Module):
    def forward(self, x: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
        return x * 2


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 4) * 2


class CountedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), -1) * 2


class Foreign(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(x) + torch.special.bessel_j0(x)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def model(build: Callable[[], nn.Module], *examples: torch.Tensor) -> Model:
    torch.manual_seed(0)
    module = build()
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5)
    return from_torch(module.eval(), examples)


def ids() -> torch.Tensor:
    return torch.arange(7).reshape(1, 7)


SMALL = {
    "conv": lambda: model(Conv, torch.randn(1, 3, 8, 8)),
    "series": lambda: model(Series, torch.randn(1, 2, 4)),
    "tokens": lambda: model(Tokens, ids(), torch.ones(1, 7)),
    "nested": lambda: model(Nested, torch.randn(2, 4)),
    "unused": lambda: model(Unused, torch.randn(1, 4), torch.randn(1, 2)),
}


@cache
def converted_pair(name: str) -> tuple[Model, Model]:
    """The module and its graph; converting takes seconds, so once for all tests."""
    source = SMALL[name]()
    return source, route(source, "graph")


@pytest.fixture(params=SMALL)
def pair(request: pytest.FixtureRequest) -> tuple[Model, Model]:
    return converted_pair(request.param)


def inputs_for(source: Model, count: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(count)
    arrays = {}
    for spec in source.inputs:
        shape = (count, *spec.shape[1:])
        if spec.dtype == "int64":
            arrays[spec.name] = random.integers(0, 50, shape)
        else:
            arrays[spec.name] = random.standard_normal(shape, np.float32)
    return arrays


def largest_error(source: Model, converted: Model, count: int) -> float:
    """Largest difference of any output, relative to the largest value of that output."""
    arrays = inputs_for(source, count)
    with open_session(source, Target("torch")) as module, open_session(converted, Target()) as session:
        expected, found = module.run(arrays), session.run(arrays)
    assert found.keys() == expected.keys()
    assert {name: array.shape for name, array in found.items()} == {name: a.shape for name, a in expected.items()}
    return max(float(np.abs(found[name] - array).max() / np.abs(array).max()) for name, array in expected.items())


def test_names_types_and_shapes_are_those_of_the_module(pair: tuple[Model, Model]) -> None:
    source, converted = pair
    assert converted.form == "graph"
    assert converted.inputs == source.inputs
    assert converted.outputs == source.outputs


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_graph_gives_what_the_module_gives_for_any_number_of_items(pair: tuple[Model, Model], count: int) -> None:
    # Both add up float32 in their own order: 1e-5 of the largest value is some tens of roundings.
    assert largest_error(*pair, count) < 1e-5


def check_shapes(converted: Model) -> None:
    """Shapes inside are what ONNX itself infers, and the only unknown length in them is the batch."""
    proto = onnx.load_from_string(graph.to_bytes(converted))
    onnx.checker.check_model(proto, full_check=True)  # infers strictly: a shape that conflicts is an error
    lengths = {d.dim_param for info in proto.graph.value_info for d in info.type.tensor_type.shape.dim} - {""}
    assert all("batch" in length for length in lengths)
    described = {info.name for info in proto.graph.value_info}
    assert described.isdisjoint(tensor.name for tensor in proto.graph.initializer)


def test_a_graph_is_valid_onnx_and_its_shapes_inside_are_right(pair: tuple[Model, Model]) -> None:
    check_shapes(pair[1])


def test_a_written_graph_can_be_quantized_by_onnxruntime(pair: tuple[Model, Model], tmp_path: Path) -> None:
    """Its quantizer refuses graphs that describe any value wrongly, as those of torch's exporter do."""
    from onnxruntime.quantization import quantize_dynamic

    formats.write(pair[1], tmp_path / "model.onnx")
    quantize_dynamic(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").exists()


def test_a_graph_holds_no_path_of_this_machine(pair: tuple[Model, Model]) -> None:
    data = graph.to_bytes(pair[1])
    assert Path(__file__).name.encode() not in data
    assert b"site-packages" not in data


def test_weights_keep_the_names_of_the_parameters() -> None:
    assert {"layer.weight", "layer.bias"} <= set(converted_pair("nested")[1].graph.graph.initializers)


def test_the_module_stays_as_it_was(pair: tuple[Model, Model], request: pytest.FixtureRequest) -> None:
    source, _ = pair
    fresh = SMALL[request.node.callspec.params["pair"]]().content.module.state_dict()
    after = source.content.module.state_dict()
    assert after.keys() == fresh.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in fresh.items())
    assert source.history == ()


def test_the_opset_is_that_asked_for_and_the_history_tells_it() -> None:
    opset = 18
    converted = to_graph(SMALL["unused"](), opset=opset)
    assert converted.graph.opset_imports[""] == opset
    (step,) = converted.history
    assert (step.name, dict(step.parameters)) == ("torch-to-onnx", {"opset": opset, "free_batch": True})


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FixedBatch, "the module gives items in a batch other outputs than alone"),
        (CountedBatch, "its forward makes the number of items a constant"),
    ],
)
def test_a_batch_that_cannot_be_free_is_fixed_with_a_note(module: type[nn.Module], reason: str) -> None:
    notes = Notes()
    source = model(module, torch.randn(1, 4))
    converted = route(source, "graph", notes)
    assert converted.inputs[0].shape == (1, 4)
    assert converted.history[0].parameters["free_batch"] is False
    assert len(notes.texts) == 1
    assert notes.texts[0].startswith("the batch axis is fixed: ")
    assert reason in notes.texts[0]
    assert largest_error(source, converted, 1) == 0  # a reshape and a doubling are exact


def test_a_graph_that_only_seems_to_have_a_free_batch_is_converted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = sys.modules["tightship.bridges.torch_to_onnx"]
    monkeypatch.setattr(bridge, "_agree", lambda found, expected: len(expected) < 3)
    notes = Notes()
    converted = route(SMALL["unused"](), "graph", notes)
    assert converted.inputs[0].shape == (1, 4)
    assert notes.texts == ["the batch axis is fixed: with 3 items output output differs from torch's"]


def test_operators_without_a_counterpart_are_listed_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedOperators, match=r"2 operators: aten\.special_airy_ai\.default, \w+\.\w*bessel_j0"):
        route(model(Foreign, torch.rand(2, 4)), "graph")
    assert capfd.readouterr() == ("", "")  # torch's own pages of advice are kept from the user


def test_a_module_that_branches_on_values_is_unsupported(capfd: pytest.CaptureFixture[str]) -> None:
    level = logging.root.manager.disable
    with pytest.raises(UnsupportedError, match="must not choose what to do by the values of tensors"):
        route(model(Branching, torch.rand(2, 4)), "graph")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == level


def test_without_torch_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != "torch")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[torch\]'"):
        route(Model("module", None, (), ()), "graph")


def test_a_model_that_has_the_form_is_returned_as_it_is() -> None:
    model = Model("graph", object(), (), ())
    assert route(model, "graph") is model


def test_the_shortest_chain_is_taken() -> None:
    def via(name: str) -> object:
        return lambda model, progress: name

    long, back, first, second = via("long"), via("back"), via("first"), via("second")
    table = {("module", "keras"): first, ("keras", "module"): back, ("keras", "graph"): second}
    assert chain("module", "graph", table) == (first, second)
    assert chain("module", "graph", {**table, ("module", "graph"): long}) == (long,)
    assert chain("module", "module", table) == ()


def test_where_no_chain_leads_the_bridges_are_named() -> None:
    with pytest.raises(UnsupportedError, match="no bridge leads from a graph to a keras; there are: module to graph"):
        chain("graph", "keras", {("module", "graph"): to_graph})


def test_ways_go_over_the_fewest_bridges_and_through_the_form_that_is_asked_for() -> None:
    assert ways("module", ("module", "keras")) == (("module",), ("module", "graph", "keras"))
    assert ways("module", ("module",), through="graph") == (("module", "graph", "module"),)
    assert ways("graph", ("module",), through="graph") == (("graph", "module"),)


def test_what_a_library_raises_is_told_as_our_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Model, progress: object) -> Model:
        raise AttributeError("no attribute 'clone'")

    monkeypatch.setitem(BRIDGES, ("graph", "module"), broken)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="converting the graph failed inside a library, with AttributeError"):
        route(Model("graph", None, (), ()), "module")


def test_every_bridge_leads_from_one_form_to_another() -> None:
    forms: set[Form] = {"graph", "module", "keras"}
    assert all(start != end and {start, end} <= forms for start, end in BRIDGES)


@pytest.mark.slow
def test_a_module_of_transformers_is_converted_with_the_names_of_its_outputs() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    source = from_torch(transformers.BertModel(config).eval(), (ids(), torch.ones(1, 7, dtype=torch.int64)))
    converted = route(source, "graph")
    assert [spec.name for spec in converted.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in converted.outputs] == ["last_hidden_state", "pooler_output"]
    assert "embeddings.word_embeddings.weight" in converted.graph.graph.initializers
    assert largest_error(source, converted, 3) < 1e-5


def test_published_weights_classify_the_same_after_conversion(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (weights,) = (data_dir / "resnet_cifar10").glob("resnet20-*.th")
    source = formats.read(formats.recognise("examples.resnet_cifar10:resnet20", weights))
    assert largest_error(source, route(source, "graph"), 4) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v3_large", "vit_tiny", "bert_base", "lstm"])
def test_the_example_networks_convert_and_tell_inputs_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    source = formats.read(formats.recognise(f"examples.networks:{name}"))
    converted = route(source, "graph")
    assert converted.inputs[0].batch is None
    check_shapes(converted)
    arrays = inputs_for(source, 4)
    if name == "bert_base":
        arrays["input_ids"] = np.random.default_rng(0).integers(1000, 30000, (4, 128))
        arrays["attention_mask"] = np.ones((4, 128), np.int64)
    with open_session(source, Target("torch")) as module, open_session(converted, Target()) as session:
        expected, found = module.run(arrays), session.run(arrays)
    for output, array in expected.items():
        assert np.abs(found[output] - array).max() < 1e-4 * np.abs(array).max()
        flat = array.reshape(4, -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        cosines = (flat @ flat.T)[np.triu_indices(4, 1)]
        assert np.abs(cosines).max() < 0.95
