"""Weights as codes in a graph: the operators that read them, and the tensors they are kept in.

Codes are read from where they lie when the graph is written, one weight at a time: a model that does not fit into
memory passes through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from tightship.passes.editing import add_constant, add_lazy_constant, replace
from tightship.rounding.blocks import BlockCodes
from tightship.rounding.encoding import Encoding
from tightship.rounding.packing import pack, unpack

if TYPE_CHECKING:
    import onnx_ir

    from tightship.passes.linear import Linear

__all__ = ["CodedWeight", "Spelling", "WeightWriter", "coded_arrays"]

Spelling = Literal["MatMulNBits", "DequantizeLinear"]

_CONTRIB = "com.microsoft"

_INT8_ACTIVATIONS = 4
"""`accuracy_level` of MatMulNBits. Unless it is written, 2- and 8-bit products run ten times slower than float32."""


def coded_arrays(
    codes: BlockCodes, encoding: Encoding, n_columns: int, low_rank: tuple[np.ndarray, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Return the arrays that `CodedWeight` reads: of a weight `[N, n_columns]`, and its correction `a @ b`."""
    numbers = [encoding.bits, encoding.block, encoding.symmetric, len(codes.codes), n_columns]
    arrays = {
        "encoding": np.array([*numbers, 0 if low_rank is None else low_rank[0].shape[1]]),
        "codes": pack(codes.codes + _raised(encoding), encoding.packed_bits),
        "scales": codes.scales,
    }
    if not encoding.symmetric:
        arrays["zero_points"] = pack(codes.zero_points, encoding.packed_bits)
    if low_rank is not None:
        arrays |= {"a": low_rank[0], "b": low_rank[1]}
    return arrays


@dataclass(frozen=True)
class CodedWeight:
    """A weight `[n_rows, n_columns]` whose arrays are read on demand, each under its name in `coded_arrays`."""

    encoding: Encoding
    n_rows: int
    n_columns: int
    rank: int
    read: Callable[[str], np.ndarray]

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> CodedWeight:
        """Describe the arrays whose names begin with `prefix`."""
        bits, block, symmetric, n_rows, n_columns, rank = (int(number) for number in arrays[f"{prefix}encoding"])
        encoding = Encoding(bits, block, bool(symmetric))
        return cls(encoding, n_rows, n_columns, rank, lambda name: arrays[f"{prefix}{name}"])

    @property
    def n_blocks(self) -> int:
        return self.encoding.n_blocks(self.n_columns)

    def block_codes(self) -> BlockCodes:
        """Unpack the codes, one byte each."""
        encoding = self.encoding
        codes = unpack(self.read("codes"), encoding.packed_bits, encoding.block) - _raised(encoding)
        if encoding.symmetric:
            zero_points = np.full((self.n_rows, self.n_blocks), 2 ** (encoding.bits - 1), np.uint8)
        else:
            zero_points = unpack(self.read("zero_points"), encoding.packed_bits, self.n_blocks)
        return BlockCodes(codes, self.read("scales"), zero_points)

    def dequantize(self) -> np.ndarray:
        """Return the float32 weight that the codes, and the correction, stand for."""
        weight = self.block_codes().dequantize(self.n_columns)
        return weight + self.read("a") @ self.read("b") if self.rank else weight


def _raised(encoding: Encoding) -> np.uint8:
    """What is added to symmetric codes of 3 bits in fields of 4, whose middle stands for zero where none is written."""
    middle = 2 ** (encoding.packed_bits - 1) - 2 ** (encoding.bits - 1)
    return np.uint8(middle if encoding.symmetric else 0)


