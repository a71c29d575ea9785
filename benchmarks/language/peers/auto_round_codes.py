"""AutoRound: `auto_round_codes.py WEIGHTS CALIBRATION BITS BLOCK OUTPUT`; its defaults, on our calibration windows."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

N_STEPS = 200
"""AutoRound's own default."""


def llama(weights: dict) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    n_tokens, width = weights["model.embed_tokens.weight"].shape
    config = LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=width,
        intermediate_size=len(weights["model.layers.0.mlp.up_proj.weight"]),
        num_hidden_layers=sum(name.endswith("up_proj.weight") for name in weights),
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    model.load_state_dict(weights)
    return model.eval()


def main() -> None:
    weights, calibration, bits, block, output = sys.argv[1:]
    torch.set_num_threads(1)
    os.environ["AR_ALLOW_W8_ASYM"] = "1"  # its exporters have no zero points at 8 bits; we need none of them
    from auto_round import AutoRound
    from transformers import PreTrainedTokenizerFast

    tokens = torch.from_numpy(np.load(calibration))
    floats = load_file(weights)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(weights).with_name("tokenizer.json")))
    rounding = AutoRound(
        llama(floats),
        tokenizer=tokenizer,
        bits=int(bits),
        group_size=int(block),
        sym=False,
        iters=N_STEPS,
        quant_lm_head=True,
        dataset=[{"input_ids": row[None]} for row in tokens],
        nsamples=len(tokens),
        seqlen=tokens.shape[1],
        device_map="cpu",
        enable_torch_compile=False,  # which takes longer than all the rest, for a model this small
    )
    rounded, _ = rounding.quantize()
    found = {}
    for name, layer in rounded.named_modules():
        if hasattr(layer, "scale") and hasattr(layer, "zp"):
            n_rows = len(layer.weight)
            scales, zero_points = (
                torch.as_tensor(part, dtype=torch.float32).expand(n_rows, -1).reshape(n_rows, -1).contiguous()
                for part in (layer.scale, layer.zp)
            )
            blocks = layer.weight.detach().float().reshape(n_rows, -1, int(block))
            codes = torch.round(blocks / scales[..., None] + zero_points[..., None])
            found[f"{name}.weight/codes"] = codes.clamp(0, 2 ** int(bits) - 1).to(torch.uint8)
            found[f"{name}.weight/scales"] = scales
            found[f"{name}.weight/zero_points"] = zero_points.to(torch.uint8)
    save_file(found, output)


main()
