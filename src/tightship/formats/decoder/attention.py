"""Attention by groups of heads (arXiv:2305.13245) with rotary positions, over the tokens given and those before them.

    heads [B, KV, group, S, D]     keys, values [B, KV, 1, T, D], T = tokens before + S

Where every head has a key of its own, heads are `[B, H, S, D]` and keys `[B, H, T, D]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tightship.formats.decoder.config import DecoderConfig
from tightship.formats.decoder.writer import Writer

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Attention", "Projected"]

_HIDDEN = -1e9
"""Added to what a position must not see: beyond any score, and finite, since infinity less infinity is NaN."""


@dataclass(frozen=True)
class Projected:
    """Queries, keys and values of one layer `[B, S, heads * D]`."""

    queries: onnx_ir.Value
    keys: onnx_ir.Value
    values: onnx_ir.Value


@dataclass(frozen=True)
class Attention:
    """Writes the attention of every layer; what depends on the length only is written once.

    `cosines` and `sines` are `[S, D / 2]`, `masks` `[S, T]` by window.
    """

    config: DecoderConfig
    writer: Writer
    cosines: onnx_ir.Value
    sines: onnx_ir.Value
    masks: Mapping[int | None, onnx_ir.Value]

    @classmethod
    def begin(cls, config: DecoderConfig, writer: Writer, ids: onnx_ir.Value, past: onnx_ir.Value | None) -> Attention:
        """Write positions and masks for token ids `[B, S]` behind those whose keys are `past` `[B, KV, P, D]`."""
        zero, one = writer.constant("zero", 0, "int64"), writer.constant("one", 1, "int64")
        start, end = zero, _length(writer, ids, 1, "positions/length")
        if past is not None:
            start = _length(writer, past, 2, "positions/past")
            end = writer.op("Add", [start, end], "positions/end")
        seen = writer.op("Range", [zero, end, one], "positions")
        asked = seen if past is None else writer.op("Range", [start, end, one], "positions/asked")
        rows = writer.op("Unsqueeze", [asked, writer.constant("axis_1", [1], "int64")], "positions/rows")
        columns = writer.op("Unsqueeze", [seen, writer.constant("axis_0", [0], "int64")], "positions/columns")
        masks = {window: _mask(writer, rows, columns, window) for window in dict.fromkeys(config.windows)}
        turned = writer.op("Cast", [rows], "rotary/rows", {"to": 1})
        frequencies = writer.constant("rotary.inv_freq", config.rope.frequencies(config.head_dim), "float32")
        angles = writer.op("Mul", [turned, frequencies], "rotary/angles")
        cosines, sines = writer.op("Cos", [angles], "rotary/cos"), writer.op("Sin", [angles], "rotary/sin")
        return cls(config, writer, cosines, sines, masks)

    def layer(
        self, name: str, projected: Projected, window: int | None, past: tuple[onnx_ir.Value, onnx_ir.Value] | None
    ) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
        """Write `softmax(q @ k.T / sqrt(D) + mask) @ v`.

        Return it `[B, S, H * D]`, and keys and values `[B, KV, T, D]`. `past` are the keys, turned
        already, and the values of the tokens before.
        """
        writer, shared = self.writer, self.config.group > 1
        queries = self._turn(self._queries(projected.queries, f"{name}/q"), f"{name}/q")
        keys = self._turn(self._heads(projected.keys, f"{name}/k"), f"{name}/k")
        values = self._heads(projected.values, f"{name}/v")
        if past is not None:
            keys = writer.op("Concat", [past[0], keys], f"{name}/k/all", {"axis": 2})
            values = writer.op("Concat", [past[1], values], f"{name}/v/all", {"axis": 2})
        read_keys, read_values = (self._shared(it, f"{name}/{part}") for it, part in ((keys, "k"), (values, "v")))
        scale = writer.constant("scale", self.config.head_dim**-0.5, "float32")
        queries = writer.op("Mul", [queries, scale], f"{name}/q/scaled")
        columns = {"perm": [0, 1, 2, 4, 3] if shared else [0, 1, 3, 2]}
        read_keys = writer.op("Transpose", [read_keys], f"{name}/k/columns", columns)
        scores = writer.op("MatMul", [queries, read_keys], f"{name}/scores")
        scores = writer.op("Add", [scores, self.masks[window]], f"{name}/masked")
        weights = writer.op("Softmax", [scores], f"{name}/weights", {"axis": -1})
        mixed = writer.op("MatMul", [weights, read_values], f"{name}/mixed")
        return self._merged(mixed, name), keys, values

    def _heads(self, x: onnx_ir.Value, name: str) -> onnx_ir.Value:
        shape = [0, 0, self.config.num_key_value_heads, self.config.head_dim]
        split = self.writer.op("Reshape", [x, self.writer.constant("heads", shape, "int64")], f"{name}/split")
        return self.writer.op("Transpose", [split], f"{name}/heads", {"perm": [0, 2, 1, 3]})

    def _queries(self, x: onnx_ir.Value, name: str) -> onnx_ir.Value:
        if self.config.group == 1:
            return self._heads(x, name)
        shape = [0, 0, self.config.num_key_value_heads, self.config.group, self.config.head_dim]
        split = self.writer.op("Reshape", [x, self.writer.constant("grouped", shape, "int64")], f"{name}/split")
        return self.writer.op("Transpose", [split], f"{name}/heads", {"perm": [0, 2, 3, 1, 4]})

    def _shared(self, x: onnx_ir.Value, name: str) -> onnx_ir.Value:
        """Give keys or values an axis along which the heads of a group read the same."""
        if self.config.group == 1:
            return x
        return self.writer.op("Unsqueeze", [x, self.writer.constant("axis_2", [2], "int64")], f"{name}/shared")

    def _merged(self, mixed: onnx_ir.Value, name: str) -> onnx_ir.Value:
        axes = [0, 2, 1, 3] if self.config.group == 1 else [0, 3, 1, 2, 4]
        rows = self.writer.op("Transpose", [mixed], f"{name}/rows", {"perm": axes})
        width = self.config.num_attention_heads * self.config.head_dim
        return self.writer.op(
            "Reshape", [rows, self.writer.constant("merged", [0, 0, width], "int64")], f"{name}/merged"
        )

    def _turn(self, x: onnx_ir.Value, name: str) -> onnx_ir.Value:
        """Turn each pair of numbers (the first and second half of a head) by the angle of its position.

        a' = a * cos - b * sin,  b' = b * cos + a * sin
        """

        def times(value: onnx_ir.Value, factor: onnx_ir.Value, part: str) -> onnx_ir.Value:
            return self.writer.op("Mul", [value, factor], f"{name}/{part}")

        a, b = self.writer.ops("Split", [x], f"{name}/halves", 2, {"axis": -1, "num_outputs": 2})
        new_a = [times(a, self.cosines, "a_cos"), times(b, self.sines, "b_sin")]
        new_b = [times(b, self.cosines, "b_cos"), times(a, self.sines, "a_sin")]
        turned = [self.writer.op("Sub", new_a, f"{name}/a"), self.writer.op("Add", new_b, f"{name}/b")]
        return self.writer.op("Concat", turned, f"{name}/turned", {"axis": -1})


def _length(writer: Writer, value: onnx_ir.Value, axis: int, name: str) -> onnx_ir.Value:
    shape = writer.op("Shape", [value], f"{name}/shape", {"start": axis, "end": axis + 1})
    return writer.op("Squeeze", [shape], name)


def _mask(writer: Writer, rows: onnx_ir.Value, columns: onnx_ir.Value, window: int | None) -> onnx_ir.Value:
    """What is added to scores `[S, T]`: position i sees j where j <= i and, with a window, i - window < j."""
    name = "mask" if window is None else f"mask/{window}"
    unseen = writer.op("Greater", [columns, rows], f"{name}/later")
    if window is not None:
        edge = writer.op("Sub", [rows, writer.constant("window", window, "int64")], f"{name}/edge")
        past = writer.op("LessOrEqual", [columns, edge], f"{name}/past")
        unseen = writer.op("Or", [unseen, past], f"{name}/unseen")
    hidden, seen = writer.constant("hidden", _HIDDEN, "float32"), writer.constant("seen", 0.0, "float32")
    return writer.op("Where", [unseen, hidden, seen], name)
