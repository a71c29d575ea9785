"""Sounds: WAV files at any rate become one row of samples at the model's, or the log-mel of that."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.package.fitting import n_frames
from tightship.package.processing import AudioInput
from tightship.serve.failures import BadRequest, TooLarge
from tightship.serve.processing.log_mel import log_mel
from tightship.serve.processing.wav import Wav, read_wav

__all__ = ["AudioReader"]

MAX_STEPS = 1 << 12
"""Samples at one rate that fit a whole number at the other (441 from 44,100 to 16,000): the filter grows with them."""


class AudioReader:
    """Makes one input of a WAV file."""

    content_types = ("audio/wav", "audio/x-wav", "audio/wave", "audio/vnd.wave")

    def __init__(self, audio: AudioInput, spec: TensorSpec) -> None:
        self._audio = audio
        self._spec = spec

    def read(self, body: bytes, parameters: Mapping[str, str]) -> Arrays:
        """Return the input by its name."""
        audio = self._audio
        wav = read_wav(body, audio.max_seconds)
        if not len(wav.samples):
            raise BadRequest("the WAV file has no samples")
        if wav.seconds > audio.max_seconds:
            raise TooLarge(f"the sound is longer than the {audio.max_seconds:g} seconds that are allowed")
        samples = self._cut(_resampled(wav, audio.rate_hz))
        peak = np.abs(samples).max(initial=0.0)
        if audio.peak and peak > 0:
            samples = samples / peak
        samples = samples * np.float32(audio.full_scale)
        if audio.log_mel is None:
            return {self._spec.name: self._shaped(samples)}
        if n_frames(audio, len(samples)) < 1:
            raise BadRequest(f"the sound of {wav.seconds:.3f} s is shorter than one frame of the model")
        return {self._spec.name: self._shaped(log_mel(samples, audio.rate_hz, audio.log_mel))}

    def _cut(self, samples: np.ndarray) -> np.ndarray:
        """The part that the model takes, with silence behind where there is less."""
        wanted = self._audio.samples
        if not wanted:
            return samples
        over = max(0, len(samples) - wanted)
        start = {"start": 0, "centre": over // 2, "end": over}[self._audio.keep]
        kept = samples[start : start + wanted]
        return np.pad(kept, (0, wanted - len(kept)))

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        """With axes of length 1 where the model has more: batch first, a channel where one is stated or before."""
        dtype, rank = np.dtype(self._spec.dtype), len(self._spec.shape)
        if dtype.kind in "iu":
            bounds = np.iinfo(dtype)
            values = np.clip(np.rint(values), bounds.min, bounds.max)
        if rank == 2 and values.ndim == 2:
            values = values.reshape(-1)
        missing = rank - values.ndim
        last = missing == 2 and self._spec.shape[-1] == 1 and self._spec.shape[1] != 1
        shape = (1, *values.shape, 1) if last else (1,) * missing + values.shape
        return np.ascontiguousarray(values, dtype).reshape(shape)


def _resampled(wav: Wav, rate_hz: int) -> np.ndarray:
    """At another rate, low-pass filtered (polyphase, scipy.signal.resample_poly)."""
    if wav.rate_hz == rate_hz:
        return wav.samples
    common = math.gcd(wav.rate_hz, rate_hz)
    up, down = rate_hz // common, wav.rate_hz // common
    if max(up, down) > MAX_STEPS:
        raise BadRequest(f"{wav.rate_hz} samples a second do not divide into {rate_hz}; send {rate_hz}")
    from scipy.signal import resample_poly

    return np.asarray(resample_poly(wav.samples, up, down), np.float32)
