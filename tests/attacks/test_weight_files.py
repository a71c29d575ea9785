"""Hostile files of weights: each ends in one typed error, soon, in bounded memory, with nothing written or run."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.attacks.mounting import TIME_S, Attack, check_refused
from tightship import api
from tightship.cli import main
from tightship.errors import ArtifactNotFound, InvalidModel, UnsupportedError
from tightship.weights import CONTAINERS, Tensor, Weights, container_of

h5py = pytest.importorskip("h5py")

RANDOM = np.random.default_rng(0).bytes(999)
DAMAGED, STRANGE = InvalidModel.exit_code, UnsupportedError.exit_code


def refused(path: Path, exit_code: int, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(["weights", str(path), str(path.parent / "out.safetensors")], path, exit_code, says, capsys)


def written(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# -- pickles ------------------------------------------------------------------------------------------------------


class Runs:
    """Pickles into a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def marker(folder: Path) -> str:
    return f"touch {folder / 'planted'}"


def by_opcodes(*opcodes: bytes) -> Attack:
    return lambda folder: written(folder, "w.pkl", b"\x80\x04" + b"".join(opcodes) + b".")


ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
FLOAT32 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR"


def state(shape: bytes, data: bytes, dtype: bytes = FLOAT32) -> bytes:
    return ARRAY + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


HUGE = b"\x8a\x08" + struct.pack("<q", 2**62)

