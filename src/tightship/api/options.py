"""How `optimize` goes about it: everything that is neither the model, the data nor the budget."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tightship.errors import UsageError

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """Settings of a search.

    `metric` None: accuracy where there are class labels, R^2 (`mse`) where labels are real numbers, `cosine` to the
    source where there are none. `engines` empty: all that are installed. `threads` 0: the search may choose.
    `calibration` None: 100 items, but at most a fifth of the data. `work` None: the user's cache folder.
    `seconds` is about how long each candidate is timed.
    """

    weights: Path | None = None
    metric: str | None = None
    engines: tuple[str, ...] = ()
    threads: int = 0
    calibration: int | None = None
    seed: int = 0
    recipe: Path | None = None
    dry_run: bool = False
    resume: bool = True
    work: Path | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise UsageError(f"threads must be zero (let the search choose) or more, found {self.threads}")
        if self.seconds <= 0:
            raise UsageError(f"seconds must be above zero, found {self.seconds}")
        if self.calibration is not None and self.calibration < 1:
            raise UsageError(f"at least one item is needed to calibrate, found --calibration {self.calibration}")
