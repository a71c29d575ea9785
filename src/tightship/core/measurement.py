"""What was measured of a Session. Plain values: everything here goes to JSON and back unchanged."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Agreement", "DropTest", "Latency", "Machine", "Measurement", "Quality", "Ratio"]


@dataclass(frozen=True)
class Latency:
    """Time of one run in milliseconds: median, 95th percentile, quartiles, over `n_runs` runs of `batch` items."""

    median_ms: float
    p95_ms: float
    low_ms: float
    high_ms: float
    n_runs: int
    batch: int


@dataclass(frozen=True)
class Ratio:
    """Time of a candidate over time of its baseline, from interleaved pairs: median and its confidence interval.

    Below 1 is faster. `low` and `high` bound the median at the stated confidence.
    """

    median: float
    low: float
    high: float
    n_pairs: int
    confidence: float = 0.95

    @property
    def faster(self) -> bool:
        """Whether the candidate is faster by more than the noise."""
        return self.high < 1.0

    @property
    def slower(self) -> bool:
        """Whether the candidate is slower by more than the noise."""
        return self.low > 1.0


@dataclass(frozen=True)
class Quality:
    """Value of a metric over `n_items` items, with its two-sided confidence interval. Higher is better."""

    metric: str
    value: float
    low: float
    high: float
    n_items: int
    confidence: float = 0.95


@dataclass(frozen=True)
class DropTest:
    """Paired one-sided test that quality dropped by less than `allowed`.

    `drop` is the estimate (source minus candidate, positive is worse), `upper` its upper confidence bound at
    `confidence` (that of this one test: the family's, corrected for the number of candidates; 1e6 stands for no bound),
    `p_value` of the hypothesis drop >= allowed, `n_needed` the number of items that would probably decide (None: no
    number would, or enough). `method` names the test.
    """

    drop: float
    upper: float
    allowed: float
    p_value: float
    confidence: float
    n_items: int
    n_needed: int | None
    method: str

    @property
    def passed(self) -> bool:
        """Whether the drop is shown to be within what is allowed."""
        return self.upper <= self.allowed


@dataclass(frozen=True)
class Agreement:
    """How near the outputs of two models are, worst output first considered.

    `error` is the largest absolute difference over what is allowed (at most 1 agrees); `max_abs` the largest absolute
    difference; `sqnr_db` the signal-to-noise ratio of the worst output; `cause` says why not, or which output
    could not be judged.
    """

    agrees: bool
    error: float
    max_abs: float
    sqnr_db: float
    output: str
    n_items: int
    cause: str = ""


@dataclass(frozen=True)
class Machine:
    """Where something was measured."""

    processor: str
    n_cores: int
    features: tuple[str, ...]
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Measurement:
    """All that was measured of one model on one target. None: not measured (yet, or not needed)."""

    size_bytes: int
    latency: Latency | None = None
    ratio: Ratio | None = None
    peak_memory_bytes: int | None = None
    quality: Quality | None = None
    drop: DropTest | None = None
    agreement: Agreement | None = None
