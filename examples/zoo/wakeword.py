"""Recorded inputs of the streaming wake-word model of MLPerf Tiny, as its quantized file takes them.

tightship convert str_ww_ref_model.tflite --data examples.zoo.wakeword:int8_spectrograms -o wakeword.onnx
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = ["int8_spectrograms"]

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))

SCALE, ZERO_POINT = 0.003701042616739869, -128
"""What the file says of its input: real = SCALE * (integer - ZERO_POINT)."""


def int8_spectrograms() -> Iterator[dict[str, np.ndarray]]:
    """Yield 45 spectrograms of a second each, `[30, 1, 40]`: 30 steps of 40 mel bands."""
    spectrograms = np.load(DATA / "mlperf_tiny" / "calibration_samples.npz")["specs"]
    yield {"input_1": np.clip(np.rint(spectrograms / SCALE + ZERO_POINT), -128, 127).astype(np.int8)}
