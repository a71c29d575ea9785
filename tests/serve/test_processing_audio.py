"""Sounds: WAV files as scipy reads them, log-mel as TensorFlow and Hugging Face compute it, hostile ones refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from scipy.io import wavfile
from scipy.signal import resample_poly

from tightship.core.specs import TensorSpec
from tightship.package.processing import AudioInput, LogMel, Processing
from tightship.serve.failures import BadRequest, TooLarge
from tightship.serve.processing import Processor, ready
from tightship.serve.processing.log_mel import log_mel, mel_bands
from tightship.serve.processing.wav import read_wav

SCORES = (TensorSpec("scores", "float32", ("N", 2)),)


def processor(audio: AudioInput, *shape: int | str, dtype: str = "float32") -> Processor:
    return ready(Processing(audio=audio), (TensorSpec("sound", dtype, shape),), SCORES, {}.__getitem__)


def wave(n: int = 4000, channels: int = 1) -> np.ndarray:
    """Tones in some noise within -1 to 1, [n, channels]: no band is so quiet that rounding is all there is in it."""
    time = np.arange(n)[:, None] / 16000
    tones = sum(np.sin(2 * np.pi * hz * time + np.arange(channels)) / (1 + k) for k, hz in enumerate((220, 1310, 3900)))
    noise = np.random.default_rng(0).normal(size=(n, channels))
    return (0.4 * np.asarray(tones) + 0.02 * noise).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int = 16000) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, rate_hz, samples)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_samples_are_those_that_scipy_reads(dtype: str, channels: int) -> None:
    exact = wave(500, channels)
    whole = {"uint8": lambda: exact * 127 + 128, "int16": lambda: exact * 32767, "int32": lambda: exact * (2**31 - 200)}
    body = encoded(whole.get(dtype, lambda: exact)().astype(dtype))
    _, found = wavfile.read(io.BytesIO(body))
    wanted = (found.astype(np.float64) - (128 if dtype == "uint8" else 0)) / {
        "uint8": 128,
        "int16": 2**15,
        "int32": 2**31,
    }.get(dtype, 1)
    wav = read_wav(body, 60)
    assert wav.rate_hz == 16000
    np.testing.assert_allclose(wav.samples, wanted.reshape(500, channels).mean(1), atol=1e-7)


def test_24_bits_and_the_extensible_format_are_read() -> None:
    whole = np.array([0, 1, -1, 2**23 - 1, -(2**23)], "<i4")
    data = whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    guid = struct.pack("<H", 1) + b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 8000, 24000, 3, 24, 22, 24, 4) + guid
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(data)) + data + b"\0"
    body = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    _, wanted = wavfile.read(io.BytesIO(body))  # in the upper three of four bytes
    np.testing.assert_array_equal(read_wav(body, 60).samples, (wanted / 2**31).astype(np.float32))


def test_a_recording_at_another_rate_is_resampled_as_scipy_does() -> None:
    samples = wave(4410)
    found = processor(AudioInput(rate_hz=16000), 1, "n").prepare(encoded(samples, 44100), "audio/wav")["sound"]
    assert found.shape == (1, 1600)
    np.testing.assert_allclose(found[0], resample_poly(samples[:, 0], 160, 441), atol=1e-6)


@pytest.mark.parametrize(("keep", "wanted"), [("start", [0, 1, 2]), ("centre", [3, 4, 5]), ("end", [7, 8, 9])])
def test_a_long_sound_is_cut_and_a_short_one_filled(keep: str, wanted: list[int]) -> None:
    audio = AudioInput(rate_hz=8000, keep=keep)  # type: ignore[arg-type]
    made = processor(audio, 1, 3)
    numbers = np.arange(10, dtype=np.float32)
    assert made.prepare(encoded(numbers, 8000), "audio/wav")["sound"].tolist() == [wanted]
    assert made.prepare(encoded(numbers[1:2], 8000), "audio/x-wav")["sound"].tolist() == [[1, 0, 0]]


def test_samples_come_in_the_scale_and_type_of_the_model() -> None:
    audio = AudioInput(rate_hz=8000, full_scale=32768.0)
    found = processor(audio, 1, 3, dtype="int16").prepare(
        encoded(np.array([5, -5, 32767], np.int16), 8000), "audio/wav"
    )
    assert (found["sound"].dtype, found["sound"].tolist()) == (np.int16, [[5, -5, 32767]])
    loud = processor(AudioInput(rate_hz=8000, peak=True), 1, 2).prepare(
        encoded(np.array([0.1, -0.2], "f4"), 8000), "audio/wav"
    )
    np.testing.assert_allclose(loud["sound"], [[0.5, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("n_coefficients", [0, 10])
def test_log_mel_and_mfcc_are_those_of_tensorflow(n_coefficients: int) -> None:
    tf = pytest.importorskip("tensorflow")
    samples = wave(4000)[:, 0]
    spectra = tf.abs(tf.signal.stft(samples, 480, 320, fft_length=512, window_fn=tf.signal.hann_window))
    bands = tf.signal.linear_to_mel_weight_matrix(40, 257, 16000, 20.0, 4000.0)
    wanted = tf.math.log(tf.tensordot(spectra, bands, 1) + 1e-6)
    if n_coefficients:
        wanted = tf.signal.mfccs_from_log_mel_spectrograms(wanted)[..., :n_coefficients]
    mel = LogMel(
        window=480, hop=320, fft=512, mels=40, low_hz=20, high_hz=4000, mel_scale="htk", triangles="mel", power=1,
        coefficients=n_coefficients,
    )  # fmt: skip
    found = log_mel(samples, 16000, mel)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted.numpy(), atol=2e-4)


@pytest.mark.parametrize(
    ("mel_scale", "triangles", "norm", "window", "log"),
    [
        ("slaney", "hertz", True, 400, "log10"),
        ("slaney", "hertz", False, 512, "natural"),
        ("htk", "hertz", False, 400, "decibel"),
    ],
)
def test_log_mel_is_that_of_librosa_s_conventions_in_hugging_face(
    mel_scale: str, triangles: str, norm: bool, window: int, log: str
) -> None:
    audio_utils = pytest.importorskip("transformers.audio_utils")
    samples = wave(8000)[:, 0]
    filters = audio_utils.mel_filter_bank(257, 64, 0.0, 8000.0, 16000, "slaney" if norm else None, mel_scale)
    wanted = audio_utils.spectrogram(
        samples,
        np.pad(audio_utils.window_function(window, "hann"), (512 - window) // 2),
        frame_length=512,
        hop_length=160,
        power=2.0,
        mel_filters=filters,
        mel_floor=1e-8,
        log_mel={"natural": "log", "decibel": "dB"}.get(log, log),
        min_value=1e-8,
    )
    mel = LogMel(
        window=window, hop=160, fft=512, mels=64, mel_scale=mel_scale, triangles=triangles, slaney_norm=norm,
        log=log, floor=1e-8, floor_by="clip", centred=True, layout="mel-time",
    )  # fmt: skip  # type: ignore[arg-type]
    np.testing.assert_allclose(mel_bands(mel, 16000), filters, atol=1e-7)
    found = log_mel(samples, 16000, mel)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-4 * {"decibel": 10}.get(log, 1))


def test_log_mel_takes_the_axes_that_the_model_has() -> None:
    mel = LogMel(window=480, hop=320, fft=512, mels=40)
    audio = AudioInput(rate_hz=16000, samples=16000, log_mel=mel)
    body = encoded(wave(16000))
    shapes = [(1, 49, 40), (1, 49, 40, 1), (1, 1, 49, 40), (1, 1960)]
    made = [processor(audio, *shape).prepare(body, "audio/wav")["sound"] for shape in shapes]
    assert [found.shape for found in made] == shapes
    assert all((found.ravel() == made[0].ravel()).all() for found in made)
    free = processor(AudioInput(rate_hz=16000, log_mel=mel), 1, "frames", 40)
    assert free.prepare(encoded(wave(1000)), "audio/wav")["sound"].shape == (1, 2, 40)


def test_a_sound_that_is_too_long_or_too_short_is_refused() -> None:
    made = processor(AudioInput(rate_hz=16000, max_seconds=0.1), 1, "n")
    with pytest.raises(TooLarge, match=r"longer than the 0.1 seconds"):
        made.prepare(encoded(wave(1700)), "audio/wav")
    with pytest.raises(BadRequest, match="no samples"):
        made.prepare(encoded(wave(0)), "audio/wav")
    mel = LogMel(window=480, hop=320, fft=512, mels=40)
    with pytest.raises(BadRequest, match="shorter than one frame"):
        processor(AudioInput(rate_hz=16000, log_mel=mel), 1, "n", 40).prepare(encoded(wave(479)), "audio/wav")


def test_a_long_file_is_not_read_beyond_what_is_allowed() -> None:
    assert len(read_wav(encoded(wave(16000)), 0.25).samples) == 4001


def test_a_rate_that_would_need_an_enormous_filter_is_refused() -> None:
    with pytest.raises(BadRequest, match="do not divide"):
        processor(AudioInput(rate_hz=191_999), 1, "n").prepare(encoded(wave(100), 767_999), "audio/wav")


WAV = encoded((wave(100) * 32767).astype(np.int16))


@pytest.mark.parametrize(
    "body",
    [b"", b"RIFF", WAV[:20], WAV[:36], b"OggS" + WAV[4:], WAV.replace(b"data", b"atad"),
     WAV[:20] + b"\x11\x00" + WAV[22:], WAV[:22] + b"\x00\x00" + WAV[24:], WAV[:24] + b"\0\0\0\0" + WAV[28:],
     encoded(np.full((10, 1), np.nan, np.float32)), encoded(np.full((10, 1), 1e30, np.float32))],
)  # fmt: skip
def test_what_is_no_wav_that_can_be_read_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="WAV"):
        processor(AudioInput(rate_hz=16000), 1, "n").prepare(body, "audio/wav")


def test_damaged_files_are_read_or_refused_and_nothing_else() -> None:
    made = processor(AudioInput(rate_hz=16000, max_seconds=1), 1, "n")
    rng = np.random.default_rng(3)
    for _ in range(1000):
        damaged = bytearray(WAV)
        for place in rng.integers(0, 60, 3):
            damaged[place] = rng.integers(0, 256)
        try:
            found = made.prepare(bytes(damaged[: rng.integers(1, len(WAV))]), "audio/wav")["sound"]
        except (BadRequest, TooLarge):
            continue
        assert np.isfinite(found).all() and found.shape[1] <= 16001
