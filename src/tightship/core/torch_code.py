"""A traced module as Python source that a person can read, train and own: plain PyTorch, nothing of tightship.

Layers are constructed in `__init__` as `torch.nn` has them, `forward` is one line per operator, and a function that is
not PyTorch's own is copied into the file with all that it calls.
"""

from __future__ import annotations

import ast
import inspect
import math
import operator
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tightship.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

__all__ = ["Code", "print_module"]

_WIDTH = 116
_LIBRARIES = ("torch", "math", "operator", "builtins", "_operator", "collections", "typing", "functools", "itertools")


@dataclass(frozen=True)
class Code:
    """Source in two parts: the import statements, and the functions and classes."""

    imports: str
    body: str


def print_module(module: torch.fx.GraphModule, name: str, more_imports: Sequence[tuple[str, str]] = ()) -> Code:
    """Return the source of `module` as a class called `name`, with the functions and classes that it needs.

    `more_imports` are pairs of a module and a name in it that are imported besides.
    Raises `UnsupportedError` where a layer cannot be written as a call of its class.
    """
    functions = _Functions(more_imports)
    classes = list(_classes(module, name, functions))
    body = "\n\n\n".join((*functions.sources.values(), *classes))
    return Code("\n".join(functions.imports()), body)


class _Functions:
    """The functions that are copied into the file, each after those that it calls, and what they import."""

    def __init__(self, imports: Sequence[tuple[str, str]]) -> None:
        self.sources: dict[str, str] = {}
        self._modules = {"torch"}
        self._names = {("torch", "Tensor"), ("torch", "nn"), *imports}
        self._origins: dict[str, object] = {}

    def imports(self) -> list[str]:
        """The import statements: the standard library's, then the others'."""
        lines: list[str] = ["from __future__ import annotations"]
        for standard in (True, False):
            group = [f"import {name}" for name in sorted(self._modules) if _is_standard(name) == standard]
            homes = sorted({home for home, _ in self._names if _is_standard(home) == standard})
            group += [
                f"from {home} import {', '.join(sorted(n for h, n in self._names if h == home))}" for home in homes
            ]
            lines += ["", *group] if group else []
        return lines

    def name(self, function: Callable[..., Any]) -> str:
        """Return how the file calls a function; one that is not a library's is copied first."""
        if function is getattr:
            return "getattr"
        module = getattr(function, "__module__", None) or ""
        if module.partition(".")[0] not in _LIBRARIES:
            self._copy(function.__name__, function)
            return function.__name__
        name = _library_name(function)
        if not name.startswith("torch"):
            self._modules.add(name.partition(".")[0])
        return name

    def _copy(self, name: str, value: object) -> None:
        """Copy a function, class or constant under the name that the code has for it."""
        if name in self._origins:
            if self._origins[name] is not value:
                raise UnsupportedError(f"two different things are called {name}; the source can hold one of them")
            return
        self._origins[name] = value
        if inspect.isfunction(value) or inspect.isclass(value):
            tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
            definition = tree.body[0]
            assert isinstance(definition, ast.FunctionDef | ast.ClassDef)
            definition.decorator_list = [entry for entry in definition.decorator_list if _is_plain(entry)]
            self._follow(value, tree)
            self.sources[name] = _without_decorators(value, definition)
        else:
            self.sources[name] = f"{name} = {_literal(name, value)}"

    def _follow(self, value: Any, tree: ast.AST) -> None:
        """Copy or import every global that the code names."""
        scope = value.__globals__ if inspect.isfunction(value) else vars(inspect.getmodule(value))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in scope and isinstance(node.ctx, ast.Load):
                self._bring(node.id, scope[node.id])

    def _bring(self, name: str, value: object) -> None:
        if inspect.ismodule(value):
            parent, _, last = value.__name__.rpartition(".")
            self._names.add((parent, last)) if parent else self._modules.add(last)
        elif (getattr(value, "__module__", None) or "").partition(".")[0] in _LIBRARIES and hasattr(value, "__name__"):
            known: str = value.__name__
            self._names.add((_home(value, known), known))
            if name != known:
                self.sources[name] = f"{name} = {known}"
        else:
            self._copy(name, value)

    def taken(self, name: str) -> bool:
        """Whether the file means something else by this name than a value of `forward`."""
        return name in self.sources or name in self._modules or any(name == known for _, known in self._names)


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def _home(value: Any, name: str) -> str:
    """The shortest library module that has `value` under this name: `torch` rather than `torch._tensor`."""
    import importlib

    whole = value.__module__.split(".")
    for length in range(1, len(whole) + 1):
        home = ".".join(whole[:length])
        if getattr(importlib.import_module(home), name, None) is value:
            return home
    return str(value.__module__)


def _is_plain(decorator: ast.expr) -> bool:
    # What enters a function into a table has no business in the file.
    return isinstance(decorator, ast.Name) and decorator.id in ("staticmethod", "classmethod", "property")


def _without_decorators(value: Any, definition: ast.FunctionDef | ast.ClassDef) -> str:
    """The source as it was written, comments and all, from its `def` or `class` on."""
    lines = textwrap.dedent(inspect.getsource(value)).splitlines()
    return "\n".join(lines[definition.lineno - 1 :]).rstrip()


def _literal(name: str, value: object) -> str:
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    if isinstance(value, Mapping) and value and all(isinstance(key, str | int) for key in value):
        return "{" + ", ".join(f"{key!r}: {_literal(name, item)}" for key, item in value.items()) + "}"
    if text.startswith("torch."):
        return text
    raise UnsupportedError(f"the value of {name}, a {type(value).__name__}, cannot be written as source")


