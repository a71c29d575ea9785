"""TorchScript files: read into modules that compute the same, and never trusted to do more than compute."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tightship import formats
from tightship.bridges import route
from tightship.core import extras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import (
    InvalidModel,
    MissingExtra,
    UnsupportedError,
    UnsupportedOperators,
    UsageError,
)
from tightship.formats.torchscript import TorchScript, describe

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch has given TorchScript up


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.first(image).relu()
        x = (x + self.norm(self.second(x))).relu()
        return {"scores": self.linear(x.mean((2, 3))), "scaled": x.mean((2, 3)) * scale}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0][:, -1]


class Lookup(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.embedding(ids).mean(1)


class Looping(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(int(x.sum())):
            x = x * 2
        return x


class Saving(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


class Layered(nn.Module):
    """Layers by number, which TorchScript writes with getattr."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def examples(module: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {
        Residual: {"image": torch.randn(1, 3, 8, 8), "scale": torch.randn(1, 1)},
        Recurrent: {"x": torch.randn(1, 5, 4)},
        Lookup: {"ids": torch.randint(0, 10, (1, 7))},
        Layered: {"x": torch.randn(1, 6)},
    }.get(type(module), {"x": torch.ones(1, 3)})


def saved(module: nn.Module, path: Path, how: str = "script") -> Path:
    module.eval()
    program = (
        torch.jit.trace(module, tuple(examples(module).values()), strict=False)
        if how == "trace"
        else torch.jit.script(module)
    )
    torch.jit.save(program, str(path))
    return path


