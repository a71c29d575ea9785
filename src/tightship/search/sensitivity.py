"""What quantizing one operator alone costs, as signal-to-noise ratio of the model's outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np

from tightship import engines
from tightship.core.dataset import Dataset
from tightship.core.feeds import feeds
from tightship.core.model import Model
from tightship.core.passes import Operator, Quantizer, Statistics
from tightship.core.plan import Sensitivity
from tightship.core.session import Arrays, Session
from tightship.core.target import Target
from tightship.errors import DatasetError
from tightship.search.trial import Trial
from tightship.search.workshop import Workshop

__all__ = ["SQNR_CEILING_DB", "sensitivity"]

N_ITEMS = 8
SQNR_CEILING_DB = 120.0
"""What no error at all is written as, and with a minus sign outputs that are no numbers. Finite, for JSON."""


def sensitivity(workshop: Workshop, trial: Trial) -> tuple[Sensitivity, ...]:
    """Return the operators of a trial's quantizer, the most sensitive (lowest ratio in dB) first.

    For each operator the model is rewritten with that one alone quantized and run on a few calibration items.
    """
    quantizer, data = trial.quantizer, workshop.calibration
    if quantizer is None or trial.built is None:
        return ()
    if data is None:
        raise DatasetError("sensitivity needs calibration data, and there is none")
    before = trial.proposal.recipe.passes[:-1]
    bare = replace(quantizer, exclude=())
    built = workshop.build(replace(trial.proposal.recipe, passes=before))
    parts = (built.key, bare.step, trial.proposal.target, data.digest, workshop.machine)

    def measure() -> tuple[Sensitivity, ...]:
        statistics = workshop.observe(built, before, bare)
        return _measure(workshop, built.read(), bare, statistics, trial.proposal.target)

    return workshop.store.value("sensitivity", parts, tuple[Sensitivity, ...], measure)


def _measure(
    workshop: Workshop, model: Model, quantizer: Quantizer, statistics: Statistics, target: Target
) -> tuple[Sensitivity, ...]:
    data = workshop.calibration
    assert data is not None
    operators = quantizer.operators(model)
    with engines.open_session(model, target) as session:
        wanted = _outputs(session, model, data)
    found = []
    with workshop.progress.step("measuring the sensitivity of each operator", len(operators)) as advance:
        for operator in operators:
            alone = replace(quantizer, exclude=tuple(other.name for other in operators if other != operator))
            with engines.open_session(alone.rewrite(model, statistics).model, target) as session:
                ratio_db = _sqnr_db(wanted, _outputs(session, model, data))
            found.append(_entry(operator, ratio_db))
            advance(1)
    return tuple(sorted(found, key=lambda entry: entry.sqnr_db))


def _entry(operator: Operator, ratio_db: float) -> Sensitivity:
    return Sensitivity(operator.name, operator.op_type, ratio_db)


def _outputs(session: Session, model: Model, data: Dataset) -> list[Arrays]:
    return [session.run(feed.arrays) for feed in islice(feeds(data, model.inputs, 1), N_ITEMS)]


def _sqnr_db(wanted: list[Arrays], found: list[Arrays]) -> float:
    signal = noise = 0.0
    for want, got in zip(wanted, found, strict=True):
        for name, array in want.items():
            if array.dtype.kind == "f":
                exact = array.astype(np.float64)
                signal += float(np.square(exact).sum())
                noise += float(np.square(exact - got[name]).sum())
    if not noise:
        return SQNR_CEILING_DB
    if not np.isfinite(noise) or not signal:
        return -SQNR_CEILING_DB
    return float(np.clip(10 * np.log10(signal / noise), -SQNR_CEILING_DB, SQNR_CEILING_DB))
