"""The linear layers of a checkpoint: plain matrices, or packed ones, each written as the operator that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.formats.decoder.quantized import Layout, Wanted
from tightship.formats.decoder.shards import Stored
from tightship.formats.decoder.words import pack_bytes
from tightship.formats.decoder.writer import CONTRIB, Writer

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["FLOATS", "Product"]

FLOATS = ("float32", "float16", "bfloat16")

_INT8_ACTIVATIONS = 4
"""`accuracy_level` of MatMulNBits. Unless it is written, 2- and 8-bit products run ten times slower than float32."""


@dataclass(frozen=True)
class Product:
    """`y[..., N] = x[..., K] @ W.T + bias` of the module `name`, whose weight is `[N, K]`; packed where `layout`."""

    name: str
    n_rows: int
    n_columns: int
    bias: bool
    layout: Layout | None

    @classmethod
    def of(
        cls, name: str, shape: tuple[int, int], bias: bool, layout: Layout | None, tensors: Mapping[str, Stored]
    ) -> Product:
        """Look at which tensors the checkpoint has of a module: layers may be left out of quantization."""
        packed = layout is not None and f"{name}.{layout.marker}" in tensors
        has_bias = bias or (packed and f"{name}.bias" in tensors)
        return cls(name, *shape, has_bias, layout if packed else None)

    def wanted(self) -> dict[str, Wanted]:
        """The tensors that the module must have, by name."""
        n, k = self.n_rows, self.n_columns
        parts = self.layout.wanted(n, k) if self.layout else {"weight": Wanted((n, k), FLOATS)}
        if self.bias:
            parts["bias"] = Wanted((n,), FLOATS)
        return self._named(parts)

    def optional(self) -> dict[str, Wanted]:
        """The tensors that it may have besides."""
        return self._named(self.layout.optional(self.n_rows, self.n_columns)) if self.layout else {}

    def write(self, writer: Writer, x: onnx_ir.Value, tensors: Mapping[str, Stored]) -> onnx_ir.Value:
        """Write the product, and the sum with the bias."""
        prefix = f"{self.name}."
        found = {name.removeprefix(prefix): it for name, it in tensors.items() if name.startswith(prefix)}
        product = f"{self.name}/product" if self.bias else self.name
        y = self._packed(writer, x, found, product) if self.layout else self._plain(writer, x, found["weight"], product)
        if not self.bias:
            return y
        bias = found["bias"]
        return writer.op("Add", [y, writer.stored(bias.name, bias.floats, "float32", bias.shape)], self.name)

    def _plain(self, writer: Writer, x: onnx_ir.Value, weight: Stored, name: str) -> onnx_ir.Value:
        # Turned when it is read, since engines that find Transpose(weight) keep the weight twice.
        turned = writer.stored(weight.name, lambda: weight.floats().T, "float32", (self.n_columns, self.n_rows))
        return writer.op("MatMul", [x, turned], name)

    def _packed(self, writer: Writer, x: onnx_ir.Value, found: Mapping[str, Stored], name: str) -> onnx_ir.Value:
        """Write MatMulNBits: codes `[N, blocks, block * bits / 8]`, scales and zero points `[N, blocks]`."""
        assert self.layout is not None
        layout, n_rows, n_columns = self.layout, self.n_rows, self.n_columns
        block, repeats = layout.blocking(n_columns)
        n_blocks, order = -(-n_columns // block), self._order(found)
        if order is not None:
            x = self._reordered(writer, x, order)

        def per_block(per_group: np.ndarray) -> np.ndarray:
            return np.repeat(per_group, repeats, axis=1)[:, :n_blocks]

        def codes() -> np.ndarray:
            columns = layout.codes(found, n_rows, n_columns)
            padded = np.zeros((n_rows, n_blocks * block), np.uint8)
            padded[:, :n_columns] = columns if order is None else columns[:, order]
            return pack_bytes(padded, layout.bits).reshape(n_rows, n_blocks, -1)

        def scales() -> np.ndarray:
            return np.ascontiguousarray(per_block(layout.scales(found)))

        def zero_points() -> np.ndarray:
            points = layout.zero_points(found, n_rows)
            assert points is not None
            return pack_bytes(np.ascontiguousarray(per_block(points)), layout.bits)

        n_bytes = block * layout.bits // 8
        inputs = [
            x,
            writer.stored(f"{self.name}.codes", codes, "uint8", (n_rows, n_blocks, n_bytes)),
            writer.stored(f"{self.name}.scales", scales, "float32", (n_rows, n_blocks)),
        ]
        if not layout.symmetric or layout.zero_points(found, n_rows) is not None:
            shape = (n_rows, -(-n_blocks * layout.bits // 8))
            inputs.append(writer.stored(f"{self.name}.zero_points", zero_points, "uint8", shape))
        attributes = {"K": n_columns, "N": n_rows, "bits": layout.bits, "block_size": block}
        attributes["accuracy_level"] = _INT8_ACTIVATIONS
        return writer.op("MatMulNBits", inputs, name, attributes, CONTRIB)

    def _order(self, found: Mapping[str, Stored]) -> np.ndarray | None:
        """The order of columns that puts those of a group side by side, or None where they are.

        Raises `UnsupportedError` where groups differ in size, `InvalidModel` where there is no such group.
        """
        assert self.layout is not None
        indices = self.layout.group_indices(found)
        if indices is None:
            return None
        n_groups = self.layout.n_groups(self.n_columns)
        plain = np.arange(self.n_columns) // (self.n_columns if n_groups == 1 else self.layout.group)
        if (indices == plain).all():
            return None
        if indices.min() < 0 or indices.max() >= n_groups:
            raise InvalidModel(f"{self.name}: group {int(indices.max())} of {n_groups}; its g_idx is damaged")
        if (np.bincount(indices, minlength=n_groups) != np.bincount(plain)).any():
            raise UnsupportedError(f"{self.name}: its groups differ in size, which MatMulNBits has no way to say")
        return np.argsort(indices, kind="stable")

    def _reordered(self, writer: Writer, x: onnx_ir.Value, order: np.ndarray) -> onnx_ir.Value:
        indices = writer.constant(f"{self.name}.order", order, "int64")
        return writer.op("Gather", [x, indices], f"{self.name}/order", {"axis": -1})

    def _named(self, parts: Mapping[str, Wanted]) -> dict[str, Wanted]:
        return {f"{self.name}.{part}": wanted for part, wanted in parts.items()}
