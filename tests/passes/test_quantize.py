"""The arithmetic of quantization, with ONNX Runtime's own operators as referee."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.running import run, written
from tightship.errors import InvalidModel, UsageError
from tightship.passes.quantize import (
    SMALLEST_SCALE,
    affine_of_range,
    bias_floor,
    fast_weight_bits,
    quantize,
    quantize_bias,
    quantize_weight,
    symmetric_of_range,
)

rng = np.random.default_rng(0)

numbers = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)
types = st.sampled_from(["uint8", "int8"])


def normal(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@given(numbers, numbers, types)
def test_zero_is_represented_exactly(one: float, other: float, dtype: str) -> None:
    affine = affine_of_range(min(one, other), max(one, other), dtype)  # type: ignore[arg-type]
    assert quantize(np.zeros(1, np.float32), affine)[0] == affine.zero_point


@given(numbers, numbers, types)
def test_scales_are_normal_numbers(one: float, other: float, dtype: str) -> None:
    affine = affine_of_range(min(one, other), max(one, other), dtype)  # type: ignore[arg-type]
    assert np.isfinite(affine.scale) and affine.scale >= SMALLEST_SCALE
    assert SMALLEST_SCALE * np.float32(SMALLEST_SCALE) >= np.finfo(np.float32).tiny, "the scale of a bias"


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_values_in_the_range_are_off_by_half_a_step_at_most(dtype: str) -> None:
    affine = affine_of_range(-1.5, 4.0, dtype)  # type: ignore[arg-type]
    values = np.linspace(-1.5, 4.0, 1001, dtype=np.float32)
    back = (quantize(values, affine).astype(np.float32) - float(affine.zero_point)) * affine.scale
    # At the ends up to one step: the zero point is rounded, which shifts the range by half of one.
    assert np.abs(back - values)[5:-5].max() <= affine.scale * 0.5001
    assert np.abs(back - values).max() <= affine.scale * 1.0001


def test_ranges_above_zero_start_at_the_least_integer() -> None:
    assert affine_of_range(0.0, 6.0, "uint8").zero_point == 0
    assert affine_of_range(0.0, 6.0, "int8").zero_point == -128
    assert affine_of_range(2.0, 6.0, "uint8").zero_point == 0


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_integers_are_those_of_onnxruntime(dtype: str) -> None:
    affine = affine_of_range(-2.0, 3.0, dtype)  # type: ignore[arg-type]
    model = written(
        f"net (float[N, 64] x) => ({dtype}[N, 64] y) {{ y = QuantizeLinear (x, s, z) }}",
        s=affine.scale,
        z=affine.zero_point,
    )
    halves = (np.arange(-40, 600, dtype=np.float32) / 2 - 64) * affine.scale
    values = np.concatenate([normal(1000) * 3, halves])[:1600].reshape(-1, 64)
    np.testing.assert_array_equal(run(model, {"x": values})["y"], quantize(values, affine))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dequantized_weights_are_those_of_onnxruntime(axis: int) -> None:
    quantized = quantize_weight(normal(8, 16) * np.linspace(0.1, 9, 16, dtype=np.float32), axis)
    model = written(
        f"net () => (float[8, 16] y) {{ y = DequantizeLinear <axis = {axis}> (w, s, z) }}",
        w=quantized.values,
        s=quantized.affine.scale,
        z=quantized.affine.zero_point,
    )
    np.testing.assert_array_equal(run(model, {})["y"], quantized.dequantize())


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_each_channel_uses_its_integers_to_the_last(bits: int, largest: int) -> None:
    weight = normal(6, 50) * np.array([[1e-3], [1e-2], [1], [10], [1e3], [1e6]], np.float32)
    quantized = quantize_weight(weight, axis=0, bits=bits)
    np.testing.assert_array_equal(np.abs(quantized.values.astype(int)).max(axis=1), largest)
    error = np.abs(quantized.dequantize() - weight).max(axis=1)
    assert (error <= 0.5001 * np.abs(weight).max(axis=1) / largest).all()


def test_two_products_of_seven_bit_weights_fit_sixteen_bits() -> None:
    weight = quantize_weight(normal(100, 100), None, bits=7).values.astype(int)
    assert 2 * 255 * np.abs(weight).max() <= np.iinfo(np.int16).max


def test_quantizing_a_weight_does_not_change_it() -> None:
    weight = normal(4, 4)
    before = weight.copy()
    quantize_weight(weight, 0)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float, axis: int | None) -> None:
    weight = normal(4, 4)
    weight[2, 1] = value
    with pytest.raises(InvalidModel, match=r"weight 'fc\.weight' holds NaN or infinite"):
        quantize_weight(weight, axis, name="fc.weight")


def test_weights_of_zeros_stay_zeros() -> None:
    quantized = quantize_weight(np.zeros((3, 4), np.float32), 0)
    assert not quantized.values.any()
    assert (quantized.affine.scale >= SMALLEST_SCALE).all()


def test_other_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="4, 7 or 8 bits here, found 5"):
        quantize_weight(normal(2, 2), 0, bits=5)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_at_4_bits_cutting_off_the_largest_never_makes_the_error_larger(axis: int | None) -> None:
    weight = normal(64, 200)
    found = quantize_weight(weight, axis, bits=4)
    assert np.abs(found.values.astype(int)).max() <= 7
    other = None if axis is None else 1 - axis
    scale = np.abs(weight).max(axis=other, keepdims=True) / 7
    uncut = np.rint(weight / scale) * scale
    # Of normal numbers the largest of 64 or more lies far out: a tenth of the error is what cutting it saves at least.
    assert np.square(found.dequantize() - weight).sum() < 0.9 * np.square(uncut - weight).sum()


def test_symmetric_ranges_have_zero_in_the_middle() -> None:
    affine = symmetric_of_range(-1.0, 3.0)
    assert affine.zero_point == 0
    np.testing.assert_array_equal(quantize(np.array([-3, 0, 3], np.float32), affine), [-127, 0, 127])


def test_a_bias_survives_a_channel_without_weights() -> None:
    """At the scale of zero weights it would not fit int32 by far."""
    bias, input_scale = np.array([5.0, -2.0], np.float32), np.array(0.02, np.float32)
    weight = np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)
    quantized = quantize_weight(weight, 0, floor=bias_floor(bias, input_scale))
    back = quantize_bias(bias, input_scale, quantized.affine.scale).dequantize()
    # A float32 holds an integer of 30 bits to 6e-8; the second channel has a step of 0.02/127.
    assert (np.abs(back - bias) <= [1e-6, 0.5001 * 0.02 / 127]).all()


@pytest.mark.parametrize(
    ("features", "bits"),
    [
        (("avx2",), 7),
        (("avx2", "avx512f"), 7),
        (("avx2", "avx_vnni"), 8),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), 8),
        (("asimddp",), 8),
        ((), 8),
    ],
)
def test_weights_have_as_many_bits_as_the_processor_adds_up_exactly(features: tuple[str, ...], bits: int) -> None:
    assert fast_weight_bits(features) == bits
