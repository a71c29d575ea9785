"""Decoder checkpoints are read into the graph that they are."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch

from tests.formats.checkpoints import CONFIG, products, reference, save, tensors, token_ids
from tightship import engines, formats
from tightship.core import extras
from tightship.core.model import Model
from tightship.core.target import Target
from tightship.formats.decoder import Decoder
from tightship.passes.linear import linear_operators

TOLERANCE = 3e-6
"""Of the largest logit: float32 against float64 through two layers; a wrong mask or angle is off by more than 0.1."""

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "shared keys": {},
    "a key for each head": {"num_key_value_heads": 4},
    "one key for all heads": {"num_key_value_heads": 1},
    "tied, with biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    "heads of their own width": {"head_dim": 32},
    "linear angles": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama 3 angles": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "mistral with a window": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2"},
    "qwen2 with windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
}


def read(folder: Path) -> Model:
    return formats.read(formats.recognise(str(folder)))


def logits(model: Model, ids: np.ndarray, engine: str = "onnxruntime") -> np.ndarray:
    with engines.open_session(model, Target(engine, exact=True)) as session:
        return session.run({"input_ids": ids})["logits"]


def far(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_checkpoint_computes_what_the_same_decoder_in_pytorch_does(changes: dict[str, Any], tmp_path: Path) -> None:
    config = {**CONFIG, **changes}
    weights, ids = tensors(config), token_ids(config)
    assert far(logits(read(save(tmp_path, config, weights)), ids), reference(config, weights, ids)) < TOLERANCE


@pytest.mark.parametrize("changes", [ARCHITECTURES["shared keys"], ARCHITECTURES["qwen2 with windows"]])
def test_openvino_runs_the_same_graph(changes: dict[str, Any], tmp_path: Path) -> None:
    if not extras.available("openvino"):
        pytest.skip("OpenVINO is not installed")
    config = {**CONFIG, **changes}
    weights, ids = tensors(config), token_ids(config)
    model = read(save(tmp_path, config, weights))
    assert far(logits(model, ids, "openvino"), reference(config, weights, ids)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_widened_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    weights, ids = tensors(CONFIG, dtype), token_ids(CONFIG)
    model = read(save(tmp_path, CONFIG, weights))
    stored = model.graph.graph.initializers["model.layers.0.mlp.down_proj.weight"].const_value.numpy()
    assert np.array_equal(stored.T, weights["model.layers.0.mlp.down_proj.weight"].float().numpy())
    assert far(logits(model, ids), reference(CONFIG, weights, ids)) < TOLERANCE


def test_shards_hold_what_one_file_does(tmp_path: Path) -> None:
    weights, ids = tensors(CONFIG, torch.bfloat16), token_ids(CONFIG)
    whole = read(save(tmp_path / "whole", CONFIG, weights))
    parts = read(save(tmp_path / "parts", CONFIG, weights, n_shards=3))
    assert np.array_equal(logits(whole, ids), logits(parts, ids))


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_what_transformers_saves_computes_what_transformers_does(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}
    sizes = {key: value for key, value in CONFIG.items() if key not in ("model_type", "rope_theta")}
    torch.manual_seed(0)
    config = getattr(transformers, f"{names[kind]}Config")(**sizes)
    model = getattr(transformers, f"{names[kind]}ForCausalLM")(config).eval()
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    ids = token_ids(CONFIG)
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert far(logits(read(tmp_path), ids), wanted) < TOLERANCE


def test_any_batch_and_length_can_be_fed(tmp_path: Path) -> None:
    weights = tensors(CONFIG)
    model = read(save(tmp_path, CONFIG, weights))
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "input_ids: int64[batch, sequence]",
        "logits: float32[batch, sequence, 50]",
    ]
    for shape in ((1, 1), (3, 7)):
        ids = token_ids(CONFIG, shape)
        assert far(logits(model, ids), reference(CONFIG, weights, ids)) < TOLERANCE


def test_every_linear_layer_is_a_product_with_a_constant_under_its_own_name(tmp_path: Path) -> None:
    model = read(save(tmp_path, CONFIG, tensors(CONFIG, torch.bfloat16)))
    found = {linear.name: linear.read().shape for linear in linear_operators(model.graph)}
    wanted = {name: shape[::-1] for name, shape in products(CONFIG).items()}
    assert found == {**wanted, "lm_head": (64, 50)}


def test_weights_are_neither_read_beforehand_nor_kept(tmp_path: Path) -> None:
    config = {**CONFIG, "hidden_size": 1024, "intermediate_size": 65536, "num_hidden_layers": 64}
    shapes = {
        "model.embed_tokens.weight": (50, 1024),
        "lm_head.weight": (50, 1024),
        "model.norm.weight": (1024,),
        **{f"{name}.weight": shape for name, shape in products(config).items()},
        **{
            f"model.layers.{layer}.{norm}_layernorm.weight": (1024,)
            for layer in range(64)
            for norm in ("input", "post_attention")
        },
    }
    sparse_checkpoint(tmp_path, config, shapes)
    tracemalloc.start()
    model = read(tmp_path)
    _, reading = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    tensor = model.graph.graph.initializers["model.layers.40.mlp.down_proj.weight"].const_value
    for _ in range(3):
        assert not tensor.numpy().any()
    kept, touching = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "model.safetensors").stat().st_size > 20e9
    assert reading < 40e6  # the graph of 64 layers itself
    assert kept < 40e6
    assert touching < 40e6 + 2.6 * tensor.nbytes  # the copy in float32, and numpy's own while it looks for NaN


def sparse_checkpoint(folder: Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Tens of gigabytes of zeros that take no place on the disk."""
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 4}, {"model_type": "mistral", "sliding_window": 5}])
def test_tokens_one_after_another_give_the_logits_of_all_at_once(
    changes: dict[str, Any], engine: str, tmp_path: Path
) -> None:
    if not extras.available(engine):
        pytest.skip(f"{engine} is not installed")
    config = {**CONFIG, **changes}
    weights, ids = tensors(config), token_ids(config, (2, 12))
    artifact = formats.recognise(str(save(tmp_path, config, weights)))
    model = Decoder(cache=True).read(artifact)
    wanted, found = reference(config, weights, ids), []
    heads, width = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    empty = np.zeros((2, heads, 0, width), np.float32)
    past = {f"past_key_values.{layer}.{part}": empty for layer in range(2) for part in ("key", "value")}
    with engines.open_session(model, Target(engine, exact=True)) as session:
        for tokens in np.split(ids, [7, 8, 9], axis=1):  # seven, then one, one, and three
            given = session.run({"input_ids": tokens, **past})
            found.append(given.pop("logits"))
            past = {name.replace("present", "past_key_values"): value for name, value in given.items()}
    assert past["past_key_values.1.key"].shape == (2, heads, 12, width)
    assert far(np.concatenate(found, 1), wanted) < TOLERANCE
