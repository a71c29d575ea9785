"""Which scale to divide each channel by, so that rounding to 8 bits loses least: in closed form from a few statistics.

Channels share the step of their tensor, each output of a weight has a step of its own. Dividing large channels makes
the first finer and, since their weights grow, the second coarser. SmoothQuant (arXiv 2211.10438, equation 4) takes
`s = max|x| ** alpha / max|w| ** (1 - alpha)`, of which alpha = 1/2 is cross-layer equalization (arXiv 1906.04721,
equation 11); here the alpha is taken whose noise at the readers' outputs, as computed below, is least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tightship.passes.channels import Reader

__all__ = ["ALPHAS", "ChannelStatistics", "best_scales"]

ALPHAS = (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)
_LEVELS = 255.0
_WEIGHT_LEVELS = 64.0
_LEAST_GAIN = 0.5
"""Noise must become this fraction of what it was, or less, for a change to be worth making: once all channels reach the
end of one range, each of them is cut off where new data goes beyond what calibration saw. On a net whose channels were
even already that cost 0.5 to 1.4 dB."""

_WIDEST = 2.0**10
_ALIKE = 0.01


@dataclass(frozen=True)
class ChannelStatistics:
    """Per channel of a tensor: smallest and largest value (zero included) and mean square, each `[channels]`."""

    low: np.ndarray
    high: np.ndarray
    mean_square: np.ndarray


def best_scales(found: ChannelStatistics, readers: Sequence[Reader], alpha: float) -> np.ndarray | None:
    """Return what to divide each channel by, or None where nothing is to be done.

    A negative `alpha` is searched, and the scales are left as they are unless that halves the noise.
    """
    peak = np.maximum(found.high, -found.low)
    weights = [reader.by_channel().astype(np.float64) for reader in readers]
    weight_peak = np.max([_peak(entry) for entry in weights], axis=0)
    weights = [_per_output_power(entry, found.mean_square) for entry in weights]
    used = (peak > 0) & (weight_peak > 0)
    if not used.any():
        return None
    ones = np.ones_like(peak, dtype=np.float64)
    candidates = []
    for share in ALPHAS if alpha < 0 else (alpha,):
        scales = ones.copy()
        scales[used] = peak[used] ** share / weight_peak[used] ** (1 - share)
        scales[used] /= np.exp(np.log(scales[used]).mean())
        candidates.append(np.clip(scales, 1 / _WIDEST, _WIDEST))
    best = min(candidates, key=lambda scales: _noise(found, weights, scales))
    if alpha >= 0:
        return None if np.allclose(best, ones, rtol=_ALIKE) else best
    return best if _noise(found, weights, best) < _LEAST_GAIN * _noise(found, weights, ones) else None


def _noise(found: ChannelStatistics, weights: Sequence[np.ndarray], scales: np.ndarray) -> float:
    """Return what a uniform error of half a step in activations and weights adds to outputs of power 1, summed."""
    step = ((found.high / scales).max() - (found.low / scales).min()) / _LEVELS
    power = found.mean_square / np.square(scales)
    total = 0.0
    for weight in weights:
        scaled = weight * scales[:, None]
        if weight.ndim == 2:
            weight_step = np.abs(scaled).max(axis=1) / _WEIGHT_LEVELS
            total += float(np.square(weight_step) @ power) * weight.shape[1]
        else:
            weight_step = np.abs(scaled).max(axis=(1, 2)) / _WEIGHT_LEVELS
            total += float(np.square(weight_step).sum() * power.sum()) * weight.shape[2]
        total += float(np.square(step) * np.square(scaled).sum())
    return total / 12


def _per_output_power(weight: np.ndarray, mean_square: np.ndarray) -> np.ndarray:
    """Divide the weights of each output by the deviation it has if channels are independent: all count alike."""
    if weight.ndim == 2:
        power = np.square(weight).sum(axis=1, keepdims=True) * mean_square[:, None]
    else:
        power = np.einsum("nct,c->n", np.square(weight), mean_square)[:, None, None]
    scaled: np.ndarray = weight / np.sqrt(np.where(power > 0, power, 1))
    return scaled


def _peak(weight: np.ndarray) -> np.ndarray:
    peak: np.ndarray = np.abs(weight).max(axis=1 if weight.ndim == 2 else (0, 2))
    return peak
