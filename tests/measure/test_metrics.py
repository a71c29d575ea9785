"""Metrics, against scikit-learn and scipy, on data that comes in batches."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from scipy.spatial import distance
from scipy.special import log_softmax, softmax
from sklearn import metrics as sklearn_metrics

from tightship.errors import DatasetMismatch, UsageError
from tightship.measure.metrics import METRICS, metric_named
from tightship.measure.scores import WORST, Scores

Arrays = dict[str, np.ndarray]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def score(
    name: str, outputs: Arrays, labels: np.ndarray | None = None, reference: Arrays | None = None, size: int = 7
) -> Scores:
    """Score in batches of `size` items, as a run over a dataset does."""
    grader = metric_named(name).start(labels is not None)
    n_items = len(next(iter(outputs.values())))
    for start in range(0, n_items, size):
        part = slice(start, start + size)
        grader.add(
            {key: array[part] for key, array in outputs.items()},
            None if labels is None else labels[part],
            None if reference is None else {key: array[part] for key, array in reference.items()},
        )
    return grader.scores()


def whole(scores: Scores) -> float:
    function = metric_named(scores.metric).whole
    assert function is not None
    outputs = {name: column.array for name, column in scores.outputs.items()}
    return float(function(outputs, None if scores.labels is None else scores.labels.array))


def test_accuracy_counts_items_whose_largest_output_is_their_class() -> None:
    logits, labels = normal(40, 5), np.random.default_rng(1).integers(0, 5, 40)
    found = score("accuracy", {"logits": logits}, labels)
    assert found.kind == "right"
    assert found.values.mean() == sklearn_metrics.accuracy_score(labels, logits.argmax(axis=1))


@pytest.mark.parametrize("shape", [(30,), (30, 1)])
def test_labels_may_be_a_column(shape: tuple[int, ...]) -> None:
    logits = normal(30, 4)
    assert score("accuracy", {"y": logits}, logits.argmax(axis=1).reshape(shape)).values.all()


def test_labels_may_be_one_hot_or_floats_that_are_whole() -> None:
    logits = normal(30, 4)
    classes = logits.argmax(axis=1)
    for labels in (np.eye(4, dtype=np.float32)[classes], classes.astype(np.float32), classes.astype(np.uint8)):
        assert score("accuracy", {"y": logits}, labels).values.all()


def test_the_output_that_classifies_is_the_first_of_floats_with_classes() -> None:
    logits = normal(30, 4)
    outputs = {"mask": normal(30, 3, 3), "id": np.zeros((30, 4), np.int64), "value": normal(30), "logits": logits}
    assert score("accuracy", outputs, logits.argmax(axis=1)).values.all()


def test_axes_of_length_one_do_not_count() -> None:
    logits = normal(30, 4)
    assert score("accuracy", {"y": logits.reshape(30, 4, 1, 1)}, logits.argmax(axis=1)).values.all()


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_a_single_logit_is_class_1_above_zero(shape: tuple[int, ...]) -> None:
    logits = normal(50)
    assert score("accuracy", {"y": logits.reshape(shape)}, logits > 0).values.all()


def test_a_single_probability_is_class_1_above_one_half() -> None:
    values = np.random.default_rng(2).uniform(0, 1, 50).astype(np.float32)
    assert score("accuracy", {"y": values}, (values > 0.5).astype(np.int64)).values.all()


def test_whether_single_values_are_probabilities_is_told_from_all_batches() -> None:
    values = np.array([0.2, 0.3, 0.9, -3.0], dtype=np.float32)
    assert score("accuracy", {"y": values}, np.array([1, 1, 1, 0]), size=2).values.all()


def test_integers_are_classes_where_no_output_is_a_float() -> None:
    classes = np.array([3, 7, 7, 100])
    assert list(score("accuracy", {"label": classes}, np.array([3, 7, 8, 100])).values) == [1, 1, 0, 1]


def test_outputs_that_are_nan_are_wrong_and_counted() -> None:
    logits = normal(10, 3)
    labels = logits.argmax(axis=1)
    logits[4, 0] = np.nan
    found = score("accuracy", {"y": logits}, labels)
    assert found.n_not_finite == 1 and found.values.sum() == 9 and found.values[4] == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 4, 2]), r"output 'y': expected class numbers from 0 to 3, found 4"),
        (np.array([0, -1, 3, 2]), r"expected class numbers from 0 to 3, found -1"),
        (np.array([0.0, 0.5, 3, 2]), r"expected class numbers from 0 to 3, found 0.5"),
        (np.zeros((4, 3), np.int64), r"class numbers \[items\] or one-hot \[items, 4\], found int64 \[items, 3\]"),
        (np.array(["a", "b", "c", "d"]), r"class numbers \[items\] or one-hot \[items, 4\], found <U1 \[items\]"),
    ],
)
def test_labels_that_do_not_fit_say_what_was_expected_and_found(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DatasetMismatch, match=message):
        score("accuracy", {"y": normal(4, 4)}, labels)


def test_a_model_without_an_output_that_classifies_is_told_so() -> None:
    with pytest.raises(DatasetMismatch, match=r"shape \[items, classes\], found 'mask' float32\[items, 3, 3\]"):
        score("accuracy", {"mask": normal(4, 3, 3)}, np.zeros(4, np.int64))


@pytest.mark.parametrize("n_classes", [2, 6])
def test_macro_f1_is_that_of_scikit_learn_over_the_classes_of_the_labels(n_classes: int) -> None:
    rng = np.random.default_rng(3)
    logits, labels = normal(200, n_classes), rng.integers(0, max(n_classes - 1, 2), 200)
    found = score("f1", {"y": logits}, labels)
    assert found.kind == "whole"
    expected = sklearn_metrics.f1_score(labels, logits.argmax(axis=1), labels=np.unique(labels), average="macro")
    assert whole(found) == pytest.approx(expected, rel=1e-12)


def test_mse_with_labels_is_the_r2_of_scikit_learn() -> None:
    labels = normal(50, 3) * np.float32([1, 10, 100]) + np.float32([0, 1000, 0])
    found = labels + normal(50, 3, seed=4)
    wide = labels.astype(np.float64), found.astype(np.float64)
    expected = sklearn_metrics.r2_score(*wide, multioutput="variance_weighted")
    scores = score("mse", {"y": found}, labels)
    assert scores.values.mean() == pytest.approx(expected, rel=1e-9) and not scores.fidelity


def test_mse_takes_labels_of_another_rank_than_the_output() -> None:
    labels = normal(30)
    scores = score("mse", {"y": (labels + 0.1).reshape(30, 1)}, labels)
    expected = sklearn_metrics.r2_score(labels, labels + 0.1)
    assert scores.values.mean() == pytest.approx(expected, rel=1e-5)


def test_mse_without_labels_is_noise_over_the_variance_of_the_source() -> None:
    source, candidate = normal(60, 4), normal(60, 4) + normal(60, 4, seed=5) * np.float32(0.1)
    scores = score("mse", {"y": candidate}, reference={"y": source})
    noise = np.mean((source - candidate).astype(np.float64) ** 2) / np.mean(source.astype(np.float64).var(axis=0))
    assert scores.fidelity and scores.values.mean() == pytest.approx(1 - noise, rel=1e-6)


def test_mse_of_several_outputs_is_that_of_the_worst_whatever_their_scale() -> None:
    source = {"large": normal(40, 4) * 1000, "small": normal(40, 4, seed=6)}
    candidate = {"large": source["large"] + np.float32(0.1), "small": source["small"] + np.float32(0.5)}
    alone = score("mse", {"small": candidate["small"]}, reference={"small": source["small"]})
    assert score("mse", candidate, reference=source).values == pytest.approx(alone.values, rel=1e-6)


def test_mse_refuses_labels_that_are_no_numbers_and_outputs_that_do_not_match() -> None:
    with pytest.raises(DatasetMismatch, match="expected finite numbers"):
        score("mse", {"y": normal(3)}, np.array([1.0, np.nan, 2.0]))
    with pytest.raises(DatasetMismatch, match=r"labels \[items, 2\]: expected a float output with 2 elements per item"):
        score("mse", {"y": normal(3, 5)}, normal(3, 2))


def test_cosine_is_that_of_scipy_item_by_item() -> None:
    source, candidate = normal(20, 3, 4), normal(20, 3, 4, seed=7)
    scores = score("cosine", {"y": candidate}, reference={"y": source})
    expected = [1 - distance.cosine(a.ravel(), b.ravel()) for a, b in zip(source, candidate, strict=True)]
    assert scores.values == pytest.approx(expected, abs=1e-6)  # scipy computes in float32 here


def test_cosine_of_several_outputs_is_that_of_the_worst() -> None:
    source = {"a": normal(10, 8), "b": normal(10, 8, seed=8), "n": np.arange(10)}
    candidate = source | {"b": -source["b"], "n": np.zeros(10, np.int64)}
    assert score("cosine", candidate, reference=source).values == pytest.approx(-np.ones(10))


@pytest.mark.parametrize("name", ["mse", "cosine", "kl"])
def test_the_source_is_perfectly_faithful_to_itself(name: str) -> None:
    source = {"y": normal(12, 5)}
    scores = score(name, source, reference=source)
    assert scores.values == pytest.approx(np.full(12, 0.0 if name == "kl" else 1.0), abs=1e-12)
    assert scores.fidelity and scores.n_not_finite == 0


@pytest.mark.parametrize(("name", "worst"), [("mse", WORST), ("cosine", -1.0), ("kl", WORST)])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_outputs_that_are_not_finite_have_the_worst_score_and_are_counted(name: str, worst: float, odd: float) -> None:
    source = {"y": normal(12, 5)}
    broken = source["y"].copy()
    broken[3, 2] = odd
    scores = score(name, {"y": broken}, reference=source)
    assert scores.n_not_finite == 1 and scores.values[3] == worst and scores.values[4] > -1e-6


@pytest.mark.parametrize(("name", "worst"), [("mse", WORST), ("cosine", -1.0), ("kl", WORST)])
def test_outputs_of_another_shape_have_the_worst_score(name: str, worst: float) -> None:
    scores = score(name, {"y": normal(6, 4)}, reference={"y": normal(6, 5)})
    assert (scores.values == worst).all() and scores.n_not_finite == 6


@pytest.mark.parametrize("name", ["mse", "cosine", "kl"])
def test_a_mask_of_minus_infinity_in_both_models_is_no_difference(name: str) -> None:
    source, candidate = normal(12, 5), normal(12, 5) + np.float32(0.01)
    source[:, 2] = candidate[:, 2] = -np.inf
    scores = score(name, {"y": candidate}, reference={"y": source})
    assert scores.n_not_finite == 0 and (scores.values > -0.01).all()


@pytest.mark.parametrize("shape", [(16, 6), (16, 3, 6)])
def test_kl_of_logits_is_that_of_their_softmax(shape: tuple[int, ...]) -> None:
    source, candidate = normal(*shape).astype(np.float64), normal(*shape, seed=9).astype(np.float64)
    p, log_q = softmax(source, axis=-1), log_softmax(candidate, axis=-1)
    expected = (p * (log_softmax(source, axis=-1) - log_q)).sum(axis=-1).reshape(16, -1).mean(axis=1)
    scores = score("kl", {"y": candidate}, reference={"y": source})
    assert -scores.values == pytest.approx(expected, rel=1e-9)


def test_kl_takes_probabilities_as_they_are() -> None:
    source, candidate = softmax(normal(16, 6), axis=1), softmax(normal(16, 6, seed=10), axis=1)
    expected = (source * np.log(source / candidate)).sum(axis=1)
    scores = score("kl", {"y": candidate}, reference={"y": source})
    assert -scores.values == pytest.approx(expected, rel=1e-4)  # float32 probabilities


def test_a_probability_rounded_to_zero_costs_much_but_not_everything() -> None:
    source, candidate = np.full((4, 2), 0.5), np.array([[1.0, 0.0]] * 4)
    assert -score("kl", {"y": candidate}, reference={"y": source}).values == pytest.approx(np.full(4, 7.4), abs=0.1)


def write_metric(folder: Path, name: str, body: str) -> str:
    (folder / f"{name}.py").write_text(f"import numpy as np\n\ndef score(outputs, labels):\n    {body}\n")
    return f"{name}:score"


def test_a_metric_of_the_users_is_found_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_metric(tmp_path, "mine_per_item", "return -np.abs(outputs['y'][:, 0] - labels)")
    labels = normal(10)
    scores = score(name, {"y": normal(10, 2, seed=11)}, labels)
    assert scores.kind == "real"
    assert scores.values == pytest.approx(-np.abs(normal(10, 2, seed=11)[:, 0] - labels))


def test_a_metric_of_the_users_may_give_one_number_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_metric(tmp_path, "mine_whole", "return float(np.corrcoef(outputs['y'], labels)[0, 1])")
    labels, outputs = normal(30), normal(30, seed=12)
    scores = score(name, {"y": outputs}, labels)
    assert scores.kind == "whole" and scores.n_items == 30
    assert whole(scores) == pytest.approx(np.corrcoef(outputs, labels)[0, 1])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return np.zeros((2, 2))", r"expected one score per item \[7\] or one number for all, .* shape \[2, 2\]"),
        ("return 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("return 'good'", "failed: ValueError"),
    ],
)
def test_a_metric_of_the_users_that_fails_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    name = write_metric(tmp_path, f"mine_{abs(hash(body))}", body)
    with pytest.raises(UsageError, match=message):
        score(name, {"y": normal(7, 2)}, normal(7))


def test_an_unknown_metric_gets_the_nearest_known_one() -> None:
    with pytest.raises(UsageError, match="unknown metric 'acuracy' \\(did you mean 'accuracy'\\?\\)"):
        metric_named("acuracy")


@pytest.mark.parametrize("name", list(METRICS))
def test_scores_go_to_json_and_back_unchanged(name: str) -> None:
    source, candidate = {"y": normal(9, 3)}, {"y": normal(9, 3, seed=13)}
    labels = np.arange(9) % 3 if METRICS[name].needs == "labels" else None
    scores = score(name, candidate, labels, source)
    back = msgspec.json.decode(msgspec.json.encode(scores), type=Scores)
    assert back == scores and np.array_equal(back.values, scores.values)


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_says_what_it_needs_and_in_what_unit_it_drops(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name and metric.unit
    assert metric.uses_source(labelled=False) == (metric.needs in ("source", "either"))
    assert metric.uses_source(labelled=True) == (metric.needs == "source")
