"""ExecuTorch programs as a format; `tests/engines/test_executorch_engine.py` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tightship import engines, formats
from tightship.core import extras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.core.torch_module import from_torch
from tightship.errors import MissingExtra, UnsupportedError, UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("executorch")
nn = torch.nn


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


def linear() -> Model:
    return from_torch(nn.Linear(3, 2).eval(), (torch.ones(1, 3),))


def test_a_written_program_is_recognised_but_not_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    artifact = formats.write(linear(), tmp_path / "net.pte")
    assert capfd.readouterr() == ("", "")
    assert formats.recognise(str(tmp_path / "net.pte")) == artifact
    with pytest.raises(UnsupportedError, match=r"net\.pte: a \.pte file is run \(engine executorch\), not read"):
        formats.read(artifact)
    with pytest.raises(UsageError, match="leave out the weights"):
        formats.recognise(str(tmp_path / "net.pte"), Path("weights.pt"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Model("graph", None, (), ()), "written from a module, found a graph"),
        (from_torch(Branching().eval(), (torch.ones(1, 4),)), r"torch\.export cannot trace"),
    ],
    ids=["another form", "branching"],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path, model: Model, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        formats.write(model, tmp_path / "net.pte")
    assert list(tmp_path.iterdir()) == []


def test_without_executorch_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "available", lambda module: module != "executorch")
    with pytest.raises(MissingExtra, match=r"pip install 'tightship\[executorch\]'"):
        formats.write(linear(), tmp_path / "net.pte")


@pytest.mark.parametrize("dims", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["channels first", "channels last"])
def test_the_softmax_after_a_convolution_runs_over_the_axis_that_was_asked_for(
    tmp_path: Path, dims: tuple[int, ...]
) -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).permute(dims).softmax(-1)

    network, image = Scores().eval(), torch.randn(1, 3, 5, 7)
    formats.write(from_torch(network, (image,)), tmp_path / "net.pte")
    with engines.open_session(tmp_path / "net.pte", Target("executorch")) as session:
        [found] = session.run({session.inputs[0].name: image.numpy()}).values()
    torch.testing.assert_close(torch.from_numpy(found), network(image).detach(), rtol=0, atol=1e-6)
