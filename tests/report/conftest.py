"""Plans made by hand: a rich one, and one for each way in which a plan can be awkward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.plans import RICH, candidate, measured
from tightship.core.budget import Budget
from tightship.core.plan import Plan, Sensitivity
from tightship.report import render


@pytest.fixture
def rich() -> Plan:
    """Ten candidates beside the source, of every verdict."""
    return RICH


@pytest.fixture
def nothing_better() -> Plan:
    """The source stays: all else was refused or failed."""
    kept = [replace(entry, on_front=False) for entry in RICH.candidates if entry.status in ("refused", "failed")]
    baseline = replace(RICH.candidates[0], on_front=True)
    return replace(RICH, candidates=(baseline, *kept), chosen="source", output=None, sensitivity=(), notes=())


@pytest.fixture
def fidelity() -> Plan:
    """No data: inputs were generated and nearness to the source was judged."""
    baseline = candidate("source", "baseline", "the model as it was given", measured(438.1, 118.0), steps=())
    kept = candidate("int8 dynamic", "chosen", "drop 0.0021, at most 0.0030 at 95% confidence; 0.01 is allowed",
                     measured(111.2, 41.0, 0.348, 0.99791, (0.0021, 0.0030), "cosine"), on_front=True)  # fmt: skip
    return replace(
        RICH, source="bert.onnx", data="64 generated items (seed 0)", generated=True, metric="cosine", budget=Budget(),
        n_calibration=0, n_decision=64, candidates=(baseline, kept), chosen="int8 dynamic",
        sensitivity=RICH.sensitivity[:2], notes=(),
    )  # fmt: skip


@pytest.fixture
def crowded() -> Plan:
    """Thirty candidates of almost the same size and time, with long names, a third of them failed."""
    first = RICH.candidates[0]
    others = [
        candidate(
            f"int8 static on openvino with {index} of the most sensitive operators kept in float32 and 2 threads",
            "failed" if index % 3 == 0 else "refused" if index % 3 == 1 else "accepted",
            "EngineError: " + "a_very_long_message_without_a_space_" * 6 if index % 3 == 0 else "as measured",
            None if index % 3 == 0 else measured(24.1 + 0.02 * (index % 4), 7.2 + 0.01 * index, 0.32 + 0.0004 * index),
            on_front=index == 2,
        )
        for index in range(30)
    ]
    chosen = replace(others[2], status="chosen")
    return replace(RICH, candidates=(first, *others[:2], chosen, *others[3:]), chosen=chosen.name)


@pytest.fixture
def hostile() -> Plan:
    """Names and texts that try to become markup, formulas or broken XML."""
    evil = '<script>alert("x")</script> $\\frac{1}{2}$ & \x00\x1b]]> "id=\'chosen\''
    chosen = replace(RICH.best, name=evil, reason=evil)
    others = tuple(chosen if entry is RICH.best else entry for entry in RICH.candidates)
    return replace(
        RICH, source=evil, data=evil, metric=evil, candidates=others, chosen=evil, notes=(evil,), command=evil,
        output=evil, sensitivity=(Sensitivity(evil, evil, float("inf")), Sensitivity("x", "Conv", float("nan"))),
    )  # fmt: skip


@pytest.fixture(scope="session")
def page_of() -> Callable[[Plan], str]:
    """`render`, which draws each plan once in a run of the tests."""
    pages: dict[str, str] = {}

    def rendered(plan: Plan) -> str:
        key = plan.to_json()
        if key not in pages:
            pages[key] = render(plan)
        return pages[key]

    return rendered
