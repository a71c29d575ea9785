"""What an output means: classes with their scores, best first, or numbers by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tightship.package.processing import OutputMeaning
from tightship.serve.failures import ModelFailed

__all__ = ["Interpreter"]

Plain = float | int | str | None


class Interpreter:
    """Answers `{"classes": [{"label", "index", "score"}, ...]}` or `{"numbers": {name: value or lists of values}}`.

    Where nothing is declared all outputs are numbers under their own names. NaN and infinities are null.
    """

    def __init__(self, meaning: OutputMeaning | None, labels: Sequence[str]) -> None:
        self._meaning = meaning
        self._labels = labels

    def interpret(self, outputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Raises `ModelFailed` where an output is not what was declared."""
        meaning = self._meaning
        if meaning is None:
            return {"numbers": {name: _plain(values) for name, values in outputs.items()}}
        values = outputs[meaning.output] if meaning.output else next(iter(outputs.values()))
        scores = (values.astype(np.float64) - meaning.zero_point) * meaning.scale
        if meaning.kind == "classes":
            return {"classes": self._classes(self._activated(scores.ravel(), meaning), meaning.top)}
        if len(self._labels) == values.size:
            return {"numbers": dict(zip(self._labels, _plain(scores.ravel()), strict=True))}
        return {"numbers": {meaning.output: _plain(scores)}}

    def _activated(self, scores: np.ndarray, meaning: OutputMeaning) -> np.ndarray:
        if meaning.activation == "softmax":
            powers = np.exp(scores - scores.max(initial=-np.inf))
            scores = powers / powers.sum()
        elif meaning.activation == "sigmoid":
            scores = np.exp(-np.logaddexp(0.0, -scores))
        if len(scores) == 1 and len(self._labels) == 2:
            scores = np.array([1.0 - scores[0], scores[0]])
        if self._labels and len(self._labels) != len(scores):
            raise ModelFailed(f"the model gave {len(scores)} scores; its package has {len(self._labels)} labels")
        return scores

    def _classes(self, scores: np.ndarray, top: int) -> list[dict[str, Any]]:
        order = np.argsort(-scores, kind="stable")[:top]
        return [
            {
                "label": self._labels[index] if self._labels else str(index),
                "index": int(index),
                "score": _number(float(scores[index])),
            }
            for index in order
        ]


def _plain(values: np.ndarray) -> Any:
    """Numbers and texts as JSON has them, in lists for axes."""
    if values.ndim == 0:
        return _number(values.item())
    if values.dtype.kind in "iub" or (values.dtype.kind == "f" and np.isfinite(values).all()):
        return values.tolist()
    return [_plain(np.asarray(entry)) for entry in values]


def _number(value: Any) -> Plain:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not np.isfinite(value) else value
