"""Texts become tokens: by Hugging Face's tokenizers, by bytes, by characters; cut and filled as declared."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tightship.core.specs import TensorSpec
from tightship.errors import PackageError
from tightship.package.processing import Processing, TextInput
from tightship.serve.failures import BadRequest, TooLarge
from tightship.serve.processing import Processor, ready
from tightship.serve.processing.text import MAX_TEXT_BYTES

SCORES = (TensorSpec("scores", "float32", ("N", 2)),)
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def processor(
    text: TextInput,
    length: int | str = "T",
    names: tuple[str, ...] = NAMES[:1],
    file: bytes = b"",
    dtype: str = "int64",
) -> Processor:
    inputs = tuple(TensorSpec(name, dtype, ("N", length)) for name in names)
    return ready(Processing(text=text), inputs, SCORES, lambda name: file)


def tokens(made: Processor, text: str) -> list[int]:
    return list(made.prepare(text.encode(), "text/plain; charset=utf-8")["input_ids"][0])


def word_pieces() -> bytes:
    """A tokenizer as BERT's: lower case, pieces of words, a token at each end."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "film", "bad", "##ly", "a"]
    made = Tokenizer(models.WordPiece({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=20)  # a file may say so; what is declared counts
    return made.to_str().encode()


def test_a_tokenizer_gives_its_tokens_with_those_at_the_ends() -> None:
    made = processor(TextInput(vocabulary="t"), names=NAMES, file=word_pieces())
    found = made.prepare(b"A badly GOOD film?", "text/plain")
    assert found["input_ids"].tolist() == [[2, 8, 6, 7, 4, 5, 1, 3]]
    assert found["attention_mask"].tolist() == [[1] * 8]
    assert found["token_type_ids"].tolist() == [[0] * 8]


def test_a_model_of_fixed_length_gets_it_filled_or_cut_with_both_ends_kept() -> None:
    made = processor(TextInput(vocabulary="t"), 6, NAMES, word_pieces())
    found = made.prepare(b"good film", "text/plain")
    assert found["input_ids"].tolist() == [[2, 4, 5, 3, 0, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0]]
    assert tokens(made, "good film good film good film") == [2, 4, 5, 4, 5, 3]


def test_the_end_of_a_text_is_kept_and_filled_before_where_declared() -> None:
    text = TextInput(tokens="bytes", keep="end", pad_side="left", pad_id=256, offset=1)
    assert tokens(processor(text, 4), "abcdef") == [100, 101, 102, 103]
    assert tokens(processor(text, 4), "é") == [256, 256, 196, 170]


def test_characters_have_the_numbers_of_their_table() -> None:
    text = TextInput(tokens="characters", vocabulary="t", unknown_id=9)
    made = processor(text, file=json.dumps({"a": 1, "日": 2, "\n": 3, "<s>": 4}).encode(), dtype="float32")
    assert tokens(made, "a日\nz<") == [1, 2, 3, 9, 9]
    assert made.prepare(b"a", "text/plain")["input_ids"].dtype == np.float32


def test_a_model_of_strings_gets_the_text() -> None:
    inputs = (TensorSpec("line", "str", ("N", 1)),)
    made = ready(Processing(text=TextInput(tokens="text")), inputs, SCORES, lambda name: b"")
    found = made.prepare("né".encode(), "text/plain")["line"]
    assert (found.shape, found[0, 0]) == ((1, 1), "né")


def test_an_empty_text_is_one_token_of_filling() -> None:
    assert tokens(processor(TextInput(tokens="bytes", pad_id=7)), "") == [7]


@pytest.mark.parametrize(
    ("body", "kind", "match"),
    [(b"\xff", "text/plain", "not text in UTF-8"), (b"a", "text/plain; charset=latin-1", "send it in UTF-8")],
)
def test_a_body_that_is_not_utf_8_is_a_bad_request(body: bytes, kind: str, match: str) -> None:
    with pytest.raises(BadRequest, match=match):
        processor(TextInput(tokens="bytes")).prepare(body, kind)


def test_a_text_that_is_too_long_is_refused() -> None:
    with pytest.raises(TooLarge, match="bytes"):
        processor(TextInput(tokens="bytes")).prepare(b"a" * (MAX_TEXT_BYTES + 1), "text/plain")


@pytest.mark.parametrize("file", [b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}', word_pieces()[:200]])
def test_a_file_that_is_no_tokenizer_is_refused_when_it_is_loaded(file: bytes) -> None:
    with pytest.raises(PackageError, match="no tokenizer"):
        processor(TextInput(vocabulary="t"), file=file)


@pytest.mark.parametrize("file", [b"[1]", b'{"a": "b"}', b'{"a": 1.5}', b"{"])
def test_a_file_that_is_no_table_of_characters_is_refused(file: bytes) -> None:
    with pytest.raises(PackageError):
        processor(TextInput(tokens="characters", vocabulary="t"), file=file)
