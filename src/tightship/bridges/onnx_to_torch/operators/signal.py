"""Fourier transforms, windows and filter banks. A last axis of 2 is a complex number."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tightship.bridges.onnx_to_torch.table import OPERATORS


def as_complex(x: Tensor) -> Tensor:
    """The last axis, of 1 or 2, as a number."""
    return x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())


@OPERATORS.op("DFT", 20)
def dft(
    x: Tensor, dft_length: int | None = None, axis: int | None = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    axis = (-2 if axis is None else axis) % x.ndim
    signal = as_complex(x)
    if inverse and onesided:
        return torch.fft.irfft(signal, dft_length, axis).unsqueeze(-1)
    if inverse:
        return torch.view_as_real(torch.fft.ifft(signal, dft_length, axis).resolve_conj())
    spectrum = torch.fft.fft(signal, dft_length, axis)
    if onesided:
        spectrum = spectrum.narrow(axis, 0, spectrum.shape[axis] // 2 + 1)
    return torch.view_as_real(spectrum)


@OPERATORS.op("DFT", 17)
def dft_17(x: Tensor, dft_length: int | None = None, *, axis: int = 1, inverse: int = 0, onesided: int = 0) -> Tensor:
    return dft(x, dft_length, axis, inverse=inverse, onesided=onesided)


@OPERATORS.op("STFT", 17)
def stft(
    signal: Tensor, frame_step: int, window: Tensor | None = None, frame_length: int | None = None, *, onesided: int = 1
) -> Tensor:
    """Spectra `[batch, frames, bins, 2]` of frames of `[batch, length, 1 or 2]`."""
    if frame_length is None:
        frame_length = signal.shape[1] if window is None else window.shape[0]
    frames = as_complex(signal).unfold(1, frame_length, frame_step)
    spectrum = torch.fft.fft(frames if window is None else frames * window, dim=-1)
    if onesided:
        spectrum = spectrum.narrow(-1, 0, frame_length // 2 + 1)
    return torch.view_as_real(spectrum)


def window_angles(size: int, periodic: int) -> Tensor:
    """Angles from 0 on, of which `size` (periodic) or `size - 1` steps make a whole turn."""
    return torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size if periodic else size - 1))


@OPERATORS.op("HannWindow", 17)
def hann_window(size: int, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1) -> Tensor:
    return (0.5 - 0.5 * torch.cos(window_angles(size, periodic))).to(output_datatype)


@OPERATORS.op("HammingWindow", 17)
def hamming_window(size: int, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1) -> Tensor:
    return (25 / 46 - 21 / 46 * torch.cos(window_angles(size, periodic))).to(output_datatype)


@OPERATORS.op("BlackmanWindow", 17)
def blackman_window(size: int, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1) -> Tensor:
    angles = window_angles(size, periodic)
    return (0.42 - 0.5 * torch.cos(angles) + 0.08 * torch.cos(2 * angles)).to(output_datatype)


@OPERATORS.op("MelWeightMatrix", 17)
def mel_weight_matrix(
    num_mel_bins: int,
    dft_length: int,
    sample_rate: int,
    lower_edge_hertz: float,
    upper_edge_hertz: float,
    *,
    output_datatype: torch.dtype = torch.float32,
) -> Tensor:
    """Triangles `[bins of the spectrum, bands]` that are evenly spaced on the mel scale."""
    low, high = (2595 * math.log10(1 + hertz / 700) for hertz in (lower_edge_hertz, upper_edge_hertz))
    mels = torch.arange(num_mel_bins + 2) * ((high - low) / (num_mel_bins + 2)) + low
    edges = (dft_length + 1) * 700 * (10 ** (mels.double() / 2595) - 1) // sample_rate
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = torch.arange(dft_length // 2 + 1).unsqueeze(1)
    rising = torch.where(centre == left, (bins == centre).double(), (bins - left) / (centre - left))
    falling = (right - bins) / (right - centre)
    weights = torch.where(bins < centre, rising, torch.where(bins == centre, torch.ones_like(rising), falling))
    inside = (bins >= left) & (bins < right) | (bins == centre)
    return torch.where(inside, weights, torch.zeros_like(weights)).to(output_datatype)
