"""Linear layers that a peer has quantized already: codes, scales and zero points are carried over, never rounded again.

    gptq                 qweight [K / 8, N], qzeros [K / group, N / 8] less one, scales [K / group, N], g_idx [K]
    awq                  qweight [K, N / 8], qzeros [K / group, N / 8], columns in the order 0 2 4 6 1 3 5 7, scales
    compressed-tensors   weight_packed [N, K / 8], weight_scale [N, K / group], weight_zero_point [N / 8, K / group]

At 4 bits; all are int32 words whose first code lies in the lowest bits, and stand for `(code - zero point) * scale`.
Sources: AutoGPTQ 0.7 `qlinear_cuda_old.py`, AutoAWQ 0.2 `gemm.py`, compressed-tensors 0.9 `pack_quantized.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError
from tightship.formats.decoder.shards import Stored
from tightship.formats.decoder.words import unpack_words

__all__ = ["Awq", "CompressedTensors", "Gptq", "Layout", "Wanted", "parse_layout"]

_BITS = (2, 4, 8)
_FLOATS = ("float16", "bfloat16", "float32")
_WORDS = ("int32",)
_BLOCKS = (16, 32, 64, 128, 256)
_WHOLE_ROW = -1
_LONG_BLOCK = 128
"""A scale for longer groups is repeated in blocks of so many, which the engines have quick kernels for."""

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns each field of a word holds."""


