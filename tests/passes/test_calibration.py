"""Ranges over calibration data: exact, streamed, and refused where something is not a number."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.nets import conv_net, mlp
from tests.passes.running import made_up_inputs, model_of, run, written
from tightship.core import processor
from tightship.core.dataset import Batch, Dataset
from tightship.core.model import Model
from tightship.errors import DatasetError, DatasetMismatch, InvalidModel
from tightship.passes.calibration import observe_channels, observe_ranges
from tightship.passes.histogram import METHODS, Histogram, Method
from tightship.passes.quantize import affine_of_range, quantize

ROUNDING = 1e-5
"""Relative: other batch sizes and merged operators sum float32 products in another order."""


def data_of(**inputs: np.ndarray) -> Dataset:
    return Dataset.from_arrays("data", "0", inputs)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def giving(proto: onnx.ModelProto, *names: str) -> Model:
    """The model with these tensors as its outputs."""
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in names)
    return model_of(proto)


@pytest.mark.parametrize(("net", "names"), [(conv_net, "abcdef"), (mlp, "abcd")])
def test_ranges_are_the_extremes_of_the_tensors_widened_to_zero(net: Callable[[], onnx.ModelProto], names: str) -> None:
    model = model_of(net())
    inputs = made_up_inputs(model, batch=40)
    seen = run(giving(net(), *names), inputs)
    found = observe_ranges(model.graph, list(names), data_of(**inputs))
    assert list(found) == list(names)
    for name in names:
        expected = [min(seen[name].min(), 0), max(seen[name].max(), 0)]
        np.testing.assert_allclose(found[name], expected, rtol=ROUNDING, atol=0)


def test_the_range_of_an_input_is_found_too() -> None:
    model = model_of(mlp())
    inputs = made_up_inputs(model, batch=7)
    assert observe_ranges(model.graph, ["x"], data_of(**inputs)) == {"x": [inputs["x"].min(), inputs["x"].max()]}


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_ranges_do_not_depend_on_the_batch_of_the_model(method: str) -> None:
    names = list("abcdef")
    inputs = {"image": normal(48, 1, 8, 8)}
    found = [
        observe_ranges(model_of(conv_net(batch)).graph, names, data_of(**inputs), method)  # type: ignore[arg-type]
        for batch in ("1", "8", "N")
    ]
    for other in found[1:]:
        for name in names:
            np.testing.assert_allclose(other[name], found[0][name], rtol=ROUNDING, atol=0)


def test_ranges_do_not_depend_on_how_the_data_comes() -> None:
    images = normal(48, 1, 8, 8)
    pieces = Dataset("pieces", "0", lambda: (Batch({"image": part}) for part in np.split(images, [1, 6, 20])))
    graph = model_of(conv_net()).graph
    assert observe_ranges(graph, ["c"], pieces) == observe_ranges(graph, ["c"], data_of(image=images))


def test_a_short_last_batch_is_observed_too() -> None:
    images = normal(11, 1, 8, 8)
    images[-1, 0, 3, 3] = 100.0
    found = observe_ranges(model_of(conv_net("8")).graph, ["image"], data_of(image=images))
    assert found["image"][1] == 100.0


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_runs_side_by_side_find_the_same(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, data = model_of(conv_net("1")).graph, data_of(image=normal(24, 1, 8, 8))
    alone = observe_ranges(graph, list("abcd"), data, method)  # type: ignore[arg-type]
    monkeypatch.setattr(processor, "n_cores", lambda: 8)
    assert observe_ranges(graph, list("abcd"), data, method) == alone  # type: ignore[arg-type]


@pytest.mark.parametrize("cores", [1, 8])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_only_a_few_items_are_held_at_a_time(method: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "n_cores", lambda: cores)
    alive, most = 0, 0

    def ended() -> None:
        nonlocal alive
        alive -= 1

    def items() -> Iterator[Batch]:
        nonlocal alive, most
        for number in range(200):
            array = normal(1, 1, 8, 8, seed=number)
            alive += 1
            most = max(most, alive)
            weakref.finalize(array, ended)
            yield Batch({"image": array})

    observe_ranges(model_of(conv_net("1")).graph, ["c"], Dataset("stream", "0", items), method)  # type: ignore[arg-type]
    assert most <= cores + 4


def test_the_model_is_not_changed() -> None:
    model = model_of(conv_net())
    before = [node.name for node in model.graph.graph], [value.name for value in model.graph.graph.outputs]
    observe_ranges(model.graph, ["c"], data_of(image=normal(4, 1, 8, 8)))
    assert ([node.name for node in model.graph.graph], [value.name for value in model.graph.graph.outputs]) == before


def test_operators_behind_the_last_range_are_not_run() -> None:
    """The second product needs 5 columns and gets 4: whoever ran it would fail."""
    model = written(
        "net (float[N, 3] x) => (float[N, M] y) { a = Relu (x)  b = MatMul (a, w1)  y = MatMul (b, w2) }",
        w1=normal(3, 4),
        w2=normal(5, 2),
    )
    assert set(observe_ranges(model.graph, ["a"], data_of(x=normal(4, 3)))) == {"a"}


@pytest.mark.parametrize("data", [None, Dataset("nothing", "0", lambda: iter(()))], ids=["none", "empty"])
def test_calibration_without_data_says_that_it_needs_some(data: Dataset | None) -> None:
    with pytest.raises(DatasetError, match="calibration needs data"):
        observe_ranges(model_of(mlp()).graph, ["a"], data)


def test_an_input_without_data_is_named() -> None:
    with pytest.raises(DatasetMismatch, match=r"found none for x: float32\[N, 256\]"):
        observe_ranges(model_of(mlp()).graph, ["a"], data_of(other=normal(4, 256)))


def test_items_of_another_shape_are_refused() -> None:
    with pytest.raises(DatasetMismatch, match=r"expected items for x: float32\[N, 256\], found arrays \[4, 255\]"):
        observe_ranges(model_of(mlp()).graph, ["a"], data_of(x=normal(4, 255)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused(value: float) -> None:
    x = normal(4, 256)
    x[2, 17] = value
    with pytest.raises(DatasetError, match="input 'x' holds NaN or infinite"):
        observe_ranges(model_of(mlp()).graph, ["a"], data_of(x=x))


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize(
    ("operators", "name"),
    [
        ("a = Log (x)  y = MatMul (a, w)", "a"),  # NaN, in one of many elements
        ("b = Log (x)  a = Relu (b)  y = MatMul (a, w)", "a"),
        ("b = Log (x)  c = Identity (b)  a = Transpose (c)  y = MatMul (a, w)", "a"),
        ("b = Exp (x)  a = Exp (b)  y = MatMul (a, w)", "a"),  # infinity
        ("b = Neg (x)  c = Exp (x)  d = Exp (c)  a = Neg (d)  y = MatMul (a, w)", "a"),
    ],
)
def test_a_tensor_that_becomes_nan_or_infinite_is_named(method: str, operators: str, name: str) -> None:
    model = written(f"net (float[64, 64] x) => (float[64, 8] y) {{ {operators} }}", w=normal(64, 8))
    x = np.abs(normal(64, 64)) + 0.1
    x[3, 5], x[40, 2] = -0.5, 9.0
    with pytest.raises(InvalidModel, match=f"tensor '{name}' becomes NaN or infinite"):
        observe_ranges(model.graph, [name], data_of(x=x), method)  # type: ignore[arg-type]


def test_a_percentile_leaves_an_outlier_out() -> None:
    x = normal(100, 256)
    x[50, 100] = 1000.0
    graph, data = model_of(mlp()).graph, data_of(x=x)
    assert observe_ranges(graph, ["x"], data)["x"][1] == 1000.0
    low, high = observe_ranges(graph, ["x"], data, "percentile", 99.9)["x"]
    # 0.05 % of a normal distribution lie beyond 3.29 deviations; the bins of 2048/8192 are 0.25 wide.
    assert -3.6 < low < -3.2 and 3.2 < high < 3.6


def counted(values: np.ndarray, cuts: list[int]) -> Histogram:
    histogram = Histogram()
    for part in np.split(values, cuts):
        assert histogram.add(part)
    return histogram


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False), min_size=1, max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.randoms(use_true_random=False),
)
def test_counts_do_not_depend_on_order_or_batches(values: list[float], cuts: list[int], random: object) -> None:
    array = np.array(values, np.float32)
    shuffled = array.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(counted(array, []).counts, counted(shuffled, sorted(cuts)).counts)


def test_every_value_is_counted_once() -> None:
    values = np.concatenate([normal(1000) * scale for scale in (1e-3, 1, 50, 1e4)])
    assert counted(values, [10, 1000, 2500]).counts.sum() == 4000


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.75])
def test_ranges_of_a_histogram_are_the_percentiles_to_a_bin(percentile: float) -> None:
    values = normal(60_000) * 3 + 1
    low, high = counted(values, [50, 3000]).range("percentile", percentile, symmetric=False)
    n_left_out = round(len(values) * (100 - percentile) / 200)
    exact = np.sort(values)[[n_left_out, -1 - n_left_out]]
    bin_width = 2 * 16 / Histogram.n_bins  # the values lie within (-16, 16)
    assert np.abs(np.array([low, high]) - exact).max() <= 1.01 * bin_width


def test_the_whole_range_is_exact() -> None:
    values = normal(1000)
    assert counted(values, []).range("percentile", 100.0, symmetric=False) == (values.min(), values.max())


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0, 0.0]])
def test_zeros_alone_give_a_range_of_nothing(values: list[float]) -> None:
    assert counted(np.array(values, np.float32), []).range("percentile", 99.0, symmetric=False) == (0.0, 0.0)


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    affine = affine_of_range(low, high, "uint8")
    found = (quantize(values, affine).astype(np.float32) - affine.zero_point) * affine.scale
    return float(np.square(found - values).mean())


DISTRIBUTIONS = {
    "normal": normal(60_000),
    "heavy-tailed": np.random.default_rng(0).standard_t(3, 60_000).astype(np.float32),
    "behind a Relu": np.maximum(normal(60_000) - 1, 0),
    "behind a Gelu": np.maximum(normal(60_000) * 3, -0.17),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=list(DISTRIBUTIONS))
def test_no_other_method_has_a_smaller_squared_error_than_mse(values: np.ndarray, symmetric: bool) -> None:
    histogram = counted(values, [1000, 20_000])
    errors = {method: squared_error(values, *histogram.range(method, 99.99, symmetric)) for method in METHODS}
    # What is minimised is the error of the middles of bins, of which a step holds more than ten.
    assert errors["mse"] <= 1.02 * min(errors.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=list(DISTRIBUTIONS))
def test_no_method_reaches_beyond_what_was_seen_or_loses_zero(method: Method, values: np.ndarray) -> None:
    low, high = counted(values, []).range(method, 99.9, symmetric=False)
    assert min(values.min(), 0) <= low <= 0 <= high <= values.max()


def test_the_entropy_of_a_normal_distribution_cuts_little_and_zeros_do_not_change_that() -> None:
    values = DISTRIBUTIONS["normal"]
    low, high = counted(values, []).range("entropy", 99.99, symmetric=False)
    assert low < -3 and high > 3
    with_zeros = np.concatenate([values, np.zeros(540_000, np.float32)])
    assert counted(with_zeros, list(range(60_000, 600_000, 60_000))).range("entropy", 99.99, symmetric=False) == (
        low,
        high,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_symmetric_range_has_equal_sides_unless_nothing_is_negative(method: Method) -> None:
    low, high = counted(DISTRIBUTIONS["behind a Gelu"], []).range(method, 99.9, symmetric=True)
    assert low == -high
    assert counted(DISTRIBUTIONS["behind a Relu"], []).range(method, 99.9, symmetric=True)[0] == 0


def test_of_a_large_array_a_random_part_is_counted_that_favours_no_channel() -> None:
    """A regular sample of every eighth would see one of eight channels alone."""
    values = np.tile(np.arange(1, 9, dtype=np.float32), 2**17)
    histogram = counted(values, [])
    (filled,) = np.nonzero(histogram.counts)
    assert len(filled) == 8
    shares = histogram.counts[filled] / histogram.counts.sum()
    assert np.abs(shares - 1 / 8).max() < 0.005  # five deviations of 131,072 draws
    assert histogram.counts.sum() == len(values) // 8


def test_an_outlier_in_a_large_array_is_seen_whatever_is_counted() -> None:
    values = np.zeros(2**20, np.float32)
    values[12345] = 77.0
    assert counted(values, []).range("minmax", 99.9, symmetric=False) == (0.0, 77.0)


@pytest.mark.parametrize(("net", "names"), [(conv_net, "bcd"), (mlp, "abcd")])
def test_statistics_of_channels_are_those_of_the_tensors(net: Callable[[], onnx.ModelProto], names: str) -> None:
    model = model_of(net())
    inputs = made_up_inputs(model, batch=40)
    seen = run(giving(net(), *names), inputs)
    found = observe_channels(model.graph, dict.fromkeys(names, 1), data_of(**inputs))
    for name in names:
        rows = np.moveaxis(seen[name], 1, -1).reshape(-1, seen[name].shape[1])
        np.testing.assert_allclose(found[name].low, np.minimum(rows.min(0), 0), rtol=ROUNDING)
        np.testing.assert_allclose(found[name].high, np.maximum(rows.max(0), 0), rtol=ROUNDING)
        np.testing.assert_allclose(found[name].mean_square, np.square(rows.astype(np.float64)).mean(0), rtol=ROUNDING)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_histogram_refuses_what_is_not_finite(value: float) -> None:
    histogram = Histogram()
    assert not histogram.add(np.array([1.0, value], np.float32))
    assert not histogram.counts.any()


def test_progress_is_told_of_every_item() -> None:
    told: list[int] = []

    class Listening:
        def __enter__(self) -> Callable[[int], None]:
            return told.append

        def __exit__(self, *_: object) -> None: ...

    class Bar:
        step = staticmethod(partial(lambda description, total=None: Listening()))

        def note(self, text: str) -> None: ...

    observe_ranges(model_of(mlp()).graph, ["a"], data_of(x=normal(37, 256)), progress=Bar())
    assert sum(told) == 37
