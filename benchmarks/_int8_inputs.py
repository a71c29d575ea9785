"""Real inputs for the networks of `int8_files`: those that calibrate and those that decide, with none in common.

Photographs are cut at random, recordings into windows; features are computed as the networks' authors do.
"""

from __future__ import annotations

import io
import os
import tarfile
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["DATA", "SAMPLE_RATE", "Inputs", "machine_sounds", "mfcc", "photographs", "sound", "spectrograms"]

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))
SAMPLE_RATE = 16000

N_CALIBRATION = 128
N_EVALUATION = 96


@dataclass(frozen=True)
class Inputs:
    """Items along axis 0: `calibration` is for quantizers, `evaluation` for the comparison alone."""

    calibration: np.ndarray
    evaluation: np.ndarray
    what: str

    def channels_first(self) -> Inputs:
        """The same with images `[N, channels, height, width]`."""
        parts = (np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for part in (self.calibration, self.evaluation))
        return Inputs(*parts, self.what)


def photographs(height: int, width: int, scale: float, shift: float) -> Inputs:
    """RGB cuts `[N, height, width, 3]` of photographs and of frames from a driving camera: pixel * scale + shift."""
    from sklearn.datasets import load_sample_images

    folder = DATA / "tflite_mobilenet_v1_025"
    china, flower = load_sample_images().images
    frames = _frames()
    seen = [china, _image(folder / "cats_and_dogs.jpg"), *frames[: len(frames) // 2]]
    held = [flower, _image(folder / "burger.jpg"), *frames[-len(frames) // 2 :]]
    random = np.random.default_rng(0)
    cuts = [
        np.stack([_cut(_drawn(images, random), height, width, random) for _ in range(n_items)])
        for images, n_items in ((seen, N_CALIBRATION), (held, N_EVALUATION))
    ]
    calibration, evaluation = (np.float32(scale) * part.astype(np.float32) + np.float32(shift) for part in cuts)
    return Inputs(calibration, evaluation, "cuts of other photographs and frames")


def machine_sounds() -> Inputs:
    """Windows `[N, 640]` of 5 frames of a log-mel spectrogram of one machine; the first half calibrates."""
    frames = np.fromfile(DATA / "mlperf_tiny" / "normal_id_01_00000000_hist_librosa.bin", np.float32).reshape(-1, 128)
    windows = np.lib.stride_tricks.sliding_window_view(frames, 5, axis=0).transpose(0, 2, 1).reshape(-1, 640)
    middle = len(windows) // 2
    return Inputs(windows[: middle - 5].copy(), windows[middle:].copy(), "the first half of the same recording")


def spectrograms() -> Inputs:
    """The 45 spectrograms `[N, 30, 1, 40]` that the wake-word network's authors calibrate with, half for each use."""
    specs = np.load(DATA / "mlperf_tiny" / "calibration_samples.npz")["specs"].astype(np.float32)
    return Inputs(specs[::2], specs[1::2], "every other one of the authors' calibration samples")


def mfcc() -> Inputs:
    """MFCC `[N, 49, 10, 1]` of windows of one second, as MLPerf Tiny computes them for keyword spotting.

    The first half of each recording calibrates: music with words, and speech with and without noise.
    """
    speech = np.load(DATA / "dtln" / "dtln_eval.npz")
    recordings = [speech[name].astype(np.float32) / 2**15 for name in ("clean", "noisy")]
    recordings.append(sound("mlperf_tiny/short_wav_easy10s.wav"))
    halves = [(samples[: len(samples) // 2], samples[len(samples) // 2 :]) for samples in recordings]
    calibration, evaluation = (_mfcc(np.concatenate([_windows(half[part], 0.1) for half in halves])) for part in (0, 1))
    return Inputs(calibration, evaluation, "the first halves of the same recordings")


def sound(name: str) -> np.ndarray:
    """The first channel of a 16-bit recording, -1 to 1."""
    with wave.open(str(DATA / name)) as file:
        if file.getframerate() != SAMPLE_RATE:
            raise ValueError(f"{name}: expected {SAMPLE_RATE} samples a second, found {file.getframerate()}")
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        return samples.reshape(-1, file.getnchannels())[:, 0].astype(np.float32) / 2**15


def _windows(samples: np.ndarray, step_s: float) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(samples, SAMPLE_RATE)[:: int(step_s * SAMPLE_RATE)]
    peak: np.ndarray = np.abs(windows).max(axis=1, keepdims=True)
    return windows / np.maximum(peak, 1e-3)


def _mfcc(windows: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    magnitudes = tf.abs(tf.signal.stft(windows, 480, 320, window_fn=tf.signal.hann_window))
    mel = tf.signal.linear_to_mel_weight_matrix(40, magnitudes.shape[-1], SAMPLE_RATE, 20.0, 4000.0)
    found: np.ndarray = tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(magnitudes @ mel + 1e-6)).numpy()
    return found[..., :10, None].astype(np.float32)


def _frames() -> list[np.ndarray]:
    with tarfile.open(DATA / "data_driving" / "donkey_tub.tar.gz") as archive:
        names = [name for name in archive.getnames() if name.endswith(".jpg") and "/._" not in name]
        names = sorted(names, key=lambda name: int(Path(name).name.partition("_")[0]))[::20]
        return [_image(io.BytesIO(_content(archive, name))) for name in names]


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name}: expected a file in the archive")
    return file.read()


def _image(source: Any) -> np.ndarray:
    from PIL import Image

    with Image.open(source) as image:
        return np.asarray(image.convert("RGB"))


def _drawn(images: list[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """One of the two photographs as often as one of the frames."""
    return images[int(random.integers(2) if random.random() < 0.5 else random.integers(2, len(images)))]


def _cut(image: np.ndarray, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """A random part of the image in the shape's proportions, from a third of its size to all of it."""
    from PIL import Image

    part = random.uniform(1 / 3, 1) * min(image.shape[0] / height, image.shape[1] / width)
    n_rows, n_columns = int(part * height), int(part * width)
    top, left = random.integers(image.shape[0] - n_rows + 1), random.integers(image.shape[1] - n_columns + 1)
    cut = Image.fromarray(image[top : top + n_rows, left : left + n_columns])
    return np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR))
