"""Keras definitions with published weights: text that is likely, and the same speech as the makers' ONNX files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.zoo import agreement
from examples.zoo.keras_models import N_BLOCKS, dtln, textgenrnn
from tightship.api import loading

pytest.importorskip("keras", reason="needs the tensorflow extra")


@pytest.mark.parametrize("name", ["hacker_news.hdf5", "textgenrnn_weights.hdf5"])
def test_textgenrnn_finds_english_likelier_than_the_same_letters_shuffled(data_dir: Path, name: str) -> None:
    folder = data_dir / "textgenrnn"
    model = textgenrnn(folder / name)
    vocabulary = json.loads((folder / "textgenrnn_vocab.json").read_text(encoding="utf-8"))

    def nats(text: str) -> float:
        codes = [vocabulary["<s>"], *(vocabulary[letter] for letter in text)]
        before = np.array([([0] * 40 + codes[:end])[-40:] for end in range(1, len(codes))], np.int32)
        found = np.asarray(model(before))
        return -float(np.mean(np.log(found[np.arange(len(text)), codes[1:]])))

    text = "How to learn the best programming language of the year"
    shuffled = "".join(np.random.default_rng(0).permutation(list(text)))
    assert nats(text) < 2.0 < 4.0 < nats(shuffled)  # of ln(465) = 6.1


def test_dtln_of_blocks_gives_what_its_halves_give_one_block_after_the_other(data_dir: Path) -> None:
    blocks = agreement.blocks(data_dir / "dtln" / "dtln_eval.npz")[:N_BLOCKS]
    found = np.asarray(dtln(data_dir / "dtln" / "model.h5")(np.concatenate(blocks)[None]))[0]
    halves = [loading.read(str(data_dir / "dtln" / f"model_{number}.onnx")) for number in (1, 2)]
    with halves[0].open() as first, halves[1].open() as second:
        expected = np.concatenate(list(map(agreement.composed(first, second), blocks)))
    # Sound reaches 0.4; the spectrum of 512 samples is taken by another algorithm.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
