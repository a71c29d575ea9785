"""Codes that another tool found, written into the ONNX file as MatMulNBits; and any such file turned back to floats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.language.trained import Trained
from tightship.rounding.packing import pack, unpack

INT8_ACTIVATIONS = 4


@dataclass(frozen=True)
class Coded:
    """A weight `[N, K]` as `(codes - zero_points) * scales`.

    `codes` uint8 `[N, blocks, block]`, `scales` float32 `[N, blocks]`, `zero_points` uint8 (float32 where the tool has
    them so) `[N, blocks]`.
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray


def read(path: Path) -> dict[str, Coded]:
    """Read what a peer's script wrote: three tensors for each weight."""
    from safetensors.numpy import load_file

    tensors = load_file(path)
    names = [name.removesuffix("/codes") for name in tensors if name.endswith("/codes")]
    return {name: Coded(*(tensors[f"{name}/{part}"] for part in ("codes", "scales", "zero_points"))) for name in names}


def write(trained: Trained, coded: dict[str, Coded], bits: int, made: Path) -> None:
    """Write the decoder with the products of `coded`, named after their weights, as MatMulNBits."""
    model, module = onnx.load(trained.onnx), trained.module()
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    by_content = {module.get_parameter(name).detach().numpy().tobytes(): name for name in coded}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            weight = numpy_helper.to_array(constants[node.input[1]])
            name = by_content.get(np.ascontiguousarray(weight.T).tobytes())
            if name is not None:
                model.graph.initializer.remove(constants[node.input[1]])
                model.graph.initializer.extend(replace(node, coded.pop(name), bits))
    if coded:
        raise ValueError(f"no product reads {', '.join(coded)}")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, made)


def replace(node: Any, weight: Coded, bits: int) -> list[Any]:
    """Turn a MatMul into MatMulNBits in place; returns its constants. Codes of 3 bits lie in fields of 4."""
    bits = 4 if bits == 3 else bits
    zero_points = weight.zero_points
    if zero_points.dtype == np.uint8:
        zero_points = pack(zero_points, bits)
    arrays = (pack(weight.codes, bits), weight.scales.astype(np.float32), zero_points)
    names = [f"{node.name}_{part}" for part in ("codes", "scales", "zero_points")]
    rows, blocks, block = weight.codes.shape
    attributes = {"K": blocks * block, "N": rows, "bits": bits, "block_size": block}
    new = helper.make_node(
        "MatMulNBits",
        [node.input[0], *names],
        list(node.output),
        node.name,
        domain="com.microsoft",
        accuracy_level=INT8_ACTIVATIONS,
        **attributes,
    )
    node.CopyFrom(new)
    return [numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)]


def with_int8_activations(model: Any) -> Any:
    """Write `accuracy_level` 4 on every MatMulNBits: some peers leave it out, and the engine is then slower by far."""
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            kept = [attribute for attribute in node.attribute if attribute.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", INT8_ACTIVATIONS)])
    return model


def simulated(model: Any) -> Any:
    """Put MatMul with the dequantized weight in the place of each MatMulNBits: no rounding by the engine."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            weight = dequantized(node, [numpy_helper.to_array(constants[name]) for name in node.input[1:] if name])
            name = f"{node.name}_weight"
            model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(weight.T), name))
            node.CopyFrom(helper.make_node("MatMul", [node.input[0], name], list(node.output), node.name))
    read = {name for node in model.graph.node for name in node.input}
    for name, tensor in constants.items():
        if name not in read:
            model.graph.initializer.remove(tensor)
    return model


def dequantized(node: Any, arrays: list[np.ndarray]) -> np.ndarray:
    """The weight `[N, K]` of a MatMulNBits."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    n_rows, n_columns = attributes["N"], attributes["K"]
    bits, block = attributes.get("bits", 4), attributes["block_size"]
    n_blocks = -(-n_columns // block)
    codes = unpack(arrays[0].reshape(n_rows, n_blocks, -1), bits, block).astype(np.float32)
    zero_points: Any = np.float32(2 ** (bits - 1))
    if len(arrays) > 2:
        packed = arrays[2].reshape(n_rows, -1)
        zero_points = (unpack(packed, bits, n_blocks) if packed.dtype == np.uint8 else packed)[..., None]
    weight: np.ndarray = (codes - zero_points) * arrays[1].reshape(n_rows, n_blocks, 1)
    return weight.reshape(n_rows, -1)[:, :n_columns]
