"""Pictures, sounds and declarations of processing, as a stranger may send them to a server."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np

from tightship.core.specs import TensorSpec
from tightship.package.declaring import ProcessingFiles
from tightship.package.processing import AudioInput, ImageInput, LogMel, Processing
from tightship.serve.processing import Processor, ready

__all__ = ["declaration_seeds", "picture_seeds", "read_declaration", "read_picture", "read_sound", "sound_seeds"]

SCORES = (TensorSpec("scores", "float32", ("N", 10)),)


@cache
def _processor(kind: str) -> Processor:
    if kind == "picture":
        declared, shape = Processing(image=ImageInput(range=(0.0, 1.0))), (1, 3, 32, 32)
    else:
        mel = LogMel(window=400, hop=160, fft=512, mels=40)
        declared, shape = Processing(audio=AudioInput(rate_hz=16000, samples=16000, log_mel=mel)), (1, 98, 40)
    return ready(declared, (TensorSpec("x", "float32", shape),), SCORES, {}.__getitem__)


def picture_seeds(folder: Path) -> list[bytes]:
    """One picture in every format that is read."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3)).astype(np.uint8)
    made = []
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        made.append(file.getvalue())
    return made


def read_picture(path: Path) -> None:
    """Make an input of it."""
    found = _processor("picture").prepare(path.read_bytes(), "image/*")["x"]
    assert found.shape == (1, 3, 32, 32)


def sound_seeds(folder: Path) -> list[bytes]:
    """Short sounds of several types, rates and numbers of channels."""
    from scipy.io import wavfile

    wave = np.sin(np.arange(2000) / 9)
    made = []
    for samples, rate in ((wave * 9000).astype("i2"), 16000), (np.stack([wave, wave], 1).astype("f4"), 44100):
        file = io.BytesIO()
        wavfile.write(file, rate, samples)
        made.append(file.getvalue())
    return made


def read_sound(path: Path) -> None:
    """Make an input of it."""
    found = _processor("sound").prepare(path.read_bytes(), "audio/wav")["x"]
    assert found.shape == (1, 98, 40) and np.isfinite(found).all()


def declaration_seeds(folder: Path) -> list[bytes]:
    """One declaration of each kind."""
    return [
        b"[image]\nrange = [0, 1]\nsize = [8, 9]\nmean = [0.5]\nstd = [0.25]\n[outputs]\ntop = 3\n",
        b"[text]\ntokens = 'bytes'\nmax_length = 12\nkeep = 'end'\n[outputs]\nkind = 'numbers'\n",
        b"[audio]\nrate_hz = 8000\nsamples = 800\n[audio.log_mel]\nwindow = 200\nhop = 80\nfft = 256\nmels = 8\n",
    ]


def read_declaration(path: Path) -> None:
    """Read it, for a model that takes such a thing."""
    declared, _ = ProcessingFiles(path).load((), ())
    assert declared is not None
    shape = ("N", 3, 8, 9) if declared.image else ("N", 12) if declared.text else (1, 8, 8)
    ProcessingFiles(path).load((TensorSpec("x", "float32", shape),), SCORES)
