"""HQQ's own package: `hqq_codes.py WEIGHTS CALIBRATION BITS BLOCK OUTPUT` (the calibration is not needed)."""

import sys

import torch
from hqq.core.quantize import Quantizer
from safetensors.torch import load_file, save_file


def main() -> None:
    weights, _, bits, block, output = sys.argv[1:]
    torch.set_num_threads(1)
    found = {}
    for name, weight in load_file(weights).items():
        if weight.ndim == 2 and "embed_tokens" not in name:
            codes, meta = Quantizer.quantize(
                weight,
                nbits=int(bits),
                group_size=int(block),
                axis=1,
                round_zero=bits == "4",  # as its BaseQuantizeConfig has it
                bitpack=False,
                compute_dtype=torch.float32,
                device="cpu",
            )
            shape = (len(weight), -1)
            found[f"{name}/codes"] = codes.reshape(*shape, int(block)).to(torch.uint8)
            found[f"{name}/scales"] = meta["scale"].float().reshape(shape).contiguous()
            found[f"{name}/zero_points"] = meta["zero"].float().reshape(shape).contiguous()
    save_file(found, output)


main()
