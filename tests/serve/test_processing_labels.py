"""Outputs are told as classes with scores, or as numbers, in values that JSON has."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from scipy.special import expit, softmax

from tightship.core.specs import TensorSpec
from tightship.errors import PackageError
from tightship.package.processing import OutputMeaning, Processing
from tightship.serve.failures import ModelFailed
from tightship.serve.processing import Processor, ready

INPUTS = (TensorSpec("x", "float32", ("N", 3)),)
VALUES = np.array([[0.5, -1.0, 3.0, 2.0]], np.float32)


def processor(meaning: OutputMeaning | None, labels: str = "", n: int | str = 4) -> Processor:
    outputs = (TensorSpec("y", "float32", ("N", n)),)
    return ready(Processing(outputs=meaning), INPUTS, outputs, {"labels": labels.encode()}.__getitem__)


def test_classes_come_with_their_names_best_first() -> None:
    found = processor(OutputMeaning(labels="labels", top=2), "ant\nbee\ncat\ndog\n").interpret({"y": VALUES})
    assert found == {
        "classes": [{"label": "cat", "index": 2, "score": 3.0}, {"label": "dog", "index": 3, "score": 2.0}]
    }


@pytest.mark.parametrize(
    ("activation", "wanted"),
    [("softmax", softmax(VALUES[0].astype(float))), ("sigmoid", expit(VALUES[0].astype(float)))],
)
def test_scores_are_activated_as_scipy_does(activation: str, wanted: np.ndarray) -> None:
    found = processor(OutputMeaning(activation=activation)).interpret({"y": VALUES})  # type: ignore[arg-type]
    scores = {entry["index"]: entry["score"] for entry in found["classes"]}
    np.testing.assert_allclose([scores[index] for index in range(4)], wanted, rtol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_huge_scores_do_not_overflow(activation: str) -> None:
    huge = np.array([[-1e30, 0.0, 1e30, 1.0]], np.float32)
    found = processor(OutputMeaning(activation=activation)).interpret({"y": huge})  # type: ignore[arg-type]
    assert found["classes"][0] == {"label": "2", "index": 2, "score": 1.0}


def test_quantized_scores_are_what_they_stand_for() -> None:
    meaning = OutputMeaning(scale=1 / 256, zero_point=-128)
    found = processor(meaning).interpret({"y": np.array([[-128, 127, 0, -127]], np.int8)})
    assert found["classes"][0] == {"label": "1", "index": 1, "score": 255 / 256}


def test_one_score_with_two_labels_is_that_of_the_second() -> None:
    found = processor(OutputMeaning(labels="labels", activation="sigmoid"), "bad\ngood", 1)
    assert found.interpret({"y": np.zeros((1, 1), np.float32)})["classes"][0]["score"] == 0.5
    assert found.interpret({"y": np.full((1, 1), 9, np.float32)})["classes"][0]["label"] == "good"


def test_numbers_have_their_names() -> None:
    meaning = OutputMeaning(kind="numbers", labels="labels")
    found = processor(meaning, "a\nb\nc\nd").interpret({"y": VALUES})
    assert found == {"numbers": {"a": 0.5, "b": -1.0, "c": 3.0, "d": 2.0}}


def test_without_a_declaration_all_outputs_are_numbers() -> None:
    found = processor(None).interpret({"y": VALUES, "text": np.array([b"caf\xc3\xa9"], object)})
    assert found == {"numbers": {"y": VALUES.tolist(), "text": ["café"]}}


def test_what_is_no_number_is_null_and_the_answer_is_json() -> None:
    values = np.array([[np.nan, np.inf, 1.0, -np.inf]], np.float32)
    for meaning in (None, OutputMeaning(), OutputMeaning(activation="softmax"), OutputMeaning(kind="numbers")):
        with np.errstate(invalid="ignore"):
            found = processor(meaning).interpret({"y": values})
        assert json.loads(msgspec.json.encode(found)) == json.loads(json.dumps(found, allow_nan=False))


def test_a_number_of_scores_that_differs_from_the_labels_is_the_model_s_failure() -> None:
    found = processor(OutputMeaning(labels="labels"), "a\nb", "classes")
    with pytest.raises(ModelFailed, match="4 scores; its package has 2 labels"):
        found.interpret({"y": VALUES})


def test_a_package_whose_labels_do_not_fit_is_refused_when_it_is_loaded() -> None:
    with pytest.raises(PackageError, match="3 labels for the 4 values"):
        processor(OutputMeaning(labels="labels"), "a\nb\nc")
