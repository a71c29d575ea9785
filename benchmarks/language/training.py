"""How the decoder is trained: AdamW with weight decay, each batch half Shakespeare and half Python."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch.nn import functional

from benchmarks.language.decoder import Decoder
from benchmarks.language.text import LENGTH

N_STEPS = 600
N_WINDOWS = 8
PEAK_RATE = 3e-3
N_WARM_UP = 50
WEIGHT_DECAY = 0.1


def train(sources: tuple[np.ndarray, ...]) -> Decoder:
    """Train on rows of tokens, one for each source."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    random, decoder = np.random.default_rng(0), Decoder()
    matrices = [parameter for parameter in decoder.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in decoder.parameters() if parameter.ndim != 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    started = time.process_time()
    for step in range(N_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        tokens = batch(sources, random)
        loss = functional.cross_entropy(decoder(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {N_STEPS}: {loss.item():.3f}, {time.process_time() - started:.0f} s", flush=True)
    return decoder.eval()


def rate(step: int) -> float:
    """The learning rate: a linear rise, then a cosine down to nothing."""
    done = max(0, step - N_WARM_UP) / (N_STEPS - N_WARM_UP)
    return PEAK_RATE * min(1, (step + 1) / N_WARM_UP) * (1 + math.cos(math.pi * done)) / 2


def batch(sources: tuple[np.ndarray, ...], random: np.random.Generator) -> torch.Tensor:
    """`[N_WINDOWS, LENGTH + 1]` tokens from random places."""
    n_each = N_WINDOWS // len(sources)
    rows = [
        source[start : start + LENGTH + 1]
        for source in sources
        for start in random.integers(0, len(source) - LENGTH, n_each)
    ]
    return torch.from_numpy(np.stack(rows))
