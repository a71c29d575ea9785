"""A dataset is cut, split and fed without losing or repeating an item."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightship.core.dataset import Batch, Dataset
from tightship.core.feeds import batch_size, feeds
from tightship.core.specs import TensorSpec
from tightship.errors import DatasetError, DatasetMismatch


def counted(n_items: int, *cuts: int) -> Dataset:
    """Items 0, 1, 2, ... each carrying its number as input and label, in batches cut at `cuts`."""
    pieces = np.split(np.arange(n_items, dtype=np.float32), sorted(set(cuts)))

    def opened():  # type: ignore[no-untyped-def]
        return (Batch({"x": piece[:, None]}, piece) for piece in pieces if len(piece))

    return Dataset("counted", "digest", opened)


def items(dataset: Dataset, size: int = 7) -> list[float]:
    return [float(value) for batch in dataset.batches(size) for value in batch.inputs["x"][:, 0]]


@given(st.integers(1, 60), st.lists(st.integers(0, 60), max_size=5), st.integers(1, 70))
def test_rebatching_keeps_every_item_in_order(n_items: int, cuts: list[int], size: int) -> None:
    dataset = counted(n_items, *cuts)
    lengths = [len(batch) for batch in dataset.batches(size)]
    assert items(dataset, size) == list(range(n_items))
    assert all(length == size for length in lengths[:-1]) and lengths[-1] <= size


@given(st.integers(2, 60), st.data())
def test_a_split_shares_no_item_and_loses_none(n_items: int, data: st.DataObject) -> None:
    n_first = data.draw(st.integers(1, n_items - 1))
    first, rest = counted(n_items, 5, 11).split(n_first, seed=data.draw(st.integers(0, 5)))
    assert len(items(first)) == n_first == first.n_items
    assert sorted(items(first) + items(rest)) == list(range(n_items))


def test_a_split_depends_on_its_seed_and_says_so_in_the_digest() -> None:
    one, other = counted(50).split(10, seed=1)[0], counted(50).split(10, seed=2)[0]
    assert items(one) != items(other) and one.digest != other.digest


def test_labels_stay_with_their_items() -> None:
    first, _ = counted(30, 4).split(12, seed=0)
    for batch in first.batches(5):
        assert batch.labels is not None
        assert np.array_equal(batch.labels, batch.inputs["x"][:, 0])


def test_arrays_of_different_lengths_are_refused_by_name() -> None:
    with pytest.raises(DatasetError, match="x 3, labels 2"):
        Dataset.from_arrays("data", "", {"x": np.zeros((3, 1))}, np.zeros(2))


def test_empty_arrays_are_refused() -> None:
    with pytest.raises(DatasetError, match="above zero"):
        Dataset.from_arrays("data", "", {"x": np.zeros((0, 1))})


def test_a_short_last_batch_is_padded_for_a_fixed_batch_and_unpadded_after() -> None:
    specs = (TensorSpec("x", "float32", (4, 1)),)
    fed = list(feeds(counted(6), specs))
    assert [feed.arrays["x"].shape for feed in fed] == [(4, 1), (4, 1)]
    assert fed[1].n_items == 2
    assert fed[1].unpad({"y": fed[1].arrays["x"]})["y"][:, 0].tolist() == [4, 5]


def test_a_free_batch_takes_what_is_preferred_without_padding() -> None:
    fed = list(feeds(counted(6), (TensorSpec("x", "float32", ("batch", 1)),), preferred=4))
    assert [len(feed.arrays["x"]) for feed in fed] == [4, 2]


def test_inputs_fixed_to_different_batches_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match="different lengths of axis 0"):
        batch_size((TensorSpec("a", "float32", (1, 2)), TensorSpec("b", "float32", (3, 2))))
