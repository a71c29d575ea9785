"""What `config.json` says of a decoder: sizes, positions, which products have a bias. Every number is checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tightship.errors import InvalidModel, UnsupportedError, nearest
from tightship.formats.decoder.rope import Rope

__all__ = ["MODEL_TYPES", "DecoderConfig"]

MODEL_TYPES = ("llama", "mistral", "qwen2")

_LIMITS = {
    "hidden_size": 2**18,
    "intermediate_size": 2**20,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 2**14,
    "vocab_size": 2**24,
}
"""Far above any decoder that was trained; more is a damaged or hostile file."""

_NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_KEY_VALUE_HEADS = {"mistral": 8, "qwen2": 32}
"""Where the configuration leaves them out; by default as many as heads."""

_ACTIVATIONS = ("silu", "swish")


@dataclass(frozen=True)
class DecoderConfig:
    """The architecture. `windows` says of each layer how far back it looks, None for all the way."""

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope: Rope
    tied: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    windows: tuple[int | None, ...]

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> DecoderConfig:
        """Read a configuration as transformers writes it.

        Raises `UnsupportedError` for another architecture, `InvalidModel` where fields are missing (all are named) or
        impossible.
        """
        kind = config.get("model_type")
        if kind not in MODEL_TYPES:
            hint = nearest(str(kind), MODEL_TYPES)
            raise UnsupportedError(
                f"config.json: model_type {str(kind)[:40]!r}{hint}; decoders that are read: {', '.join(MODEL_TYPES)}"
            )
        sizes = _sizes(config, kind)
        _check_activation(config)
        bias = _flag(config, "attention_bias")
        eps = config.get("rms_norm_eps", 1e-6)
        if not isinstance(eps, float) or not 0 < eps < 1:
            raise InvalidModel(f"config.json: rms_norm_eps must lie between 0 and 1, found {str(eps)[:40]}")
        return cls(
            model_type=kind,
            **sizes,
            rms_norm_eps=eps,
            rope=Rope.parse(config),
            tied=_flag(config, "tie_word_embeddings"),
            qkv_bias=kind == "qwen2" or (kind == "llama" and bias),
            output_bias=kind == "llama" and bias,
            mlp_bias=kind == "llama" and _flag(config, "mlp_bias"),
            windows=_windows(config, kind, sizes["num_hidden_layers"]),
        )

    @property
    def group(self) -> int:
        """How many heads share a key and a value."""
        return self.num_attention_heads // self.num_key_value_heads


def _sizes(config: Mapping[str, Any], kind: str) -> dict[str, int]:
    missing = [name for name in _NEEDED if name not in config]
    if missing:
        raise InvalidModel(f"config.json: a {kind} decoder needs {', '.join(missing)}")
    sizes = {name: _size(config[name], name) for name in _NEEDED}
    heads, hidden = sizes["num_attention_heads"], sizes["hidden_size"]
    shared = config.get("num_key_value_heads")
    sizes["num_key_value_heads"] = _size(shared or _KEY_VALUE_HEADS.get(kind, heads), "num_key_value_heads")
    if config.get("head_dim") is None and hidden % heads:
        raise InvalidModel(f"config.json: hidden_size {hidden} is no multiple of num_attention_heads {heads}")
    sizes["head_dim"] = _size(config.get("head_dim") or hidden // heads, "head_dim")
    if heads % sizes["num_key_value_heads"]:
        raise InvalidModel(
            f"config.json: num_attention_heads {heads} is no multiple of num_key_value_heads "
            f"{sizes['num_key_value_heads']}"
        )
    if sizes["head_dim"] % 2:
        raise InvalidModel(f"config.json: head_dim {sizes['head_dim']} is odd; rotary embeddings turn pairs")
    return sizes


def _size(value: object, name: str) -> int:
    if type(value) is not int or not 0 < value <= _LIMITS[name]:
        raise InvalidModel(f"config.json: {name} must be 1 to {_LIMITS[name]}, found {str(value)[:40]}")
    return value


def _flag(config: Mapping[str, Any], name: str) -> bool:
    value = config.get(name) or False
    if not isinstance(value, bool):
        raise InvalidModel(f"config.json: {name} must be true or false, found {str(value)[:40]}")
    return value


def _check_activation(config: Mapping[str, Any]) -> None:
    found = config.get("hidden_act", "silu")
    if found not in _ACTIVATIONS:
        raise UnsupportedError(f"config.json: hidden_act {str(found)[:40]!r}; decoders that are read use silu")


def _windows(config: Mapping[str, Any], kind: str, n_layers: int) -> tuple[int | None, ...]:
    window = config.get("sliding_window")
    if window is None or kind == "llama" or (kind == "qwen2" and not _flag(config, "use_sliding_window")):
        return (None,) * n_layers
    if type(window) is not int or not 0 < window < 2**31:
        raise InvalidModel(f"config.json: sliding_window must be a positive number, found {str(window)[:40]}")
    types = config.get("layer_types")
    if types is None:
        first = config.get("max_window_layers", 28) if kind == "qwen2" else 0
        if type(first) is not int:
            raise InvalidModel(f"config.json: max_window_layers must be a number, found {str(first)[:40]}")
        types = ["sliding_attention" if index >= first else "full_attention" for index in range(n_layers)]
    known = ("sliding_attention", "full_attention")
    if not isinstance(types, list) or len(types) != n_layers or any(entry not in known for entry in types):
        raise InvalidModel(f"config.json: layer_types must hold {n_layers} of {' and '.join(known)}")
    return tuple(window if entry == "sliding_attention" else None for entry in types)
