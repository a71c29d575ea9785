"""Weights of few bits: rounded to keep outputs, part by part, and written as engines read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.passes.blocks import correlated, decoder
from tests.passes.running import op_types, relative_error, run, written
from tightship.core.dataset import Dataset
from tightship.core.model import Model
from tightship.core.progress import SILENT
from tightship.core.store import Store
from tightship.errors import UsageError
from tightship.passes import block_by_block
from tightship.passes.coded_weights import CodedWeight
from tightship.passes.low_bit import LowBit
from tightship.passes.product_time import product_times
from tightship.passes.weight_only import WeightOnly
from tightship.rounding.encoding import Encoding


def error(entry: LowBit | WeightOnly, model: Model, engine: str = "onnxruntime") -> float:
    """Relative error of the outputs on data that calibrated nothing."""
    inputs = dict(next(correlated(seed=7).open()).inputs)
    made = entry.apply(model, correlated(128)).model
    return relative_error(run(made, inputs, engine)["y"], run(model, inputs)["y"])


def test_error_feedback_keeps_outputs_better_than_rounding_to_nearest() -> None:
    model = decoder()
    nearest = error(WeightOnly(bits=4, block=32), model, "openvino")
    balanced = error(LowBit(bits=4, block=32), model, "openvino")
    assert balanced < 0.6 * nearest


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_fewer_bits_cost_more_and_every_width_runs_in_both_engines(bits: Any) -> None:
    model, limits = decoder(), {8: 0.01, 4: 0.1, 3: 0.2, 2: 0.5}
    entry = LowBit(bits=bits, block=32)
    assert error(entry, model, "openvino") < limits[bits]
    # ONNX Runtime rounds activations to 8 bits besides, which is 0.005 of them in each of a row of products.
    assert error(entry, model) < limits[bits] + 0.02


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_portable_spelling_computes_the_same(bits: Any) -> None:
    model = decoder()
    spelled = replace(LowBit(bits=bits, block=32), spelling="DequantizeLinear")
    made = spelled.apply(model, correlated()).model
    assert "MatMulNBits" not in op_types(made)
    # ONNX Runtime merges both into one kernel, which rounds activations to 8 bits.
    assert error(spelled, model) == pytest.approx(error(LowBit(bits=bits, block=32), model), rel=0.05)


def test_a_killed_run_goes_on_behind_its_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, entry, store = decoder(), LowBit(block=32), Store(tmp_path)
    whole = entry.observe(model, correlated())
    rounded: list[int] = []
    original = block_by_block.round_weight

    def counting(*arguments: Any) -> Any:
        rounded.append(len(rounded))
        if len(rounded) == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(block_by_block, "round_weight", counting)
    with pytest.raises(KeyboardInterrupt):
        entry.observe(model, correlated(), store=store.open())
    resumed = entry.observe(model, correlated(), store=store.open())
    assert len(rounded) == 8 + 13 - 6  # two parts of six weights were finished
    assert not list(tmp_path.glob(".tmp-*"))
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_what_was_kept_is_not_taken_for_other_weights_data_or_settings(tmp_path: Path) -> None:
    store = Store(tmp_path).open()
    first = LowBit(block=32).observe(decoder(), correlated(), store=store)
    for entry, model, data in (
        (LowBit(block=64), decoder(), correlated()),
        (LowBit(block=32), decoder(seed=1), correlated()),
        (LowBit(block=32), decoder(), correlated(seed=1)),
    ):
        other = entry.observe(model, data, store=store)
        assert not np.array_equal(first["wd0/codes"], other["wd0/codes"])


def test_single_operators_have_bits_of_their_own() -> None:
    model = decoder()
    names = {operator.name: operator for operator in LowBit().operators(model)}
    entry = LowBit(block=32, operator_bits=("y=16", "d*=8"))
    assert {operator.name for operator in entry.operators(model)} == names.keys() - {"y"}
    statistics = entry.observe(model, correlated())
    assert statistics["wd0/encoding"][0] == 8
    assert statistics["wu0/encoding"][0] == 4
    assert "head/encoding" not in statistics


@pytest.mark.parametrize("wrong", ["head", "head=5", "=4"])
def test_an_override_that_says_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(UsageError, match="operator_bits takes PATTERN=BITS with bits 2, 3, 4, 8, 16"):
        LowBit(operator_bits=(wrong,))


def test_a_correction_of_low_rank_lowers_the_error() -> None:
    model = decoder()
    assert error(LowBit(bits=2, block=32, rank=16), model) < 0.8 * error(LowBit(bits=2, block=32), model)


def test_bits_are_given_where_they_serve_the_outputs_most() -> None:
    model = decoder()
    entry = LowBit(block=32, average_bits=4.0)
    made = entry.apply(model, correlated(128))
    widths = {
        name: int(array[0]) for name, array in entry.observe(model, correlated(128)).items() if "encoding" in name
    }
    assert len(set(widths.values())) > 1
    assert any("operators by bits: " in note for note in made.notes)
    assert error(entry, model, "openvino") < error(LowBit(bits=4, block=32), model, "openvino")


def test_a_limit_of_noise_is_met_with_fewer_bits_than_the_same_everywhere() -> None:
    model = decoder()
    entry = LowBit(block=32, least_sqnr_db=30.0)
    found = entry.observe(model, correlated(128))
    bits = {name.partition("/")[0]: int(array[0]) for name, array in found.items() if name.endswith("encoding")}
    assert set(bits.values()) <= {2, 4, 8}
    assert np.mean(list(bits.values())) < 8
    assert error(entry, model, "openvino") < 10 ** (-30 / 20)


def widths_of(entry: LowBit, model: Model) -> list[int]:
    found = entry.observe(model, correlated(128))
    return [int(array[0]) for name, array in found.items() if name.endswith("encoding")]


def test_a_limit_of_divergence_is_met_with_fewer_bits_where_it_is_wider() -> None:
    model = decoder()
    narrow, wide = (np.mean(widths_of(LowBit(block=32, most_kl=limit), model)) for limit in (1e-4, 0.05))
    assert 2 <= wide < narrow <= 8


def test_the_measure_of_an_average_can_be_divergence() -> None:
    model = decoder()
    assert np.mean(widths_of(LowBit(block=32, average_bits=4.0, sensitivity="kl"), model)) <= 8
    assert error(LowBit(block=32, average_bits=4.0, sensitivity="kl"), model, "openvino") < 0.5


def test_the_least_latency_takes_the_bits_whose_kernels_are_said_to_be_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def times(shapes: list[tuple[int, int]], encodings: list[object], rows: int, progress: object) -> np.ndarray:
        asked.append((len(shapes), rows))
        return np.tile([1.0, 5.0, 6.0, 9.0], (len(shapes), 1))  # 8 bits, 4, 2, float

    monkeypatch.setattr("tightship.passes.low_bit.product_times", times)
    entry = LowBit(block=32, least_sqnr_db=5.0, cheapest="latency", rows=4)
    assert set(widths_of(entry, decoder())) == {8}
    assert asked[0][1] == 4
    assert set(widths_of(LowBit(block=32, least_sqnr_db=5.0), decoder())) != {8}


def test_products_are_timed_in_the_engine_for_each_shape_and_encoding() -> None:
    encodings = [Encoding(bits, 32, False) for bits in (8, 2)]
    found = product_times([(64, 32), (512, 2048), (64, 32)], encodings, 1, SILENT)
    assert found.shape == (3, 3)
    assert (found > 0).all()
    np.testing.assert_array_equal(found[0], found[2])
    assert found[1].min() > found[0].min()  # sixty times the work


@pytest.mark.parametrize(
    "settings", [{"average_bits": 4.0, "most_kl": 0.1}, {"cheapest": "latency"}, {"most_kl": -1.0}, {"rows": 0}]
)
def test_limits_that_make_no_sense_together_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="low-bit: "):
        LowBit(**settings)


def test_an_average_below_the_fewest_bits_is_refused() -> None:
    with pytest.raises(UsageError, match="average_bits must be 2 or more, found 1"):
        LowBit(average_bits=1.0)


def test_training_each_part_lowers_the_error_further() -> None:
    pytest.importorskip("torch")
    model = decoder()
    balanced = LowBit(bits=2, block=32)
    # From codes of error feedback little is left to gain.
    assert error(replace(balanced, train_parts="on"), model, "openvino") < error(balanced, model, "openvino")
    fast = replace(balanced, preset="fast")
    assert error(replace(fast, train_parts="on"), model, "openvino") < 0.9 * error(fast, model, "openvino")


def test_training_the_scales_of_the_whole_model_lowers_the_error_further() -> None:
    pytest.importorskip("torch")
    model = decoder()
    balanced = LowBit(bits=2, block=32)
    assert error(replace(balanced, train_scales="on"), model, "openvino") < 0.9 * error(balanced, model, "openvino")


def test_the_same_training_gives_the_same_codes() -> None:
    pytest.importorskip("torch")
    entry = LowBit(bits=2, block=32, preset="best", steps=10)
    first, second = (entry.observe(decoder(1), correlated(8)) for _ in range(2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"distill": "on", "loss": "mse"}, {"rank": 4, "preset": "best"}, {"rank": -1}]
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="low-bit: "):
        LowBit(**wrong)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("rows", "columns", "block"), [(33, 127, 32), (17, 200, 64), (64, 129, 128), (40, 96, 16)])
def test_what_was_computed_for_a_weight_is_what_the_engines_run(
    bits: Any, symmetric: bool, rows: int, columns: int, block: Any
) -> None:
    rng = np.random.default_rng(bits)
    weight = rng.standard_normal((columns, rows)).astype(np.float32)
    model = written(f"n (float[N, {columns}] x) => (float[N, {rows}] y) {{ y = MatMul (x, w) }}", w=weight)
    x = rng.standard_normal((64, columns)).astype(np.float32)
    entry = LowBit(bits=bits, block=block, symmetric=symmetric)
    observed = entry.observe(model, Dataset.from_arrays("x", "0", {"x": x}))
    simulated = x @ CodedWeight.of(observed, "w/").dequantize().T
    made = entry.rewrite(model, observed).model
    assert relative_error(run(made, {"x": x}, "openvino")["y"], simulated) < 1e-5
    # ONNX Runtime rounds what a product reads to 8 bits in blocks: half a step of 1/127 of the largest of a block.
    assert relative_error(run(made, {"x": x})["y"], simulated) < 0.01
