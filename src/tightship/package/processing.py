"""What a package says about pictures, texts and sounds: how one becomes its inputs, and what its outputs mean.

Part of the manifest, so it is signed and sealed with the model; `serve` does what it says. Frameworks are not named:
everything is numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

__all__ = [
    "MAX_FILE_BYTES",
    "AudioInput",
    "Colour",
    "ImageInput",
    "Layout",
    "LogMel",
    "OutputMeaning",
    "Processing",
    "TextInput",
]

MAX_FILE_BYTES = 64 << 20
"""Of a file of labels, a tokenizer or a vocabulary."""

MAX_SIDE = 8192
MAX_SAMPLES = 1 << 24
MAX_TOKENS = 1 << 17
MAX_NUMBERS = 1 << 26
"""A sound as the model gets it; 256 MiB."""

Colour = Literal["RGB", "BGR", "L"]
Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """A picture becomes `(low + pixel / 255 * (high - low) - mean) / std`, where `range` is (low, high).

    `size` is (height, width). `fit` says how a picture of another shape gets there: `crop` scales its shorter side to
    `shorter_side` (that of `size` where 0) and takes the middle, `stretch` scales both, `pad` scales the longer side
    and fills the rest with black. `L` is grey. `mean` and `std` have one number per channel, or are empty. Where the
    model takes whole numbers the values are rounded and held within its type.
    """

    range: tuple[float, float]
    input: str = ""
    size: tuple[int, int] | None = None
    fit: Literal["crop", "stretch", "pad"] = "crop"
    shorter_side: int = 0
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] = "bilinear"
    colour: Colour | None = None
    layout: Layout | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _expect(self.range[0] < self.range[1], "image: range is (low, high), low less than high")
        _expect(self.size is None or all(1 <= side <= MAX_SIDE for side in self.size), f"image: size: 1 to {MAX_SIDE}")
        _expect(0 <= self.shorter_side <= MAX_SIDE, f"image: shorter_side is within 0 to {MAX_SIDE}")
        smallest = min(self.size) if self.size else 0
        _expect(not self.shorter_side or self.shorter_side >= smallest, "image: shorter_side is not less than size")
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            _expect(len(numbers) in (0, 1, 3), f"image: {name} has one number per channel")
        _expect(all(value > 0 for value in self.std), "image: std is above 0")
        _finite("image", (*self.range, *self.mean, *self.std))

    @property
    def n_channels(self) -> int:
        return 1 if self.colour == "L" else 3


@dataclass(frozen=True, kw_only=True)
class TextInput:
    """A text becomes numbers of tokens, one row of them.

    `tokens` says by what: a `tokenizer` (the file `vocabulary` is a tokenizer.json of Hugging Face), the UTF-8 `bytes`
    plus `offset`, `characters` (the file is a JSON object, character to number), or the `text` itself, where the model
    takes strings. `input` gets the numbers, `mask` ones where there is a token, `types` zeros. At most `max_length`
    tokens are kept, those at the `keep` of the text; a model of fixed length is filled with `pad_id` at `pad_side`.
    """

    input: str = ""
    mask: str = ""
    types: str = ""
    tokens: Literal["tokenizer", "bytes", "characters", "text"] = "tokenizer"
    vocabulary: str = ""
    max_length: int = 512
    keep: Literal["start", "end"] = "start"
    pad_id: int = 0
    pad_side: Literal["left", "right"] = "right"
    unknown_id: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        _expect(1 <= self.max_length <= MAX_TOKENS, f"text: max_length is within 1 to {MAX_TOKENS}")


@dataclass(frozen=True, kw_only=True)
class LogMel:
    """A waveform becomes the logarithm of its energy in `mels` bands, frame by frame; or its cepstrum (MFCC) of that.

    Frames of `window` samples every `hop` samples, under a periodic Hann window, transformed with `fft` points; with
    `centred` the first lies about the first sample, its outside mirrored. Bands are triangles from `low_hz` to
    `high_hz`, equally far apart on a scale: `slaney` (librosa's default) or `htk`; straight in `hertz`, or in `mel`
    as Kaldi and TensorFlow have them. `slaney_norm` divides each by its width. `power` is 2 for energies, 1 for
    magnitudes; `floor` is added before the logarithm with `floor_by = "add"`, else what is below becomes it.
    `coefficients` above 0 takes that many of the cosine transform. `mean` and `std` are of what comes out.
    """

    window: int
    hop: int
    fft: int
    mels: int
    low_hz: float = 0.0
    high_hz: float = 0.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    triangles: Literal["hertz", "mel"] = "hertz"
    slaney_norm: bool = False
    power: Literal[1, 2] = 2
    log: Literal["natural", "log10", "decibel"] = "natural"
    floor: float = 1e-6
    floor_by: Literal["add", "clip"] = "add"
    centred: bool = False
    coefficients: int = 0
    layout: Literal["time-mel", "mel-time"] = "time-mel"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _expect(1 <= self.window <= self.fft <= 1 << 16, "log_mel: window is at least 1, at most fft, at most 65536")
        _expect(1 <= self.hop <= self.fft, "log_mel: hop is within 1 to fft")
        _expect(1 <= self.mels <= 1024, "log_mel: mels is within 1 to 1024")
        _expect(0 <= self.coefficients <= self.mels, "log_mel: coefficients is at most mels")
        _expect(self.floor > 0 and self.std > 0, "log_mel: floor and std are above 0")
        _expect(self.low_hz >= 0 and self.high_hz >= 0, "log_mel: low_hz and high_hz are not below 0")
        _expect(not self.high_hz or self.low_hz < self.high_hz, "log_mel: low_hz is below high_hz")
        _finite("log_mel", (self.low_hz, self.high_hz, self.floor, self.mean, self.std))


@dataclass(frozen=True, kw_only=True)
class AudioInput:
    """A sound becomes one row of samples at `rate_hz`, channels averaged, within -1 to 1 times `full_scale`.

    With `samples` it is cut to that many, those at `keep`, or filled with silence behind; without, it may be as long
    as `max_seconds`. `peak` divides by the largest sample. With `log_mel` the model gets that instead of samples.
    """

    rate_hz: int
    input: str = ""
    samples: int = 0
    max_seconds: float = 60.0
    keep: Literal["start", "centre", "end"] = "start"
    peak: bool = False
    full_scale: float = 1.0
    log_mel: LogMel | None = None

    def __post_init__(self) -> None:
        _expect(1000 <= self.rate_hz <= 192_000, "audio: rate_hz is within 1000 to 192000")
        _expect(0 <= self.samples <= MAX_SAMPLES, f"audio: samples is within 0 to {MAX_SAMPLES}")
        _expect(0 < self.max_seconds <= 3600, "audio: max_seconds is within 0 to 3600")
        _expect(self.full_scale > 0, "audio: full_scale is above 0")
        _finite("audio", (self.max_seconds, self.full_scale))
        mel = self.log_mel
        _expect(mel is None or mel.high_hz <= self.rate_hz / 2, "log_mel: high_hz is at most half of rate_hz")
        _expect(mel is None or mel.low_hz < self.rate_hz / 2, "log_mel: low_hz is below half of rate_hz")
        longest = self.samples or self.max_seconds * self.rate_hz
        numbers = longest / mel.hop * mel.mels if mel else longest
        _expect(numbers <= MAX_NUMBERS, f"audio: {numbers:.3g} numbers of one sound; {MAX_NUMBERS:,} are allowed")


@dataclass(frozen=True, kw_only=True)
class OutputMeaning:
    """What an output says: the score of each of some `classes`, or plain `numbers` that may have names.

    The file `labels` has one name per line. Scores are `(value - zero_point) * scale`, then `softmax` (of which one is
    true), `sigmoid` (each for itself) or `none`; one score with two labels is that of the second. The `top` are told.
    """

    output: str = ""
    kind: Literal["classes", "numbers"] = "classes"
    labels: str = ""
    activation: Literal["none", "softmax", "sigmoid"] = "none"
    top: int = 5
    scale: float = 1.0
    zero_point: float = 0.0

    def __post_init__(self) -> None:
        _expect(1 <= self.top <= 1000, "outputs: top is within 1 to 1000")
        _finite("outputs", (self.scale, self.zero_point))


@dataclass(frozen=True, kw_only=True)
class Processing:
    """What is declared: one kind of input at most, and what one output means. A name that is empty is the only one.

    In the manifest nothing is left open: names, sizes and files of the package are filled in.
    """

    image: ImageInput | None = None
    text: TextInput | None = None
    audio: AudioInput | None = None
    outputs: OutputMeaning | None = None

    def __post_init__(self) -> None:
        declared = [name for name in ("image", "text", "audio") if getattr(self, name) is not None]
        _expect(len(declared) <= 1, f"processing: one of image, text and audio, found {' and '.join(declared)}")

    @property
    def files(self) -> tuple[str, ...]:
        """The files that are needed, by their names in the package."""
        named = (self.text.vocabulary if self.text else "", self.outputs.labels if self.outputs else "")
        return tuple(name for name in named if name)

    def told(self) -> tuple[str, ...]:
        """A line for each part, with what is not as usual."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return tuple(f"{name}: {', '.join(_unusual(part))}" for name, part in parts.items() if part is not None)

    def __str__(self) -> str:
        told = [name for name in ("image", "text", "audio") if getattr(self, name) is not None] or ["tensors"]
        if self.outputs is not None:
            told.append(self.outputs.kind)
        return " to ".join(told)


def _unusual(part: ImageInput | TextInput | AudioInput | OutputMeaning) -> Iterator[str]:
    for field in fields(part):
        value = getattr(part, field.name)
        if value != field.default:
            yield f"{field.name} {value}"


def _expect(holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(rule)


def _finite(what: str, numbers: Sequence[float]) -> None:
    _expect(all(map(math.isfinite, numbers)), f"{what}: numbers are finite")
