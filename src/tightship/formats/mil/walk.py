"""Walking the operations of a program in order, by the tables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tightship.core.operators import Entry
from tightship.errors import InvalidModel, TightshipError
from tightship.formats.mil.build import Build, Ground
from tightship.formats.mil.operands import Operand, Type, Unsupported
from tightship.formats.mil.table import DECOMPRESSED, INJECTED, OPERATORS, REASONS, SEVERAL
from tightship.formats.mil.values import Weights, array_of, type_of

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Walk"]

Given = Mapping[str, tuple[Operand, ...]]

_DEPTH = 50
"""Blocks within blocks; a program that a person wrote has a handful."""


class Walk:
    """The walk through one program; `problems` are operator, operation and reason of what has no counterpart."""

    def __init__(self, weights: Weights, opset: int, where: str) -> None:
        self.ground = Ground()
        self.problems: list[tuple[str, str, str]] = []
        self._weights, self._opset, self._where = weights, opset, where
        self._depth = 0

    def block(self, block: Any, scope: Mapping[str, Operand], nodes: list[onnx_ir.Node]) -> list[Operand]:
        """Walk a block; what it defines stays inside. Its outputs are returned, its operators put to `nodes`."""
        inner = dict(scope)
        self._depth += 1
        if self._depth > _DEPTH:
            raise InvalidModel(f"{self._where}: more than {_DEPTH} blocks within each other")
        for operation in block.operations:
            for operand in self._outputs(operation, inner, nodes):
                inner[operand.name] = operand
        self._depth -= 1
        return [self._named(name, inner) for name in block.outputs]

    def _outputs(self, operation: Any, scope: Mapping[str, Operand], nodes: list[onnx_ir.Node]) -> list[Operand]:
        kind, name = operation.type, _name(operation)
        try:
            return self._made(operation, scope, nodes)
        except Unsupported as error:
            self.problems.append((kind, name, str(error)))
        except TightshipError as error:
            if self._where in str(error):
                raise
            raise InvalidModel(f"{self._where}: operation {name} ({kind}): {error}") from error
        except Exception as error:  # a program that breaks the rules of its operators
            text = f"{type(error).__name__}: {str(error)[:200]}"
            raise InvalidModel(f"{self._where}: operation {name} ({kind}) does not fit its operands: {text}") from error
        return [_lost(output) for output in operation.outputs]

    def _made(self, operation: Any, scope: Mapping[str, Operand], nodes: list[onnx_ir.Node]) -> list[Operand]:
        if operation.type == "const":
            return [self._constant(operation.outputs[0].name, operation.attributes["val"])]
        given = self._given(operation, scope)
        if any(operand.lost for operands in given.values() for operand in operands):
            return [_lost(output) for output in operation.outputs]
        if operation.type.startswith("constexpr_"):
            return self._decompressed(operation, given)
        types = [type_of(output.type) for output in operation.outputs]
        inline = partial(self._inline, scope)
        build = Build(self.ground, nodes, _name(operation), types, operation.blocks, inline)
        return self._called(self._entry(operation.type), operation, given, build)

    def _entry(self, kind: str) -> Entry:
        entry = OPERATORS.find(kind, self._opset)
        if entry is None:
            raise Unsupported(REASONS.get(kind, "no entry in the table of operators"))
        return entry

    def _called(self, entry: Entry, operation: Any, given: Given, build: Build) -> list[Operand]:
        arguments = _arguments(entry, given)
        made = entry.function(**arguments, build=build)
        results = list(made) if isinstance(made, tuple | list) else [made]
        if len(results) != len(operation.outputs):
            raise Unsupported(f"{len(operation.outputs)} outputs, where {len(results)} are known")
        outputs = zip(operation.outputs, build.types, results, strict=True)
        return [self._result(output.name, kind, result) for output, kind, result in outputs]

    def _result(self, name: str, kind: Type, result: Any) -> Operand:
        if isinstance(result, Operand):
            array = None if not result.is_known else partial(_array, result)
            return Operand(name, kind, value=result.value, array=array, fixed=result.fixed)
        if isinstance(result, np.ndarray):
            return Operand(name, kind, array=partial(np.asarray, result))
        return Operand(name, kind, value=result)

    def _constant(self, name: str, message: Any) -> Operand:
        return Operand(name, type_of(message.type), array=partial(array_of, message, self._weights))

    def _given(self, operation: Any, scope: Mapping[str, Operand]) -> Given:
        given: dict[str, tuple[Operand, ...]] = {
            key: (self._constant(f"{_name(operation)}/{key}", message),)
            for key, message in operation.attributes.items()
            if key != "name"
        }
        for key, argument in operation.inputs.items():
            given[key] = tuple(
                self._named(binding.name, scope)
                if binding.WhichOneof("binding") == "name"
                else self._constant(f"{_name(operation)}/{key}", binding.value)
                for binding in argument.arguments
            )
        return given

    def _named(self, name: str, scope: Mapping[str, Operand]) -> Operand:
        if name not in scope:
            raise InvalidModel(f"{self._where}: the program reads {name!r}, which nothing before it computes")
        return scope[name]

    def _inline(
        self, scope: Mapping[str, Operand], block: Any, given: Sequence[Operand], nodes: list[onnx_ir.Node]
    ) -> list[Operand]:
        """Walk a nested block, which sees what is around it."""
        inner = {**scope, **{entry.name: operand for entry, operand in zip(block.inputs, given, strict=True)}}
        return self.block(block, inner, nodes)

    def _decompressed(self, operation: Any, given: Given) -> list[Operand]:
        entry = DECOMPRESSED.find(operation.type, self._opset)
        if entry is None:
            raise Unsupported("no entry in the table of operators")
        unknown = [key for key in given if key not in {parameter.name for parameter in entry.inputs}]
        if unknown:
            raise Unsupported(f"its input {', '.join(unknown)} is not known")
        arrays = {key: _array(operands[0]) for key, operands in given.items()}
        made = entry.function(**arrays)
        results = made if isinstance(made, tuple) else (made,)
        return [
            Operand(output.name, type_of(output.type), array=partial(np.asarray, result))
            for output, result in zip(operation.outputs, results, strict=True)
        ]


def _array(operand: Operand) -> np.ndarray:
    """A constant in its own type."""
    if operand._array is None:
        raise Unsupported(f"{operand.name} is computed, where a constant is expected")
    return operand._array()


def _arguments(entry: Entry, given: Given) -> dict[str, Any]:
    """Arrange the inputs of an operation by the signature of its entry."""
    taken = {parameter.name: parameter for parameter in (*entry.inputs,)}
    unknown = [key for key, operands in given.items() if key not in taken and key not in entry.attributes and operands]
    if unknown:
        raise Unsupported(f"its input {', '.join(sorted(unknown))} is not known")
    missing = [name for name, parameter in taken.items() if parameter.default is inspect.Parameter.empty]
    missing += entry.missing({**given, **dict.fromkeys(INJECTED)})
    if lacking := [name for name in missing if name not in given]:
        raise InvalidModel(f"its input {', '.join(lacking)} is missing")
    return {key: _several(key, operands, known=key in entry.attributes) for key, operands in given.items() if operands}


def _several(key: str, operands: tuple[Operand, ...], known: bool) -> Any:
    values = tuple(map(_plain, operands)) if known else operands
    return values if key in SEVERAL else values[0]


def _plain(operand: Operand) -> Any:
    """A constant as Python has it: a number, text, or an array."""
    if operand.known is None:
        raise Unsupported(f"{operand.name} is computed, where a constant is expected")
    return operand.known.item() if operand.known.ndim == 0 else operand.known


def _name(operation: Any) -> str:
    """An operation's own name, or that of its first output."""
    attribute = operation.attributes.get("name", None)
    own = list(attribute.immediateValue.tensor.strings.values) if attribute is not None else []
    return str(own[0]) if own else next((output.name for output in operation.outputs), operation.type)


def _lost(output: Any) -> Operand:
    return Operand(output.name, Type("float32", ()), lost=True)