PICKLES: dict[str, tuple[Attack, int, str]] = {
    "empty": (lambda folder: written(folder, "w.pkl", b""), DAMAGED, "cut short"),
    "random": (lambda folder: written(folder, "w.pkl", np.random.default_rng(0).bytes(4096)), DAMAGED, "w.pkl"),
    "os.system": (
        lambda folder: written(folder, "w.pkl", pickle.dumps({"a": np.ones(3), "b": Runs(os.system, marker(folder))})),
        STRANGE,
        "posix.system",
    ),
    "by import_module": (by_opcodes(b"cimportlib\nimport_module\nX\x02\x00\x00\x00os\x85R"), STRANGE, "import_module"),
    "a chain of REDUCE": (by_opcodes(b"cos\ngetpid\n", b")R" * 50_000), STRANGE, "os.getpid"),
    "names thrown away": (by_opcodes(b"cos\nsystem\n0}"), STRANGE, "os.system"),
    "a name built on the stack": (by_opcodes(b"\x8c\x02os\x8c\x06system\x93"), STRANGE, "os.system"),
    "INST": (by_opcodes(b"(X\x02\x00\x00\x00idios\nsystem\n"), STRANGE, "os.system"),
    "OBJ": (by_opcodes(b"(cos\nsystem\nX\x02\x00\x00\x00ido"), STRANGE, "os.system"),
    "builtins.getattr": (by_opcodes(b"cbuiltins\ngetattr\n"), STRANGE, "builtins.getattr"),
    "numpy.load": (by_opcodes(b"cnumpy\nload\n"), STRANGE, "numpy.load"),
    "a registered extension": (by_opcodes(b"\x82\x01"), DAMAGED, "no opcode"),
    "a buffer from outside": (by_opcodes(b"\x97"), DAMAGED, "no opcode"),
    "2^62 elements": (by_opcodes(b"}X\x01\x00\x00\x00a", state(HUGE + b"\x85", b"C\x00"), b"s"), DAMAGED, "needs"),
    "2^62 bytes": (by_opcodes(b"\x8e" + struct.pack("<Q", 2**62)), DAMAGED, "cut short"),
    "2^40 letters": (by_opcodes(b"\x8d" + struct.pack("<Q", 2**40)), DAMAGED, "cut short"),
    "a memo of 2^32": (by_opcodes(b"}", b"r\xff\xff\xff\xff"), DAMAGED, "holds no tensors"),
    "a number of zeros": (by_opcodes(b"cbuiltins\nbytearray\n", HUGE, b"\x85R"), DAMAGED, "not a sound pickle"),
    "an array of objects": (
        by_opcodes(state(b")", b"]", b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR")),
        STRANGE,
        "objects",
    ),
    "a dtype that is a program": (
        by_opcodes(state(b")", b"C\x00", b"cnumpy\ndtype\n(X\x05\x00\x00\x00a,b,ctR")),
        STRANGE,
        "a,b",
    ),
    "nested 100,000 deep": (by_opcodes(b"]" * 100_000, b"a" * 99_999), DAMAGED, "nested deeper"),
    "a list that doubles 64 times": (
        by_opcodes(b"](K\x01e", b"2\x86" * 64),
        DAMAGED,
        "nested deeper",
    ),
    "a list in itself": (by_opcodes(b"]\x94h\x00a"), DAMAGED, "nested deeper"),
    "endless opcodes": (by_opcodes(b"N0" * 1_500_000), DAMAGED, "more than 1000000 steps"),
    "a key that is a list": (by_opcodes(b"}]K\x01s"), DAMAGED, "key is a list"),
    "no STOP": (lambda folder: written(folder, "w.pkl", b"\x80\x04}"), DAMAGED, "cut short"),
    "a storage of torch": (by_opcodes(b"X\x01\x00\x00\x00aQ"), DAMAGED, "holds no tensors"),
}


@pytest.mark.parametrize("attack", PICKLES)
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, exit_code, says = PICKLES[attack]
    refused(make(tmp_path), exit_code, says, capsys)


def test_every_name_that_a_pickle_wants_is_in_one_message(tmp_path: Path) -> None:
    content = {"a": Runs(os.system, "x"), "b": Runs(eval, "1"), "c": Runs(os.getenv, "HOME"), "d": np.ones(2)}
    path = written(tmp_path, "w.pkl", pickle.dumps(content))
    with pytest.raises(UnsupportedError, match=r"builtins\.eval, os\.getenv, posix\.system; nothing was run"):
        api.weights(path, tmp_path / "out.npz")


def test_a_trusted_name_admits_that_name_alone_and_still_runs_nothing(tmp_path: Path) -> None:
    content = {"a": Runs(os.system, marker(tmp_path)), "b": np.arange(3), "c": Runs(eval, "1")}
    path = written(tmp_path, "w.pkl", pickle.dumps(content))
    with pytest.raises(UnsupportedError, match=r"containers: builtins\.eval; nothing was run"):
        api.weights(path, tmp_path / "out.npz", trusted=["posix.system"])
    found = api.weights(path, tmp_path / "out.npz", trusted=["posix.system", "builtins.eval"])
    assert found.left_out == ("a.0", "c.0")
    assert not (tmp_path / "planted").exists()
    with np.load(tmp_path / "out.npz") as arrays:
        assert list(arrays) == ["b"]


def test_tensors_of_a_trusted_object_are_found_without_its_code(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3))
    torch.save(net, tmp_path / "w.pt")
    names = ("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear")
    api.weights(tmp_path / "w.pt", tmp_path / "out.npz", trusted=names)
    with np.load(tmp_path / "out.npz") as arrays:
        assert {name: array.shape for name, array in arrays.items()} == {"0.weight": (3, 2), "0.bias": (3,)}


# -- files of torch -----------------------------------------------------------------------------------------------


def state_file(folder: Path, **changed: bytes) -> Path:
    """A state dict whose members are replaced by name, dots for slashes, or added."""
    plain = folder / "plain.pt"
    torch.save({"a": torch.arange(8.0)}, plain)
    path = folder / "w.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            key = entry.filename.partition("/")[2].replace("/", "_").replace(".", "_")
            target.writestr(entry.filename, changed.pop(key, source.read(entry)))
    plain.unlink()
    return path


def rebuilt(size: int, stride: int, offset: int = 0, key: bytes = b"0") -> bytes:
    """A pickle of one tensor on a storage of eight floats."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpuK\x08tQ"
    arguments = storage + number(offset) + number(size) + b"\x85" + number(stride) + b"\x85\x89N"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


def with_code(folder: Path) -> Path:
    torch.save({"a": torch.ones(2), "b": Runs(os.system, marker(folder))}, folder / "w.pt")
    return folder / "w.pt"


def old_with_code(folder: Path) -> Path:
    content = {"b": Runs(os.system, marker(folder))}
    torch.save(content, folder / "w.pt", _use_new_zipfile_serialization=False)
    return folder / "w.pt"


def cut(folder: Path) -> Path:
    path = state_file(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def flipped(folder: Path) -> Path:
    path = state_file(folder)
    content = bytearray(path.read_bytes())
    content[content.find(np.arange(8, dtype="f4").tobytes()) + 9] ^= 1
    path.write_bytes(content)
    return path


TORCH: dict[str, tuple[Attack, int, str]] = {
    "code": (with_code, STRANGE, "posix.system"),
    "code in the old format": (old_with_code, DAMAGED, "posix.system"),
    "cut short": (cut, DAMAGED, "w.pt"),
    "a flipped bit": (flipped, DAMAGED, "checksum"),
    "beyond its storage": (lambda folder: state_file(folder, data_pkl=rebuilt(9, 1)), DAMAGED, "reaches to element 8"),
    "strides beyond it": (lambda folder: state_file(folder, data_pkl=rebuilt(3, 2**60)), DAMAGED, "reaches"),
    "before its storage": (lambda folder: state_file(folder, data_pkl=rebuilt(1, 1, -1)), DAMAGED, "not described"),
    "a negative stride": (lambda folder: state_file(folder, data_pkl=rebuilt(2, -1, 4)), DAMAGED, "not described"),
    "2^62 elements": (lambda folder: state_file(folder, data_pkl=rebuilt(2**62, 0)), DAMAGED, "a"),
    "2^40 elements of one": (lambda folder: state_file(folder, data_pkl=rebuilt(2**40, 0)), DAMAGED, "unpack to"),
    "a storage that is not there": (
        lambda folder: state_file(folder, data_pkl=rebuilt(1, 1, key=b"7")),
        DAMAGED,
        "'7'",
    ),
    "big-endian": (lambda folder: state_file(folder, byteorder=b"big"), STRANGE, "big-endian"),
    "a pickle of nothing": (lambda folder: state_file(folder, data_pkl=b""), DAMAGED, "cut short"),
}


@pytest.mark.parametrize("attack", TORCH)
def test_a_hostile_file_of_torch_is_refused_and_nothing_runs(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, exit_code, says = TORCH[attack]
    refused(make(tmp_path), exit_code, says, capsys)


# -- NumPy --------------------------------------------------------------------------------------------------------


def npy(descr: str, shape: str, data: bytes = b"", order: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def objects(folder: Path) -> Path:
    np.save(folder / "w.npy", np.array([Runs(os.system, marker(folder))], dtype=object), allow_pickle=True)
    return folder / "w.npy"


def objects_in_archive(folder: Path) -> Path:
    np.savez(folder / "w.npz", a=np.array([Runs(os.system, marker(folder))], dtype=object), allow_pickle=True)
    return folder / "w.npz"


def archive(folder: Path, members: list[tuple[str, bytes]], packed: bool = False) -> Path:
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "w.npz", "w", method) as target:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            target.writestr(name, content)
    return folder / "w.npz"


ONE = npy("'<f4'", "(1,)", bytes(4))


def bomb(folder: Path) -> Path:
    with (
        zipfile.ZipFile(folder / "w.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target,
        target.open("a.npy", "w") as member,
    ):
        member.write(npy("'|u1'", f"({300 * 2**20},)"))
        for _ in range(300):
            member.write(bytes(2**20))
    return folder / "w.npz"


NUMPY: dict[str, tuple[Attack, int, str]] = {
    "an array of objects": (objects, DAMAGED, "Python objects"),
    "an archive of objects": (objects_in_archive, DAMAGED, "Python objects"),
    "2^62 elements": (lambda folder: written(folder, "w.npy", npy("'<f4'", f"({2**62},)")), DAMAGED, "not possible"),
    "2^61 elements": (lambda folder: written(folder, "w.npy", npy("'<f4'", f"({2**61},)")), DAMAGED, "needs"),
    "2^31 x 2^31": (lambda folder: written(folder, "w.npy", npy("'<f4'", f"({2**31}, {2**31})")), DAMAGED, "needs"),
    "a negative axis": (lambda folder: written(folder, "w.npy", npy("'<f4'", "(-1,)")), DAMAGED, "not possible"),
    "a wide text": (lambda folder: written(folder, "w.npy", npy(f"'<U{2**30}'", "(1,)")), DAMAGED, "w.npy"),
    "records": (lambda folder: written(folder, "w.npy", npy("[('a', '<f4')]", "(1,)", bytes(4))), STRANGE, "no place"),
    "a header that calls": (lambda folder: written(folder, "w.npy", npy("__import__('os')", "(1,)")), DAMAGED, "w.npy"),
    "a deep header": (lambda folder: written(folder, "w.npy", npy("(" * 9000 + ")" * 9000, "(1,)")), DAMAGED, "w.npy"),
    "cut short": (lambda folder: written(folder, "w.npy", npy("'<f4'", "(9,)", bytes(35))), DAMAGED, "needs 36 bytes"),
    "empty": (lambda folder: written(folder, "w.npy", b""), DAMAGED, "w.npy"),
    "random": (lambda folder: written(folder, "w.npz", np.random.default_rng(0).bytes(999)), DAMAGED, "w.npz"),
    "a bomb": (bomb, DAMAGED, "unpack to"),
    "../": (lambda folder: archive(folder, [("../planted.npy", ONE)]), DAMAGED, "extracted elsewhere"),
    "absolute": (lambda folder: archive(folder, [("/tmp/planted.npy", ONE)]), DAMAGED, "extracted elsewhere"),
    "a drive": (lambda folder: archive(folder, [("C:planted.npy", ONE)]), DAMAGED, "extracted elsewhere"),
    "a backslash": (lambda folder: archive(folder, [("..\\planted.npy", ONE)]), DAMAGED, "extracted elsewhere"),
    "a name twice": (lambda folder: archive(folder, [("a.npy", ONE), ("a.npy", ONE)]), DAMAGED, "same name"),
    "a note on nothing": (
        lambda folder: archive(folder, [("__tightship__", b'{"z": {"name": "z", "dtype": "int4", "shape": []}}')]),
        DAMAGED,
        "not there",
    ),
    "a note that is a list": (lambda folder: archive(folder, [("__tightship__", b"[]")]), DAMAGED, "note"),
}  # fmt: skip


@pytest.mark.parametrize("attack", NUMPY)
def test_a_hostile_file_of_numpy_is_refused_and_nothing_runs(
    attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, exit_code, says = NUMPY[attack]
    refused(make(tmp_path), exit_code, says, capsys)


# -- safetensors --------------------------------------------------------------------------------------------------


def header(text: str | bytes, data: bytes = b"", length: int | None = None) -> Attack:
    raw = text if isinstance(text, bytes) else text.encode()
    content = struct.pack("<Q", len(raw) if length is None else length) + raw + data
    return lambda folder: written(folder, "w.safetensors", content)


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0, 4]") -> str:
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}'


SAFETENSORS: dict[str, tuple[Attack, int, str]] = {
    "empty": (lambda folder: written(folder, "w.safetensors", b""), DAMAGED, "cut short"),
    "random": (lambda folder: written(folder, "w.safetensors", RANDOM), DAMAGED, "cut short"),
    "a header of 2^62": (header("{}", length=2**62), DAMAGED, "cut short"),
    "a header past the end": (header("{}", length=3), DAMAGED, "cut short"),
    "no JSON": (header("{'a': 1}"), DAMAGED, "not sound JSON"),
    "a list": (header("[]"), DAMAGED, "does not begin with {"),
    "not UTF-8": (header(b'{"\xff": 1}'), DAMAGED, "w.safetensors"),
    "10,000 deep": (header('{"a":' * 10_000 + "1" + "}" * 10_000), DAMAGED, "not sound JSON"),
    "NaN": (header(f'{{"a": {entry(shape="[NaN]")}}}', bytes(4)), DAMAGED, "NaN is no number"),
    "a key twice": (header(f'{{"a": {entry()}, "a": {entry()}}}', bytes(4)), DAMAGED, "a key comes twice"),
    "an unknown type": (header(f'{{"a": {entry("F128")}}}', bytes(4)), DAMAGED, "'a'"),
    "a type that is a list": (header('{"a": {"dtype": [], "shape": [], "data_offsets": [0, 4]}}'), DAMAGED, "'a'"),
    "2^62 elements": (header(f'{{"a": {entry(shape=f"[{2**62}]")}}}', bytes(4)), DAMAGED, "'a'"),
    "2^31 x 2^31": (header(f'{{"a": {entry(shape=f"[{2**31}, {2**31}]")}}}', bytes(4)), DAMAGED, "'a'"),
    "a negative axis": (header(f'{{"a": {entry(shape="[-1]")}}}', bytes(4)), DAMAGED, "not possible"),
    "a fraction": (header(f'{{"a": {entry(shape="[1.0]")}}}', bytes(4)), DAMAGED, "not possible"),
    "true": (header(f'{{"a": {entry(shape="[true]")}}}', bytes(4)), DAMAGED, "not possible"),
    "backwards": (header(f'{{"a": {entry(offsets="[4, 0]")}}}', bytes(4)), DAMAGED, "no sound entry"),
    "before the data": (header(f'{{"a": {entry(offsets="[-4, 0]")}}}', bytes(4)), DAMAGED, "no sound entry"),
    "past the end": (header(f'{{"a": {entry(offsets="[4, 8]")}}}', bytes(4)), DAMAGED, "a hole or an overlap"),
    "2^62 offsets": (header(f'{{"a": {entry(offsets=f"[{2**62}, {2**62 + 4}]")}}}', bytes(4)), DAMAGED, "hole"),
    "an overlap": (header(f'{{"a": {entry()}, "b": {entry()}}}', bytes(4)), DAMAGED, "overlap"),
    "a hole": (header(f'{{"a": {entry()}, "b": {entry(offsets="[8, 12]")}}}', bytes(12)), DAMAGED, "hole"),
    "more at the end": (header(f'{{"a": {entry()}}}', bytes(5)), DAMAGED, "end at byte 4 of 5"),
    "cut short": (header(f'{{"a": {entry()}}}', bytes(3)), DAMAGED, "end at byte 4 of 3"),
    "a bool of 2": (header(f'{{"a": {entry("BOOL", "[4]")}}}', b"\0\1\2\0"), DAMAGED, "neither 0 nor 1"),
    "metadata that are numbers": (header('{"__metadata__": {"a": 1}}'), DAMAGED, "no texts by name"),
    "a note that lies": (
        header(json.dumps({"__metadata__": {"tightship": '{"a": {"name": "b", "dtype": "float64", "shape": [9]}}'},
                           "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}), bytes(4)),
        DAMAGED,
        "needs 72 bytes, found 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, exit_code, says = SAFETENSORS[attack]
    refused(make(tmp_path), exit_code, says, capsys)


@pytest.mark.parametrize("name", ["../planted", "/etc/planted", "a/../../planted", "~", "con", "a\0b"])
@pytest.mark.parametrize("suffix", [".safetensors", ".json", ".h5", ".npz", ".pkl", ".pt"])
def test_a_name_that_looks_like_a_path_is_a_name(name: str, suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "w.safetensors").write_bytes(b"")
    CONTAINERS["safetensors"].write(Weights.of({name: Tensor.from_array(np.arange(3))}), folder / "w.safetensors")
    api.weights(folder / "w.safetensors", folder / f"out{suffix}")
    with container_of(f"x{suffix}").open(folder / f"out{suffix}") as found:
        assert list(found) == [name]
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    if suffix == ".npz":  # whoever extracts it stays in the folder
        with zipfile.ZipFile(folder / "out.npz") as content:
            content.extractall(folder / "extracted")
        assert [path.name for path in tmp_path.iterdir()] == ["inside"]


# -- JSON ---------------------------------------------------------------------------------------------------------


def document(tensors: str) -> Attack:
    return lambda folder: written(
        folder, "w.json", f'{{"format": "tightship-weights", "version": 1, "tensors": {tensors}}}'.encode()
    )


def tensor(rest: str, dtype: str = "float32", shape: str = "[1]") -> Attack:
    return document(f'{{"a": {{"dtype": "{dtype}", "shape": {shape}, {rest}}}}}')


VALUE = '{"dtype": "int8", "shape": [1], "values": [1]}'

JSONS: dict[str, tuple[Attack, int, str]] = {
    "empty": (lambda folder: written(folder, "w.json", b""), DAMAGED, "empty"),
    "random": (lambda folder: written(folder, "w.json", np.random.default_rng(0).bytes(999)), DAMAGED, "at byte 0"),
    "another document": (lambda folder: written(folder, "w.json", b'{"a": 1}'), DAMAGED, "at byte 1"),
    "another version": (
        lambda folder: written(folder, "w.json", b'{"format": "tightship-weights", "version": 2, "tensors": {}}'),
        DAMAGED,
        "expected 1",
    ),
    "10,000 lists": (lambda folder: written(folder, "w.json", b"[" * 10_000 + b"]" * 10_000), DAMAGED, "at byte 0"),
    "10,000 lists as values": (tensor(f'"values": {"[" * 10_000}{"]" * 10_000}'), DAMAGED, "a list of numbers"),
    "10,000 objects": (document('{"a":' * 10_000 + "1" + "}" * 10_000), DAMAGED, "'a'"),
    "NaN": (tensor('"values": [NaN]'), DAMAGED, "NaN is no number"),
    "Infinity": (tensor('"values": [-Infinity]'), DAMAGED, "is no number"),
    "1e999": (tensor('"values": [1e999]'), DAMAGED, "does not fit"),
    "past float32": (tensor('"values": [1e39]'), DAMAGED, "does not fit float32"),
    "past int8": (tensor('"values": [300]', "int8"), DAMAGED, "does not fit int8"),
    "a number of a million digits": (tensor(f'"values": [{"9" * 1_000_000}]'), DAMAGED, "1000002 bytes of one text"),
    "a number of 5,000 digits": (tensor(f'"values": [{"9" * 5_000}]', "int64"), DAMAGED, "'a'"),
    "a text for a number": (tensor('"values": ["1"]'), DAMAGED, "must be int or float"),
    "true for a number": (tensor('"values": [true]'), DAMAGED, "must be int or float"),
    "a tensor twice": (document(f'{{"a": {VALUE}, "a": {VALUE}}}'), DAMAGED, "comes twice"),
    "a tensor twice, escaped": (document(f'{{"a": {VALUE}, "\\u0061": {VALUE}}}'), DAMAGED, "comes twice"),
    "a key twice": (document('{"a": {"dtype": "int8", "dtype": "int8", "shape": [1], "values": [1]}}'), DAMAGED, "'a'"),
    "too few values": (tensor('"values": [1]', shape="[2]"), DAMAGED, "needs 2 values"),
    "2^62 elements": (tensor('"data": ""', shape=f"[{2**62}]"), DAMAGED, "needs"),
    "a negative axis": (tensor('"data": ""', shape="[-1]"), DAMAGED, "not possible"),
    "too few bytes": (tensor('"data": "AAA="'), DAMAGED, "needs 4 bytes, found 2"),
    "base64 cut short": (tensor('"data": "AAAAA"'), DAMAGED, "cut short"),
    "not base64": (tensor('"data": "AAAA****"'), DAMAGED, "expected base64"),
    "an unknown type": (tensor('"data": ""', "float128"), DAMAGED, "'float128'"),
    "strings that lie": (tensor('"data": "AAAAAAAAAAD/////////fw=="', "string"), DAMAGED, "offsets"),
    "more after the end": (document(f'{{"a": {VALUE}}}}}, {{'), DAMAGED, "the end of the file"),
    "no end": (document(f'{{"a": {VALUE}'), DAMAGED, "expected }"),
}  # fmt: skip


@pytest.mark.parametrize("attack", JSONS)
def test_a_hostile_json_file_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, exit_code, says = JSONS[attack]
    refused(make(tmp_path), exit_code, says, capsys)


# -- HDF5 ---------------------------------------------------------------------------------------------------------


def hdf5(edit: Any) -> Attack:
    def make(folder: Path) -> Path:
        path = folder / "w.h5"
        with h5py.File(path, "w") as file:
            file["kernel"] = np.arange(6.0)
            edit(file)
        return path

    return make


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (4,))
    file.create_virtual_dataset("v", layout)


def external_link(file: Any) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "/")


def unwritten(file: Any) -> None:
    file.create_dataset("x", (2**40,), "f4", chunks=(2**20,))


def references(file: Any) -> None:
    file.create_dataset("x", (1,), h5py.ref_dtype)


def records(file: Any) -> None:
    file.create_dataset("x", (1,), np.dtype([("a", "f4")]))


def cut_hdf5(share: float) -> Attack:
    def make(folder: Path) -> Path:
        path = hdf5(lambda file: file.create_dataset("more", data=np.ones((64, 64)), chunks=(8, 8)))(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        return path

    return make


def note(**entries: Any) -> Any:
    return lambda file: file["kernel"].attrs.create("tightship", json.dumps(entries))


HDF5S: dict[str, tuple[Attack, int, str]] = {
    "an external link": (hdf5(external_link), DAMAGED, "a link to"),
    "a soft link": (hdf5(lambda file: file.update({"x": h5py.SoftLink("/kernel")})), DAMAGED, "a link to"),
    "external storage": (
        hdf5(lambda file: file.create_dataset("x", (99,), "u1", external=[("/etc/passwd", 0, 99)])),
        DAMAGED,
        "keeps its numbers in other files",
    ),
    "a virtual dataset": (hdf5(virtual), DAMAGED, "keeps its numbers in other files"),
    "2^40 elements": (hdf5(unwritten), DAMAGED, "unpack to"),
    "references": (hdf5(references), DAMAGED, "expected numbers or text"),
    "records": (hdf5(records), DAMAGED, "expected numbers"),
    "half of it": (cut_hdf5(0.5), DAMAGED, "w.h5"),
    "nearly all of it": (cut_hdf5(0.98), DAMAGED, "w.h5"),
    "eight bytes": (lambda folder: written(folder, "w.h5", b"\x89HDF\r\n\x1a\n"), DAMAGED, "w.h5"),
    "empty": (lambda folder: written(folder, "w.h5", b""), DAMAGED, "w.h5"),
    "a note that lies": (hdf5(note(name="b", dtype="float64", shape=[2**40])), DAMAGED, "needs"),
    "a note of numbers": (hdf5(note(name=7)), DAMAGED, "the note on it"),
    "a digest that differs": (hdf5(note(sha256="00")), DAMAGED, "digest is wrong"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HDF5S)
def test_a_hostile_hdf5_file_is_refused(attack: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, exit_code, says = HDF5S[attack]
    refused(make(tmp_path), exit_code, says, capsys)


def endless_heap(folder: Path) -> Path:
    """The free part of the heap of texts says that it has no bytes: libhdf5 looks behind it, and finds it again."""
    path = hdf5(note(name="b"))(folder)
    data = bytearray(path.read_bytes())
    place = data.index(b"GCOL") + 16
    while int.from_bytes(data[place : place + 2], "little"):  # objects of the heap are numbered from 1, the rest is 0
        place += 16 + -(-int.from_bytes(data[place + 8 : place + 16], "little") // 8) * 8
    data[place + 8 : place + 16] = bytes(8)
    path.write_bytes(data)
    return path


def test_an_hdf5_file_that_never_ends_is_stopped_after_seconds_of_a_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by the clock, which runs on while others keep the processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert main(["weights", str(endless_heap(tmp_path)), str(tmp_path / "out.safetensors")]) == DAMAGED
    assert "the process that read it used up its time" in capsys.readouterr().err.replace("\n", " ")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < TIME_S
    assert not (tmp_path / "out.safetensors").exists()


# -- any container ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".json", ".h5", ".npz", ".pkl", ".pt"])
@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "device"])
def test_what_is_no_plain_file_is_not_opened(
    suffix: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"w{suffix}"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    refused(path, ArtifactNotFound.exit_code, "expected a file of weights", capsys)


@pytest.mark.parametrize("suffix", [".safetensors", ".json", ".npz", ".pkl", ".pt"])
def test_a_file_cut_at_any_byte_is_refused(suffix: str, tmp_path: Path) -> None:
    """HDF5, which takes a process each time, is cut at several places above and in `make fuzz`."""
    container = container_of(suffix)
    container.write(
        Weights.of({"a": Tensor.from_array(np.arange(40.0)), "b": Tensor.from_array(np.array([1]))}), tmp_path / "w"
    )
    content, path = (tmp_path / "w").read_bytes(), tmp_path / f"w{suffix}"
    for end in range(len(content) - (1 if suffix == ".json" else 0)):  # JSON ends with a line feed
        path.write_bytes(content[:end])
        with pytest.raises(InvalidModel), container.open(path) as found:
            [found[name] for name in found]


def test_the_output_is_left_alone_when_the_source_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "out.npz").write_bytes(b"kept")
    with pytest.raises(InvalidModel):
        api.weights(written(tmp_path, "w.json", b"{"), tmp_path / "out.npz")
    assert (tmp_path / "out.npz").read_bytes() == b"kept"
