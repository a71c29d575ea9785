"""HDF5 files that refer to elsewhere, would fill the memory, or are damaged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tightship.core.hdf5 import check_hdf5, inspect_hdf5
from tightship.errors import InvalidModel

h5py = pytest.importorskip("h5py")


def external_link(file: h5py.File, beside: Path) -> None:
    file["model_weights/other"] = h5py.ExternalLink(str(beside), "/secret")


def soft_link(file: h5py.File, beside: Path) -> None:
    file["model_weights/other"] = h5py.SoftLink("/model_weights/layer")


def external_storage(file: h5py.File, beside: Path) -> None:
    file.create_dataset("model_weights/raw", (4,), "u1", external=[(str(beside), 0, 4)])


def virtual(file: h5py.File, beside: Path) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(str(beside), "secret", (4,))
    file.create_virtual_dataset("model_weights/virtual", layout)


def reference(file: h5py.File, beside: Path) -> None:
    file.create_dataset("model_weights/reference", (1,), h5py.ref_dtype)


def bomb(file: h5py.File, beside: Path) -> None:
    file.create_dataset("model_weights/bomb", (2**36,), "f4", chunks=(2**20,), compression="gzip")


def type_of_its_own(file: h5py.File, beside: Path) -> None:
    file["model_weights/type"] = np.dtype("f4")


def write(path: Path, edit: Callable[[h5py.File, Path], None] | None = None) -> Path:
    beside = path.with_name("beside.h5")
    with h5py.File(beside, "w") as file:
        file["secret"] = np.arange(4.0)
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
        file["model_weights/layer/kernel:0"] = np.arange(6.0)
        if edit:
            edit(file, beside)
    return path


def test_a_plain_file_gives_what_keras_wrote_beside_the_weights(tmp_path: Path) -> None:
    facts = check_hdf5(write(tmp_path / "a.h5"))
    assert facts == {
        "model_config": "{}",
        "keras_version": "",
        "backend": "",
        "groups": ["model_weights"],
        "whole": True,
    }


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (external_link, r"other is a link to .*beside\.h5:/secret"),
        (soft_link, "other is a link to the same file"),
        (external_storage, "raw/ keeps its numbers in other files"),
        (virtual, "virtual/ keeps its numbers in other files"),
        (reference, "reference/ holds object, expected numbers or text"),
        (bomb, "bytes that unpack to more than"),
        (type_of_its_own, "type is neither a group nor an array"),
    ],
)
def test_what_keras_never_writes_is_refused(
    tmp_path: Path, edit: Callable[[h5py.File, Path], None], reason: str
) -> None:
    with pytest.raises(InvalidModel, match=rf"a\.h5: .*{reason}"):
        inspect_hdf5(write(tmp_path / "a.h5", edit), "")


def test_a_group_that_holds_itself_is_looked_at_once(tmp_path: Path) -> None:
    def cycle(file: h5py.File, beside: Path) -> None:
        file["model_weights/again"] = file["model_weights"]

    assert inspect_hdf5(write(tmp_path / "a.h5", cycle), "")["whole"]


def test_a_file_cut_short_anywhere_is_refused_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own: libhdf5 may crash, and the check runs where that is caught."""
    whole = write(tmp_path / "a.h5").read_bytes()
    code = (
        "import sys, pathlib\n"
        "from tightship.core.hdf5 import inspect_hdf5\n"
        "from tightship.errors import InvalidModel\n"
        "path = pathlib.Path(sys.argv[1]); whole = path.read_bytes()\n"
        "for length in range(0, len(whole), len(whole) // 20):\n"
        "    path.write_bytes(whole[:length])\n"
        "    try: inspect_hdf5(path, '')\n"
        "    except InvalidModel: continue\n"
        "    raise SystemExit(f'{length} bytes were read')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert len(whole) > 500
    assert done.returncode <= 0, done.stderr  # a signal is libhdf5's crash, any other status is ours