def shaped(module: nn.Module) -> TorchScript:
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in examples(module).items())
    return replace(TorchScript(), input_shapes=shapes)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the child is not what is tested: starting torch in one takes seconds."""

    def call(function: str, arguments: list[Path], **_: object) -> object:
        assert function == "tightship.formats.torchscript:describe"
        return describe(*arguments)

    monkeypatch.setattr("tightship.formats.torchscript.run_in_child", call)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("build", "how"),
    [
        (Residual, "trace"),
        (Residual, "script"),
        (Recurrent, "trace"),
        (Recurrent, "script"),
        (Lookup, "script"),
        (Layered, "script"),
    ],
)
def test_a_program_reads_into_a_module_that_computes_the_same_and_converts(
    tmp_path: Path, build: Callable[[], nn.Module], how: str
) -> None:
    module = build()
    model = shaped(module).read(formats.recognise(str(saved(module, tmp_path / "net.pt", how))))
    inputs = {name: tensor.numpy() for name, tensor in examples(module).items()}
    assert [spec.name for spec in model.inputs] == list(inputs)
    assert [spec.dtype for spec in model.inputs] == [array.dtype.name for array in inputs.values()]
    expected = module(*examples(module).values())
    expected = expected if isinstance(expected, dict) else {"output": expected}
    for form, target in ((model, Target("torch")), (route(model, "graph"), Target())):
        with open_session(form, target) as session:
            found = session.run(inputs)
        assert list(found) == list(expected)
        for name, tensor in expected.items():
            np.testing.assert_allclose(found[name], tensor.detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("in_process")
def test_the_batch_is_free_where_the_program_takes_any(tmp_path: Path) -> None:
    module = Residual()
    model = shaped(module).read(formats.recognise(str(saved(module, tmp_path / "net.pt"))))
    assert all(spec.batch is None for spec in (*model.inputs, *model.outputs))


def test_a_file_is_read_in_a_child_first_and_a_linear_layer_tells_its_shape(tmp_path: Path) -> None:
    model = formats.read(formats.recognise(str(saved(Layered(), tmp_path / "net.jit", "trace"))))
    assert [str(spec) for spec in model.inputs] == ["x: float32[batch, 6]"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (Residual, r"--input-shape image=1,3,HEIGHT,WIDTH --input-shape scale=1,\.\.\.$"),
        (Lookup, r"--input-shape ids=1,LENGTH$"),
        (Recurrent, r"--input-shape x=1,\.\.\.$"),
    ],
)
def test_shapes_that_are_not_known_are_asked_for_by_name(
    tmp_path: Path, build: Callable[[], nn.Module], wanted: str
) -> None:
    path = saved(build(), tmp_path / "net.pt")
    with pytest.raises(UnsupportedError, match=rf"net\.pt: a TorchScript file does not hold the shapes.*{wanted}"):
        formats.read(formats.recognise(str(path)))


@pytest.mark.usefixtures("in_process")
def test_shapes_that_do_not_fit_are_told_and_unknown_names_refused(tmp_path: Path) -> None:
    artifact = formats.recognise(str(saved(Layered(), tmp_path / "net.pt")))
    with pytest.raises(UnsupportedError, match=r"does not run on inputs of these shapes \(x=1,7\).*--input-shape"):
        replace(TorchScript(), input_shapes=(("x", (1, 7)),)).read(artifact)
    with pytest.raises(UsageError, match=r"no input 'y'.*the inputs are x"):
        replace(TorchScript(), input_shapes=(("y", (1, 6)),)).read(artifact)
    # The only input may go without its name.
    assert replace(TorchScript(), input_shapes=(("", (1, 6)),)).read(artifact).inputs[0].name == "x"


@pytest.mark.usefixtures("in_process")
def test_a_program_that_branches_on_values_is_refused(tmp_path: Path) -> None:
    artifact = formats.recognise(str(saved(Looping(), tmp_path / "net.pt")))
    with pytest.raises(UnsupportedError, match=r"torch\.export cannot take the TorchScript program over.*prim::Loop"):
        shaped(Looping()).read(artifact)


def test_a_program_that_writes_files_is_not_even_loaded(tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = saved(Saving(str(target)), tmp_path / "net.pt")
    with pytest.raises(InvalidModel, match=r"net\.pt: its code names 'save'"):
        shaped(Saving("")).read(formats.recognise(str(path)))
    assert not target.exists()


def rewritten(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """The file with its own code edited and everything else as it was."""
    with zipfile.ZipFile(path) as archive:
        members = {entry: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in members.items():
            archive.writestr(entry, edit(content) if entry.filename.endswith(".py") else content)
    return path


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (b"    torch . save(x, 'a')\n", InvalidModel, "its code names 'save'"),
        (b"    y = ops.aten.from_file('/etc/passwd')\n", InvalidModel, "its code names 'from_file'"),
        (b"    y = getattr(torch, '\\x73ave')\n", InvalidModel, "hides names"),
        (b"    y = ops.company.run(x)\n", UnsupportedOperators, r"1 operators of other libraries: company\.run"),
    ],
    ids=["save", "from_file", "escaped", "other library"],
)
def test_code_that_reaches_further_is_refused_before_torch_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: bytes, error: type[Exception], message: str
) -> None:
    path = rewritten(saved(Lookup(), tmp_path / "net.pt"), lambda content: content + code)
    monkeypatch.setattr("tightship.formats.torchscript.run_in_child", None)
    with pytest.raises(error, match=message):
        formats.read(formats.recognise(str(path)))


def test_weights_alone_are_told_how_to_be_used(tmp_path: Path) -> None:
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "state.pt")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("state", "old"):
        with pytest.raises(InvalidModel, match=rf"{name}\.pt: holds weights.*and no network.*--weights") as caught:
            formats.read(formats.recognise(str(tmp_path / f"{name}.pt")))
        assert caught.value.exit_code == 3


def test_the_real_state_dicts_are_told_how_to_be_used(data_dir: Path) -> None:
    for path in sorted(data_dir.glob("*/*.pt")):
        with pytest.raises(InvalidModel, match="holds weights"):
            formats.read(formats.recognise(str(path)))


def test_an_exported_program_is_told_its_suffix(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(3, 2).eval(), (torch.ones(1, 3),))
    torch.export.save(program, tmp_path / "net.pt2")
    (tmp_path / "net.pt2").rename(tmp_path / "net.pt")
    with pytest.raises(InvalidModel, match=r"an exported program: give it the suffix \.pt2"):
        formats.read(formats.recognise(str(tmp_path / "net.pt")))


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.9, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, keep: float) -> None:
    path = saved(Lookup(), tmp_path / "net.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else int(keep)])
    with pytest.raises(InvalidModel, match=r"net\.pt"):
        formats.read(formats.recognise(str(path)))


def test_a_flipped_bit_in_a_weight_is_refused(tmp_path: Path) -> None:
    module = Lookup()
    path = saved(module, tmp_path / "net.pt")
    whole, weight = path.read_bytes(), module.embedding.weight.detach().numpy().tobytes()
    assert whole.count(weight) == 1
    damaged = bytearray(whole)
    damaged[whole.index(weight) + 5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(InvalidModel, match=r"the checksum of .* is wrong"):
        formats.read(formats.recognise(str(path)))


def test_a_packed_weight_is_refused(tmp_path: Path) -> None:
    path = saved(Lookup(), tmp_path / "net.pt")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/data/99", bytes(1 << 20))
    with pytest.raises(InvalidModel, match="weights are compressed"):
        formats.read(formats.recognise(str(path)))


def test_too_much_code_is_refused(tmp_path: Path) -> None:
    path = saved(Lookup(), tmp_path / "net.pt")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("net/code/more.py", bytes((1 << 26) + 1))
    with pytest.raises(InvalidModel, match="its code is larger than 64 MiB"):
        formats.read(formats.recognise(str(path)))


def test_torchscript_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"TorchScript is read, not written.*write a \.pt2 file"):
        TorchScript().write(Model("module", None, (), ()), tmp_path / "net.pt")


def test_weights_beside_it_make_no_sense(tmp_path: Path) -> None:
    (tmp_path / "net.pt").touch()
    with pytest.raises(UsageError, match="holds its own weights"):
        formats.recognise(str(tmp_path / "net.pt"), tmp_path / "weights.pt")


def test_without_torch_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = formats.recognise(str(saved(Layered(), tmp_path / "net.pt")))
    monkeypatch.setattr(extras, "available", lambda module: module != "torch")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[torch\]'"):
        formats.read(artifact)
