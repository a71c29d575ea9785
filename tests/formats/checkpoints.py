"""Decoder checkpoints as the tests write them, and the same decoder in a few lines of PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}

SCALE = 0.2
"""Size of the weights: large enough that a wrong mask, angle or head would show."""


def products(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Names and shapes `[N, K]` of the linear layers inside the blocks."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    shapes = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (config["num_key_value_heads"] * width, hidden),
        "self_attn.v_proj": (config["num_key_value_heads"] * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    layers = range(config["num_hidden_layers"])
    return {f"model.layers.{layer}.{name}": shape for layer in layers for name, shape in shapes.items()}


def tensors(config: dict[str, Any], dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights, with the biases that the configuration asks for."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return (SCALE * torch.randn(shape, generator=generator)).to(dtype)

    found = {"model.embed_tokens.weight": 5 * random(config["vocab_size"], config["hidden_size"])}
    for name, shape in products(config).items():
        found[f"{name}.weight"] = random(*shape)
        if has_bias(config, name):
            found[f"{name}.bias"] = random(shape[0])
    for layer in range(config["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{layer}.{norm}.weight"] = 1 + random(config["hidden_size"])
    found["model.norm.weight"] = 1 + random(config["hidden_size"])
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = random(config["vocab_size"], config["hidden_size"])
    return found


def has_bias(config: dict[str, Any], product: str) -> bool:
    if "mlp" in product:
        return bool(config.get("mlp_bias"))
    if config["model_type"] == "qwen2":
        return "o_proj" not in product
    return bool(config.get("attention_bias"))


def save(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], n_shards: int = 1) -> Path:
    """Write a checkpoint as transformers does: one file, or several and an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if n_shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = [f"model-{index + 1:05}-of-{n_shards:05}.safetensors" for index in range(n_shards)]
    places = {name: names[index % n_shards] for index, name in enumerate(weights)}
    for file in names:
        save_file({name: weights[name] for name in weights if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def token_ids(config: dict[str, Any], shape: tuple[int, int] = (2, 24)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, config["vocab_size"], shape)


def frequencies(config: dict[str, Any], width: int) -> torch.Tensor:
    """Angle per position, as the papers and Meta's own code write them."""
    plain = config["rope_theta"] ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        return plain / scaling["factor"]
    if scaling.get("rope_type") != "llama3":
        return plain
    low, high, length = (
        scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    found = []
    for frequency in plain.tolist():
        wavelength = 2 * math.pi / frequency
        if wavelength < length / high:
            found.append(frequency)
        elif wavelength > length / low:
            found.append(frequency / scaling["factor"])
        else:
            smooth = (length / wavelength - low) / (high - low)
            found.append((1 - smooth) * frequency / scaling["factor"] + smooth * frequency)
    return torch.tensor(found, dtype=torch.float64)


def reference(config: dict[str, Any], weights: dict[str, torch.Tensor], ids: np.ndarray) -> np.ndarray:
    """Logits in float64, one head and one layer after another."""
    wide = {name: tensor.double() for name, tensor in weights.items()}
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    steps = torch.arange(ids.shape[1])
    angles = torch.outer(steps.double(), frequencies(config, width))

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, wide[f"{name}.weight"], wide.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * wide[f"{name}.weight"]

    def turn(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.complex(x[..., : width // 2], x[..., width // 2 :]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat((pairs.real, pairs.imag), -1)

    def attend(x: torch.Tensor, name: str, window: int | None) -> torch.Tensor:
        distance = steps[:, None] - steps[None, :]
        seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        q, k, v = (linear(x, f"{name}.{part}_proj").unflatten(-1, (-1, width)) for part in "qkv")
        mixed = []
        for head in range(heads):
            keys, values = turn(k[:, :, head * shared // heads]), v[:, :, head * shared // heads]
            scores = turn(q[:, :, head]) @ keys.transpose(1, 2) / width**0.5
            mixed.append(scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values)
        return linear(torch.cat(mixed, -1), f"{name}.o_proj")

    x = wide["model.embed_tokens.weight"][torch.from_numpy(ids)]
    for index in range(config["num_hidden_layers"]):
        layer, window = f"model.layers.{index}", window_of(config, index)
        x = x + attend(norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attn", window)
        y = norm(x, f"{layer}.post_attention_layernorm")
        gated = torch.nn.functional.silu(linear(y, f"{layer}.mlp.gate_proj")) * linear(y, f"{layer}.mlp.up_proj")
        x = x + linear(gated, f"{layer}.mlp.down_proj")
    head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    logits: np.ndarray = linear(norm(x, "model.norm"), head).numpy()
    return logits


def window_of(config: dict[str, Any], layer: int) -> int | None:
    if config["model_type"] == "mistral":
        return config.get("sliding_window")
    if config["model_type"] == "qwen2" and config.get("use_sliding_window"):
        return config["sliding_window"] if layer >= config["max_window_layers"] else None
    return None
