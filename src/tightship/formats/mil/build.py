"""Making ONNX operators for one operator of a program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from tightship.formats.mil.operands import Operand, Type, Unsupported

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Build", "Ground", "Like"]

Like: TypeAlias = "Operand | onnx_ir.Value | np.ndarray | None"
"""What an ONNX operator is given: an operand, a value made before, a constant, or nothing."""


class Ground:
    """What all operators of one graph share: names that are taken, and constants."""

    def __init__(self) -> None:
        self.initializers: list[onnx_ir.Value] = []
        self._taken: set[str] = set()
        self._integers: dict[tuple[Any, ...], onnx_ir.Value] = {}

    def name(self, wanted: str) -> str:
        """Return the name, or the name with a number behind it where that is taken."""
        free, count = wanted, 0
        while free in self._taken:
            count += 1
            free = f"{wanted}_{count}"
        self._taken.add(free)
        return free

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for the outputs of the graph."""
        self._taken.update(names)

    def constant(self, array: np.ndarray, name: str) -> onnx_ir.Value:
        """Return the initializer that holds an array; short integers, which are shapes and axes, are shared."""
        import onnx_ir

        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 16 and array.dtype == np.int64 else None
        if key in self._integers:
            return self._integers[key]
        free = self.name(name)
        tensor = _tensor(array, free)
        value = onnx_ir.Value(
            name=free, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        self.initializers.append(value)
        if key is not None:
            self._integers[key] = value
        return value


class Build:
    """Makes the ONNX operators of one MIL operator; `types` are those that it declares of its outputs."""

    def __init__(
        self,
        ground: Ground,
        nodes: list[onnx_ir.Node],
        name: str,
        types: Sequence[Type] = (),
        blocks: Sequence[Any] = (),
        inline: Callable[..., list[Operand]] | None = None,
    ) -> None:
        self.ground, self.name, self.types, self.blocks = ground, name, tuple(types), tuple(blocks)
        self._nodes, self._inline = nodes, inline

    def __call__(self, kind: str, *inputs: Like, **attributes: Any) -> onnx_ir.Value:
        """Make an operator with one output."""
        (value,) = self.several(kind, 1, *inputs, **attributes)
        return value

    def several(self, kind: str, count: int, *inputs: Like, **attributes: Any) -> tuple[onnx_ir.Value, ...]:
        """Make an operator with `count` outputs; attributes that are None are left out."""
        import onnx_ir

        node = onnx_ir.node(
            kind,
            [self.value(entry) for entry in inputs],
            attributes={key: entry for key, entry in attributes.items() if entry is not None},
            num_outputs=count,
            name=self.ground.name(f"{self.name}/{kind}"),
        )
        for value in node.outputs:
            value.name = self.ground.name(f"{self.name}/{kind}_output")
        self._nodes.append(node)
        return tuple(node.outputs)

    def value(self, entry: Like) -> onnx_ir.Value | None:
        """Return the ONNX value of what an operator is given."""
        if isinstance(entry, np.ndarray):
            return self.ground.constant(entry, f"{self.name}/constant")
        if not isinstance(entry, Operand):
            return entry
        if entry.value is None:
            if entry.known is None:
                raise Unsupported(f"{entry.name} is no tensor")
            entry.value = self.ground.constant(entry.known, entry.name)
        return entry.value

    def inline(self, block: Any, given: Sequence[Operand], nodes: list[onnx_ir.Node]) -> list[Operand]:
        """Walk a block of the operator with these operands as its inputs; its operators go to `nodes`."""
        if self._inline is None:
            raise Unsupported("it has no blocks")
        return self._inline(block, given, nodes)

    def within(self, nodes: list[onnx_ir.Node]) -> Build:
        """Return the same for a subgraph."""
        return Build(self.ground, nodes, self.name, self.types, self.blocks, self._inline)

    # Pieces that many operators are made of.

    def like(self, x: Operand, number: float) -> np.ndarray:
        """A number in the type of an operand."""
        return np.array(number, x.type.carrier)

    def integers(self, x: Operand | Sequence[int]) -> Like:
        """Integers as ONNX's shapes, axes and indices want them."""
        if not isinstance(x, Operand):
            return np.array(list(x), np.int64)
        if x.known is not None:
            return x.known.astype(np.int64)
        return x if x.type.dtype == "int64" else self("Cast", x, to=7)

    def cast(self, x: Like, dtype: str) -> onnx_ir.Value:
        """Convert to a numpy type."""
        import onnx_ir

        return self("Cast", x, to=onnx_ir.DataType.from_numpy(np.dtype(dtype)).value)

    def shape(self, x: Operand) -> Like:
        """The shape of an operand in int64: a constant where it is known."""
        if None not in x.shape:
            return np.array(x.shape, np.int64)
        return self("Shape", x)

    def length(self, x: Operand, axis: int) -> Like:
        """The length of one axis, as a vector of one int64."""
        axis = x.axis(axis)
        known = x.shape[axis]
        return np.array([known], np.int64) if known is not None else self("Shape", x, start=axis, end=axis + 1)

    def reshape(self, x: Like, shape: Iterable[int]) -> onnx_ir.Value:
        return self("Reshape", x, np.array(list(shape), np.int64))

    def transpose(self, x: Like, order: Sequence[int]) -> onnx_ir.Value:
        return self("Transpose", x, perm=list(order))

    def unsqueeze(self, x: Like, axes: Sequence[int]) -> onnx_ir.Value:
        return self("Unsqueeze", x, np.array(axes, np.int64))

    def squeeze(self, x: Like, axes: Sequence[int]) -> onnx_ir.Value:
        return self("Squeeze", x, np.array(axes, np.int64))

    def slice(self, x: Like, start: int, end: int, axis: int) -> onnx_ir.Value:
        return self("Slice", x, *(np.array([entry], np.int64) for entry in (start, end, axis)))


def _tensor(array: np.ndarray, name: str) -> Any:
    import onnx_ir

    if array.dtype.kind in "UO":
        texts = [str(entry).encode() for entry in array.ravel()]
        return onnx_ir.StringTensor(texts, shape=onnx_ir.Shape(array.shape), name=name)
    return onnx_ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
