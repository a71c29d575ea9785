"""What GPTQ, AWQ and llm-compressor have quantized keeps every code, scale and zero point.

The checkpoints are packed here, word by word, as the projects' own documentation and code say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from tests.formats.checkpoints import CONFIG, products, reference, save, tensors, token_ids
from tightship import engines, formats
from tightship.core import extras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.errors import InvalidModel, UnsupportedError

WIDE: dict[str, Any] = {**CONFIG, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 1}
"""Rows that hold several groups."""


@dataclass(frozen=True)
class Layer:
    """Codes `[N, K]`, scales and zero points `[N, groups]`, and the group of each column."""

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    groups: np.ndarray

    def dequantize(self) -> np.ndarray:
        """What they stand for, float32 `[N, K]`."""
        offset = self.codes.astype(np.int32) - self.zero_points.astype(np.int32)[:, self.groups]
        return offset.astype(np.float32) * self.scales.astype(np.float32)[:, self.groups]


def layers(
    config: dict[str, Any], bits: int, group: int, symmetric: bool = False, ordered: bool = True, seed: int = 0
) -> dict[str, Layer]:
    """Random codes, and scales near those of trained weights."""
    rng, found = np.random.default_rng(seed), {}
    for name, (n, k) in products(config).items():
        size = k if group == -1 else group
        n_groups = -(-k // size)
        groups = np.arange(k) // size
        middle = np.full((n, n_groups), 1 << (bits - 1))
        found[name] = Layer(
            rng.integers(0, 1 << bits, (n, k)),
            (rng.uniform(0.5, 1.5, (n, n_groups)) * 0.4 / (1 << bits)).astype(np.float16),
            middle if symmetric else rng.integers(0, 1 << bits, (n, n_groups)),
            groups if ordered else rng.permutation(groups),
        )
    return found


def words(fields: np.ndarray, bits: int) -> torch.Tensor:
    """Pack along the last axis into int32, the first field lowest; Python's own integers, one by one."""
    per_word = 32 // bits
    flat = fields.reshape(-1, fields.shape[-1])
    packed = [
        [
            sum(int(code) << (bits * place) for place, code in enumerate(row[start : start + per_word]))
            for start in range(0, len(row), per_word)
        ]
        for row in flat
    ]
    return torch.from_numpy(np.array(packed, np.uint32).view(np.int32).reshape(*fields.shape[:-1], -1).copy())


def gptq(layer: Layer, bits: int, offset: int = 1) -> dict[str, torch.Tensor]:
    stored = (layer.zero_points - offset) % (1 << bits)
    return {
        "qweight": words(layer.codes, bits).T.contiguous(),
        "qzeros": words(stored.T, bits),
        "scales": torch.from_numpy(layer.scales.T.copy()),
        "g_idx": torch.from_numpy(layer.groups.astype(np.int32)),
    }


