"""Real text in three parts that share nothing: training, calibration and held-out windows of tokens.

Half of each is Shakespeare, half Python's own standard library; the tokenizer is byte-level BPE made of the first part.
"""

from __future__ import annotations

import os
import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))
N_TOKENS = 1024
LENGTH = 128
N_HELD_OUT = 128
N_CALIBRATION = 256

_LEFT_OUT = {"test", "tests", "idlelib", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
"""Folders of the library that are tables or not installed everywhere."""

_SHARE = 20
"""One part in so many is held out, another is for calibration."""


@dataclass(frozen=True)
class Text:
    """`training` is one row of tokens for each source; `calibration` and `held_out` are int64 `[windows, LENGTH]`."""

    training: tuple[np.ndarray, ...]
    calibration: np.ndarray
    held_out: np.ndarray


def build(tokenizer_path: Path) -> Text:
    """Read both sources, make the tokenizer and cut the windows; the same for the same Python."""
    shakespeare = _shakespeare()
    sources = [shakespeare, _python(len(shakespeare[0]))]
    tokenizer = _tokenizer([training for training, _, _ in sources])
    tokenizer.save(str(tokenizer_path))
    encoded = [[_encoded(tokenizer, part) for part in parts] for parts in sources]
    return Text(
        tuple(parts[0] for parts in encoded),
        np.concatenate([_windows(parts[1], N_CALIBRATION // 2) for parts in encoded]),
        np.concatenate([_windows(parts[2], N_HELD_OUT // 2) for parts in encoded]),
    )


def _shakespeare() -> tuple[str, str, str]:
    text = (DATA / "data_text" / "tinyshakespeare.txt").read_text(encoding="utf-8")
    end, share = len(text), len(text) // _SHARE
    return text[: end - 2 * share], text[end - 2 * share : end - share], text[end - share :]


def _python(n_characters: int) -> tuple[str, str, str]:
    """The library's sources, whole files to one part each; of the first part no more than `n_characters`."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    random.Random(0).shuffle(paths)
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    share = len(texts) // _SHARE
    return "".join(texts[2 * share :])[:n_characters], "".join(texts[share : 2 * share]), "".join(texts[:share])


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import ByteLevelBPETokenizer

    tokenizer = ByteLevelBPETokenizer()
    lines = (line for text in texts for line in text.splitlines(keepends=True))
    tokenizer.train_from_iterator(lines, vocab_size=N_TOKENS, show_progress=False)
    return tokenizer


def _encoded(tokenizer: Any, text: str) -> np.ndarray:
    lines = tokenizer.encode_batch(text.splitlines(keepends=True))
    return np.concatenate([np.array(line.ids, np.int64) for line in lines])


def _windows(tokens: np.ndarray, n_windows: int) -> np.ndarray:
    """Windows without overlap, at random places."""
    whole = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    chosen: np.ndarray = whole[np.random.default_rng(0).permutation(len(whole))[:n_windows]]
    return chosen
