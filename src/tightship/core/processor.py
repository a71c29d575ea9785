"""What the processor can do: the instruction sets that decide which kernels an engine may use."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

__all__ = ["FEATURES", "features", "n_cores", "processor_name"]

FEATURES = {
    "avx2": "256-bit vectors; without VNNI 8-bit products may saturate, so int8 weights are kept to 7 bits",
    "avx512f": "512-bit vectors",
    "avx_vnni": "8-bit dot products on 256-bit vectors",
    "avx512_vnni": "8-bit dot products: int8 models run 2-4 times as fast as float32",
    "avx512_bf16": "bfloat16 dot products",
    "amx_int8": "8-bit matrix tiles: int8 models run up to 10 times as fast as float32",
    "amx_bf16": "bfloat16 matrix tiles: bf16 runs 3-5 times as fast as float32",
    "asimddp": "8-bit dot products on ARM",
    "bf16": "bfloat16 on ARM",
}
"""Flag as Linux names it, and what it means for a model."""


@cache
def features() -> tuple[str, ...]:
    """Return the flags of `FEATURES` that this processor has (Linux; elsewhere empty, meaning unknown)."""
    flags = _cpuinfo("flags") or _cpuinfo("Features")
    present = set(flags.split())
    return tuple(flag for flag in FEATURES if flag in present)


@cache
def processor_name() -> str:
    """Return the processor's own name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


@cache
def n_cores() -> int:
    """Return the physical cores this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


@cache
def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
