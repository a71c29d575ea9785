"""Perplexity and KL divergence from the float model's predictions, on held-out windows, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from scipy.special import log_softmax

from benchmarks.language.coded import simulated, with_int8_activations

WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class Score:
    """Perplexity per token, and the mean over tokens of KL(float || quantized) in nats."""

    perplexity: float
    kl: float


class Judge:
    """Scores files on `held_out` `[windows, length]`; knows the float model's predictions."""

    def __init__(self, source: Path, held_out: np.ndarray) -> None:
        self.held_out = held_out
        self.expected = self._predictions(onnx.load(source))
        self.float = self._score(self.expected)

    def engine(self, path: Path) -> Score:
        """The file in the engine, activations rounded to int8 inside its products."""
        return self._score(self._predictions(with_int8_activations(onnx.load(path))))

    def simulation(self, path: Path) -> Score:
        """The file's weights in float products."""
        return self._score(self._predictions(simulated(onnx.load(path))))

    def _predictions(self, model: Any) -> np.ndarray:
        """Log-probabilities `[windows, length, tokens]`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        starts = range(0, len(self.held_out), WINDOWS_AT_ONCE)
        portions = [
            session.run(None, {"input_ids": self.held_out[start : start + WINDOWS_AT_ONCE]})[0] for start in starts
        ]
        predictions: np.ndarray = log_softmax(np.concatenate(portions), axis=-1)
        return predictions

    def _score(self, predictions: np.ndarray) -> Score:
        following = np.take_along_axis(predictions[:, :-1], self.held_out[:, 1:, None], axis=-1)
        kl = (np.exp(self.expected) * (self.expected - predictions)).sum(-1)
        return Score(float(np.exp(-following.mean(dtype=np.float64))), float(kl.mean(dtype=np.float64)))
