"""DTLN, a noise suppressor of two networks that carry a state: the whole chain around them, frame by frame.

The first masks the spectrum of a frame, the second works on samples; frames of 512 samples overlap by 384
(https://github.com/breizhn/DTLN, `real_time_processing_tf_lite.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks._int8_inputs import DATA, sound

__all__ = ["N_STAGES", "Stage", "calibration_sound", "denoised", "distortion", "noisy_speech", "recorded"]

Stage = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Takes what a network reads and its state `[1, 1, n]` and `[1, 2, 128, 2]`; gives what it makes and the next."""

N_STAGES = 2
_FRAME, _STEP = 512, 128


def noisy_speech() -> np.ndarray:
    """15 seconds of speech with noise as loud as itself, -1 to 1."""
    samples: np.ndarray = np.load(DATA / "dtln" / "dtln_eval.npz")["noisy"].astype(np.float32) / 2**15
    return samples


def calibration_sound() -> np.ndarray:
    """Other recordings: words in music, single words, noise, and their sum."""
    words = np.concatenate([sound(f"tflite_micro/{name}_1000ms.wav") for name in ("yes", "no")])
    noise = np.resize(sound("tflite_micro/noise_1000ms.wav"), words.shape)
    return np.concatenate([words, words + noise, sound("mlperf_tiny/short_wav_easy10s.wav")[: 6 * 16000]])


def denoised(stages: Sequence[Stage], samples: np.ndarray) -> np.ndarray:
    """What the chain makes of the samples, delayed by 384 samples."""
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(N_STAGES)]
    heard, made = np.zeros(_FRAME, np.float32), np.zeros(_FRAME, np.float32)
    blocks = []
    for start in range(0, len(samples) - _STEP + 1, _STEP):
        heard = np.concatenate([heard[_STEP:], samples[start : start + _STEP]])
        spectrum = np.fft.rfft(heard)
        mask, states[0] = stages[0]([np.abs(spectrum).astype(np.float32)[None, None], states[0]])
        masked = np.fft.irfft(spectrum * mask.reshape(-1)).astype(np.float32)
        frame, states[1] = stages[1]([masked[None, None], states[1]])
        made = np.concatenate([made[_STEP:], np.zeros(_STEP, np.float32)]) + frame.reshape(-1)
        blocks.append(made[:_STEP].copy())
    return np.concatenate(blocks)


def recorded(stages: Sequence[Stage], samples: np.ndarray, every: int) -> list[list[np.ndarray]]:
    """What each stage reads in every `every`-th frame: for each, its inputs with the frames along axis 0."""
    kept: list[list[list[np.ndarray]]] = [[] for _ in stages]

    def listening(index: int) -> Stage:
        def stage(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            kept[index].append([array.copy() for array in inputs])
            return stages[index](inputs)

        return stage

    denoised([listening(index) for index in range(len(stages))], samples)
    return [[np.concatenate(arrays) for arrays in zip(*calls[::every], strict=True)] for calls in kept]


def distortion(reference: np.ndarray, found: np.ndarray) -> float:
    """Amplitude of what is not the reference, by the amplitude of what is: 10^(-SI-SDR / 20) (arXiv:1811.02508)."""
    target = reference * (found @ reference) / (reference @ reference)
    return float(np.linalg.norm(found - target) / np.linalg.norm(target))
