"""The house keeps its order: imports point one way, and there is no cycle."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tightship

SOURCE = Path(tightship.__file__).parent

LAYERS = (
    {"errors"},
    {"core"},
    {"formats", "engines", "weights", "rounding"},
    {"bridges"},
    {"passes", "measure"},
    {"search", "parallel"},
    {"package"},
    {"serve", "report"},
    {"api"},
    {"cli"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}

MODULES = sorted(SOURCE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every tightship module that `path` imports at run time, wherever in the file; submodules resolved."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    known = {name_of(module) for module in MODULES}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from found & known
            if found - known:
                yield node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_from_earlier_layers_or_its_own_room(path: Path) -> None:
    here = room_of(name_of(path))
    if here in ("", "__main__"):
        return
    for module in imports(path):
        there = room_of(module)
        assert there == here or not there or RANK[there] < RANK[here], f"{name_of(path)} imports {module}"


def test_every_room_has_its_place_in_the_layers() -> None:
    rooms = {room_of(name_of(path)) for path in MODULES} - {"", "__main__"}
    assert rooms <= set(RANK)


def test_the_import_graph_has_no_cycle() -> None:
    # A package's own modules are left out of the edges to the package: `from tightship.passes import PASSES` inside
    # tightship.passes would be such an edge, and is not allowed.
    edges = {name_of(path): set(imports(path)) - {name_of(path)} for path in MODULES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in done:
            for target in edges.get(module, ()):
                visit(target, (*trail, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, tightship; print(' '.join(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "numpy", "scipy", "matplotlib", "click", "rich"}
    assert not heavy & set(loaded)


def test_no_engine_writes_telemetry(tmp_path: Path) -> None:
    code = "import tightship, onnxruntime, numpy; onnxruntime.get_available_providers()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list(tmp_path.rglob("*"))


def test_every_public_name_is_there_and_listed() -> None:
    for name in tightship.__all__:
        assert getattr(tightship, name) is not None
    assert dir(tightship) == sorted(tightship.__all__)
