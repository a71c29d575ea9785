"""Where a model will run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Layout", "Precision", "Target"]

Precision = Literal["f32", "bf16", "f16"]
Layout = Literal["blocked", "plain"]


@dataclass(frozen=True)
class Target:
    """An engine, its device, the precision it computes float operators in, its threads and its memory layout.

    `threads` 0 means one per physical core. `layout` "blocked" lets the engine reorder convolution tensors into
    channel blocks (ONNX Runtime's NCHWc), "plain" keeps them as the model has them. `exact` keeps an engine from
    rounding to 8 bits, for speed, what the model does not say: the inputs of products with 8-bit weights.
    """

    engine: str = "onnxruntime"
    precision: Precision = "f32"
    device: str = "cpu"
    threads: int = 0
    layout: Layout = "blocked"
    exact: bool = False

    def __str__(self) -> str:
        parts = [self.engine, self.precision]
        if self.device != "cpu":
            parts.append(self.device)
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads > 1 else ''}")
        if self.layout != "blocked":
            parts.append(f"{self.layout} layout")
        if self.exact:
            parts.append("exact")
        return " ".join(parts)
