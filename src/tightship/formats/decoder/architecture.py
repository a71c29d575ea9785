"""A decoder operator by operator: RMS norms, rotary embeddings, grouped-query attention, gated products.

    x -> norm -> q, k, v -> attention -> o -> + x -> norm -> down(silu(gate) * up) -> + -> ... -> norm -> head

Written in ONNX's own operators at opset 21, in the patterns that ONNX Runtime and OpenVINO merge.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tightship.formats.decoder.attention import Attention, Projected
from tightship.formats.decoder.config import DecoderConfig
from tightship.formats.decoder.products import FLOATS, Product
from tightship.formats.decoder.quantized import Layout, Wanted
from tightship.formats.decoder.shards import Stored
from tightship.formats.decoder.writer import Writer

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["Architecture"]

_EMBEDDING, _HEAD, _LAST_NORM = "model.embed_tokens.weight", "lm_head", "model.norm.weight"


@dataclass(frozen=True)
class Architecture:
    """The graph of a configuration with the tensors of a checkpoint."""

    config: DecoderConfig
    layout: Layout | None
    tensors: Mapping[str, Stored]

    def wanted(self) -> dict[str, Wanted]:
        """Every tensor that must be there."""
        config = self.config
        found = {_EMBEDDING: Wanted((config.vocab_size, config.hidden_size), FLOATS)}
        for norm in self._norms():
            found[norm] = Wanted((config.hidden_size,), FLOATS)
        for product in self._products():
            found.update(product.wanted())
        return found

    def optional(self) -> dict[str, Wanted]:
        """Every tensor that may be there besides, and is used."""
        return {name: wanted for product in self._products() for name, wanted in product.optional().items()}

    def build(self, cache: bool = False) -> onnx_ir.Model:
        """Write the graph `input_ids` `[batch, sequence]` -> `logits` `[batch, sequence, vocabulary]`.

        With `cache`, keys and values of the tokens before are inputs `past_key_values.N.key` and `.value` `[batch, KV,
        past, D]`, and those of all tokens outputs `present.N.key` and `.value`.
        """
        config, writer = self.config, Writer()
        ids = _value("input_ids", "INT64", ["batch", "sequence"])
        past = [self._pair(f"past_key_values.{index}", "past") for index in range(config.num_hidden_layers * cache)]
        x = writer.op("Gather", [self._stored(writer, _EMBEDDING), ids], "model.embed_tokens")
        attention = Attention.begin(config, writer, ids, past[0][0] if past else None)
        present = []
        for index, window in enumerate(config.windows):
            x, *pair = self._layer(attention, x, f"model.layers.{index}", window, past[index] if past else None)
            present.append(pair)
        logits = self._logits(writer, self._norm(writer, x, _LAST_NORM))
        outputs = [_described(logits, "logits", ["batch", "sequence", config.vocab_size])]
        for index, pair in enumerate(present if cache else ()):
            for value, told in zip(pair, self._pair(f"present.{index}", "total"), strict=True):
                outputs.append(_described(value, told.name or "", told.shape or ()))
        return writer.model([ids, *(value for pair in past for value in pair)], outputs, config.model_type)

    def _pair(self, name: str, length: str) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        shape: list[int | str] = ["batch", self.config.num_key_value_heads, length, self.config.head_dim]
        return _value(f"{name}.key", "FLOAT", shape), _value(f"{name}.value", "FLOAT", shape)

    def _norms(self) -> Iterator[str]:
        for index in range(self.config.num_hidden_layers):
            yield f"model.layers.{index}.input_layernorm.weight"
            yield f"model.layers.{index}.post_attention_layernorm.weight"
        yield _LAST_NORM

    def _products(self) -> Iterator[Product]:
        for index in range(self.config.num_hidden_layers):
            yield from self._layer_products(f"model.layers.{index}").values()
        if not self.config.tied:
            yield self._product(_HEAD, (self.config.vocab_size, self.config.hidden_size), False)

    def _layer_products(self, layer: str) -> dict[str, Product]:
        config = self.config
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        shapes = {
            "self_attn.q_proj": ((queries, hidden), config.qkv_bias),
            "self_attn.k_proj": ((keys, hidden), config.qkv_bias),
            "self_attn.v_proj": ((keys, hidden), config.qkv_bias),
            "self_attn.o_proj": ((hidden, queries), config.output_bias),
            "mlp.gate_proj": ((inner, hidden), config.mlp_bias),
            "mlp.up_proj": ((inner, hidden), config.mlp_bias),
            "mlp.down_proj": ((hidden, inner), config.mlp_bias),
        }
        return {part: self._product(f"{layer}.{part}", shape, bias) for part, (shape, bias) in shapes.items()}

    def _product(self, name: str, shape: tuple[int, int], bias: bool) -> Product:
        return Product.of(name, shape, bias, self.layout, self.tensors)

    def _stored(self, writer: Writer, name: str) -> onnx_ir.Value:
        tensor = self.tensors[name]
        return writer.stored(name, tensor.floats, "float32", tensor.shape)

    def _layer(
        self,
        attention: Attention,
        x: onnx_ir.Value,
        layer: str,
        window: int | None,
        past: tuple[onnx_ir.Value, onnx_ir.Value] | None,
    ) -> tuple[onnx_ir.Value, onnx_ir.Value, onnx_ir.Value]:
        """Write one block; return what it gives, and its keys and values."""
        writer, products = attention.writer, self._layer_products(layer)

        def product(part: str, value: onnx_ir.Value) -> onnx_ir.Value:
            return products[part].write(writer, value, self.tensors)

        normed = self._norm(writer, x, f"{layer}.input_layernorm.weight")
        projected = Projected(*(product(f"self_attn.{part}_proj", normed) for part in "qkv"))
        mixed, keys, values = attention.layer(f"{layer}.self_attn", projected, window, past)
        x = writer.op("Add", [x, product("self_attn.o_proj", mixed)], f"{layer}/attended")
        normed = self._norm(writer, x, f"{layer}.post_attention_layernorm.weight")
        gate, up = product("mlp.gate_proj", normed), product("mlp.up_proj", normed)
        gate = writer.op("Mul", [gate, writer.op("Sigmoid", [gate], f"{layer}.mlp/sigmoid")], f"{layer}.mlp/silu")
        inner = writer.op("Mul", [gate, up], f"{layer}.mlp/gated")
        return writer.op("Add", [x, product("mlp.down_proj", inner)], layer), keys, values

    def _norm(self, writer: Writer, x: onnx_ir.Value, weight: str) -> onnx_ir.Value:
        """`x / sqrt(mean(x * x) + eps) * weight`, along the last axis (arXiv:1910.07467)."""
        name = weight.removesuffix(".weight")
        square = writer.op("Pow", [x, writer.constant("two", 2.0, "float32")], f"{name}/square")
        last = writer.constant("last_axis", [-1], "int64")
        mean = writer.op("ReduceMean", [square, last], f"{name}/mean", {"keepdims": 1})
        eps = writer.constant("eps", self.config.rms_norm_eps, "float32")
        root = writer.op("Sqrt", [writer.op("Add", [mean, eps], f"{name}/eps")], f"{name}/root")
        normed = writer.op("Div", [x, root], f"{name}/normed")
        return writer.op("Mul", [normed, self._stored(writer, weight)], name)

    def _logits(self, writer: Writer, x: onnx_ir.Value) -> onnx_ir.Value:
        if not self.config.tied:
            shape = (self.config.vocab_size, self.config.hidden_size)
            return self._product(_HEAD, shape, False).write(writer, x, self.tensors)
        table = self._stored(writer, _EMBEDDING)
        return writer.op("MatMul", [x, writer.op("Transpose", [table], "lm_head/columns", {"perm": [1, 0]})], "lm_head")


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> onnx_ir.Value:
    import onnx_ir

    return onnx_ir.Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(onnx_ir.DataType[dtype]))


def _described(value: onnx_ir.Value, name: str, shape: Iterable[Any]) -> onnx_ir.Value:
    """Make a float value an output: with a name, a type and a shape."""
    import onnx_ir

    value.name, value.shape, value.type = name, onnx_ir.Shape(shape), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    return value
