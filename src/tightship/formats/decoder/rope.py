"""The frequencies of rotary position embeddings (RoFormer, arXiv:2104.09864), and how checkpoints stretch them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tightship.errors import InvalidModel, UnsupportedError

__all__ = ["Rope"]

_THETA = 10000.0


@dataclass(frozen=True)
class Rope:
    """`kind` is `default`, `linear` or `llama3`; `numbers` are what that kind is given in the configuration."""

    theta: float = _THETA
    kind: str = "default"
    numbers: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Rope:
        """Read `rope_theta` and `rope_scaling`, or the `rope_parameters` that later versions write in their place.

        Raises `UnsupportedError` where frequencies are stretched in a way that is not known here, `InvalidModel`
        where a number that the way needs is missing or impossible.
        """
        given = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if not isinstance(given, dict):
            raise InvalidModel(f"config.json: rope_scaling must be a table, found {str(given)[:80]}")
        theta = _number(given.get("rope_theta", config.get("rope_theta", _THETA)), "rope_theta")
        kind = str(given.get("rope_type", given.get("type", "default")))
        if kind not in _KINDS:
            raise UnsupportedError(f"config.json: rope type {kind[:40]!r}; known are {', '.join(_KINDS)}")
        if given.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)) != 1.0:
            raise UnsupportedError("config.json: partial_rotary_factor: only heads that are turned whole are supported")
        names, _ = _KINDS[kind]
        missing = [name for name in names if name not in given]
        if missing:
            raise InvalidModel(f"config.json: rope type {kind!r} needs {', '.join(missing)}")
        return cls(theta, kind, {name: _number(given[name], name) for name in names})

    def frequencies(self, head_dim: int) -> np.ndarray:
        """Return the angle per position of each pair of a head, float32 `[head_dim / 2]`."""
        # As transformers computes them, in float32, so that long sequences turn by the same angles.
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        plain = (1.0 / np.power(np.float32(self.theta), exponents)).astype(np.float32)
        _, stretch = _KINDS[self.kind]
        return stretch(plain, self.numbers).astype(np.float32)


def _plain(frequencies: np.ndarray, numbers: Mapping[str, float]) -> np.ndarray:
    return frequencies


def _linear(frequencies: np.ndarray, numbers: Mapping[str, float]) -> np.ndarray:
    return frequencies / np.float32(numbers["factor"])


def _llama3(frequencies: np.ndarray, numbers: Mapping[str, float]) -> np.ndarray:
    """Slow waves are stretched by `factor`, quick ones stay, those between are blended by their wavelength."""
    factor, low, high = numbers["factor"], numbers["low_freq_factor"], numbers["high_freq_factor"]
    length = numbers["original_max_position_embeddings"]
    if not high > low:
        raise InvalidModel(f"config.json: high_freq_factor {high:g} must be above low_freq_factor {low:g}")
    turns = length * frequencies / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0, 1)
    stretched: np.ndarray = (1 - blend) * frequencies / factor + blend * frequencies
    return stretched


_KINDS: Mapping[str, tuple[tuple[str, ...], Callable[[np.ndarray, Mapping[str, float]], np.ndarray]]] = {
    "default": ((), _plain),
    "linear": (("factor",), _linear),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), _llama3),
}


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
        raise InvalidModel(f"config.json: {name} must be a positive number, found {str(value)[:40]}")
    return float(value)