class WeightWriter:
    """Rewrites operators of one graph; a weight that several of them read in the same way is stored once."""

    def __init__(self, graph: onnx_ir.Model, spelling: Spelling = "MatMulNBits") -> None:
        self._graph = graph
        self._spelling = spelling
        self._stored: dict[tuple[str, bool, str], tuple[onnx_ir.Value, ...]] = {}

    def linear(self, target: Linear, weight: CodedWeight) -> None:
        """Write `y = x @ dequantize(codes, scales, zeros) + x @ b.T @ a.T + bias`, the middle term where there is one.

        x -> MatMulNBits -> Add -> y, or x -> MatMul(x, DequantizeLinear(codes)) -> Add -> y.
        """
        import onnx_ir

        spell = self._matmul_n_bits if self._spelling == "MatMulNBits" else self._dequantize_linear
        new = spell(target, weight)
        if weight.rank:
            new += self._correction(target, weight, new[-1].outputs[0])
        if target.bias is not None:
            new[-1].outputs[0].name = f"{target.name}/product"
            new.append(onnx_ir.node("Add", [new[-1].outputs[0], target.bias], name=f"{target.name}/bias"))
        replace(target.node, new, new[-1].outputs)

    def embedding(self, node: onnx_ir.Node, name: str, weight: CodedWeight) -> None:
        """Write `y = dequantize(codes[indices], scales[indices], zeros[indices])` as one GatherBlockQuantized."""
        import onnx_ir

        codes, *rest = self._tensors(node.inputs[0], False, "rows", weight)
        attributes = {
            "bits": weight.encoding.packed_bits,
            "block_size": weight.encoding.block,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        inputs = [codes, node.inputs[1], *rest]
        new = onnx_ir.node("GatherBlockQuantized", inputs, attributes, domain=_CONTRIB, name=name)
        self._graph.opset_imports.setdefault(_CONTRIB, 1)
        replace(node, [new], new.outputs)

    def _matmul_n_bits(self, target: Linear, weight: CodedWeight) -> list[onnx_ir.Node]:
        import onnx_ir

        attributes = {
            "K": weight.n_columns,
            "N": weight.n_rows,
            "bits": weight.encoding.packed_bits,
            "block_size": weight.encoding.block,
            "accuracy_level": _INT8_ACTIVATIONS,
        }
        self._graph.opset_imports.setdefault(_CONTRIB, 1)
        inputs = [target.x, *self._tensors(target.weight, target.transposed, "product", weight)]
        return [onnx_ir.node("MatMulNBits", inputs, attributes, domain=_CONTRIB, name=target.name)]

    def _dequantize_linear(self, target: Linear, weight: CodedWeight) -> list[onnx_ir.Node]:
        """Blocks lie along axis 0 of a weight `[K, N]`: the one order that ONNX Runtime merges into MatMulNBits."""
        import onnx_ir

        stored = self._tensors(target.weight, target.transposed, "columns", weight)
        attributes = {"axis": 0, "block_size": weight.encoding.block}
        floats = onnx_ir.node("DequantizeLinear", [*stored], attributes, name=f"{target.name}/weight")
        return [floats, onnx_ir.node("MatMul", [target.x, floats.outputs[0]], name=target.name)]

    def _correction(self, target: Linear, weight: CodedWeight, product: onnx_ir.Value) -> list[onnx_ir.Node]:
        import onnx_ir

        b = add_constant(self._graph, f"{target.weight.name}_b", np.ascontiguousarray(weight.read("b").T))
        a = add_constant(self._graph, f"{target.weight.name}_a", np.ascontiguousarray(weight.read("a").T))
        narrow = onnx_ir.node("MatMul", [target.x, b], name=f"{target.name}/narrow")
        wide = onnx_ir.node("MatMul", [narrow.outputs[0], a], name=f"{target.name}/wide")
        return [narrow, wide, onnx_ir.node("Add", [product, wide.outputs[0]], name=f"{target.name}/corrected")]

    def _tensors(self, value: onnx_ir.Value, transposed: bool, order: str, weight: CodedWeight) -> list[onnx_ir.Value]:
        """Codes, scales and, unless symmetric, zero points, in the `order` that an operator reads them in."""
        key = (value.name or "", transposed, order)
        if key not in self._stored:
            arrange = _by_columns if order == "columns" else _packed
            names = ["codes", "scales"] + ([] if weight.encoding.symmetric and order != "columns" else ["zero_points"])
            self._stored[key] = tuple(
                add_lazy_constant(self._graph, f"{value.name}_{name}", *arrange(weight, name, flat=order == "rows"))
                for name in names
            )
        return list(self._stored[key])


def _packed(
    weight: CodedWeight, name: str, flat: bool
) -> tuple[onnx_ir.DataType, tuple[int, ...], Callable[[], np.ndarray]]:
    """Type, shape and reader of an array as MatMulNBits (`flat`: GatherBlockQuantized) takes it."""
    import onnx_ir

    encoding = weight.encoding
    block_bytes = encoding.block * encoding.packed_bits // 8
    if name == "scales":
        return onnx_ir.DataType.FLOAT, (weight.n_rows, weight.n_blocks), lambda: weight.read(name)
    if name == "zero_points":
        n_bytes = -(-weight.n_blocks * encoding.packed_bits // 8)
        return onnx_ir.DataType.UINT8, (weight.n_rows, n_bytes), lambda: weight.read(name)
    shape = (weight.n_rows, weight.n_blocks * block_bytes) if flat else (weight.n_rows, weight.n_blocks, block_bytes)
    return onnx_ir.DataType.UINT8, shape, lambda: weight.read(name).reshape(shape)


def _by_columns(
    weight: CodedWeight, name: str, flat: bool
) -> tuple[onnx_ir.DataType, tuple[int, ...], Callable[[], np.ndarray]]:
    """Type, shape and reader of an array as a blocked DequantizeLinear of a weight `[K, N]` takes it."""
    import onnx_ir

    if name == "scales":
        shape = (weight.n_blocks, weight.n_rows)
        return onnx_ir.DataType.FLOAT, shape, lambda: np.ascontiguousarray(weight.read("scales").T)
    dtype = onnx_ir.DataType[f"UINT{weight.encoding.packed_bits}"]
    if name == "zero_points":
        shape = (weight.n_blocks, weight.n_rows)
        return dtype, shape, lambda: weight.block_codes().zero_points.T.astype(dtype.numpy())
    shape = (weight.n_columns, weight.n_rows)

    def codes() -> np.ndarray:
        rows = weight.block_codes().codes.reshape(weight.n_rows, -1)
        return rows[:, : weight.n_columns].T.astype(dtype.numpy())

    return dtype, shape, codes
