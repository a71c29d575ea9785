"""How each quantizer is called: float ONNX file in, quantized ONNX file out; the embedding stays float.

Run as a process of its own: `python -m benchmarks.language.methods METHOD BITS BLOCK FOLDER OUTPUT`.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.language.trained import Trained

Maker = Callable[[Trained, int, int, Path], None]


def products(model: Any) -> list[str]:
    """Names of the products with constant weights; the last is lm_head, quantized like the others as ORT has it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def low_bit(trained: Trained, bits: int, block: int, made: Path, **settings: Any) -> None:
    """tightship's `low-bit` on the calibration windows."""
    from tightship import formats
    from tightship.core.artifact import Artifact
    from tightship.core.dataset import Dataset
    from tightship.passes.low_bit import LowBit

    method = LowBit(bits=bits, block=block, embedding_bits=0, **settings)
    data = Dataset.from_arrays("calibration", "0", {"input_ids": trained.calibration})
    formats.write(method.apply(formats.read(Artifact(trained.onnx, "onnx")), data).model, made)


def nearest(trained: Trained, bits: int, block: int, made: Path) -> None:
    """Plain rounding to nearest, a block's smallest and largest weight at the ends of the codes; ORT has no 3 bits."""
    from safetensors.numpy import load_file

    from benchmarks.language.coded import Coded, write

    coded = {}
    for name, weight in load_file(trained.weights).items():
        if weight.ndim == 2 and "embed_tokens" not in name:
            blocks = weight.reshape(len(weight), -1, block)
            low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
            scales = (high - low) / np.float32(2**bits - 1)
            zero_points = np.rint(-low / scales)
            codes = np.clip(np.rint(blocks / scales[..., None]) + zero_points[..., None], 0, 2**bits - 1)
            coded[name] = Coded(codes.astype(np.uint8), scales, zero_points.astype(np.uint8))
    write(trained, coded, bits, made)


def nbits(trained: Trained, bits: int, block: int, made: Path, algorithm: str) -> None:
    """ONNX Runtime's MatMulNBitsQuantizer with its defaults, and zero points as all others have them."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        DefaultWeightOnlyQuantConfig,
        HQQWeightOnlyQuantConfig,
        KQuantWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    logging.disable(logging.INFO)  # a line for each node
    model = onnx.load(trained.onnx)
    if algorithm == "rtn":
        config = DefaultWeightOnlyQuantConfig(block, is_symmetric=False, bits=bits, accuracy_level=4)
    elif algorithm == "hqq":
        config = HQQWeightOnlyQuantConfig(block, bits)
    else:
        config = KQuantWeightOnlyQuantConfig(
            customized_weight_config={name: {"bits": bits} for name in products(model)}
        )
    quantizer = MatMulNBitsQuantizer(model, bits, block, accuracy_level=4, algo_config=config)
    quantizer.process()
    onnx.save(quantizer.model.model, made)


MAKERS: dict[str, Maker] = {
    "rtn": nearest,
    "ort rtn": functools.partial(nbits, algorithm="rtn"),
    "ort hqq": functools.partial(nbits, algorithm="hqq"),
    "ort k-quant": functools.partial(nbits, algorithm="k_quant"),
    "gptq": functools.partial(low_bit, preset="balanced", asymmetric_calibration="off", refit="off"),
    "gptaq": functools.partial(low_bit, preset="balanced", refit="off"),
    "gptaq + refit": functools.partial(low_bit, preset="balanced", refit="on"),
    "ours fast": functools.partial(low_bit, preset="fast"),
    "ours balanced": functools.partial(low_bit, preset="balanced"),
    "ours best": functools.partial(low_bit, preset="best"),
}

if __name__ == "__main__":
    name, n_bits, n_block, folder, output = sys.argv[1:]
    MAKERS[name](Trained(Path(folder)), int(n_bits), int(n_block), Path(output))
