"""What is declared about processing, fitted to the tensors of a model: names and sizes filled in, conflicts told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tightship.core.specs import Dim, TensorSpec
from tightship.errors import nearest
from tightship.package.processing import AudioInput, Colour, ImageInput, Layout, OutputMeaning, Processing, TextInput

__all__ = ["fit", "n_frames"]

IDS, MASK, TYPES = ("input_ids", "ids", "tokens"), "attention_mask", "token_type_ids"


def fit(
    processing: Processing,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    n_labels: int | None = None,
) -> Processing:
    """Fill in what the model says, and raise `ValueError` where it says otherwise.

    A model whose tensors are not known (there are none) is taken as it is declared. `n_labels` is how many there are.
    """
    if not inputs or not outputs:
        return processing
    meaning = processing.outputs
    return Processing(
        image=_image(processing.image, _only(inputs, processing.image.input, "input")) if processing.image else None,
        text=_text(processing.text, inputs) if processing.text else None,
        audio=_audio(processing.audio, _only(inputs, processing.audio.input, "input")) if processing.audio else None,
        outputs=_meaning(meaning, outputs, n_labels) if meaning else None,
    )


def n_frames(audio: AudioInput, n_samples: int) -> int:
    """How many frames the log-mel of so many samples has."""
    mel = audio.log_mel
    assert mel is not None
    frame, length = (mel.fft, n_samples + 2 * (mel.fft // 2)) if mel.centred else (mel.window, n_samples)
    return max(0, 1 + (length - frame) // mel.hop)


def _only(specs: Sequence[TensorSpec], name: str, what: str) -> TensorSpec:
    """The tensor of this name, or the only one where it is empty; of a picture or sound there is but one."""
    known = [spec.name for spec in specs]
    if name and name not in known:
        raise ValueError(f"the model has no {what} {name!r}{nearest(name, known)}; it has {', '.join(known)}")
    if len(specs) > 1 and (what == "input" or not name):
        if what == "input":
            raise ValueError(f"the model has {len(specs)} inputs ({', '.join(known)}); a file fills only one")
        raise ValueError(f"which {what} is meant? The model has {', '.join(known)}; name one: {what} = {known[0]!r}")
    return specs[known.index(name)] if name else specs[0]


def _image(image: ImageInput, spec: TensorSpec) -> ImageInput:
    if spec.dtype not in ("float32", "float16", "float64", "uint8", "int8", "int32"):
        raise ValueError(f"image: the model's input {spec} is not of numbers that a picture has")
    _one_at_a_time("image", spec)
    layout, (channels, height, width) = _axes(image, spec)
    colour: Colour = image.colour or ("L" if channels == 1 else "RGB")
    if isinstance(channels, int) and channels != (1 if colour == "L" else 3):
        raise ValueError(f"image: {colour} does not fit the {channels} channels of the model's input {spec} ({layout})")
    size = image.size or (height, width)
    if not (isinstance(size[0], int) and isinstance(size[1], int)):
        raise ValueError(f"image: the model's input {spec} may have any size; say which: size = [height, width]")
    for side, wanted in zip(size, (height, width), strict=True):
        if isinstance(wanted, int) and side != wanted:
            raise ValueError(f"image: size {list(size)} does not fit the model's input {spec} ({layout})")
    fitted = replace(image, input=spec.name, size=(size[0], size[1]), colour=colour, layout=layout)
    if len(spec.shape) == 2 and isinstance(spec.shape[1], int):
        _equal("image", spec, fitted.n_channels * size[0] * size[1], spec.shape[1])
    wrong = [numbers for numbers in (image.mean, image.std) if len(numbers) not in (0, 1, fitted.n_channels)]
    if wrong:
        raise ValueError(f"image: {list(wrong[0])} is not one number per channel of {colour}")
    return fitted


def _axes(image: ImageInput, spec: TensorSpec) -> tuple[Layout, tuple[Dim, Dim, Dim]]:
    """The layout, and how long channels, rows and columns are."""
    shape = spec.shape
    if len(shape) == 2:
        return image.layout or "NCHW", ("channels", "height", "width")
    if len(shape) == 3:
        return image.layout or "NCHW", (1, shape[1], shape[2])
    if len(shape) != 4:
        raise ValueError(f"image: the model's input {spec} has {len(shape)} axes; expected 4 (NCHW or NHWC), 3 or 2")
    layout = image.layout
    if layout is None:
        first, last = shape[1] in (1, 3), shape[3] in (1, 3)
        if first == last:
            raise ValueError(f'image: which axis of {spec} are the channels? Say layout = "NCHW" or "NHWC"')
        layout = "NCHW" if first else "NHWC"
    return layout, (shape[1], shape[2], shape[3]) if layout == "NCHW" else (shape[3], shape[1], shape[2])


def _text(text: TextInput, inputs: Sequence[TensorSpec]) -> TextInput:
    known = {spec.name: spec for spec in inputs}
    name = text.input or next((name for name in IDS if name in known), inputs[0].name if len(inputs) == 1 else "")
    mask = text.mask or (MASK if MASK in known else "")
    types = text.types or (TYPES if TYPES in known else "")
    if not name:
        raise ValueError(f"text: which input are the tokens? Say input = one of {', '.join(known)}")
    for wanted in filter(None, (name, mask, types)):
        if wanted not in known:
            raise ValueError(f"text: the model has no input {wanted!r}{nearest(wanted, known)}; it has {list(known)}")
    rest = sorted(set(known) - {name, mask, types})
    if rest:
        raise ValueError(f"text: nothing fills the input {known[rest[0]]}; a text gives tokens, mask and types")
    spec = known[name]
    if (spec.dtype == "str") != (text.tokens == "text"):
        raise ValueError(f"text: tokens = {text.tokens!r} does not fit the model's input {spec}")
    if text.tokens in ("tokenizer", "characters") and not text.vocabulary:
        raise ValueError(f'text: tokens = "{text.tokens}" needs a file: vocabulary = "tokenizer.json", or --tokenizer')
    ranks = (1, 2) if text.tokens == "text" else (2,)
    if len(spec.shape) not in ranks:
        raise ValueError(f"text: the model's input {spec} has {len(spec.shape)} axes; expected 2: [batch, tokens]")
    _one_at_a_time("text", spec)
    length = spec.shape[-1] if text.tokens != "text" else "?"
    longest = min(text.max_length, length) if isinstance(length, int) else text.max_length
    return replace(text, input=name, mask=mask, types=types, max_length=longest)


def _audio(audio: AudioInput, spec: TensorSpec) -> AudioInput:
    free = [dim for dim in spec.shape[1:] if not isinstance(dim, int)]
    if len(spec.shape) > 1:
        _one_at_a_time("audio", spec)
    if audio.log_mel is None:
        length = math.prod(dim for dim in spec.shape if isinstance(dim, int))
        if not free and len(spec.shape) > 0 and isinstance(spec.shape[-1], int):
            _equal("audio", spec, audio.samples or length, length)
            return replace(audio, input=spec.name, samples=length)
        return replace(audio, input=spec.name)
    if free or not audio.samples:
        if not free:
            raise ValueError(f"audio: the model's input {spec} is of one length; say how many samples: samples = ...")
        return replace(audio, input=spec.name)
    width = audio.log_mel.coefficients or audio.log_mel.mels
    found = n_frames(audio, audio.samples) * width
    length = math.prod(dim for dim in spec.shape[1:] if isinstance(dim, int))
    if found != length:
        frames = n_frames(audio, audio.samples)
        raise ValueError(f"log_mel: {frames} frames of {width} do not fill the model's input {spec}")
    return replace(audio, input=spec.name)


def _meaning(meaning: OutputMeaning, outputs: Sequence[TensorSpec], n_labels: int | None) -> OutputMeaning:
    spec = _only(outputs, meaning.output, "output")
    dims = [dim for dim in spec.shape if isinstance(dim, int)]
    if spec.dtype == "str":
        raise ValueError(f"outputs: {spec} is text, which has no scores")
    if meaning.kind == "classes" and math.prod(dims) != max(dims, default=1):
        raise ValueError(f"outputs: {spec} is not one score per class; expected [batch, classes]")
    static = len(dims) >= len(spec.shape) - 1 and isinstance(spec.shape[-1] if spec.shape else 1, int)
    n_values = math.prod(dims)
    if n_labels is not None and static and n_labels != n_values and (n_labels, n_values) != (2, 1):
        raise ValueError(f"outputs: {n_labels} labels for the {n_values} values of {spec}; give one per value")
    return replace(meaning, output=spec.name)


def _one_at_a_time(what: str, spec: TensorSpec) -> None:
    if spec.shape and isinstance(spec.shape[0], int) and spec.shape[0] != 1:
        raise ValueError(f"{what}: the model's input {spec} takes {spec.shape[0]} at a time; expected 1, or any number")


def _equal(what: str, spec: TensorSpec, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{what}: {found} values do not fill the model's input {spec}")
