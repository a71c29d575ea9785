"""Whether a `.pt2` file holds data only.

torch.export.load runs what a file tells it to: pickles, symbolic expressions (sympy evaluates them as Python), enum
classes of output structures (imported), argument names (pasted into generated code), guards (compiled), compiled
libraries (opened) and operators that write files. So everything in a file is compared with what torch.export.save
writes for a plain model, and anything else is refused before torch sees it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from tightship.core.torch_files import check_zip, load_data
from tightship.errors import InvalidModel, UnsupportedOperators

__all__ = ["check_archive", "is_known_operator"]

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment|\.data/\w+"
    r"|models/model\.json|extra/[\w./-]+"
    r"|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt",
    re.ASCII,
)
_NAME = re.compile(r"\w*", re.ASCII)
_DOTTED = re.compile(r"[\w.:/ -]*", re.ASCII)  # torch quotes those that are no Python names
_SYMBOL = re.compile(r"[A-Za-z][A-Za-z_]*\d{0,5}", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!(from_file|save)\.)"  # those two read or write a file of any name
    r"(_?[A-Za-z]\w*|__i?(and|or|xor|lshift|rshift)__)\.[A-Za-z]\w*"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|wrap_with_(set_grad_enabled|autocast))"
    r"|torch\.(sym_(float|int|ite|max|min|not|sum|sqrt|fresh_size|constrain_range)|_sym_sqrt)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|_operator\.(add|and_|eq|floordiv|ge|getitem|gt|le|lshift|lt|mod|mul|ne|neg|not_|or_|pos|pow|rshift|sub|truediv)",
    re.ASCII,
)
# fmt: off
_FUNCTIONS = frozenset({
    "Symbol", "Integer", "Rational", "Add", "Mul", "Mod", "PythonMod", "Max", "Min", "Abs", "Not", "And", "Or", "Eq",
    "Equality", "Ne", "Unequality", "Lt", "Le", "Gt", "Ge", "StrictLessThan", "LessThan", "StrictGreaterThan",
    "GreaterThan", "FloorDiv", "CeilDiv", "CleanDiv", "ModularIndexing", "Where", "CeilToInt", "FloorToInt",
    "TruncToInt", "RoundToInt", "TruncToFloat", "ToFloat", "IntTrueDiv", "FloatTrueDiv", "Identity",
})
_EXPRESSION = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.USub, ast.BinOp, ast.Add,
    ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)
# fmt: on

# How the keys of the description are judged. Sizes, structures and names are text and nothing else: torch would
# evaluate the items of a list or mapping in their place one by one.
_TEXT = frozenset({"expr_str", "in_spec", "out_spec", "name", "as_name", "target", "as_operator"})
_FREE_TEXT = frozenset({"metadata", "torch_version", "as_string", "as_strings", "guards_code"})  # stays text in torch
_VALUES = frozenset({"tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"})
_BY_NAME = _VALUES | {"as_string_to_argument", "range_constraints", "config"}  # keys are the model's own names
_CUSTOM = frozenset({"custom_obj", "as_custom_obj", "custom_obj_values"})


def check_archive(path: Path) -> None:
    """Raise `InvalidModel` where a `.pt2` file is damaged or holds more than data.

    Raises `UnsupportedOperators` listing every operator that is not one of PyTorch's own.
    """
    check_zip(path)
    members, sizes = _read_members(path)
    for name in sizes:
        if not _MEMBERS.fullmatch(name):
            raise InvalidModel(
                f"{path}: holds {name!r}, which no plain exported model does (compiled code, a pickle or an old format "
                "of torch.export); export the model again with torch.export.save"
            )
    if "models/model.json" not in members:
        raise InvalidModel(f"{path}: not an exported program: models/model.json is missing")
    try:
        _check_payloads(path, members, sizes)
    except (KeyError, AttributeError, TypeError) as error:
        raise InvalidModel(f"{path}: its list of weights is not what torch.export.save writes: {error!r}") from error
    _check_program(path, members["models/model.json"])
    # torch.export.load unpickles example inputs without any check where the checked way fails.
    if examples := members.get("data/sample_inputs/model.pt"):
        load_data(BytesIO(examples), f"{path}: the example inputs inside")


def is_known_operator(target: str) -> bool:
    """Whether a name is of an operator of PyTorch's own that computes on tensors or sizes and does nothing else."""
    return _OPERATOR.fullmatch(target) is not None