def _library_name(function: Callable[..., Any]) -> str:
    import torch

    if getattr(torch, function.__name__, None) is function:
        return f"torch.{function.__name__}"
    name: str = torch.fx.node._get_qualified_name(function)
    return name.replace("torch._C._nn.", "torch.nn.functional.").replace("_operator.", "operator.")


def _classes(module: torch.fx.GraphModule, name: str, functions: _Functions) -> Iterator[str]:
    """The class of a module, after those of the modules inside it (bodies of loops and branches)."""
    import torch

    inner = {}
    for key, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            inner[key] = name + _camel(key)
            yield from _classes(child, inner[key], functions)
    yield "\n".join(
        (f"class {name}(nn.Module):", *_indent(_init(module, inner)), "", *_indent(_forward(module, functions)))
    )


def _camel(key: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"[\W_]+", key))


def _init(module: torch.fx.GraphModule, inner: Mapping[str, str]) -> Iterator[str]:
    yield "def __init__(self) -> None:"
    yield "    super().__init__()"
    for key, child in module.named_children():
        yield f"    self.{key} = {inner[key]}()" if key in inner else f"    self.{key} = {_construction(key, child)}"
    yield from (f"    {line}" for line in _shared_weights(module))
    owners = {
        id(parameter): f"self.{key}.{name}"
        for key, child in module.named_children()
        for name, parameter in child.named_parameters()
    }
    for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
        yield f"    self.{key} = {owners.get(id(parameter)) or f'nn.Parameter({_empty(parameter)})'}"
        owners.setdefault(id(parameter), f"self.{key}")
    for key, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        yield f'    self.register_buffer("{key}", {_empty(buffer)})'


def _shared_weights(module: torch.nn.Module) -> Iterator[str]:
    """Layers that share one weight are told so again."""
    owners: dict[int, str] = {}
    for key, child in module.named_children():
        for name, parameter in child.named_parameters(remove_duplicate=False):
            owner = owners.setdefault(id(parameter), f"{key}.{name}")
            if owner != f"{key}.{name}" and "." not in name:
                yield f"self.{key}.{name} = self.{owner}"


def _empty(tensor: torch.Tensor) -> str:
    return f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"


def _construction(key: str, layer: torch.nn.Module) -> str:
    """A layer as the call that makes it; torch writes its arguments in `extra_repr`."""
    from torch import nn

    kind = type(layer).__name__
    arguments = layer.extra_repr()
    if isinstance(layer, nn.RNN) and layer.nonlinearity != "tanh":
        arguments += f", nonlinearity={layer.nonlinearity!r}"
    call = f"nn.{kind}({arguments})"
    try:
        tree = ast.parse(call, mode="eval").body
        assert isinstance(tree, ast.Call)
        values = [ast.literal_eval(argument) for argument in tree.args]
        made = getattr(nn, kind)(
            *values, **{word.arg: ast.literal_eval(word.value) for word in tree.keywords if word.arg}
        )
    except (AttributeError, SyntaxError, TypeError, ValueError, AssertionError) as error:
        raise UnsupportedError(f"layer {key} is a {kind}, which cannot be written as a call of torch.nn") from error
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (layer, made)]
    if shapes[0] != shapes[1]:
        raise UnsupportedError(f"layer {key}: {call} has other weights than the layer itself")
    return call


def _forward(module: torch.fx.GraphModule, functions: _Functions) -> Iterator[str]:
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem:
            functions.name(node.target)  # all of them, so that no value is called as one
    _rename(module.graph, functions)
    inputs = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    yield f"def forward({', '.join(('self', *(f'{name}: Tensor' for name in inputs)))}):"
    for node in module.graph.nodes:
        if node.op == "output":
            yield from (f"    {line}" for line in _wrapped("return ", node.args[0]))
        elif node.op not in ("placeholder", "get_attr"):
            yield f"    {node.name} = {_call(node, functions)}"


def _rename(graph: torch.fx.Graph, functions: _Functions) -> None:
    used = {node.name for node in graph.nodes}
    for node in graph.nodes:
        while functions.taken(node.name):
            node.name += "_value" if f"{node.name}_value" not in used else "_"
        used.add(node.name)


def _wrapped(head: str, value: Any) -> list[str]:
    text = head + _text(value)
    if len(text) <= _WIDTH or not isinstance(value, dict):
        return [text]
    return [f"{head}{{", *(f"    {key!r}: {_text(item)}," for key, item in value.items()), "}"]


def _call(node: torch.fx.Node, functions: _Functions) -> str:
    arguments = [*map(_text, node.args), *(f"{name}={_text(value)}" for name, value in node.kwargs.items())]
    if node.op == "call_method":
        return f"{arguments[0]}.{node.target}({', '.join(arguments[1:])})"
    if node.op == "call_module":
        return f"self.{node.target}({', '.join(arguments)})"
    if node.target is operator.getitem:
        return f"{arguments[0]}[{arguments[1]}]"
    return f"{functions.name(node.target)}({', '.join(arguments)})"


def _text(value: Any) -> str:
    import torch

    if isinstance(value, torch.fx.Node):
        return f"self.{value.target}" if value.op == "get_attr" else value.name
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, slice):
        return f"slice({_text(value.start)}, {_text(value.stop)}, {_text(value.step)})"
    return f'torch.device("{value}")' if isinstance(value, torch.device) else repr(value)


def _indent(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" if line else "" for line in lines)
