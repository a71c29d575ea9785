"""Quality of sessions on datasets, and the verdict on a drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import pytest

from tests import nets
from tightship.core import graph
from tightship.core.dataset import Batch, Dataset
from tightship.core.specs import TensorSpec
from tightship.core.target import Target
from tightship.engines import open_session
from tightship.errors import DatasetError, DatasetMismatch, UsageError
from tightship.measure import quality
from tightship.measure.metrics import METRICS, metric_named
from tightship.measure.scores import Column, Kind, Scores

Arrays = dict[str, np.ndarray]


class Answers:
    """A session that a function of its input `x` [batch, 4] stands for; remembers how many items each run had."""

    def __init__(self, function: Callable[[np.ndarray], Arrays], batch: int | str = "n") -> None:
        self.target = Target()
        self.inputs = (TensorSpec("x", "float32", (batch, 4)),)
        self.outputs: tuple[TensorSpec, ...] = ()
        self.lengths: list[int] = []
        self._function = function

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        self.lengths.append(len(inputs["x"]))
        return self._function(inputs["x"])

    def close(self) -> None:
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def itself(x: np.ndarray) -> Arrays:
    return {"y": x}


def data(n_items: int = 20, labelled: bool = True) -> Dataset:
    x = np.random.default_rng(0).standard_normal((n_items, 4)).astype(np.float32)
    return Dataset.from_arrays("test", "0", {"x": x}, x.argmax(axis=1) if labelled else None)


def items(values: np.ndarray, metric: str = "accuracy", kind: Kind = "right", fidelity: bool = False) -> Scores:
    return Scores(metric, kind, len(values), Column.of(np.asarray(values, dtype=np.float64)), fidelity)


def right(n_items: int, wrong: range) -> Scores:
    values = np.ones(n_items)
    values[list(wrong)] = 0
    return items(values)


def classes(found: np.ndarray, labels: np.ndarray) -> Scores:
    empty = Column.of(np.zeros(0))
    return Scores("f1", "whole", len(found), empty, outputs={"class": Column.of(found)}, labels=Column.of(labels))


def test_every_item_is_scored_once_one_item_per_run_unless_said_otherwise() -> None:
    session = Answers(itself)
    found = quality.scores(session, data(), METRICS["accuracy"])
    assert found.n_items == 20 and found.values.all() and session.lengths == [1] * 20


def test_a_batch_fixed_by_the_model_is_filled_and_the_filling_not_scored() -> None:
    session = Answers(itself, batch=8)
    found = quality.scores(session, data(), METRICS["accuracy"])
    assert found.n_items == 20 and found.values.all() and session.lengths == [8, 8, 8]


def test_scores_do_not_depend_on_the_batch() -> None:
    source, candidate = Answers(itself), Answers(lambda x: {"y": x + np.float32(0.1)})
    alone, together = (quality.scores(candidate, data(), METRICS["cosine"], source, size) for size in (1, 7))
    assert candidate.lengths[-3:] == [7, 7, 6]
    assert alone.values == pytest.approx(together.values, abs=1e-12)


def test_a_source_is_compared_with_itself_without_a_second_run() -> None:
    session = Answers(itself)
    found = quality.scores(session, data(labelled=False), METRICS["cosine"], session)
    assert found.values == pytest.approx(np.ones(20)) and len(session.lengths) == 20


def test_a_candidate_is_compared_with_its_source() -> None:
    candidate = Answers(lambda x: {"y": -x})
    found = quality.scores(candidate, data(labelled=False), METRICS["cosine"], Answers(itself))
    assert found.values == pytest.approx(-np.ones(20)) and found.fidelity


def test_outputs_are_matched_by_order_where_an_engine_names_them_otherwise() -> None:
    source = Answers(lambda x: {"a": x, "b": x * x})
    candidate = Answers(lambda x: {"a/sink": x, "b/sink": x * x})
    found = quality.scores(candidate, data(labelled=False), METRICS["cosine"], source)
    assert found.values == pytest.approx(np.ones(20))


def test_labels_that_are_missing_are_told_with_what_to_do() -> None:
    with pytest.raises(DatasetMismatch, match=r"metric accuracy needs labels, and test has none; .* cosine or kl"):
        quality.scores(Answers(itself), data(labelled=False), METRICS["accuracy"])


def test_data_without_an_item_is_an_error() -> None:
    def opened() -> Iterator[Batch]:
        return iter(())

    with pytest.raises(DatasetError, match="nothing: there are no items in it"):
        quality.scores(Answers(itself), Dataset("nothing", "0", opened), METRICS["accuracy"])


def test_an_output_without_an_axis_of_items_is_the_items_own_in_a_batch_of_one() -> None:
    states = Answers(lambda x: {"y": x, "state": np.stack([x, x])})
    found = quality.scores(states, data(labelled=False), METRICS["cosine"], Answers(states._function))
    assert found.values == pytest.approx(np.ones(20))
    with pytest.raises(
        DatasetMismatch, match=r"output 'state' has shape \[2, 5, 4\] for 5 items; .* batch of one item"
    ):
        quality.scores(states, data(labelled=False), METRICS["cosine"], Answers(states._function), batch=5)


def test_scores_of_real_sessions_go_through_json_to_the_same_verdict() -> None:
    model = graph.from_bytes(nets.conv_net().SerializeToString())
    x = np.random.default_rng(1).standard_normal((64, 1, 8, 8)).astype(np.float32)
    dataset = Dataset.from_arrays("images", "0", {"image": x})
    with open_session(model, Target()) as source:
        before = quality.scores(source, dataset, METRICS["cosine"], source)
        after = quality.scores(source, dataset, METRICS["cosine"], source, batch=64)
    back = msgspec.json.decode(msgspec.json.encode(after), type=Scores)
    assert quality.test_drop(before, back, 0.01) == quality.test_drop(before, after, 0.01)
    assert quality.test_drop(before, back, 0.01).passed


def test_the_accuracy_of_a_real_model_on_real_images_is_the_one_known(data_dir: Path) -> None:
    arrays = np.load(data_dir / "mnist_onnx" / "mnist_first5000.npz")
    x = arrays["x"].reshape(-1, 1, 28, 28).astype(np.float32)
    dataset = Dataset.from_arrays("mnist", "0", {"Input3": x}, arrays["y"])
    with open_session(data_dir / "mnist_onnx" / "mnist.onnx", Target()) as session:
        found = quality.quality(quality.scores(session, dataset, METRICS["accuracy"]))
    assert found.value == pytest.approx(0.9822)
    assert (found.low, found.high) == pytest.approx((0.9781, 0.9855), abs=1e-4)  # Wilson, 4911 of 5000


def test_the_interval_of_every_kind_holds_the_value_and_narrows_with_confidence() -> None:
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 200)
    every = (
        right(200, range(7)),
        items(rng.standard_normal(200), "cosine", "real"),
        classes(np.where(rng.random(200) < 0.8, labels, 0), labels),
    )
    for scores in every:
        wide, narrow = quality.quality(scores, 0.99), quality.quality(scores, 0.9)
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
        assert wide.n_items == 200 and wide.metric == scores.metric and wide.confidence == 0.99


def test_the_interval_of_symmetric_scores_is_that_of_students_t() -> None:
    half = np.linspace(0.1, 2, 20)
    values = np.concatenate([-half, half])
    found = quality.quality(items(values, "cosine", "real"))
    # t(0.975, 39) = 2.0227
    assert found.high == pytest.approx(2.0227 * values.std(ddof=1) / np.sqrt(40), rel=1e-4)
    assert found.low == pytest.approx(-found.high)


def test_a_small_drop_is_accepted_a_large_one_refused_and_one_in_between_undecided() -> None:
    source = right(2000, range(40))
    accepted = quality.test_drop(source, right(2000, range(1, 42)), 0.01)
    refused = quality.test_drop(source, right(2000, range(100)), 0.01)
    between = quality.test_drop(source, right(2000, range(54)), 0.01)
    assert accepted.passed and accepted.n_needed is None
    assert not refused.passed and refused.n_needed is None
    assert not between.passed and between.n_needed is not None and between.n_needed > 2000


def test_the_test_is_paired() -> None:
    # Both lose 50 of 1000: on the same items nothing differs, on others the two counts are noise.
    same = quality.test_drop(right(1000, range(50)), right(1000, range(50)), 0.01)
    other = quality.test_drop(right(1000, range(50)), right(1000, range(50, 100)), 0.01)
    assert same.passed and not other.passed and same.drop == other.drop == 0


def test_several_tests_are_corrected_for() -> None:
    source, candidate = right(1000, range(0)), right(1000, range(4))
    alone = quality.test_drop(source, candidate, 0.01)
    one_of_ten = quality.test_drop(source, candidate, 0.01, n_tests=10)
    assert alone.passed and not one_of_ten.passed
    assert alone.confidence == pytest.approx(0.95) and one_of_ten.confidence == pytest.approx(0.995)


def test_a_family_is_tested_as_holm_says_and_bounds_agree_with_verdicts() -> None:
    source = right(1000, range(0))
    candidates = [right(1000, range(4)), right(1000, range(0)), right(1000, range(30)), right(1000, range(2))]
    tests = quality.test_family(source, candidates, 0.01, n_family=4)
    assert [test.confidence for test in tests] == pytest.approx([0.975, 0.9875, 0.975, 1 - 0.05 / 3])
    assert [test.passed for test in tests] == [False, True, False, True]
    assert all((test.p_value <= 1 - test.confidence) == test.passed for test in tests)
    assert quality.test_family(source, candidates[:1], 0.01)[0].passed


def test_a_metric_of_right_and_wrong_of_the_users_gets_the_exact_test() -> None:
    before, after = np.ones(100), np.ones(100)
    test = quality.test_drop(items(before, "mine:f", "real"), items(after, "mine:f", "real"), 0.01)
    assert not test.passed and test.method.startswith("exact")


def test_levels_that_no_item_seen_left_are_no_proof_that_none_will() -> None:
    levels = np.tile([0.0, 0.5, 1.0, 1.0], 25)
    few = quality.test_drop(items(levels, "mine:f", "real"), items(levels, "mine:f", "real"), 0.01)
    many = np.tile(levels, 20)
    enough = quality.test_drop(items(many, "mine:f", "real"), items(many, "mine:f", "real"), 0.01)
    assert not few.passed and few.n_needed is not None and enough.passed


def test_a_faithful_candidate_is_accepted_and_one_nan_refuses() -> None:
    source = items(np.ones(60), "kl", "real", fidelity=True)
    loss = np.random.default_rng(3).exponential(1e-4, 60)
    good = items(1 - loss, "kl", "real", fidelity=True)
    broken = items(np.where(np.arange(60) == 7, -1e6, 1 - loss), "kl", "real", fidelity=True)
    assert quality.test_drop(source, good, 0.01).passed
    test = quality.test_drop(source, broken, 0.01)
    assert not test.passed and test.n_needed is None
    msgspec.json.decode(msgspec.json.encode(test), type=type(test))


def test_a_metric_of_the_whole_set_is_tested_by_paired_resampling_that_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quality, "N_RESAMPLES", 299)
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 4, 1500)
    before = np.where(rng.random(1500) < 0.9, labels, (labels + 1) % 4)
    slightly = np.where(rng.random(1500) < 0.004, (labels + 1) % 4, before)
    badly = np.where(rng.random(1500) < 0.05, (labels + 1) % 4, before)
    source = classes(before, labels)
    good = quality.test_drop(source, classes(slightly, labels), 0.02)
    bad = quality.test_drop(source, classes(badly, labels), 0.02)
    assert good.passed and not bad.passed and bad.drop > 0.03
    assert quality.test_drop(source, classes(slightly, labels), 0.02) == good
    assert quality.test_drop(source, classes(slightly, labels), 0.02, seed=1) != good


def test_a_metric_of_the_whole_set_needs_enough_items_though_none_differs() -> None:
    labels = np.tile(np.arange(2), 50)
    found = classes(labels, labels)
    assert not quality.test_drop(found, found, 0.01).passed


@pytest.mark.slow
@pytest.mark.parametrize(("n_classes", "n_lost", "n_gained"), [(2, 0.01, 0.0), (10, 0.012, 0.002), (2, 0.03, 0.02)])
def test_a_true_drop_of_f1_at_the_limit_is_accepted_in_at_most_5_percent(
    n_classes: int, n_lost: float, n_gained: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "N_RESAMPLES", 299)
    rng = np.random.default_rng(5)

    def sample(n_items: int) -> tuple[Scores, Scores]:
        labels = rng.integers(0, n_classes, n_items)
        wrong = (labels + rng.integers(1, n_classes, n_items)) % n_classes
        before = np.where(rng.random(n_items) < 0.9, labels, wrong)
        chance = rng.random(n_items)
        after = np.where((before == labels) & (chance < n_lost / 0.9), wrong, before)
        after = np.where((before != labels) & (chance < n_gained / 0.1), labels, after)
        return classes(before, labels), classes(after, labels)

    function = metric_named("f1").whole
    assert function is not None
    large = sample(2_000_000)
    before, after = ({"class": scores.outputs["class"].array} for scores in large)
    assert large[0].labels is not None
    truth = function(before, large[0].labels.array) - function(after, large[0].labels.array)
    n_wrong = sum(quality.evidence(*sample(300), truth).p_value <= 0.05 for _ in range(300))
    assert n_wrong / 300 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_scores_of_other_items_or_metrics_are_not_compared() -> None:
    with pytest.raises(DatasetMismatch, match="the source has 10, the candidate 9"):
        quality.test_drop(right(10, range(1)), right(9, range(1)), 0.01)
    with pytest.raises(UsageError, match=r"scores of cosine \(real\) cannot be compared with scores of accuracy"):
        quality.test_drop(right(10, range(1)), items(np.ones(10), "cosine", "real"), 0.01)
    with pytest.raises(DatasetMismatch, match="with other labels"):
        quality.test_drop(classes(np.arange(9), np.arange(9)), classes(np.arange(9), np.zeros(9, np.int64)), 0.01)