def _read_members(path: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """Contents of the descriptions and the sizes of all members by name, as torch's own reader sees them."""
    import torch

    try:
        reader = torch._C.PyTorchFileReader(str(path))  # what torch.export.load reads with: no second opinion
        names: list[str] = reader.get_all_records()
        contents = {name: reader.get_record(name) for name in names if name.endswith((".json", "model.pt"))}
        sizes = {name: reader.get_record_size(name) for name in names}
    except RuntimeError as error:
        raise InvalidModel(f"{path}: torch cannot read the archive: {_first_line(error)}") from error
    if len(sizes) < len(names):
        raise InvalidModel(f"{path}: two members have the same name; the file was tampered with")
    return contents, sizes


def _check_payloads(path: Path, members: dict[str, bytes], sizes: dict[str, int]) -> None:
    for kind in ("weights", "constants"):
        content = members.get(f"data/{kind}/model_{kind}_config.json", b'{"config": {}}')
        document = _json(path, content)
        _check_strings(path, document)
        for key, entry in document["config"].items():
            name = str(entry["path_name"])
            if entry["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\d+", name):
                raise InvalidModel(f"{path}: {key!r} is stored as a pickle, which may run code; tightship opens none")
            # torch fills a tensor without bytes with zeros, of any size that the file names.
            empty = any(size.get("as_int") == 0 for size in entry["tensor_meta"]["sizes"])
            if not sizes.get(f"data/{kind}/{name}") and not empty:
                raise InvalidModel(f"{path}: {key!r} has a shape but no bytes; the file is damaged: export it again")


def _check_program(path: Path, content: bytes) -> None:
    document = _json(path, content)
    _check_strings(path, document)
    foreign = sorted({target for target in _targets(document) if not is_known_operator(target)})
    if foreign:
        raise UnsupportedOperators(f"{path}: {len(foreign)} operators are not PyTorch's own: {', '.join(foreign)}")


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path}: its description of the model is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidModel(f"{path}: its description of the model is no JSON object")
    return document


def _check_strings(path: Path, document: dict[str, Any]) -> None:
    try:
        suspect = next(((key, text) for key, text in _strings(document) if not _is_plain(key, text)), None)
    except RecursionError as error:
        raise InvalidModel(f"{path}: its description of the model is nested too deeply") from error
    if suspect:
        key, text = suspect
        raise InvalidModel(f"{path}: {key} holds {text[:80]!r}, which could run code; tightship does not load it")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string with the key it stands under; the keys of a mapping stand under the mapping's own key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield key, name
            if key in _BY_NAME:
                yield from _strings(item)
            elif (name in _TEXT and not isinstance(item, str | None)) or (name in _FREE_TEXT and not _is_text(item)):
                yield name, json.dumps(item)
            elif name not in _FREE_TEXT:
                yield from _strings(item, name)


def _is_text(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return all(isinstance(item, str) for item in items)


def _is_plain(key: str, text: str) -> bool:
    if key in ("target", "as_operator"):
        return True  # all operators are compared with the table, and the foreign ones reported at once
    if key == "expr_str":
        return _is_expression(text)
    if key in ("in_spec", "out_spec"):
        return _is_structure(text)
    if key == "range_constraints":
        return _is_symbol(text)
    if key in ("name", "as_name", "forward_arg_names"):
        return _NAME.fullmatch(text) is not None
    return key not in _CUSTOM and _DOTTED.fullmatch(text) is not None


def _targets(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, str) and key in ("target", "as_operator"):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in _FREE_TEXT or key in _BY_NAME:
                yield from _targets(item, "" if key in _BY_NAME else name)


def _is_expression(text: str) -> bool:
    """Whether a symbolic size is built of numbers, symbols and the functions of torch's shape arithmetic only."""
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(text) < 10_000 and all(isinstance(node, _EXPRESSION) and _is_atom(node) for node in nodes)


def _is_atom(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _is_symbol(node.id)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int) or _is_symbol(str(node.value))
    return True


def _is_symbol(text: str) -> bool:
    return _SYMBOL.fullmatch(text) is not None


def _is_structure(text: str) -> bool:
    """Whether a pytree of inputs or outputs has plain contexts only (lists of keys): others are imported."""
    try:
        _protocol, root = json.loads(text)
        pending = [root]
        while pending:
            node = pending.pop()
            context = node["context"]
            keys = json.loads(context) if isinstance(context, str) else context
            if not (keys is None or (isinstance(keys, list) and all(isinstance(key, str | int) for key in keys))):
                return False
            pending += node["children_spec"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
