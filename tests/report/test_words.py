"""Numbers in words: units, digits, and bounds that are never made smaller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightship.core.measurement import Quality, Ratio
from tightship.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (0.04567, "0.0457"),
        (9.996, "10.0"),
        (123.4, "123"),
        (12345.6, "12346"),
        (-0.5, "−0.500"),
        (3e-7, "3.00e−07"),
        (2.5e9, "2.50e+09"),
        (float("inf"), "∞"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "–"), (0, "0 B"), (999, "999 B"), (1200, "1.20 kB"), (1_234_567, "1.23 MB"), (94_100_000, "94.1 MB"),
     (2_500_000_000, "2.50 GB")],
)  # fmt: skip
def test_sizes_are_in_powers_of_a_thousand(size: int | None, text: str) -> None:
    assert words.bytes_text(size) == text


def test_a_time_ratio_below_one_reads_as_times_as_fast() -> None:
    assert words.speed_words(Ratio(0.32, 0.30, 0.34, 100)) == "3.1 times as fast"


def test_a_time_ratio_above_one_reads_as_times_as_slow() -> None:
    assert words.speed_words(Ratio(2.0, 1.9, 2.1, 100)) == "2.0 times as slow"


def test_a_difference_within_the_noise_is_called_none() -> None:
    assert words.speed_words(Ratio(0.97, 0.93, 1.01, 100)) == "as fast as the source within the noise"


def test_the_interval_of_the_speed_runs_from_slow_to_fast() -> None:
    assert words.speed_interval(Ratio(0.5, 0.4, 0.625, 100)) == "1.6 to 2.5"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(94, 24, "3.9 times as small"), (24, 94, "3.9 times as large"), (1000, 1001, "as large as the source")],
)
def test_sizes_are_compared_in_words(before: int, after: int, text: str) -> None:
    assert words.smaller(before, after) == text


def test_accuracy_is_in_percent_and_other_metrics_are_as_they_are() -> None:
    assert words.quality_text(Quality("accuracy", 0.98216, 0.978, 0.985, 100)) == "98.2 %"
    assert words.quality_text(Quality("cosine", 0.998712, 0.998, 0.999, 100)) == "0.99871"


def test_a_drop_of_accuracy_is_in_points_and_no_drop_has_no_sign() -> None:
    assert words.drop_text("accuracy", 0.0131) == "1.31"
    assert words.drop_text("accuracy", -0.002) == "−0.20"
    assert words.drop_text("accuracy", -0.0000001) == "0.00"


@given(st.sampled_from(["accuracy", "cosine"]), st.floats(1e-9, 1e3))
def test_a_bound_is_never_written_smaller_than_it_is(metric: str, upper: float) -> None:
    shown = float(words.bound_text(metric, upper).replace("−", "-")) / (100 if metric == "accuracy" else 1)
    step = 1e-4 if metric == "accuracy" else upper * 0.1  # the last digit that is shown
    # Rounding of binary fractions: a bound of 0.29 may be written 0.29 and not 0.30.
    assert upper - step * 1e-5 <= shown <= upper + step * 1.0001


def test_a_bound_that_is_not_known_is_infinite() -> None:
    assert words.bound_text("accuracy", float("inf")) == "∞"


@given(st.text(), st.integers(3, 40))
def test_a_shortened_text_keeps_both_ends_and_the_length(text: str, length: int) -> None:
    short = words.shorten(text, length)
    assert len(short) <= length
    assert short == text or (text[0] == short[0] and text[-1] == short[-1])


@pytest.mark.parametrize(
    ("metric", "title"), [("accuracy", "Accuracy"), ("kl", "KL"), ("my.metrics:score", "my.metrics:score")]
)
def test_a_metric_of_the_users_keeps_its_spelling_in_headings(metric: str, title: str) -> None:
    assert words.title(metric) == title
