"""Attacks by `.pt2` files: each makes torch.export.load or the loaded model run or write something; none may.

All but the guards are refused; guards are never compiled. That an attack works where nothing checks is not asserted,
since torch may learn to refuse it; all of them did on torch 2.13.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tightship.core.exported import read_pt2
from tightship.core.pt2_archive import check_archive, is_known_operator
from tightship.errors import InvalidModel, TightshipError, UnsupportedOperators

torch = pytest.importorskip("torch")
nn = torch.nn

Document = dict[str, Any]
Edit = Callable[[Document, str], None]

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.layer(x) * scale}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torch writes it, with a free batch axis."""
    path = tmp_path_factory.mktemp("whole") / "model.pt2"
    axes = {0: torch.export.Dim("batch")}
    examples = (torch.randn(2, 4), torch.randn(2, 1))
    program = torch.export.export(Net().eval(), examples, dynamic_shapes={"x": axes, "scale": axes})
    torch.export.save(program, path)
    return path


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What an attack that works writes: `./marker`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "marker"


def rewrite(
    whole: Path, path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_STORED, twice: str = ""
) -> Path:
    """Copy an archive with other or further members."""
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w", packing) as target:
        contents = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
        for name, content in {**contents, **members}.items():
            target.writestr(f"model/{name}", content)
        if twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                target.writestr(f"model/{twice}", contents[twice])
    return path


def edited(whole: Path, path: Path, edit: Edit, member: str = PROGRAM, code: str = "") -> Path:
    with zipfile.ZipFile(whole) as archive:
        document = json.loads(archive.read(f"model/{member}"))
    edit(document, code or "__import__('pathlib').Path('marker').touch()")
    return rewrite(whole, path, {member: json.dumps(document).encode()})


def test_a_file_that_was_only_copied_is_read(whole: Path, tmp_path: Path) -> None:
    assert [spec.name for spec in read_pt2(rewrite(whole, tmp_path / "a.pt2", {})).inputs] == ["x", "scale"]


def node(document: Document) -> Document:
    found: Document = document["graph_module"]["graph"]["nodes"][0]
    return found


def size_of_x(document: Document) -> Document:
    found: Document = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]
    return found


def signature(document: Document) -> Document:
    return next(entry["signature"] for entry in document["graph_module"]["module_call_graph"] if entry["signature"])


