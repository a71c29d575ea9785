"""Numbers to words, the same in the report and in the terminal. What was not measured is an en dash."""

from __future__ import annotations

import math

from tightship.core.measurement import Quality, Ratio

__all__ = [
    "DASH",
    "bound_text",
    "bytes_text",
    "drop_text",
    "ms_text",
    "number",
    "percent",
    "quality_interval",
    "quality_text",
    "shorten",
    "smaller",
    "speed",
    "speed_interval",
    "speed_words",
    "title",
    "unit",
]

DASH = "–"

SHARES = frozenset({"accuracy", "f1"})
"""Metrics that are fractions of 1: people read them as percent, and their differences as points."""


def number(value: float | None, digits: int = 3) -> str:
    """Write `value` to `digits` significant digits; powers of ten only below 1e-4 and above 1e6."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}")))))
    return f"{value:.{decimals}f}".replace("-", "−")


def bytes_text(size_bytes: float | None) -> str:
    """Write a size in units of 10^3, 10^6 or 10^9 bytes."""
    if size_bytes is None:
        return DASH
    for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(size_bytes) >= factor:
            return f"{number(size_bytes / factor)} {name}"
    return f"{size_bytes:.0f} B"


def ms_text(latency_ms: float | None) -> str:
    """Write a time; from ten seconds on in seconds."""
    if latency_ms is not None and latency_ms >= 10_000:
        return f"{number(latency_ms / 1e3)} s"
    return DASH if latency_ms is None else f"{number(latency_ms)} ms"


def percent(fraction: float) -> str:
    """Write a confidence or share, `0.95` as `95 %`."""
    return f"{fraction * 100:.4g} %"


def speed(ratio: Ratio | None) -> str:
    """Write how many times as fast as the source: `3.1×`."""
    return DASH if ratio is None else f"{_times(1 / ratio.median)}×"


def speed_interval(ratio: Ratio | None) -> str:
    """Write the confidence interval of the speed: `2.9 to 3.3`."""
    return DASH if ratio is None else f"{_times(1 / ratio.high)} to {_times(1 / ratio.low)}"


def speed_words(ratio: Ratio) -> str:
    """Say how fast it is beside its source; a difference within the noise is called none."""
    if ratio.faster:
        return f"{_times(1 / ratio.median)} times as fast"
    if ratio.slower:
        return f"{_times(ratio.median)} times as slow"
    return "as fast as the source within the noise"


def smaller(before_bytes: int, after_bytes: int) -> str:
    """Say how large it is beside its source."""
    if before_bytes <= 0 or after_bytes <= 0:
        return f"{bytes_text(before_bytes)} before, {bytes_text(after_bytes)} now"
    if abs(after_bytes / before_bytes - 1) < 0.005:
        return "as large as the source"
    if after_bytes < before_bytes:
        return f"{_times(before_bytes / after_bytes)} times as small"
    return f"{_times(after_bytes / before_bytes)} times as large"


def title(metric: str) -> str:
    """Write a metric's name as a heading: `Accuracy`, `KL`; a function of the user's keeps its own spelling."""
    if not metric.isalnum():
        return metric
    return metric.upper() if len(metric) <= 3 else metric.capitalize()


def unit(metric: str) -> str:
    """Return the unit that a drop of this metric is written in: `points`, or the metric's own (empty)."""
    return "points" if metric in SHARES else ""


def quality_text(quality: Quality | None, digits: int = 1) -> str:
    """Write a value of a metric: shares in percent with `digits` decimals, others to five significant digits."""
    return DASH if quality is None else _value(quality.metric, quality.value, digits)


def quality_interval(quality: Quality | None) -> str:
    """Write the confidence interval of a metric: `97.8 to 98.5 %`."""
    if quality is None:
        return DASH
    low, high = (_value(quality.metric, bound, 1) for bound in (quality.low, quality.high))
    return f"{low.removesuffix(' %')} to {high}"


def drop_text(metric: str, drop: float | None) -> str:
    """Write a drop without its unit: in points with two decimals for shares, else to two significant digits."""
    if drop is None or not math.isfinite(drop):
        return number(drop)
    if metric in SHARES:
        return f"{drop * 100:.2f}".replace("-0.00", "0.00").replace("-", "−")
    return number(drop, 2)


def bound_text(metric: str, upper: float | None) -> str:
    """Write an upper bound as `drop_text` does, but never smaller than it is."""
    if upper is None or not math.isfinite(upper):
        return number(upper)
    step = 1e-4 if metric in SHARES else 10.0 ** (_exponent(upper) - 1)
    return drop_text(metric, math.ceil(upper / step - 1e-6) * step)


def shorten(text: str, length: int) -> str:
    """Cut the middle out of `text` where it has more than `length` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def _times(factor: float) -> str:
    return f"{factor:.2f}" if factor < 1.095 else f"{factor:.1f}" if factor < 9.95 else number(factor, 2)


def _value(metric: str, value: float, digits: int) -> str:
    if metric in SHARES:
        return f"{value * 100:.{digits}f} %".replace("-", "−")
    return number(value, 5)


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0
