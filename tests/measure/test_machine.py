"""The machine that a measurement was made on."""

from __future__ import annotations

import importlib.metadata
import platform

import msgspec
import numpy as np
import pytest

from tightship.core.measurement import Machine
from tightship.measure.machine import machine


def test_the_machine_is_described_with_the_versions_that_are_installed() -> None:
    found = machine()
    assert found.versions["numpy"] == np.__version__
    assert found.versions["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert found.python == platform.python_version() and platform.machine() in found.system
    assert found.n_cores >= 1 and found.memory_gb > 0.1 and found.processor


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert machine().versions == {}


def test_the_machine_goes_to_json_and_back_unchanged() -> None:
    assert msgspec.json.decode(msgspec.json.encode(machine()), type=Machine) == machine()
