"""A plan made by hand, of every verdict and with every kind of number, and what it takes to make others."""

from __future__ import annotations

from tightship.core.budget import Budget
from tightship.core.measurement import DropTest, Latency, Machine, Measurement, Quality, Ratio
from tightship.core.model import Step
from tightship.core.plan import Candidate, Plan, Sensitivity, Status
from tightship.core.target import Target

__all__ = ["RICH", "candidate", "measured"]

MACHINE = Machine(
    processor="AMD EPYC 7763 64-Core Processor",
    n_cores=2,
    features=("avx2",),
    memory_gb=7.8,
    system="Linux 6.8 x86_64",
    python="3.11.9",
    versions={"tightship": "0.1.0", "onnxruntime": "1.31.1", "openvino": "2026.4.0", "numpy": "2.4.1"},
)
ONNX_RUNTIME = Target()
INT8 = Step("int8-static", {"per_channel": True, "exclude": []})
SIMPLIFY = Step("simplify")


def measured(
    size_mb: float,
    latency_ms: float | None = None,
    ratio: float | None = None,
    quality: float | None = None,
    drop: tuple[float, float] | None = None,
    metric: str = "accuracy",
    allowed: float = 0.01,
) -> Measurement:
    """A measurement with spreads in proportion to its numbers; `drop` is (estimate, upper bound)."""
    time = latency_ms
    return Measurement(
        size_bytes=round(size_mb * 1e6),
        latency=time and Latency(time, time * 1.2, time * 0.97, time * 1.04, n_runs=200, batch=1),
        ratio=ratio and Ratio(ratio, ratio * 0.96, ratio * 1.05, n_pairs=100),
        peak_memory_bytes=round(size_mb * 2.4e6 + 60e6),
        quality=quality and Quality(metric, quality, quality - 0.004, min(1.0, quality + 0.004), 4500),
        drop=drop and DropTest(*drop, allowed, 0.01, 0.99, 4500, None, "paired exact test"),
    )


def candidate(
    name: str,
    status: Status,
    reason: str,
    measurement: Measurement | None = None,
    target: Target = ONNX_RUNTIME,
    steps: tuple[Step, ...] = (SIMPLIFY, INT8),
    on_front: bool = False,
) -> Candidate:
    return Candidate(name, steps, target, status, reason, measurement, on_front)


OPENVINO = Target("openvino")
BF16 = Target("openvino", "bf16")

RICH = Plan(
    source="models/resnet50.onnx",
    source_digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    data="data/imagenette.npz",
    metric="accuracy",
    budget=Budget(max_drop=0.01, max_size_mb=60),
    seed=0,
    n_calibration=256,
    n_decision=4500,
    candidates=(
        candidate("source", "baseline", "the model as it was given", measured(94.1, 22.4, None, 0.9822), steps=()),
        candidate("simplify", "refused", "not smaller than the limit: 94.0 MB, 60 MB allowed",
                  measured(94.0, 21.9, 0.98), steps=(SIMPLIFY,)),
        candidate("openvino", "refused", "larger than the limit: 94.0 MB, 60 MB allowed",
                  measured(94.0, 20.6, 0.92), OPENVINO, (SIMPLIFY,)),
        candidate("openvino bf16", "refused", "larger than the limit: 94.0 MB, 60 MB allowed",
                  measured(94.0, 9.1, 0.406), BF16, (SIMPLIFY,)),
        candidate("int8 dynamic", "refused", "not faster than the source by more than the noise: 1.93 of its time",
                  measured(24.0, 43.2, 1.93), steps=(SIMPLIFY, Step("int8-dynamic"))),
        candidate("int8 static", "accepted", "drop 0.0010, at most 0.0062 at 95% confidence; 0.01 is allowed",
                  measured(24.1, 7.2, 0.321, 0.9812, (0.0010, 0.0062)), on_front=True),
        candidate("int8 static openvino", "refused", "quality: drop 0.0131, at most 0.0178, above the 0.01 allowed",
                  measured(24.1, 5.0, 0.223, 0.9691, (0.0131, 0.0178)), OPENVINO),
        candidate("int8 static openvino, 3 operators kept", "chosen",
                  "drop 0.0013, at most 0.0064 at 95% confidence; 0.01 is allowed",
                  measured(25.3, 5.4, 0.241, 0.9809, (0.0013, 0.0064)), OPENVINO,
                  (SIMPLIFY, Step("int8-static", {"per_channel": True, "exclude": ["/conv1", "/fc", "/l4/add", "/x"]})),
                  on_front=True),
        candidate("weights 4 bit", "undecided", "not enough data: 9300 items needed, 4500 are there",
                  measured(14.2, 21.3, 0.951, 0.9772, (0.0050, 0.0117)), steps=(Step("weights", {"bits": 4}),)),
        candidate("weights 2 bit", "refused", "quality: drop 0.4410, at most 0.4590, above the 0.01 allowed",
                  measured(8.1, 21.0, 0.94, 0.5412, (0.4410, 0.4590)), steps=(Step("weights", {"bits": 2}),)),
        candidate("weights 2 bit openvino", "failed", "EngineError: OpenVINO cannot open the model: u2 is unknown",
                  measured(8.1), OPENVINO, (Step("weights", {"bits": 2}),)),
    ),
    chosen="int8 static openvino, 3 operators kept",
    machine=MACHINE,
    sensitivity=tuple(
        Sensitivity(f"/layer{1 + index // 12}/{index % 12}/conv/Conv", "Conv", 18.0 + 0.7 * index)
        for index in range(53)
    ),
    notes=(
        "This processor has no VNNI: 8-bit weights are kept to 7 bits in ONNX Runtime.",
        "items of input 'x' are reshaped from [224, 224, 3] to [3, 224, 224]",
    ),
    command="tightship optimize models/resnet50.onnx --data data/imagenette.npz --max-size-mb 60 -o out",
    output="out/model.onnx",
)  # fmt: skip
