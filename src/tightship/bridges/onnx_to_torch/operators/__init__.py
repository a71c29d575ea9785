"""One function per ONNX operator and version, by topic. Importing this package fills the tables, and imports torch.

The functions are plain and stand alone: they use torch, the standard library and each other, so that their text can be
copied beside a module that calls them.
"""

from __future__ import annotations

from tightship.bridges.onnx_to_torch.operators import (
    activations,
    arithmetic,
    attention,
    classical,
    contrib,
    control,
    convolution,
    detection,
    indexing,
    layout,
    linear,
    losses,
    normalization,
    numbers,
    padding,
    pooling,
    quantized,
    random,
    recurrent,
    reduction,
    resize,
    scatter,
    sequences,
    signal,
    training,
    types,
)

__all__ = [
    "activations",
    "arithmetic",
    "attention",
    "classical",
    "contrib",
    "control",
    "convolution",
    "detection",
    "indexing",
    "layout",
    "linear",
    "losses",
    "normalization",
    "numbers",
    "padding",
    "pooling",
    "quantized",
    "random",
    "recurrent",
    "reduction",
    "resize",
    "scatter",
    "sequences",
    "signal",
    "training",
    "types",
]
