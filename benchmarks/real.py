"""The main job on real models: mnist.onnx with 5,000 labelled images, and resnet20 with its CIFAR-10 weights.

mnist is optimized for size and for latency with at most one point of accuracy lost; resnet20 has no images here, so
fidelity to the source on generated inputs takes the place of accuracy.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tightship as ts
from benchmarks.report import BUILD, finish
from tightship.core.plan import Plan

DATA = Path(os.environ.get("TIGHTSHIP_DATA", "../shared/data"))


def row(name: str, goal: str, plan: Plan) -> dict[str, Any]:
    """The numbers of a plan that a reader wants first."""
    best, source = plan.best.measurement, plan.baseline.measurement
    assert best is not None and source is not None and source.quality is not None
    return {
        "model": name,
        "goal": goal,
        "chosen": plan.chosen,
        "bytes": best.size_bytes,
        "times smaller": source.size_bytes / best.size_bytes,
        "times faster": 1 / best.ratio.median if best.ratio else 1.0,
        "low": 1 / best.ratio.high if best.ratio else 1.0,
        "high": 1 / best.ratio.low if best.ratio else 1.0,
        "metric": plan.metric,
        "source": source.quality.value,
        "now": best.quality.value if best.quality else source.quality.value,
        "drop at most": best.drop.upper if best.drop else 0.0,
        "items": plan.n_decision,
    }


def main() -> None:
    """Optimize each for both goals."""
    rows = []
    for goal in ("latency", "size"):
        budget = ts.Budget(max_drop=0.01, goal=goal)
        mnist = DATA / "mnist_onnx"
        options = ts.Options(work=BUILD / "work" / "real")
        plan = ts.optimize(mnist / "mnist.onnx", str(mnist / "mnist_first5000.npz"), None, budget, options)
        rows.append(row("mnist.onnx", goal, plan))
        weights = DATA / "resnet_cifar10" / "resnet20-12fca82f.th"
        options = ts.Options(weights=weights, work=BUILD / "work" / "real")
        plan = ts.optimize("examples.resnet_cifar10:resnet20", None, None, budget, options)
        rows.append(row("resnet20 (torch)", goal, plan))
    finish("real", "real models, at most 0.01 of the metric lost at 95 % confidence", rows)


if __name__ == "__main__":
    main()