def awq(layer: Layer, bits: int) -> dict[str, torch.Tensor]:
    def shuffled(columns: np.ndarray) -> np.ndarray:
        return columns.reshape(len(columns), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(len(columns), -1)

    return {
        "qweight": words(shuffled(layer.codes.T), bits),
        "qzeros": words(shuffled(layer.zero_points.T), bits),
        "scales": torch.from_numpy(layer.scales.T.copy()),
    }


def compressed(layer: Layer, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    found = {
        "weight_packed": words(layer.codes, bits),
        "weight_scale": torch.from_numpy(layer.scales.copy()).to(torch.bfloat16),
        "weight_shape": torch.tensor(layer.codes.shape),
    }
    if not symmetric:
        found["weight_zero_point"] = words(layer.zero_points.T, bits).T.contiguous()
    return found


def checkpoint(
    folder: Path,
    config: dict[str, Any],
    packed: dict[str, Layer],
    pack: Callable[[Layer], dict[str, torch.Tensor]],
    quantization: dict[str, Any],
) -> dict[str, torch.Tensor]:
    """Write it, and return the float weights that it stands for."""
    weights = tensors(config, torch.float16)
    floats = dict(weights)
    for name, layer in packed.items():
        del weights[f"{name}.weight"]
        weights.update({f"{name}.{part}": tensor for part, tensor in pack(layer).items()})
        floats[f"{name}.weight"] = torch.from_numpy(layer.dequantize())
    save(folder, {**config, "quantization_config": quantization}, weights)
    return floats


def read(folder: Path) -> Model:
    return formats.read(formats.recognise(str(folder)))


def dequantized(model: Model) -> dict[str, np.ndarray]:
    """Every MatMulNBits of a graph as a float32 matrix `[N, K]`, by ONNX Runtime's documentation of the operator."""
    found = {}
    for node in model.graph.graph:
        if node.op_type != "MatMulNBits":
            continue
        n, k, bits, block = (node.attributes[key].as_int() for key in ("N", "K", "bits", "block_size"))
        assert node.attributes["accuracy_level"].as_int() == 4
        codes, scales, *rest = (value.const_value.numpy() for value in node.inputs[1:])
        assert codes.dtype == np.uint8
        assert codes.shape == (n, -(-k // block), block * bits // 8)
        fields = fields_of(codes.reshape(n, -1), bits)
        points = fields_of(rest[0], bits) if rest else np.full((n, codes.shape[1]), 1 << (bits - 1))
        blocks = np.arange(k) // block
        weight = (fields[:, :k] - points[:, blocks]).astype(np.float32) * scales.reshape(n, -1)[:, blocks]
        order = node.inputs[0].producer()
        if order.op_type == "Gather" and order.name.endswith("/order"):
            weight[:, order.inputs[1].const_value.numpy()] = weight.copy()
        found[node.name.removesuffix("/product")] = weight
    return found


def fields_of(octets: np.ndarray, bits: int) -> np.ndarray:
    wide = octets.astype(np.int32)
    return np.stack([(wide >> place) % (1 << bits) for place in range(0, 8, bits)], -1).reshape(len(octets), -1)


def gptq_config(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False, "desc_act": False, **more}


def compressed_config(bits: int, group: int, symmetric: bool) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group}
    if group == -1:
        weights |= {"strategy": "channel", "group_size": None}
    targets = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": targets,
        "ignore": ["lm_head"],
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("group", [32, 64, 128, 256, -1])
def test_gptq_keeps_every_bit(bits: int, group: int, tmp_path: Path) -> None:
    packed = layers(WIDE, bits, group)
    checkpoint(tmp_path, WIDE, packed, lambda layer: gptq(layer, bits), gptq_config(bits, group))
    check(read(tmp_path), packed)


def test_the_second_version_of_gptq_keeps_its_zero_points(tmp_path: Path) -> None:
    packed = layers(WIDE, 4, 64)
    config = gptq_config(4, 64, checkpoint_format="gptq_v2")
    checkpoint(tmp_path, WIDE, packed, lambda layer: gptq(layer, 4, offset=0), config)
    check(read(tmp_path), packed)


def test_columns_of_gptq_in_the_order_of_activations_are_put_side_by_side(tmp_path: Path) -> None:
    packed = layers(WIDE, 4, 64, ordered=False)
    config = gptq_config(4, 64, desc_act=True)
    floats = checkpoint(tmp_path, WIDE, packed, lambda layer: gptq(layer, 4), config)
    model = read(tmp_path)
    check(model, packed)
    check_logits(model, WIDE, floats)


def test_the_configuration_of_old_gptq_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    packed = layers(WIDE, 4, 128, symmetric=True)
    old = {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "sym": True}
    checkpoint(tmp_path, WIDE, packed, lambda layer: gptq(layer, 4), old)
    save_without(tmp_path, "quantization_config", old)
    model = read(tmp_path)
    check(model, packed)
    assert all(len(node.inputs) == 3 for node in model.graph.graph if node.op_type == "MatMulNBits")


def test_biases_of_packed_layers_are_added(tmp_path: Path) -> None:
    config = {**WIDE, "model_type": "qwen2"}
    packed = layers(config, 4, 128)
    floats = checkpoint(tmp_path, config, packed, lambda layer: gptq(layer, 4), gptq_config(4, 128))
    check_logits(read(tmp_path), config, floats)


@pytest.mark.parametrize("group", [32, 64, 128, -1])
def test_awq_keeps_every_bit(group: int, tmp_path: Path) -> None:
    packed = layers(WIDE, 4, group)
    config = {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
    checkpoint(tmp_path, WIDE, packed, lambda layer: awq(layer, 4), config)
    check(read(tmp_path), packed)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 128), (8, -1), (4, -1)])
def test_compressed_tensors_keep_every_bit(bits: int, group: int, symmetric: bool, tmp_path: Path) -> None:
    packed = layers(WIDE, bits, group, symmetric)
    rounded = {
        name: Layer(
            layer.codes,
            torch.from_numpy(layer.scales).to(torch.bfloat16).float().numpy(),
            layer.zero_points,
            layer.groups,
        )
        for name, layer in packed.items()
    }
    config = compressed_config(bits, group, symmetric)
    checkpoint(tmp_path, WIDE, rounded, lambda layer: compressed(layer, bits, symmetric), config)
    check(read(tmp_path), rounded)


def test_the_engines_compute_what_the_codes_stand_for(tmp_path: Path) -> None:
    packed = layers(WIDE, 4, 32)
    config = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}
    floats = checkpoint(tmp_path, WIDE, packed, lambda layer: awq(layer, 4), config)
    check_logits(read(tmp_path), WIDE, floats)


