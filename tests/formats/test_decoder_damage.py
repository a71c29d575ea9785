"""Damaged and hostile decoder checkpoints end in one typed error that says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("safetensors")

import torch
from safetensors.torch import save_file

from tests.formats.checkpoints import CONFIG, save, tensors
from tightship import formats
from tightship.errors import ArtifactNotFound, InvalidModel, TightshipError, UnknownFormat, UnsupportedError

INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"


def read(folder: Path) -> object:
    return formats.read(formats.recognise(str(folder)))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"model_type": "gpt_neox"}, UnsupportedError, "model_type 'gpt_neox'.*llama, mistral, qwen2"),
        ({"hidden_size": None, "vocab_size": None}, InvalidModel, "needs hidden_size, vocab_size"),
        ({"hidden_size": 10**30}, InvalidModel, "hidden_size must be 1 to 262144"),
        ({"num_hidden_layers": 10**6}, InvalidModel, "num_hidden_layers must be 1 to 1024"),
        ({"num_hidden_layers": 0}, InvalidModel, "num_hidden_layers"),
        ({"num_attention_heads": True}, InvalidModel, "num_attention_heads"),
        ({"num_attention_heads": 3}, InvalidModel, "no multiple of num_attention_heads 3"),
        ({"num_key_value_heads": 3}, InvalidModel, "no multiple of num_key_value_heads 3"),
        ({"head_dim": 15}, InvalidModel, "head_dim 15 is odd"),
        ({"hidden_act": "gelu"}, UnsupportedError, "hidden_act 'gelu'"),
        ({"rms_norm_eps": -1.0}, InvalidModel, "rms_norm_eps"),
        ({"tie_word_embeddings": "no"}, InvalidModel, "tie_word_embeddings must be true or false"),
        ({"rope_theta": "inf"}, InvalidModel, "rope_theta must be a positive number"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, UnsupportedError, "rope type 'yarn'.*llama3"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, InvalidModel, "needs low_freq_factor, high_freq"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, InvalidModel, "factor must be a positive number"),
        ({"partial_rotary_factor": 0.5}, UnsupportedError, "partial_rotary_factor"),
        ({"model_type": "mistral", "sliding_window": -1}, InvalidModel, "sliding_window"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, UnsupportedError, "'bitsandbytes'.*gptq, awq"),
        ({"quantization_config": [1]}, InvalidModel, "quantization_config must be a table"),
    ],
)
def test_a_configuration_that_cannot_be_served_says_why(
    changes: dict[str, Any], error: type[TightshipError], words: str, tmp_path: Path
) -> None:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    save(tmp_path, CONFIG, tensors(CONFIG))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(error, match=f"config.json.*{words}"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": NaN}', '{"a": 1, "a": 2}', "\0" * 50, "[" * 5000])
def test_a_configuration_that_is_no_table_is_refused(text: str, tmp_path: Path) -> None:
    save(tmp_path, CONFIG, tensors(CONFIG))
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidModel, match=r"config\.json"):
        read(tmp_path)


def test_all_missing_tensors_are_named_at_once(tmp_path: Path) -> None:
    weights = tensors(CONFIG)
    for name in ("model.norm.weight", "lm_head.weight", DOWN):
        del weights[name]
    with pytest.raises(InvalidModel, match="3 tensors are missing") as caught:
        read(save(tmp_path, CONFIG, weights))
    assert all(name in str(caught.value) for name in ("model.norm.weight", "lm_head.weight", DOWN))


def test_tensors_of_other_shapes_and_types_are_named_at_once(tmp_path: Path) -> None:
    weights = tensors(CONFIG)
    weights[DOWN] = weights[DOWN].T.contiguous()
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int32)
    with pytest.raises(InvalidModel, match="2 tensors are not what the configuration says") as caught:
        read(save(tmp_path, CONFIG, weights))
    assert f"{DOWN} is float32[96, 64], expected float32 or float16 or bfloat16[64, 96]" in str(caught.value)
    assert "model.norm.weight is int32[64]" in str(caught.value)


def test_tensors_without_a_place_are_not_left_out_in_silence(tmp_path: Path) -> None:
    weights = tensors(CONFIG) | {"model.layers.0.self_attn.q_norm.weight": torch.ones(16)}
    with pytest.raises(UnsupportedError, match=r"no place in a llama decoder.*q_norm"):
        read(save(tmp_path, CONFIG, weights))


def test_frequencies_that_old_checkpoints_hold_are_left_out(tmp_path: Path) -> None:
    read(save(tmp_path, CONFIG, tensors(CONFIG) | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_no_number_is_named_when_it_is_touched(
    value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    weights = tensors(CONFIG, dtype)
    weights[DOWN][3, 4] = value
    model = formats.read(formats.recognise(str(save(tmp_path, CONFIG, weights))))
    with pytest.raises(InvalidModel, match=f"{DOWN}.*NaN or infinity"):
        model.graph.graph.initializers[DOWN].const_value.numpy()


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "model.bin", "..", "", "a\0.safetensors"]
)
def test_an_index_does_not_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    weights = tensors(CONFIG)
    folder = save(tmp_path / "checkpoint", CONFIG, weights, n_shards=2)
    save_file(weights, tmp_path / "outside.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][DOWN] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InvalidModel, match="expected names of safetensors files beside it"):
        read(folder)


def test_an_index_that_is_wrong_about_a_tensor_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, tensors(CONFIG), n_shards=2)
    index = json.loads((folder / INDEX).read_text())
    places = sorted(set(index["weight_map"].values()))
    index["weight_map"][DOWN] = places[index["weight_map"][DOWN] == places[0]]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(InvalidModel, match=f"1 tensors are not where it says.*{DOWN}"):
        read(folder)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "nonsense"])
def test_an_index_without_a_map_is_refused(text: str, tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, tensors(CONFIG), n_shards=2)
    (folder / INDEX).write_text(text)
    with pytest.raises(InvalidModel, match="index"):
        read(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, tensors(CONFIG), n_shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ArtifactNotFound, match="model-00002-of-00003"):
        read(folder)


def test_weights_of_another_kind_are_told_from_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ArtifactNotFound, match="save_pretrained"):
        read(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    weights = tensors(CONFIG)
    folder = save(tmp_path, CONFIG, weights, n_shards=2)
    save_file(weights, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(InvalidModel, match=r"lies in model-00001-of-00002\.safetensors too"):
        read(folder)


@pytest.mark.parametrize("n_bytes", [0, 4, 100, 3000, -1])
def test_a_shard_that_is_cut_short_is_refused(n_bytes: int, tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, tensors(CONFIG))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InvalidModel, match=r"model\.safetensors"):
        read(folder)


def test_a_shard_that_is_cut_after_reading_is_refused_when_it_is_touched(tmp_path: Path) -> None:
    folder = save(tmp_path, CONFIG, tensors(CONFIG))
    model = formats.read(formats.recognise(str(folder)))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-50000])
    with pytest.raises(InvalidModel, match="can no longer be read"):
        for value in model.graph.graph.initializers.values():
            value.const_value.numpy()


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 2**62]},
        {"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": 2, "data_offsets": 8},
        "a",
    ],
)
def test_impossible_places_in_a_shard_are_refused(entry: object, tmp_path: Path) -> None:
    text = json.dumps({DOWN: entry}).encode()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)
    with pytest.raises(InvalidModel, match=r"model\.safetensors"):
        read(tmp_path)


def test_a_folder_without_a_configuration_is_of_no_format(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormat):
        formats.recognise(str(tmp_path))
