"""A waveform's energy in bands of pitch, frame by frame, in logarithms: what most networks for sound take.

Conventions differ between libraries; `package.processing.LogMel` has a number or a word for each difference:
librosa.feature.melspectrogram, torchaudio.transforms.MelSpectrogram, tf.signal.linear_to_mel_weight_matrix, HTK.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tightship.package.processing import LogMel

__all__ = ["log_mel", "mel_bands"]

# Slaney's Auditory Toolbox: linear below 1000 Hz, 15 mel there, and 27 steps for a factor of 6.4 above.
SLANEY_HZ_PER_MEL, SLANEY_KNEE_HZ, SLANEY_STEPS = 200.0 / 3, 1000.0, 27.0 / np.log(6.4)

BLOCK = 256
"""Frames at a time: they overlap, and all at once would be many times the sound."""


def log_mel(samples: np.ndarray, rate_hz: int, mel: LogMel) -> np.ndarray:
    """Return float32 [frames, bands] of samples [n], or [bands, frames] where `mel.layout` says so."""
    frames, window = _frames(samples.astype(np.float32, copy=False), mel)
    bands = mel_bands(mel, rate_hz)
    blocks = [frames[start : start + BLOCK] for start in range(0, len(frames), BLOCK)]
    energies = np.concatenate([_spectra(block * window, mel) @ bands for block in blocks])
    found = _logarithm(energies, mel)
    if mel.coefficients:
        found = _cepstrum(found, mel.coefficients)
    found = (found - np.float32(mel.mean)) / np.float32(mel.std)
    return np.ascontiguousarray(found.T if mel.layout == "mel-time" else found, np.float32)


@lru_cache(maxsize=64)
def mel_bands(mel: LogMel, rate_hz: int) -> np.ndarray:
    """Return how much of each frequency goes into each band, float32 [fft // 2 + 1, mels]."""
    lowest, highest = _to_mel(np.array([mel.low_hz, mel.high_hz or rate_hz / 2]), mel.mel_scale).tolist()
    edges = np.linspace(lowest, highest, mel.mels + 2)
    edges_hz = _to_hz(edges, mel.mel_scale)
    bins = np.linspace(0.0, rate_hz / 2, mel.fft // 2 + 1)[:, None]
    if mel.triangles == "mel":
        bins, corners = _to_mel(bins, mel.mel_scale), edges
    else:
        corners = edges_hz
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    weights = np.maximum(0.0, np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)))
    if mel.triangles == "mel":
        weights[0] = 0.0  # the constant part belongs to no band; Kaldi and TensorFlow leave it out
    if mel.slaney_norm:
        weights *= 2.0 / (edges_hz[2:] - edges_hz[:-2])
    bands: np.ndarray = weights.astype(np.float32)
    bands.setflags(write=False)
    return bands


def _frames(samples: np.ndarray, mel: LogMel) -> tuple[np.ndarray, np.ndarray]:
    """A view of the samples of each frame, [frames, length], and the window they are multiplied with."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(mel.window) / mel.window)).astype(np.float32)
    length = mel.window
    if mel.centred:
        half = mel.fft // 2
        samples = np.pad(samples, half, mode="reflect") if len(samples) > half else np.pad(samples, half)
        before = (mel.fft - mel.window) // 2
        window = np.pad(window, (before, mel.fft - mel.window - before))
        length = mel.fft
    if len(samples) < length:
        samples = np.pad(samples, (0, length - len(samples)))
    return np.lib.stride_tricks.sliding_window_view(samples, length)[:: mel.hop], window


def _spectra(frames: np.ndarray, mel: LogMel) -> np.ndarray:
    """Power or magnitude of each frame, [frames, fft // 2 + 1]."""
    spectra = np.abs(np.fft.rfft(frames, mel.fft)).astype(np.float32)
    return spectra * spectra if mel.power == 2 else spectra


def _logarithm(energies: np.ndarray, mel: LogMel) -> np.ndarray:
    floor = np.float32(mel.floor)
    above = energies + floor if mel.floor_by == "add" else np.maximum(energies, floor)
    if mel.log == "natural":
        return np.asarray(np.log(above))
    decades = np.log10(above)
    return np.asarray(decades * np.float32(10 if mel.power == 2 else 20) if mel.log == "decibel" else decades)


def _cepstrum(bands: np.ndarray, n_coefficients: int) -> np.ndarray:
    """The first coefficients of the cosine transform, scaled as HTK does: all by sqrt(2 / n), the first too."""
    from scipy.fft import dct

    n_bands = bands.shape[1]
    transformed = dct(bands, type=2, axis=1)[:, :n_coefficients] / np.float32(np.sqrt(2.0 * n_bands))
    return np.asarray(transformed)


def _to_mel(hz: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL + np.log(np.maximum(hz, 1e-9) / SLANEY_KNEE_HZ) * SLANEY_STEPS
    return np.where(hz < SLANEY_KNEE_HZ, hz / SLANEY_HZ_PER_MEL, above)


def _to_hz(mels: np.ndarray, scale: str) -> np.ndarray:
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    knee = SLANEY_KNEE_HZ / SLANEY_HZ_PER_MEL
    return np.where(mels < knee, mels * SLANEY_HZ_PER_MEL, SLANEY_KNEE_HZ * np.exp((mels - knee) / SLANEY_STEPS))
