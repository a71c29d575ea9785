"""What a pass is: a frozen dataclass that turns a Model into a Model.

Its fields are its command-line flags, its recipe entry and its cache key, so they hold plain TOML values only
(bool, int, float, str, tuple of str).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import ClassVar, Literal

import numpy as np

from tightship.core.dataset import Dataset
from tightship.core.model import Form, Model, Step
from tightship.core.progress import SILENT, Progress
from tightship.core.store import Store

__all__ = ["DataNeed", "Operator", "Pass", "PassResult", "Quantizer", "Statistics"]

DataNeed = Literal["none", "calibration", "training"]

Statistics = Mapping[str, np.ndarray]
"""What calibration keeps, by name: ranges of tensors, or codes of weights. Plain arrays, so that it can be stored."""


@dataclass(frozen=True)
class PassResult:
    """The model after a pass, whether anything was changed, and what the person should know."""

    model: Model
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes. The docstring of a pass is its help text; its first line is its summary.

    `lossless` says that outputs stay the same up to rounding of the float type; such a pass is judged by parity,
    any other by the quality test.
    """

    name: ClassVar[str]
    form: ClassVar[Form]
    data: ClassVar[DataNeed]
    lossless: ClassVar[bool]

    @abstractmethod
    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        """Return the transformed model; `model` itself stays as it was.

        `data` is the calibration or training data, required where the class says so. Long work keeps what is finished
        in `store`, and goes on from there when it is done again.
        """

    @property
    def step(self) -> Step:
        """The pass as a plain name and parameters."""
        parameters = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return Step(self.name, parameters)

    def __str__(self) -> str:
        """The name, with the parameters that differ from their defaults: `weight-only(bits=8)`."""
        defaults = {entry.name: entry.default for entry in fields(self)}
        changed = {key: value for key, value in asdict(self).items() if value != defaults[key]}
        return str(Step(self.name, changed))


@dataclass(frozen=True)
class Operator:
    """An operator that a quantizer would change: its name in the graph, its type and the bytes of its weights."""

    name: str
    op_type: str
    weight_bytes: int


@dataclass(frozen=True)
class Quantizer(Pass):
    """A pass that lowers the precision of operators one by one, each of which may be left out by name.

    The work is in two parts, so that a search can observe once and rewrite many times.
    """

    form: ClassVar[Form] = "graph"
    lossless: ClassVar[bool] = False

    exclude: tuple[str, ...] = ()

    @abstractmethod
    def operators(self, model: Model) -> tuple[Operator, ...]:
        """Return the operators that would be changed if none were excluded, in graph order."""

    @abstractmethod
    def observe(
        self, model: Model, data: Dataset | None, progress: Progress = SILENT, store: Store | None = None
    ) -> Statistics:
        """Run the calibration data once and return what rewriting needs (empty where no data is needed)."""

    @abstractmethod
    def rewrite(self, model: Model, statistics: Statistics) -> PassResult:
        """Return the model with every operator changed that is not in `exclude`."""

    def apply(
        self, model: Model, data: Dataset | None = None, progress: Progress = SILENT, store: Store | None = None
    ) -> PassResult:
        return self.rewrite(model, self.observe(model, data, progress, store))