def check(model: Model, packed: dict[str, Layer]) -> None:
    found = dequantized(model)
    assert sorted(found) == sorted(packed)
    for name, layer in packed.items():
        assert np.array_equal(found[name], layer.dequantize()), name


def check_logits(model: Model, config: dict[str, Any], floats: dict[str, torch.Tensor]) -> None:
    """Both engines, to float32's rounding: ONNX Runtime without rounding activations to 8 bits, as OpenVINO does."""
    ids = token_ids(config)
    wanted = reference(config, floats, ids)
    for node in model.graph.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = onnx_ir.AttrInt64("accuracy_level", 1)
    for engine in ("onnxruntime", "openvino"):
        if not extras.available(engine):
            continue
        with engines.open_session(model, Target(engine, exact=True)) as session:
            found = session.run({"input_ids": ids})["logits"]
        assert np.abs(found - wanted).max() < 3e-5 * np.abs(wanted).max(), engine


def save_without(folder: Path, key: str, old: dict[str, Any]) -> None:
    import json

    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "quantize_config.json").write_text(json.dumps(old))


@pytest.mark.parametrize(
    ("quantization", "words_of_it"),
    [
        (gptq_config(3, 128), "bits 3"),
        (gptq_config(4, 48), "group_size 48"),
        (gptq_config(4, 0), "group_size 0"),
        (gptq_config(4, 128, checkpoint_format="marlin"), "checkpoint_format 'marlin'"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "awq", "bits": 8, "group_size": 128}, "8 bits"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "one set of arguments"),
        ({**compressed_config(4, 128, True), "format": "float-quantized"}, "format 'float-quantized'"),
        ({"quant_method": "fp8"}, "quantized by 'fp8'"),
        ({}, "quantized by 'None'"),
    ],
)
def test_a_way_of_quantization_that_is_not_known_is_named(
    quantization: dict[str, Any], words_of_it: str, tmp_path: Path
) -> None:
    save(tmp_path, {**CONFIG, "quantization_config": quantization}, tensors(CONFIG))
    with pytest.raises(UnsupportedError, match=rf"config\.json.*{words_of_it}"):
        read(tmp_path)


def test_activations_that_are_quantized_too_are_refused(tmp_path: Path) -> None:
    config = compressed_config(8, -1, True)
    config["config_groups"]["group_0"]["input_activations"] = {"num_bits": 8}
    save(tmp_path, {**CONFIG, "quantization_config": config}, tensors(CONFIG))
    with pytest.raises(UnsupportedError, match="activations are quantized too"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda groups: np.where(groups == 0, 1, groups), UnsupportedError, "groups differ in size"),
        (lambda groups: np.where(groups == 0, 99, groups), InvalidModel, "g_idx is damaged"),
        (lambda groups: np.where(groups == 0, -1, groups), InvalidModel, "g_idx is damaged"),
    ],
)
def test_groups_that_nothing_can_say_are_refused(
    change: Callable[[np.ndarray], np.ndarray], error: type[Exception], told: str, tmp_path: Path
) -> None:
    def damaged(layer: Layer) -> dict[str, torch.Tensor]:
        return {**gptq(layer, 4), "g_idx": torch.from_numpy(change(layer.groups).astype(np.int32))}

    checkpoint(tmp_path, WIDE, layers(WIDE, 4, 64), damaged, gptq_config(4, 64))
    with pytest.raises(error, match=told):
        read(tmp_path)


def test_a_packed_layer_without_its_scales_is_named(tmp_path: Path) -> None:
    def damaged(layer: Layer) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in gptq(layer, 4).items() if name != "scales"}

    checkpoint(tmp_path, WIDE, layers(WIDE, 4, 64), damaged, gptq_config(4, 64))
    with pytest.raises(InvalidModel, match=r"7 tensors are missing.*q_proj\.scales"):
        read(tmp_path)


def test_a_packed_layer_of_another_group_than_is_said_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, WIDE, layers(WIDE, 4, 64), lambda layer: gptq(layer, 4), gptq_config(4, 128))
    with pytest.raises(InvalidModel, match=r"q_proj\.qzeros is int32\[4, 32\], expected int32\[2, 32\]"):
        read(tmp_path)
