"""Pickled modules: nothing is imported that the user has not named."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tightship.core.torch_pickle import classes_to_trust, read_pickled
from tightship.errors import InvalidModel, UnsupportedError

torch = pytest.importorskip("torch")

OWN = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    def forward(self, x):
        return self.layers(x)
"""


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a class of its own, `own_net.Net`, pickled whole."""
    (tmp_path / "own_net.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import own_net  # type: ignore[import-not-found]

    torch.save(own_net.Net(), tmp_path / "whole.pt")
    yield tmp_path / "whole.pt"
    sys.modules.pop("own_net", None)


def test_a_pickled_module_is_refused_with_the_flag_that_would_allow_it(whole: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"code of own_net\.Net.*--trust-pickle own_net\.Net"):
        read_pickled(whole, ())


def test_a_module_whose_class_is_named_is_read(whole: Path) -> None:
    module = read_pickled(whole, ("own_net.Net",))
    assert not module.training
    assert module(torch.ones(3, 4)).shape == (3, 2)


def test_another_name_trusted_is_not_enough(whole: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"own_net\.Net"):
        read_pickled(whole, ("other.Net",))


def test_layers_of_pytorch_need_no_trust(tmp_path: Path) -> None:
    torch.save(torch.nn.Sequential(torch.nn.Linear(4, 2)), tmp_path / "layers.pt")
    assert classes_to_trust(tmp_path / "layers.pt") == ()
    assert isinstance(read_pickled(tmp_path / "layers.pt", ()), torch.nn.Sequential)


def test_a_state_dict_is_no_module(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(4, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InvalidModel, match=r"expected a pickled torch\.nn\.Module, found a OrderedDict"):
        read_pickled(tmp_path / "weights.pt", ())


class Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("trusted", [(), ("own_net.Net",), ("torch.nn.modules.linear.Linear",)])
def test_a_pickle_that_runs_a_command_runs_nothing(tmp_path: Path, trusted: tuple[str, ...]) -> None:
    torch.save(Attack(tmp_path / "mark"), tmp_path / "attack.pt")
    with pytest.raises(UnsupportedError, match=r"code of posix\.system"):
        read_pickled(tmp_path / "attack.pt", trusted)
    assert not (tmp_path / "mark").exists()


def test_functions_beside_pytorchs_layers_are_not_trusted(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return torch.nn.modules.utils._list_with_default, ([1], [2])

    torch.save(Call(), tmp_path / "call.pt")
    with pytest.raises(UnsupportedError, match="_list_with_default"):
        read_pickled(tmp_path / "call.pt", ())


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04" + b"\0" * 64, pickle.dumps([1])[:-2]])
def test_what_is_no_file_of_torch_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(InvalidModel, match=r"bad\.pt"):
        read_pickled(tmp_path / "bad.pt", ())
