"""Texts: made numbers of tokens by a tokenizer.json, by bytes or by a table of characters; cut and filled up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tightship.core import extras
from tightship.core.session import Arrays
from tightship.core.specs import TensorSpec
from tightship.errors import PackageError
from tightship.package.declaring import read_vocabulary
from tightship.package.processing import TextInput
from tightship.serve.failures import BadRequest, TooLarge

__all__ = ["MAX_TEXT_BYTES", "TextReader"]

MAX_TEXT_BYTES = 1 << 20

Encode = Callable[[str], Sequence[int]]


class TextReader:
    """Makes the inputs of a text: tokens, and where the model takes them, mask and types."""

    content_types = ("text/plain",)

    def __init__(self, text: TextInput, specs: Mapping[str, TensorSpec], vocabulary: bytes) -> None:
        self._text = text
        self._specs = specs
        self._encode = _encoder(text, vocabulary)
        length = specs[text.input].shape[-1] if text.tokens != "text" else None
        self._length = length if isinstance(length, int) else None

    def read(self, body: bytes, parameters: Mapping[str, str]) -> Arrays:
        """Return the inputs by their names, one row each."""
        if len(body) > MAX_TEXT_BYTES:
            raise TooLarge(f"the text has {len(body):,} bytes; {MAX_TEXT_BYTES:,} are allowed")
        if (charset := parameters.get("charset", "utf-8").lower()) not in ("utf-8", "utf8", "us-ascii"):
            raise BadRequest(f"the text is in {charset[:40]}; send it in UTF-8")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRequest(f"the body is not text in UTF-8: {error}") from error
        if self._text.tokens == "text":
            spec = self._specs[self._text.input]
            return {self._text.input: np.array([text], object).reshape((1,) * len(spec.shape))}
        return self._arrays(self._encode(text))

    def _arrays(self, ids: Sequence[int]) -> Arrays:
        text, limit = self._text, self._text.max_length
        kept = list(ids[:limit] if text.keep == "start" else ids[-limit:])
        n_filled = (self._length or max(1, len(kept))) - len(kept)
        left = n_filled if text.pad_side == "left" else 0
        rows = {
            text.input: [text.pad_id] * left + kept + [text.pad_id] * (n_filled - left),
            text.mask: [0] * left + [1] * len(kept) + [0] * (n_filled - left),
            text.types: [0] * (n_filled + len(kept)),
        }
        return {name: np.array([row], self._specs[name].dtype) for name, row in rows.items() if name}


def _encoder(text: TextInput, vocabulary: bytes) -> Encode:
    if text.tokens == "bytes":
        return lambda given: [byte + text.offset for byte in given.encode("utf-8")]
    if text.tokens == "characters":
        numbers = read_vocabulary(vocabulary, text.vocabulary)
        wrong = next((name for name, number in numbers.items() if not isinstance(number, int)), None)
        if wrong is not None:
            raise PackageError(f"{text.vocabulary}: {wrong[:40]!r} has no whole number")
        return lambda given: [numbers.get(character, text.unknown_id) for character in given]
    return _tokenizer(text, vocabulary) if text.tokens == "tokenizer" else (lambda given: [])


def _tokenizer(text: TextInput, data: bytes) -> Encode:
    """A tokenizer of Hugging Face; it cuts by itself, since it knows which tokens must stay at the ends."""
    tokenizers = extras.require("tokenizers", "reading texts")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
        tokenizer.no_padding()
        tokenizer.enable_truncation(text.max_length, direction="right" if text.keep == "start" else "left")
    except Exception as error:  # the library raises nothing narrower
        raise PackageError(f"{text.vocabulary} is no tokenizer.json that can be read: {str(error)[:200]}") from error

    def encode(given: str) -> Sequence[int]:
        try:
            ids: Sequence[int] = tokenizer.encode(given).ids
        except Exception as error:
            raise BadRequest(f"the tokenizer refuses the text: {str(error)[:200]}") from error
        return ids

    return encode
