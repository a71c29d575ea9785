"""One reader on inputs made from its seeds, for a number of seconds or of inputs; every end is counted."""

from __future__ import annotations

import random
import signal
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.mutations import mutated
from tests.fuzz.readers import LIMIT_S, Reader
from tightship.errors import TightshipError

__all__ = ["Outcome", "fuzz"]

_KEPT = 5


@dataclass
class Outcome:
    """How often each end was seen: `read`, or the type of the error; and what failed, with its input."""

    reader: str
    ends: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def n_inputs(self) -> int:
        """Inputs that were tried."""
        return sum(self.ends.values())

    def count(self, end: str) -> None:
        """Note one more input that ended so."""
        self.ends[end] = self.ends.get(end, 0) + 1


class _TooSlow(BaseException):
    """No `except Exception` on the way may hold it up."""


def fuzz(reader: Reader, seconds: float, n_inputs: int | None, seed: int, keep: Path | None = None) -> Outcome:
    """Try inputs until the time is over or `n_inputs` were tried; what fails is kept in the folder `keep`."""
    outcome, rng = Outcome(reader.name), random.Random(f"{reader.name} {seed}")
    signal.signal(signal.SIGALRM, _stop)
    with tempfile.TemporaryDirectory(prefix="tightship-fuzz-") as folder:
        seeds = reader.seeds(Path(folder))
        path = Path(folder, f"input{reader.suffix}")
        for sound in seeds:
            path.write_bytes(sound)
            reader.read(path)
        end = time.monotonic() + seconds  # from here, since libraries take long to import
        while time.monotonic() < end and outcome.n_inputs != n_inputs:
            data = mutated(rng.choice(seeds), rng)
            path.write_bytes(data)
            if keep is not None:
                (keep / f"{reader.name}-last").write_bytes(data)  # what to look at where the process dies
            n_failed = len(outcome.failures)
            _try(reader, path, outcome)
            if keep is not None and len(outcome.failures) > n_failed:
                (keep / f"{reader.name}-{n_failed}{reader.suffix}").write_bytes(data)
            if len(outcome.failures) > _KEPT:
                break
    return outcome


def _try(reader: Reader, path: Path, outcome: Outcome) -> None:
    signal.alarm(LIMIT_S)
    try:
        reader.read(path)
        outcome.count("read")
    except TightshipError as error:
        outcome.count(type(error).__name__)
    except (Exception, _TooSlow):
        outcome.count("failed")
        outcome.failures.append(traceback.format_exc(limit=-6))
    finally:
        signal.alarm(0)


def _stop(*_: object) -> None:
    raise _TooSlow(f"no end within {LIMIT_S} s")
