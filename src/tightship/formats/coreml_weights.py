"""Weights of a Core ML package at 8 bits and fewer, by coremltools' own compression of a converted program."""

from __future__ import annotations

from typing import Any

from tightship.errors import UnsupportedError

__all__ = ["compressed"]

_FEWEST_ELEMENTS = 1024
"""Smaller weights stay: the scales and tables of a compressed one, and its alignment, would take up what it saves."""


def compressed(package: Any, precision: str, path: str) -> Any:
    """Return a package (`coremltools.models.MLModel`) whose larger weights are linear int8 or indices into a palette.

    `int8` is symmetric with a scale per output channel; `paletteN` holds 2^N values for each weight, found by k-means
    (Han and others, arXiv 1510.00149). Both run on iOS 16 and macOS 13. Raises `UnsupportedError` where coremltools
    cannot, or no weight is large enough.
    """
    from coremltools.optimize import coreml as opt

    if precision == "int8":
        compress = opt.linear_quantize_weights
        entry = opt.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=_FEWEST_ELEMENTS)
    else:
        compress = opt.palettize_weights
        bits = int(precision.removeprefix("palette"))
        entry = opt.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=_FEWEST_ELEMENTS)
    try:
        made = compress(package, opt.OptimizationConfig(global_config=entry))
    except Exception as error:  # coremltools raises what its parts raise
        reason = str(error).strip().partition("\n")[0]
        raise UnsupportedError(f"{path}: coremltools cannot write weights as {precision}: {reason}") from error
    if not _has_compressed(made):
        raise UnsupportedError(
            f"{path}: expected weights of {_FEWEST_ELEMENTS} elements or more to write as {precision}, found none; "
            "write float16"
        )
    return made


def _has_compressed(package: Any) -> bool:
    blocks = package.get_spec().mlProgram.functions["main"].block_specializations.values()
    return any(operator.type.startswith("constexpr_") for block in blocks for operator in block.operations)
