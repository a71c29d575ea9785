"""What this machine has and can do: engines, extras, processor, GPU, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from dataclasses import dataclass

from tightship.core import extras, processor
from tightship.core.measurement import Machine
from tightship.engines import ENGINES, Engine
from tightship.measure.machine import machine

__all__ = ["Diagnosis", "EngineState", "Feature", "examine"]


@dataclass(frozen=True)
class EngineState:
    """One engine of the table. `install` is empty where it is installed, `version` where it is not."""

    name: str
    version: str
    precisions: tuple[str, ...]
    gives: str
    install: str


@dataclass(frozen=True)
class Feature:
    """One instruction set that matters to models, what it means, and whether this processor has it."""

    name: str
    meaning: str
    present: bool


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found. `gpus` are names as their driver gives them."""

    machine: Machine
    engines: tuple[EngineState, ...]
    features: tuple[Feature, ...]
    gpus: tuple[str, ...]
    advice: tuple[str, ...]


def examine() -> Diagnosis:
    """Look at the machine; nothing heavy is imported, and nothing that is absent raises."""
    present = set(processor.features())
    features = tuple(Feature(name, meaning, name in present) for name, meaning in processor.FEATURES.items())
    engines = tuple(_engine(engine) for engine in ENGINES.values())
    gpus = _gpus()
    return Diagnosis(machine(), engines, features, gpus, tuple(_advice(present, engines, gpus)))


def _engine(engine: Engine) -> EngineState:
    if not engine.available:
        return EngineState(engine.name, "", (), engine.gives, extras.install_command(engine.module))
    return EngineState(engine.name, _version(engine.module), tuple(engine.precisions()), engine.gives, "")


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _gpus() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        words = [command, "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()


def _advice(present: set[str], engines: tuple[EngineState, ...], gpus: tuple[str, ...]) -> list[str]:
    advice = []
    if not present:
        advice.append("No instruction set that matters to models was found, or this system does not tell them.")
    if "avx2" in present and not {"avx_vnni", "avx512_vnni", "amx_int8"} & present:
        advice.append(
            "This processor has no 8-bit dot products (VNNI): int8 models gain less speed than with them, "
            "and their weights are kept to 7 bits so that products do not saturate."
        )
    if present and not {"avx512_bf16", "amx_bf16", "bf16"} & present:
        advice.append("This processor has no bfloat16 arithmetic, so bf16 is not tried.")
    advice += [
        f"{state.name} is missing; it gives {state.gives}: {state.install}" for state in engines if state.install
    ]
    if gpus:
        advice.append("There is a GPU; this version measures and optimizes for the processor only.")
    return advice