@dataclass(frozen=True)
class Wanted:
    """What a tensor must be: its shape and one of these element types."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Layout(ABC):
    """How the linear layers `[N, K]` of a checkpoint are packed: every `group` codes of a row share a scale."""

    method: ClassVar[str]
    marker: ClassVar[str]
    """The tensor that only a layer packed so has."""

    bits: int
    group: int
    symmetric: bool

    @property
    def per_word(self) -> int:
        return 32 // self.bits

    def n_groups(self, n_columns: int) -> int:
        return 1 if self.group == _WHOLE_ROW else -(-n_columns // self.group)

    def blocking(self, n_columns: int) -> tuple[int, int]:
        """The block to write, and how many of them share a group's scale."""
        if self.group in _BLOCKS:
            return self.group, 1
        n_in_group = n_columns if self.group == _WHOLE_ROW else self.group
        return _LONG_BLOCK, -(-n_in_group // _LONG_BLOCK)

    @abstractmethod
    def wanted(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        """The tensors of a layer, by the last part of their names."""

    def optional(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        """Tensors that a layer may have besides."""
        return {"bias": Wanted((n_rows,), _FLOATS)}

    @abstractmethod
    def codes(self, found: Mapping[str, Stored], n_rows: int, n_columns: int) -> np.ndarray:
        """The codes, uint8 `[N, K]`."""

    @abstractmethod
    def scales(self, found: Mapping[str, Stored]) -> np.ndarray:
        """The scales, float32 `[N, groups]`."""

    @abstractmethod
    def zero_points(self, found: Mapping[str, Stored], n_rows: int) -> np.ndarray | None:
        """The zero points, uint8 `[N, groups]`; None where they are all in the middle of the codes."""

    def group_indices(self, found: Mapping[str, Stored]) -> np.ndarray | None:
        """Which group each column belongs to, `[K]`, or None where they lie in order."""
        return None

    def _none_in_middle(self, zero_points: np.ndarray) -> np.ndarray | None:
        return None if self.symmetric and (zero_points == 1 << (self.bits - 1)).all() else zero_points


@dataclass(frozen=True)
class Gptq(Layout):
    """AutoGPTQ's; `offset` is what its first version takes off a zero point before it packs it."""

    method: ClassVar[str] = "gptq"
    marker: ClassVar[str] = "qweight"

    offset: int = 1

    def wanted(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        groups = self.n_groups(n_columns)
        return {
            "qweight": Wanted((-(-n_columns // self.per_word), n_rows), _WORDS),
            "qzeros": Wanted((groups, -(-n_rows // self.per_word)), _WORDS),
            "scales": Wanted((groups, n_rows), _FLOATS),
        }

    def optional(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        return {**super().optional(n_rows, n_columns), "g_idx": Wanted((n_columns,), _WORDS)}

    def codes(self, found: Mapping[str, Stored], n_rows: int, n_columns: int) -> np.ndarray:
        return unpack_words(found["qweight"].raw().T, self.bits)[:, :n_columns]

    def scales(self, found: Mapping[str, Stored]) -> np.ndarray:
        return found["scales"].floats().T

    def zero_points(self, found: Mapping[str, Stored], n_rows: int) -> np.ndarray | None:
        packed = unpack_words(found["qzeros"].raw(), self.bits)[:, :n_rows]
        # Where one was 0, the word holds the largest code, and adding wraps around as their kernels do.
        return self._none_in_middle(((packed + np.uint8(self.offset)) & np.uint8((1 << self.bits) - 1)).T)

    def group_indices(self, found: Mapping[str, Stored]) -> np.ndarray | None:
        return np.asarray(found["g_idx"].raw()) if "g_idx" in found else None


@dataclass(frozen=True)
class Awq(Layout):
    """AutoAWQ's of the version `gemm`."""

    method: ClassVar[str] = "awq"
    marker: ClassVar[str] = "qweight"

    def wanted(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        groups, words = self.n_groups(n_columns), -(-n_rows // self.per_word)
        return {
            "qweight": Wanted((n_columns, words), _WORDS),
            "qzeros": Wanted((groups, words), _WORDS),
            "scales": Wanted((groups, n_rows), _FLOATS),
        }

    def codes(self, found: Mapping[str, Stored], n_rows: int, n_columns: int) -> np.ndarray:
        return self._in_order(found["qweight"].raw())[:, :n_rows].T

    def scales(self, found: Mapping[str, Stored]) -> np.ndarray:
        return found["scales"].floats().T

    def zero_points(self, found: Mapping[str, Stored], n_rows: int) -> np.ndarray | None:
        return self._none_in_middle(self._in_order(found["qzeros"].raw())[:, :n_rows].T)

    def _in_order(self, words: np.ndarray) -> np.ndarray:
        fields = unpack_words(words, self.bits).reshape(len(words), -1, len(_AWQ_ORDER))
        columns = np.empty_like(fields)
        columns[..., _AWQ_ORDER] = fields
        return columns.reshape(len(words), -1)


@dataclass(frozen=True)
class CompressedTensors(Layout):
    """llm-compressor's format `pack-quantized`: signed codes, with half their number added before they are packed."""

    method: ClassVar[str] = "compressed-tensors"
    marker: ClassVar[str] = "weight_packed"

    def wanted(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        groups = self.n_groups(n_columns)
        found = {
            "weight_packed": Wanted((n_rows, -(-n_columns // self.per_word)), _WORDS),
            "weight_scale": Wanted((n_rows, groups), _FLOATS),
            "weight_shape": Wanted((2,), ("int64",)),
        }
        if not self.symmetric:
            found["weight_zero_point"] = Wanted((-(-n_rows // self.per_word), groups), _WORDS)
        return found

    def optional(self, n_rows: int, n_columns: int) -> dict[str, Wanted]:
        return {**super().optional(n_rows, n_columns), "weight_g_idx": Wanted((n_columns,), _WORDS)}

    def codes(self, found: Mapping[str, Stored], n_rows: int, n_columns: int) -> np.ndarray:
        told = found["weight_shape"].raw().tolist()
        if told != [n_rows, n_columns]:
            raise InvalidModel(f"{found['weight_shape'].name!r} is {told}, expected {[n_rows, n_columns]}")
        return unpack_words(found["weight_packed"].raw(), self.bits)[:, :n_columns]

    def scales(self, found: Mapping[str, Stored]) -> np.ndarray:
        return found["weight_scale"].floats()

    def zero_points(self, found: Mapping[str, Stored], n_rows: int) -> np.ndarray | None:
        if self.symmetric:
            return None
        return unpack_words(found["weight_zero_point"].raw().T, self.bits)[:, :n_rows].T

    def group_indices(self, found: Mapping[str, Stored]) -> np.ndarray | None:
        indices = np.asarray(found["weight_g_idx"].raw()) if "weight_g_idx" in found else None
        return None if indices is None or (indices == -1).all() else indices  # -1: written before it was needed


def parse_layout(config: Mapping[str, Any]) -> Layout:
    """Read a `quantization_config`. Raises `UnsupportedError` where the method or its variant is not known here."""
    method = config.get("quant_method", "gptq" if "desc_act" in config else None)
    if method == Gptq.method:
        return _gptq(config)
    if method == Awq.method:
        return _awq(config)
    if method == CompressedTensors.method:
        return _compressed_tensors(config)
    known = ", ".join((Gptq.method, Awq.method, CompressedTensors.method))
    raise UnsupportedError(f"quantized by {str(method)[:40]!r}; checkpoints that are read: {known}, or not quantized")


def _gptq(config: Mapping[str, Any]) -> Gptq:
    written = config.get("checkpoint_format", "gptq")
    if written not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
        raise UnsupportedError(f"gptq: checkpoint_format {str(written)[:40]!r}; known are gptq and gptq_v2")
    bits, group = _encoding(config, "bits", "group_size")
    return Gptq(bits, group, bool(config.get("sym", True)), offset=1 if written == "gptq" else 0)


def _awq(config: Mapping[str, Any]) -> Awq:
    if str(config.get("version", "gemm")).lower() != "gemm":
        raise UnsupportedError(f"awq: version {str(config['version'])[:40]!r}; only gemm is known")
    names = ("w_bit", "q_group_size") if "w_bit" in config else ("bits", "group_size")
    bits, group = _encoding(config, *names)
    if bits != 4:
        raise UnsupportedError(f"awq: {bits} bits; its order of columns is defined for 4")
    return Awq(bits, group, symmetric=not config.get("zero_point", True))


def _compressed_tensors(config: Mapping[str, Any]) -> CompressedTensors:
    groups = config.get("config_groups")
    tables = list(groups.values()) if isinstance(groups, dict) else []
    weights = [
        entry["weights"] for entry in tables if isinstance(entry, dict) and isinstance(entry.get("weights"), dict)
    ]
    if not weights or len(weights) < len(tables) or any(entry != weights[0] for entry in weights):
        raise UnsupportedError("compressed-tensors: expected one set of arguments for all weights in config_groups")
    if config.get("format", "pack-quantized") != "pack-quantized":
        raise UnsupportedError(f"compressed-tensors: format {str(config['format'])[:40]!r}; known is pack-quantized")
    if any(entry.get("input_activations") for entry in tables):
        raise UnsupportedError("compressed-tensors: activations are quantized too; only weights are read")
    arguments: dict[str, Any] = weights[0]
    strategy = arguments.get("strategy", "channel")
    if strategy not in ("group", "channel") or arguments.get("type", "int") != "int":
        raise UnsupportedError(
            f"compressed-tensors: strategy {str(strategy)[:40]!r}; known are int by group or channel"
        )
    channel = {**arguments, "group_size": _WHOLE_ROW} if strategy == "channel" else arguments
    bits, group = _encoding(channel, "num_bits", "group_size")
    return CompressedTensors(bits, group, bool(arguments.get("symmetric", True)))


def _encoding(config: Mapping[str, Any], bits_name: str, group_name: str) -> tuple[int, int]:
    bits, group = config.get(bits_name), config.get(group_name)
    if type(bits) is not int or bits not in _BITS:
        raise UnsupportedError(f"{bits_name} {str(bits)[:40]}; codes of {', '.join(map(str, _BITS))} bits are read")
    if type(group) is not int or not (group in _BLOCKS or group == _WHOLE_ROW or _is_long(group)):
        raise UnsupportedError(
            f"{group_name} {str(group)[:40]}; groups of {', '.join(map(str, _BLOCKS))}, their multiples of "
            f"{_LONG_BLOCK} and whole rows (-1) are read"
        )
    return bits, group


def _is_long(group: int) -> bool:
    return 0 < group < 2**20 and group % _LONG_BLOCK == 0