def expression(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = code


def expression_in_a_mapping(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = {"as_string": code}


def expression_in_a_list(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = [code]


def expression_in_a_call(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = f"Symbol('s1', integer={code})"


def expression_by_attribute(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = "Symbol.__init__.__globals__"


def expression_that_never_ends(document: Document, code: str) -> None:
    size_of_x(document)["as_expr"]["expr_str"] = "9**9**9**9"


def input_name(document: Document, code: str) -> None:
    text = json.dumps(document).replace('"scale"', json.dumps(f"scale={code}"))
    document.clear()
    document.update(json.loads(text))


def keyword_name(document: Document, code: str) -> None:
    node(document)["inputs"][0]["name"] = f"input={code}, x"


def weight_name(document: Document, code: str) -> None:
    for spec in document["graph_module"]["signature"]["input_specs"]:
        if "parameter" in spec:
            spec["parameter"]["parameter_name"] = f'a"); {code}; ("'


def enumeration(document: Document, code: str) -> None:
    protocol, root = json.loads(signature(document)["out_spec"])
    root["context"] = json.dumps({"__enum__": True, "fqn": "planted:Enumeration", "name": "x"})
    signature(document)["out_spec"] = json.dumps([protocol, root])


def default_factory(document: Document, code: str) -> None:
    protocol, root = json.loads(signature(document)["out_spec"])
    context = {"default_factory_module": "planted", "default_factory_name": "x", "dict_context": ["logits"]}
    root.update(type="collections.defaultdict", context=context)
    signature(document)["out_spec"] = json.dumps([protocol, root])


def custom_object(document: Document, code: str) -> None:
    node(document)["inputs"][0]["arg"] = {"as_custom_obj": {"name": "x", "class_fqn": "y"}}


def pickled_weight(document: Document, code: str) -> None:
    next(iter(document["config"].values()))["use_pickle"] = True


def pickled_by_name(document: Document, code: str) -> None:
    next(iter(document["config"].values()))["path_name"] = "opaque_obj_0"


def zeros_without_bytes(document: Document, code: str) -> None:
    entry = next(iter(document["config"].values()))
    entry["path_name"] = "weight_99"
    entry["tensor_meta"]["sizes"] = [{"as_int": 2**40}]


@pytest.mark.parametrize(
    "edit",
    [
        expression,
        expression_in_a_mapping,
        expression_in_a_list,
        expression_in_a_call,
        expression_by_attribute,
        expression_that_never_ends,
        input_name,
        keyword_name,
        weight_name,
        enumeration,
        default_factory,
        custom_object,
    ],
)
def test_a_description_that_could_run_code_is_refused(whole: Path, tmp_path: Path, marker: Path, edit: Edit) -> None:
    (tmp_path / "planted.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(InvalidModel, match=r"could run code"):
        read_pt2(edited(whole, tmp_path / "a.pt2", edit))
    assert not marker.exists()


@pytest.mark.parametrize("edit", [pickled_weight, pickled_by_name, zeros_without_bytes])
def test_weights_that_are_no_plain_numbers_are_refused(whole: Path, tmp_path: Path, edit: Edit) -> None:
    with pytest.raises(InvalidModel, match=r"stored as a pickle|has a shape but no bytes"):
        read_pt2(edited(whole, tmp_path / "a.pt2", edit, WEIGHTS))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.aten.add.__init__",
        "torch.ops.higher_order.call_torchbind",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.__loader__.load_module",
        "#planted:op",
        "torch.ops.planted.op.default",
        ["torch.os.system"],
    ],
)
@pytest.mark.parametrize("as_argument", [False, True])
def test_operators_that_are_not_torchs_own_arithmetic_are_refused(
    whole: Path, tmp_path: Path, target: object, as_argument: bool
) -> None:
    def edit(document: Document, code: str) -> None:
        if as_argument:
            node(document)["inputs"][0]["arg"] = {"as_operator": target}
        else:
            node(document)["target"] = target

    with pytest.raises((UnsupportedOperators, InvalidModel), match=r"not PyTorch's own|could run code"):
        read_pt2(edited(whole, tmp_path / "a.pt2", edit))


def test_all_foreign_operators_are_named_at_once(whole: Path, tmp_path: Path) -> None:
    def edit(document: Document, code: str) -> None:
        first, second, *_ = document["graph_module"]["graph"]["nodes"]
        first["target"], second["target"] = "torch.ops.mine.a.default", "torch.ops.mine.b.default"

    with pytest.raises(
        UnsupportedOperators, match=r"2 operators .*: torch\.ops\.mine\.a\.default, torch\.ops\.mine\.b"
    ):
        read_pt2(edited(whole, tmp_path / "a.pt2", edit))


def schemas() -> list[Any]:
    own = ("aten::", "prims::")
    return [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith(own)]


def test_no_other_operator_of_torch_takes_the_name_of_a_file() -> None:
    named = {schema.name for schema in schemas() if any("file" in entry.name for entry in schema.arguments)}
    assert named == {"aten::from_file", "aten::save"}  # these two are refused by name


def test_all_other_operators_of_torch_are_known() -> None:
    exportable = [schema for schema in schemas() if "::__" not in schema.name]  # TorchScript's own are not
    targets = {f"torch.ops.{s.name.replace('::', '.')}.{s.overload_name or 'default'}" for s in exportable}
    unknown = {target for target in targets if not is_known_operator(target)}
    assert len(targets) > 2000
    assert {target.rpartition(".")[0] for target in unknown} == {"torch.ops.aten.from_file", "torch.ops.aten.save"}


class Touch:
    """Pickles into a call that writes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("marker",))


def test_example_inputs_that_run_code_are_refused_and_not_run(whole: Path, tmp_path: Path, marker: Path) -> None:
    buffer = io.BytesIO()
    torch.save(((Touch(),), {}), buffer)
    path = rewrite(whole, tmp_path / "a.pt2", {"data/sample_inputs/model.pt": buffer.getvalue()})
    with pytest.raises(InvalidModel, match=r"a pickle that wants to call posix\.mkdir"):
        read_pt2(path)
    assert not marker.exists()


def test_guards_are_never_compiled(whole: Path, tmp_path: Path, marker: Path) -> None:
    def edit(document: Document, code: str) -> None:
        document["guards_code"] = [code]

    assert read_pt2(edited(whole, tmp_path / "a.pt2", edit)).form == "module"
    assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "data/aotinductor/model/model.so",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/weights/model.pt",
        "models/other.json",
        "models/MODEL.json",
        "../planted.py",
        "code/planted.py",
    ],
)
def test_members_that_no_plain_model_has_are_refused(whole: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidModel, match=r"which no plain exported model does|cannot read the archive"):
        check_archive(rewrite(whole, tmp_path / "a.pt2", {name: b"x"}))


def test_a_packed_archive_is_not_unpacked(whole: Path, tmp_path: Path) -> None:
    bomb = {"data/weights/weight_7": bytes(10_000_000)}
    with pytest.raises(InvalidModel, match="compressed or overlap"):
        check_archive(rewrite(whole, tmp_path / "a.pt2", bomb, zipfile.ZIP_DEFLATED))


def test_members_that_overlap_are_refused(whole: Path, tmp_path: Path) -> None:
    path = rewrite(whole, tmp_path / "a.pt2", {"data/weights/weight_7": bytes(100_000)})
    with zipfile.ZipFile(path, "a") as archive:
        big = archive.getinfo("model/data/weights/weight_7")
        for entry in archive.infolist():
            if "weight_" in entry.filename:
                entry.header_offset, entry.file_size, entry.compress_size = big.header_offset, 100_000, 100_000
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(InvalidModel, match="compressed or overlap"):
        check_archive(path)


def test_two_members_of_one_name_are_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidModel):
        check_archive(rewrite(whole, tmp_path / "a.pt2", {}, twice=PROGRAM))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 2000 + b"1" + b"}" * 2000]
)
@pytest.mark.parametrize("member", [PROGRAM, WEIGHTS])
def test_a_description_that_is_not_one_is_refused(whole: Path, tmp_path: Path, member: str, content: bytes) -> None:
    with pytest.raises(TightshipError) as caught:
        read_pt2(rewrite(whole, tmp_path / "a.pt2", {member: content}))
    assert caught.value.exit_code == 3
